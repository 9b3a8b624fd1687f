// SPDX-License-Identifier: Apache-2.0
//! The keys inside keyspaces.
//!
//! The first byte of a key is its kind. Kinds are part of the stored format: a byte never changes its meaning and is
//! never reused. Numbers in keys are big endian, so that byte order is number order. `tests/it/stored_format.rs` holds
//! the bytes.

use atomix_store::Range;
use bytes::Bytes;

use crate::error::Error;
use crate::kit::codec::{Decoder, Encoder, LENGTH};

/// A key of a keyspace.
///
/// | Key | Bytes | Keyspaces | Value | Lives |
/// |---|---|---|---|---|
/// | `Entry` | `k`, key | map, set, countermap, multimap | the value; nothing; a number (8); the sorted values | while the entry exists |
/// | | | indexedmap | the index (8) | while the entry exists |
/// | `Index` | `i`, index (8) | indexedmap | key with length, value: `indexedmap::Stored` | while the entry exists |
/// | `LastIndex` | `n` | indexedmap | the last index given (8) | for ever once written |
/// | `Single` | `v` | counter, value | a number (8); the value | once written; a value until deleted |
/// | | | topic | the last message: `topic::Record` | for ever once written |
/// | | | election | the election: `election::State` | for ever once written |
/// | `Root` | `r` | list | the chunks in order: `list::Root` | for ever once written |
/// | `Chunk` | `c`, id (8) | list | items, each with length: `list::Items` | while the chunk has items |
/// | `Operation` | `o` | list | the last change, for watches: `list::Operation` | for ever once written |
/// | `Fence` | `f`, keyspace of a lock or an election | any | the greatest token accepted (8) | a day at least after it was raised, see `fence` |
/// | `FenceDay` | `g`, day (4), such a keyspace | any | the token that was raised (8) | as long as its fence |
/// | `Deadline` | `t`, subject | those with a TTL | `expiry::Deadline` | while the subject expires |
/// | `Expired` | `x` | those with a TTL | nothing | for ever once written; every expiry writes it, see `expiry` |
/// | `Stamp` | `l`, name with length, end | lock, map, countermap | `lock_table::StampRecord` | while held or waited for |
/// | `Member` | `h`, member (8) | `host` | `membership::Record` | while the member lives, see `membership` |
/// | `Known` | `p`, keyspace with length, member (8) | `known` | tags, each with length | while the member knows the primitive, see `known` |
///
/// "With length" means the length (4) before the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// An entry by its key or element.
    Entry(&'a str),
    /// An entry by its position.
    Index(u64),
    /// The last position that was given.
    LastIndex,
    /// The only entry.
    Single,
    /// The order of chunks.
    Root,
    /// Items that follow each other.
    Chunk(u64),
    /// The last change of a list.
    Operation,
    /// The deadline of a subject, which is named as its primitive likes.
    Deadline { subject: &'a [u8] },
    /// The greatest token of a lock or an election that was accepted.
    Fence { source: &'a [u8] },
    /// The day on which a fence was raised, counted from 1970.
    FenceDay { day: u32, source: &'a [u8] },
    /// The mark of an expiry.
    Expired,
    /// A stamp in the queue of the lock `name`, with an end that the store chooses.
    Stamp { name: &'a str, end: &'a [u8] },
    /// A member.
    Member(u64),
    /// A primitive that a member knows, by its keyspace.
    Known { keyspace: &'a [u8], member: u64 },
}

/// The kind of a [`Key`], which is its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum KeyKind {
    Entry = b'k',
    Index = b'i',
    LastIndex = b'n',
    Single = b'v',
    Root = b'r',
    Chunk = b'c',
    Operation = b'o',
    Deadline = b't',
    Fence = b'f',
    FenceDay = b'g',
    Expired = b'x',
    Stamp = b'l',
    Member = b'h',
    Known = b'p',
}

pub(crate) const SINGLE: &[u8] = &[KeyKind::Single as u8];
pub(crate) const EXPIRED: &[u8] = &[KeyKind::Expired as u8];
pub(crate) const OPERATION: &[u8] = &[KeyKind::Operation as u8];

// === impl Key ===

impl<'a> Key<'a> {
    /// Encodes the key, in one allocation at most.
    pub(crate) fn encode(self) -> Bytes {
        match self {
            Self::Entry(key) => KeyKind::Entry.begin(key.len()).rest(key.as_bytes()).finish(),
            Self::Index(index) => KeyKind::Index.begin(8).u64(index).finish(),
            Self::LastIndex => Bytes::from_static(&[KeyKind::LastIndex as u8]),
            Self::Single => Bytes::from_static(SINGLE),
            Self::Root => Bytes::from_static(&[KeyKind::Root as u8]),
            Self::Chunk(id) => KeyKind::Chunk.begin(8).u64(id).finish(),
            Self::Operation => Bytes::from_static(OPERATION),
            Self::Deadline { subject } => KeyKind::Deadline.begin(subject.len()).rest(subject).finish(),
            Self::Fence { source } => KeyKind::Fence.begin(source.len()).rest(source).finish(),
            Self::FenceDay { day, source } => {
                KeyKind::FenceDay.begin(4 + source.len()).u32(day).rest(source).finish()
            }
            Self::Expired => Bytes::from_static(EXPIRED),
            Self::Stamp { name, end } => {
                let key = KeyKind::Stamp.begin(LENGTH + name.len() + end.len());
                key.part(name.as_bytes()).rest(end).finish()
            }
            Self::Member(member) => KeyKind::Member.begin(8).u64(member).finish(),
            Self::Known { keyspace, member } => {
                let key = KeyKind::Known.begin(LENGTH + keyspace.len() + 8);
                key.part(keyspace).u64(member).finish()
            }
        }
    }

    /// Decodes a key. Bytes that no key has are [`Reason::StoreCorrupt`](crate::Reason::StoreCorrupt).
    pub(crate) fn decode(key: &'a [u8]) -> Result<Self, Error> {
        let kind = KeyKind::of(key).ok_or_else(|| Error::damaged("key"))?;
        let mut rest = Decoder::new(kind.record(), &key[1..]);
        let key = match kind {
            KeyKind::Entry => return Ok(Self::Entry(rest.rest_text()?)),
            KeyKind::Deadline => return Ok(Self::Deadline { subject: rest.rest() }),
            KeyKind::Fence => return Ok(Self::Fence { source: rest.rest() }),
            KeyKind::FenceDay => return Ok(Self::FenceDay { day: rest.u32()?, source: rest.rest() }),
            KeyKind::Stamp => return Ok(Self::Stamp { name: rest.text()?, end: rest.rest() }),
            KeyKind::Index => Self::Index(rest.u64()?),
            KeyKind::LastIndex => Self::LastIndex,
            KeyKind::Single => Self::Single,
            KeyKind::Root => Self::Root,
            KeyKind::Chunk => Self::Chunk(rest.u64()?),
            KeyKind::Operation => Self::Operation,
            KeyKind::Expired => Self::Expired,
            KeyKind::Member => Self::Member(rest.u64()?),
            KeyKind::Known => Self::Known { keyspace: rest.part()?, member: rest.u64()? },
        };
        rest.end(key)
    }

    /// Decodes a key if it is of `kind`; `None` for others, which may be of a later version.
    pub(crate) fn decode_if(kind: KeyKind, key: &'a [u8]) -> Result<Option<Self>, Error> {
        if KeyKind::of(key) == Some(kind) { Self::decode(key).map(Some) } else { Ok(None) }
    }

    /// Returns the key or element that a [`Key::Entry`] names; `None` for other kinds.
    pub(crate) fn entry(key: &'a [u8]) -> Result<Option<&'a str>, Error> {
        let key = Self::decode_if(KeyKind::Entry, key)?;
        Ok(if let Some(Self::Entry(key)) = key { Some(key) } else { None })
    }
}

// === impl KeyKind ===

impl KeyKind {
    /// Returns the kind of a key; `None` for bytes that no kind has.
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        Some(match key.first()? {
            b'k' => Self::Entry,
            b'i' => Self::Index,
            b'n' => Self::LastIndex,
            b'v' => Self::Single,
            b'r' => Self::Root,
            b'c' => Self::Chunk,
            b'o' => Self::Operation,
            b't' => Self::Deadline,
            b'f' => Self::Fence,
            b'g' => Self::FenceDay,
            b'x' => Self::Expired,
            b'l' => Self::Stamp,
            b'h' => Self::Member,
            b'p' => Self::Known,
            _ => return None,
        })
    }

    /// Returns the range of all keys of this kind.
    pub(crate) fn range(self) -> Range {
        Range::prefix(vec![self as u8])
    }

    fn begin(self, rest: usize) -> Encoder {
        Encoder::with_capacity(1 + rest).u8(self as u8)
    }

    /// Returns the name that errors give to damaged keys of this kind.
    fn record(self) -> &'static str {
        match self {
            Self::Index => "entry of an indexed map",
            Self::Deadline => "deadline",
            Self::Stamp => "lock",
            Self::Known => "known",
            Self::Member => "member",
            Self::Fence | Self::FenceDay => "fence",
            Self::Root
            | Self::Chunk
            | Self::Operation
            | Self::Entry
            | Self::LastIndex
            | Self::Single
            | Self::Expired => "key",
        }
    }
}

/// Returns the prefix of the stamps of the lock `name`, which is the name of its queue. No such prefix is the beginning of
/// another.
pub(crate) fn queue(name: &str) -> Bytes {
    Key::Stamp { name, end: &[] }.encode()
}

/// Returns the name of the queue that the stamp `key` is in.
pub(crate) fn queue_of(key: &Bytes) -> Result<Bytes, Error> {
    let Key::Stamp { end, .. } = Key::decode(key)? else { return Err(Error::damaged("lock")) };
    Ok(key.slice(..key.len() - end.len()))
}

/// Returns the prefix of the keys of all members that know the primitive of `keyspace`.
pub(crate) fn known(keyspace: &[u8]) -> Bytes {
    KeyKind::Known.begin(LENGTH + keyspace.len()).part(keyspace).finish()
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    /// A key whose parts are owned.
    #[derive(Debug, Clone)]
    struct Parts {
        kind: u8,
        number: u64,
        text: String,
        bytes: Vec<u8>,
    }

    impl Parts {
        fn key(&self) -> Key<'_> {
            match KeyKind::of(&[self.kind]).unwrap() {
                KeyKind::Entry => Key::Entry(&self.text),
                KeyKind::Index => Key::Index(self.number),
                KeyKind::LastIndex => Key::LastIndex,
                KeyKind::Single => Key::Single,
                KeyKind::Root => Key::Root,
                KeyKind::Chunk => Key::Chunk(self.number),
                KeyKind::Operation => Key::Operation,
                KeyKind::Deadline => Key::Deadline { subject: &self.bytes },
                KeyKind::Fence => Key::Fence { source: &self.bytes },
                KeyKind::FenceDay => {
                    Key::FenceDay { day: u32::try_from(self.number).unwrap_or(u32::MAX), source: &self.bytes }
                }
                KeyKind::Expired => Key::Expired,
                KeyKind::Stamp => Key::Stamp { name: &self.text, end: &self.bytes },
                KeyKind::Member => Key::Member(self.number),
                KeyKind::Known => Key::Known { keyspace: &self.bytes, member: self.number },
            }
        }

        /// The order of typed parts: numbers by size, parts with a length by that first, other parts by their bytes.
        fn order(&self, other: &Self) -> Ordering {
            let order = |parts: &Self| match parts.key() {
                Key::Entry(key) => (parts.kind, 0, key.as_bytes().to_vec(), Vec::new(), 0),
                Key::Index(number) | Key::Chunk(number) | Key::Member(number) => {
                    (parts.kind, 0, Vec::new(), Vec::new(), number)
                }
                Key::Deadline { subject } => (parts.kind, 0, subject.to_vec(), Vec::new(), 0),
                Key::Fence { source } => (parts.kind, 0, source.to_vec(), Vec::new(), 0),
                Key::FenceDay { day, source } => (parts.kind, day as usize, source.to_vec(), Vec::new(), 0),
                Key::Stamp { name, end } => {
                    (parts.kind, name.len(), name.as_bytes().to_vec(), end.to_vec(), 0)
                }
                Key::Known { keyspace, member } => {
                    (parts.kind, keyspace.len(), keyspace.to_vec(), Vec::new(), member)
                }
                Key::LastIndex | Key::Single | Key::Root | Key::Operation | Key::Expired => {
                    (parts.kind, 0, Vec::new(), Vec::new(), 0)
                }
            };
            order(self).cmp(&order(other))
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let kinds = prop::sample::select(b"kinvrcotxlhpfg".to_vec());
        // Few numbers and letters, so that keys have beginnings in common.
        let number = prop_oneof![0u64..3, Just(0xff), Just(0x100), any::<u64>()];
        let bytes = prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..4);
        (kinds, number, "[ab\u{e9}]{0,3}", bytes).prop_map(|(kind, number, text, bytes)| Parts {
            kind,
            number,
            text,
            bytes,
        })
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(parts in parts()) {
            let key = parts.key().encode();
            prop_assert_eq!(Key::decode(&key), Ok(parts.key()));
            let kind = KeyKind::of(&key).unwrap();
            prop_assert!(kind.range().contains(&key));
            prop_assert_eq!(kind as u8, parts.kind);
        }

        #[test]
        fn the_order_of_keys_is_that_of_their_parts(one in parts(), other in parts()) {
            prop_assert_eq!(one.key().encode().cmp(&other.key().encode()), one.order(&other));
        }

        #[test]
        fn bytes_are_the_key_that_they_are_read_as(
            kind in prop::sample::select(b"kinvrcotxlhpfgz".to_vec()), rest in any::<Vec<u8>>(),
        ) {
            let bytes = [&[kind][..], &rest].concat();
            if let Ok(key) = Key::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes);
            }
        }

        #[test]
        fn a_prefix_has_the_keys_of_its_name_only(
            name in "[ab]{0,3}", other in "[ab]{0,3}", end in any::<[u8; 8]>(),
        ) {
            let stamp = Key::Stamp { name: &other, end: &end }.encode();
            prop_assert_eq!(stamp.starts_with(&queue(&name)), name == other);
            prop_assert_eq!(queue_of(&stamp), Ok(queue(&other)));
            let key = Key::Known { keyspace: other.as_bytes(), member: u64::from_be_bytes(end) }.encode();
            prop_assert_eq!(key.starts_with(&known(name.as_bytes())), name == other);
        }
    }

    #[test]
    fn keys_that_no_primitive_writes_are_damage() {
        let damaged: [&[u8]; 9] =
            [b"", b"z", b"k\xff", b"i1234567", b"c123456789", b"vv", b"l\0\0\0\x02a", b"h", b"p\0\0\0\0"];
        for key in damaged {
            assert!(Key::decode(key).is_err(), "{key:?}");
        }
        assert_eq!(Key::decode_if(KeyKind::Entry, b"z"), Ok(None), "of a later version");
        assert_eq!(queue_of(&Bytes::from_static(b"v")), Err(Error::damaged("lock")));
    }
}
