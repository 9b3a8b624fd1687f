// SPDX-License-Identifier: Apache-2.0
//! Frames: the unit of every file of the store, which separates damage from a write that was cut short.
//!
//! A frame is a head of 32 bytes, a payload, and zeros up to the next multiple of 32: so no head crosses a sector. All
//! numbers are little endian.
//!
//! | Bytes | What |
//! |---|---|
//! | 4 | `ATX1` |
//! | 1, 3 | kind; how many sectors of the payload are nothing but zeros |
//! | 8 | number: consecutive within a file |
//! | 4 | length of the payload |
//! | 4 | CRC-32 of the payload, begun with the salt of the file |
//! | 4 | how many frames before this one were not synced when it was written |
//! | 4 | CRC-32 of the 28 bytes before, begun with the salt |
//!
//! The salt differs from file to file, so a frame in the wrong place is no frame. It is zero for the first frame of a
//! file, which holds what the salt is made of.
//!
//! A file that grows by frames has room for one more head at its end, always, and the room is zeros until it is written.
//! So a crash leaves zeros behind: after the last frame, or in the sectors of a frame that were not written yet. Anything
//! else is damage: a bit that flipped, a tail that was cut off, a hole before what was written after a sync.

use std::io;
use std::ops::Range;

use crate::files::File;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The kind of the file. The first frame of every file.
    Header = 1,
    /// The commits of one sync.
    Batch = 2,
    /// The name and the revision of a keyspace; what follows is about it.
    Keyspace = 3,
    /// Entries.
    Entries = 4,
    /// Recent commits, for watches.
    Commits = 5,
    /// Outcomes of named requests.
    Named = 6,
    /// The file is complete; of a log: another one goes on.
    End = 7,
    /// The revision beyond which new keyspaces begin. Only in snapshots and backups.
    Floor = 8,
}

/// A frame that was read.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

/// The content at a position of a file.
#[derive(Debug)]
pub(crate) enum Found {
    /// A whole frame.
    Frame(Frame),
    /// Nothing was ever written here, or a crash came in the middle of it.
    Nothing,
    /// Something that no crash leaves behind.
    Damage(&'static str),
}

/// Reads the frames of a file one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    file: &'a dyn File,
    len: u64,
    salt: u32,
    /// The place of the next frame, and its number.
    at: u64,
    number: u64,
    /// Bytes of the file from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
}

/// The content of a head.
struct Head {
    kind: Kind,
    zeros: u32,
    number: u64,
    len: u32,
    crc: u32,
    unsynced: u32,
}

pub(crate) const HEAD: usize = 32;
const MAGIC: [u8; 4] = *b"ATX1";
/// A disk writes sectors of this size, or of a multiple, whole or not at all.
const SECTOR: usize = 512;
/// Read at once when frames are small.
const WINDOW: usize = 1024 * 1024;

/// Returns the bytes that a payload of `len` takes in a file.
pub(crate) fn room(len: usize) -> usize {
    HEAD + len.next_multiple_of(HEAD)
}

/// Appends a frame to `buffer`, whose first byte goes to `start` in the file. `unsynced` frames before it may still be
/// lost.
///
/// A payload of 4 GiB or more is a defect of the caller, which bounds its batches.
pub(crate) fn put(
    buffer: &mut Vec<u8>,
    start: u64,
    kind: Kind,
    number: u64,
    unsynced: usize,
    salt: u32,
    payload: &[u8],
) {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&MAGIC);
    let zeros = zero_sectors(start + buffer.len() as u64, payload);
    head[4..8].copy_from_slice(&(zeros << 8 | kind as u32).to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    let len = u32::try_from(payload.len()).expect("payloads are bounded far below 4 GiB");
    head[16..20].copy_from_slice(&len.to_le_bytes());
    head[20..24].copy_from_slice(&crc(salt, payload).to_le_bytes());
    let unsynced = u32::try_from(unsynced).unwrap_or(u32::MAX);
    head[24..28].copy_from_slice(&unsynced.to_le_bytes());
    let own = crc(salt, &head[..HEAD - 4]);
    head[HEAD - 4..].copy_from_slice(&own.to_le_bytes());
    buffer.reserve(room(payload.len()));
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len().next_multiple_of(HEAD), 0);
}

