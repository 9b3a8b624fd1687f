// SPDX-License-Identifier: Apache-2.0
//! The names of what a keyspace consists of in Redis.
//!
//! | Key | Type | Content |
//! |---|---|---|
//! | `PREFIX{KEYSPACE}v` | hash | key → record: created (8 bytes), modified (8), value; empty key → state: revision (8), nonce of the last commit (8), mark (8), bytes since the mark (8) |
//! | `PREFIX{KEYSPACE}i` | sorted set | the keys, all with score zero, so that they are in byte order |
//! | `PREFIX{KEYSPACE}s` | stream | frames of changes, each with the last revision in it as its id, see `frame.rs` |
//! | `PREFIX{KEYSPACE}o` | hash | name of a request → what it was and what was answered |
//! | `PREFIX{KEYSPACE}q` | list | those names, oldest first |
//!
//! The braces make all of them one hash slot. Frames are also published to the shard channel `PREFIX{KEYSPACE}v`, with the
//! number of the database behind it unless that is zero, because channels are shared by all databases.

use atomix_kv::Keyspace;
use bytes::{BufMut, Bytes, BytesMut};

/// The names of one keyspace.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) records: Bytes,
    pub(crate) index: Bytes,
    pub(crate) stream: Bytes,
    pub(crate) outcomes: Bytes,
    pub(crate) order: Bytes,
    pub(crate) channel: Bytes,
    /// The hash slot of all of them.
    pub(crate) slot: u16,
}

/// The number of hash slots of a cluster.
pub(crate) const SLOTS: usize = 16_384;

// === impl Names ===

impl Names {
    /// Names a keyspace. No two keyspaces share a name, and the tag between the braces is never empty.
    pub(crate) fn new(prefix: &str, keyspace: &Keyspace, channel: &str) -> Self {
        let mut tag = BytesMut::with_capacity(keyspace.as_bytes().len());
        for byte in keyspace.as_bytes() {
            match byte {
                // The first closing brace ends the tag.
                b'}' | b'%' => tag.put_slice(format!("%{byte:02X}").as_bytes()),
                other => tag.put_u8(*other),
            }
        }
        Self::tagged(prefix, &tag, channel)
    }

    /// The names of a keyspace that no [`Keyspace`] has: for trying out what is allowed.
    pub(crate) fn probe(prefix: &str, channel: &str) -> Self {
        Self::tagged(prefix, b"%probe", channel)
    }

    fn tagged(prefix: &str, tag: &[u8], channel: &str) -> Self {
        let name = |kind: u8| -> Bytes { [prefix.as_bytes(), b"{", tag, b"}", &[kind]].concat().into() };
        let records = name(b'v');
        Self {
            index: name(b'i'),
            stream: name(b's'),
            outcomes: name(b'o'),
            order: name(b'q'),
            channel: [&records, channel.as_bytes()].concat().into(),
            slot: slot(tag),
            records,
        }
    }
}

/// CRC-16/XMODEM of the tag, as the specification of the cluster has it.
#[allow(clippy::cast_possible_truncation, reason = "there are fewer slots than a u16 has values")]
fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
    }

    #[test]
    fn names_that_could_be_mistaken_are_told_apart() {
        let name = |keyspace: &'static str| Names::new("p:", &Keyspace::new(keyspace), "");
        assert_eq!(name("map/a").records, "p:{map/a}v");
        assert_eq!(name("}").records, "p:{%7D}v");
        assert_ne!(name("%7D").records, name("}").records);
        assert_ne!(Names::probe("p:", "").records, name("%probe").records);
        assert_eq!(name("}").slot, slot(b"%7D"));
    }
}
