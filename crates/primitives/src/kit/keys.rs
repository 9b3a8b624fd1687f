// SPDX-License-Identifier: Apache-2.0
//! The kinds of keys inside keyspaces.
//!
//! The first byte of a key is its kind. Kinds are part of the stored format: a byte never changes its meaning and is
//! never reused. Numbers in keys are big endian, so that byte order is number order.
//!
//! | Byte | Keyspaces | Key | Value | Lives |
//! |---|---|---|---|---|
//! | `k` | map, set, countermap, multimap | `k` key | the value; nothing; a number; the sorted set of values | while the entry exists |
//! | `k` | indexedmap | `k` key | index (8 bytes) | while the entry exists |
//! | `i` | indexedmap | `i` index (8) | key length (4), key, value | while the entry exists |
//! | `n` | indexedmap | `n` | the last index given (8) | for ever once written |
//! | `v` | counter, value, topic, election | `v` | number; bytes; last message; the state of the election | once written; a value until deleted |
//! | `r`, `c` | list | `r`; `c` chunk id (8) | root; items of a chunk | see `list` |
//! | `o` | list | `o` | what the last call did, for watches | for ever once written |
//! | `t` | those with a TTL | `t` subject | deadline (8, wall milliseconds), ttl (8, milliseconds), member (8), deadline (8, monotonic milliseconds of the member) | while the subject expires |
//! | `x` | those with a TTL | `x` | nothing | written by every expiry, see `expiry` |
//! | `l` | lock, map, countermap | `l` length (4) key, stamp | owner (16), nonce (8), since (8, wall milliseconds) | while held or waited for |
//! | `h` | host | `h` member (8) | timeout (8, milliseconds), renewal (8, wall milliseconds) | while the member lives, see `membership` |
//! | `p` | known | `p` length (4) keyspace of a primitive, member (8) | tags, each length (4), text | while the member knows it, see `known` |

use atomix_store::Range;
use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;

pub(crate) const ENTRY: u8 = b'k';
pub(crate) const INDEX: u8 = b'i';
pub(crate) const LAST_INDEX: &[u8] = b"n";
pub(crate) const SINGLE: &[u8] = b"v";
pub(crate) const ROOT: &[u8] = b"r";
pub(crate) const CHUNK: u8 = b'c';
pub(crate) const OPERATION: &[u8] = b"o";
pub(crate) const DEADLINE: u8 = b't';
pub(crate) const EXPIRED: &[u8] = b"x";
pub(crate) const QUEUE: u8 = b'l';
pub(crate) const MEMBER: u8 = b'h';
pub(crate) const KNOWN: u8 = b'p';

/// Returns the key of `kind` for `rest`.
pub(crate) fn key(kind: u8, rest: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + rest.len());
    key.put_u8(kind);
    key.put_slice(rest);
    key.freeze()
}

/// Returns what follows the kind, if `key` is of this kind.
pub(crate) fn rest(kind: u8, key: &Bytes) -> Option<Bytes> {
    (key.first() == Some(&kind)).then(|| key.slice(1..))
}

/// Returns what follows the kind as text, if `key` is of this kind. Primitives write only text there.
pub(crate) fn text(kind: u8, key: &Bytes) -> Result<Option<String>, Error> {
    let Some(rest) = rest(kind, key) else { return Ok(None) };
    String::from_utf8(rest.to_vec()).map(Some).map_err(|_| Error::damaged("key"))
}

/// Returns the range of all keys of a kind.
pub(crate) fn all(kind: u8) -> Range {
    Range::prefix(vec![kind])
}