/// Counts the sectors of the payload of a frame at `at` that are nothing but zeros, as those are that were never written.
fn zero_sectors(at: u64, payload: &[u8]) -> u32 {
    let start = at + HEAD as u64;
    // The part in the sector of the head is as valid as the head.
    let shared = usize::try_from(start.next_multiple_of(SECTOR as u64) - start).expect("below a sector");
    let rest = payload.get(shared..).unwrap_or_default();
    let zeros = rest.chunks(SECTOR).filter(|sector| sector.iter().all(|byte| *byte == 0)).count();
    u32::try_from(zeros).expect("a payload below 4 GiB has less than 2^23 sectors")
}

/// Returns the CRC-32 of `bytes`, begun with `salt`.
pub(crate) fn crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 8] = [
        Self::Header,
        Self::Batch,
        Self::Keyspace,
        Self::Entries,
        Self::Commits,
        Self::Named,
        Self::End,
        Self::Floor,
    ];
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a dyn File) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, len, salt: 0, at: 0, number: 0, window: Vec::new(), window_at: 0 })
    }

    /// Sets what the frames after the first are salted with, and the number of the next one.
    pub(crate) fn salted(&mut self, salt: u32, number: u64) {
        self.salt = salt;
        self.number = number;
    }

    /// Returns where the next frame begins.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Returns what the next frame is salted with, and its number.
    pub(crate) fn place(&self) -> (u32, u64) {
        (self.salt, self.number)
    }

    /// Reads the next frame. Stays where it is unless it finds one.
    pub(crate) fn next(&mut self) -> io::Result<Found> {
        const CUT: Found = Found::Damage("the end is cut off");
        let salt = self.salt;
        let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        if left < HEAD {
            return Ok(CUT);
        }
        let head = self.bytes(0..HEAD)?;
        if head.iter().all(|byte| *byte == 0) {
            return self.nothing();
        }
        let Some(head) = Head::parse(head, salt).filter(|head| head.number == self.number) else {
            return Ok(Found::Damage("a head that cannot be read"));
        };
        let (len, at) = (head.len as usize, self.at);
        if left < room(len) {
            return Ok(CUT);
        }
        let payload = self.bytes(HEAD..HEAD + len)?.to_vec();
        if crc(salt, &payload) != head.crc {
            // A crash may have written some sectors of the frame and not others, which are still zeros then.
            return if zero_sectors(at, &payload) > head.zeros {
                self.nothing()
            } else {
                Ok(Found::Damage("content that is not what was written"))
            };
        }
        self.at += room(len) as u64;
        self.number += 1;
        Ok(Found::Frame(Frame { kind: head.kind, payload }))
    }

    /// Returns `Nothing`, unless a later frame shows that the one here was complete once.
    fn nothing(&mut self) -> io::Result<Found> {
        let (mut at, salt) = (self.at, self.salt);
        while at + HEAD as u64 <= self.len {
            let here = usize::try_from(at - self.at).unwrap_or(usize::MAX);
            let head = self.bytes(here..here + HEAD)?;
            if let Some(head) = Head::parse(head, salt)
                && head.number.saturating_sub(head.unsynced.into()) > self.number
            {
                return Ok(Found::Damage("a gap before what was written later"));
            }
            at += HEAD as u64;
        }
        Ok(Found::Nothing)
    }

    /// Returns bytes of the file, counted from the next frame.
    fn bytes(&mut self, range: Range<usize>) -> io::Result<&[u8]> {
        let (start, end) = (self.at + range.start as u64, self.at + range.end as u64);
        if start < self.window_at || end > self.window_at + self.window.len() as u64 {
            let left = usize::try_from(self.len - start).unwrap_or(usize::MAX);
            self.window.resize(range.len().max(WINDOW).min(left), 0);
            self.window_at = start;
            self.file.read_at(&mut self.window, start)?;
        }
        let from = usize::try_from(start - self.window_at).expect("inside the window");
        Ok(&self.window[from..from + range.len()])
    }
}

