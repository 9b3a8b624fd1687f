// SPDX-License-Identifier: Apache-2.0
//! The names of what a keyspace consists of in Redis.
//!
//! | Key | Type | Content |
//! |---|---|---|
//! | `PREFIX{KEYSPACE}v` | hash | key → record: created (8 bytes), modified (8), value; empty key → state: revision (8), nonce of the last commit (8), mark (8), bytes since the mark (8) |
//! | `PREFIX{KEYSPACE}i` | sorted set | the keys, all with score zero, so that they are in byte order |
//! | `PREFIX{KEYSPACE}s` | stream | frames of changes, each with the last revision in it as its id, see `frame.rs` |
//! | `PREFIX{KEYSPACE}o` | hash | name of a request → what it was and what was answered |
//! | `PREFIX{KEYSPACE}q` | list | those names, oldest first, each behind a zero and the seconds (8 bytes) since 1970 at which it came |
//! | `PREFIX{%sNUMBER}f` | hash | empty key → floor: the greatest revision (8) of the keyspaces of a slot that were given back |
//!
//! A keyspace without state begins at the floor of its slot. The number is the least whose tag is in the slot, so there are at most
//! as many floors as slots.
//!
//! The braces make all of them one hash slot. Frames are also published to the shard channel `PREFIX{KEYSPACE}v`, with the
//! number of the database behind it unless that is zero, because channels are shared by all databases.

use std::sync::LazyLock;

use atomix_store::Keyspace;
use bytes::{BufMut, Bytes, BytesMut};
use redis::Cmd;

pub(crate) const RECORDS: u8 = b'v';
pub(crate) const INDEX: u8 = b'i';
pub(crate) const STREAM: u8 = b's';
pub(crate) const OUTCOMES: u8 = b'o';
pub(crate) const ORDER: u8 = b'q';
pub(crate) const FLOOR: u8 = b'f';

/// The names of one keyspace.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The name of the records. The others differ in the last byte.
    records: Bytes,
    /// The length of the prefix that all names of the store have.
    prefix: usize,
    /// The hash slot of all of them.
    pub(crate) slot: u16,
}

/// The number of hash slots of a cluster.
pub(crate) const SLOTS: usize = 16_384;

// === impl Names ===

impl Names {
    /// Names a keyspace. No two keyspaces share a name, and the tag between the braces is never empty.
    pub(crate) fn new(prefix: &str, keyspace: &Keyspace) -> Self {
        let name = keyspace.as_bytes();
        // The first closing brace ends the tag.
        if !name.iter().any(|byte| matches!(byte, b'}' | b'%')) {
            return Self::tagged(prefix, name);
        }
        let mut tag = BytesMut::with_capacity(name.len() + 2);
        for byte in name {
            match byte {
                b'}' | b'%' => tag.put_slice(format!("%{byte:02X}").as_bytes()),
                other => tag.put_u8(*other),
            }
        }
        Self::tagged(prefix, &tag)
    }

    /// The names of a keyspace that no [`Keyspace`] has: for trying out what is allowed.
    pub(crate) fn probe(prefix: &str) -> Self {
        Self::tagged(prefix, b"%probe")
    }

    fn tagged(prefix: &str, tag: &[u8]) -> Self {
        let records = [prefix.as_bytes(), b"{", tag, b"}", &[RECORDS]].concat().into();
        Self { records, prefix: prefix.len(), slot: slot(tag) }
    }

    /// Passes the names of these kinds to a command.
    pub(crate) fn pass(&self, cmd: &mut Cmd, kinds: &[u8]) {
        let mut name = self.records.to_vec();
        for kind in kinds {
            if *kind == FLOOR {
                let number = FLOORS[usize::from(self.slot)];
                cmd.arg([&name[..self.prefix], format!("{{%s{number}}}f").as_bytes()].concat());
                continue;
            }
            if let Some(last) = name.last_mut() {
                *last = *kind;
            }
            cmd.arg(&name[..]);
        }
    }

    /// The channel to which frames are published; `database` is what follows the name.
    pub(crate) fn channel(&self, database: &str) -> Bytes {
        [&self.records, database.as_bytes()].concat().into()
    }
}

/// CRC-16/XMODEM of the tag, as the specification of the cluster has it.
#[allow(clippy::cast_possible_truncation, reason = "there are fewer slots than a u16 has values")]
fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, byte| (crc << 8) ^ CRC[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS as u16
}

/// For each slot the least number whose tag is in it.
static FLOORS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    let mut floors = vec![None; SLOTS];
    let (mut missing, mut number) = (SLOTS, 0u32);
    while missing > 0 {
        let floor = &mut floors[usize::from(slot(format!("%s{number}").as_bytes()))];
        if floor.is_none() {
            *floor = Some(number);
            missing -= 1;
        }
        number += 1;
    }
    floors.into_iter().flatten().collect()
});

/// The checksums of all bytes.
#[allow(clippy::cast_possible_truncation, reason = "there are 256 bytes")]
const CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
    }

    #[test]
    fn floors_are_in_the_slots_that_they_are_for() {
        for name in ["map/a", "lock/b", "", "}"] {
            let names = Names::new("p:", &Keyspace::new(name));
            let tag = format!("%s{}", FLOORS[usize::from(names.slot)]);
            assert_eq!(slot(tag.as_bytes()), names.slot);
        }
        assert_eq!(FLOORS.len(), SLOTS);
    }

    #[test]
    fn names_that_could_be_mistaken_are_told_apart() {
        let name = |keyspace: &'static str| Names::new("p:", &Keyspace::new(keyspace));
        assert_eq!(name("map/a").records, "p:{map/a}v");
        assert_eq!(name("}").records, "p:{%7D}v");
        assert_ne!(name("%7D").records, name("}").records);
        assert_ne!(Names::probe("p:").records, name("%probe").records);
        assert_eq!(name("}").slot, slot(b"%7D"));
    }
}