// === impl Head ===

impl Head {
    fn parse(bytes: &[u8], salt: u32) -> Option<Self> {
        let number = |range: Range<usize>| Some(u32::from_le_bytes(bytes.get(range)?.try_into().ok()?));
        if bytes[..4] != MAGIC || number(HEAD - 4..HEAD)? != crc(salt, &bytes[..HEAD - 4]) {
            return None;
        }
        Some(Self {
            kind: Kind::ALL.into_iter().find(|kind| *kind as u8 == bytes[4])?,
            zeros: number(4..8)? >> 8,
            number: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            len: number(16..20)?,
            crc: number(20..24)?,
            unsynced: number(24..28)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Files, Folder};
    use proptest::prelude::*;

    /// Zeros after the last frame.
    const ROOM: usize = 4096;

    /// A file of frames with these payloads, the first one unsalted, and where each of them begins.
    fn written(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for (number, payload) in payloads.iter().enumerate() {
            starts.push(bytes.len());
            put(&mut bytes, 0, Kind::Batch, number as u64, 0, 7, payload);
        }
        bytes.resize(bytes.len() + ROOM, 0);
        (bytes, starts)
    }

    /// The payloads that can be read, and how the file ends.
    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Found) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let file = folder.create("file").unwrap();
        file.write_at(bytes, 0).unwrap();
        let mut reader = Reader::new(file.as_ref()).unwrap();
        reader.salted(7, 0);
        let mut payloads = Vec::new();
        loop {
            match reader.next().unwrap() {
                Found::Frame(frame) => payloads.push(frame.payload),
                end @ (Found::Nothing | Found::Damage(_)) => return (payloads, end),
            }
        }
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let payload = prop_oneof![
            proptest::collection::vec(1u8.., 0..80),
            proptest::collection::vec(1u8.., 400..1500),
        ];
        proptest::collection::vec(payload, 1..6)
    }

    /// Payloads that have whole sectors of zeros, and end with zeros.
    fn hollow_payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let hollow = |(mut payload, zeros): (Vec<u8>, usize)| {
            payload.resize(payload.len() + zeros, 0);
            payload
        };
        proptest::collection::vec(
            (proptest::collection::vec(0u8.., 1..600), 0usize..2000).prop_map(hollow),
            1..6,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_written_is_read_up_to_the_zeros_after_it(payloads in payloads()) {
            let (found, end) = read(&written(&payloads).0);
            prop_assert_eq!(found, payloads);
            prop_assert!(matches!(end, Found::Nothing));
        }

        #[test]
        fn a_write_that_a_crash_cut_short_is_nothing(payloads in payloads(), cut in 0usize..10) {
            let (mut bytes, starts) = written(&payloads);
            let last = *starts.last().unwrap();
            let cut = (last.next_multiple_of(SECTOR) + cut * SECTOR).min(bytes.len() - ROOM);
            bytes[cut..].fill(0);
            let (found, end) = read(&bytes);
            prop_assert!(found.len() == payloads.len() || found[..] == payloads[..payloads.len() - 1]);
            prop_assert!(matches!(end, Found::Nothing), "{:?}", end);
        }

        #[test]
        fn a_tail_that_is_cut_off_is_damage(payloads in payloads(), at in 0usize..1_000_000) {
            let (mut bytes, starts) = written(&payloads);
            bytes.truncate(at % (bytes.len() - ROOM + HEAD));
            let (found, end) = read(&bytes);
            let whole = starts.iter().filter(|start| **start < bytes.len()).count();
            prop_assert!(found.len() <= whole && found[..] == payloads[..found.len()]);
            prop_assert!(matches!(end, Found::Damage(_)), "{:?}", end);
        }

        #[test]
        fn what_was_not_synced_may_be_missing_before_what_came_later(payload in proptest::collection::vec(1u8.., 1..2000)) {
            for (unsynced, damage) in [(0, true), (1, true), (2, false)] {
                let mut bytes = Vec::new();
                for number in 0..4 {
                    put(&mut bytes, 0, Kind::Batch, number, if number == 3 { unsynced } else { 0 }, 7, &payload);
                }
                let len = room(payload.len());
                bytes[len..2 * len].fill(0);
                let (found, end) = read(&bytes);
                prop_assert_eq!(found.len(), 1);
                // The third frame, written in time, shows by its zero that all before it was synced.
                prop_assert!(matches!(end, Found::Damage(_)));
                bytes[2 * len..3 * len].fill(0);
                let (_, end) = read(&bytes);
                prop_assert_eq!(matches!(end, Found::Damage(_)), damage, "{:?}", end);
            }
        }

        #[test]
        fn a_flipped_bit_is_damage(payloads in payloads(), at in 0usize..1_000_000, bit in 0u8..8) {
            let (mut bytes, starts) = written(&payloads);
            let frame = at % starts.len();
            // The padding of a frame is never read.
            let len = HEAD + payloads[frame].len();
            let place = starts[frame] + at % len;
            bytes[place] ^= 1 << bit;
            let (found, end) = read(&bytes);
            prop_assert_eq!(&found[..], &payloads[..frame]);
            prop_assert!(matches!(end, Found::Damage(_)), "{:?}", end);
        }

        #[test]
        fn a_flipped_bit_is_damage_also_among_zeros(payloads in hollow_payloads(), at in 0usize..1_000_000, bit in 0u8..8) {
            let (mut bytes, starts) = written(&payloads);
            let frame = at % starts.len();
            let place = starts[frame] + at % (HEAD + payloads[frame].len());
            bytes[place] ^= 1 << bit;
            let (found, end) = read(&bytes);
            prop_assert_eq!(&found[..], &payloads[..frame]);
            prop_assert!(matches!(end, Found::Damage(_)), "{:?}", end);
        }

        #[test]
        fn a_write_of_zeros_that_a_crash_cut_short_is_nothing(payloads in hollow_payloads(), cut in 0usize..10) {
            let (mut bytes, starts) = written(&payloads);
            let last = *starts.last().unwrap();
            let cut = (last.next_multiple_of(SECTOR) + cut * SECTOR).min(bytes.len() - ROOM);
            bytes[cut..].fill(0);
            let (found, end) = read(&bytes);
            prop_assert!(found.len() == payloads.len() || found[..] == payloads[..payloads.len() - 1]);
            prop_assert!(matches!(end, Found::Nothing), "{:?}", end);
        }

        #[test]
        fn a_lost_sector_is_nothing_in_the_last_frame_and_damage_before(payloads in payloads(), pick in 0usize..1000) {
            let (mut bytes, starts) = written(&payloads);
            let last = *starts.last().unwrap();
            let sectors: Vec<usize> = (0..bytes.len() - SECTOR).step_by(SECTOR).collect();
            let sector = sectors[pick % sectors.len()];
            bytes[sector..sector + SECTOR].fill(0);
            let (found, end) = read(&bytes);
            prop_assert!(found.len() < payloads.len() || sector >= last + HEAD + payloads.last().unwrap().len());
            prop_assert!(found.iter().zip(&payloads).all(|(found, written)| found == written));
            if sector + SECTOR <= last {
                prop_assert!(matches!(end, Found::Damage(_)), "{:?}", end);
            } else if sector > last {
                prop_assert!(matches!(end, Found::Nothing), "{:?}", end);
            }
        }
    }
}
