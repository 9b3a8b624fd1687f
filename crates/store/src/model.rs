// SPDX-License-Identifier: Apache-2.0
//! Transactions, reads and their results: plain values, the same for every store.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Names all keys of one primitive in one store. The unit of order, of atomicity and of placement.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Keyspace(Bytes);

/// A point in the total order of one keyspace's commits. Zero is "before the first commit".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// A key and its value, with the revisions that made it and last wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The commit that created the entry. A deleted and re-created entry has a new one.
    pub created: Revision,
    /// The commit that last wrote the entry.
    pub modified: Revision,
}

/// Keys from `start` up to but not including `end`; no `end` means up to the last key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first key that may be in the range.
    pub start: Bytes,
    /// The first key that is not in the range any more.
    pub end: Option<Bytes>,
}

/// A condition. A transaction applies only if all of its guards hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// There is no entry at `key`.
    Absent { key: Bytes },
    /// There is an entry at `key`.
    Present { key: Bytes },
    /// The entry at `key` exists and was last written by `revision`.
    ModifiedAt { key: Bytes, revision: Revision },
    /// The entry at `key` exists and has this value.
    ValueIs { key: Bytes, value: Bytes },
    /// There is no entry at `key`, or it has another value.
    ValueIsNot { key: Bytes, value: Bytes },
}

/// A change that a transaction makes when its guards hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// Creates or replaces an entry.
    Put { key: Bytes, value: Bytes },
    /// Adds to a number (see [`number`]), wrapping around; an absent entry counts as zero.
    Add { key: Bytes, delta: i64 },
    /// Creates an entry under a new unique key: `prefix` and a suffix that the store chooses.
    /// Entries stamped under one prefix are ordered by [`Order::Created`].
    Stamp { prefix: Bytes, value: Bytes },
    /// Deletes an entry. An absent one is no change.
    Delete { key: Bytes },
    /// Deletes all entries of a range.
    DeleteRange { range: Range },
}

/// A question that a transaction or a read asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    /// The entry at `key`.
    Get { key: Bytes },
    /// The first entries of a range. May bring fewer than `limit` when their values are large, at least one;
    /// [`Found::Entries`] has a flag for the rest.
    Scan { range: Range, order: Order, limit: usize, keys_only: bool },
    /// The number of entries in a range.
    Count { range: Range },
}

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// By key, smallest first.
    Key,
    /// By key, greatest first.
    KeyDescending,
    /// Oldest first. Only for ranges that hold nothing but stamps of one prefix.
    Created,
}

/// Condition under which the reads of a transaction are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Ask {
    /// In any case.
    #[default]
    Always,
    /// Only if the guards do not hold, to explain the refusal. An answer that the caller drops is work for
    /// the store.
    IfRefused,
}

/// One atomic step on one keyspace.
///
/// Reads see the state after the writes if the guards held, the untouched state if not: a refused transaction
/// costs no second round trip. A key is written, and a prefix stamped, at most once per transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Txn {
    /// The conditions.
    pub guards: Vec<Guard>,
    /// The writes, applied when all conditions hold.
    pub writes: Vec<Write>,
    /// The reads of the same atomic step.
    pub reads: Vec<Read>,
    /// Whether the reads are answered also when the transaction applies.
    pub ask: Ask,
    /// The caller's name for this very request. A second transaction of that name is not applied: it is answered
    /// with the outcome of the first. Remembered for at least 5 minutes. When no more can be remembered
    /// ([`crate::Limits::once_max`]) a new name is refused with [`crate::ErrorKind::Full`].
    pub once: Option<Bytes>,
}

/// The result of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The revision of this commit if it changed something, else the latest revision that the reads reflect.
    pub revision: Revision,
    /// Whether the guards held.
    pub applied: bool,
    /// One answer per write; empty if not applied.
    pub writes: Vec<Written>,
    /// One answer per read; empty if they were not asked ([`Txn::ask`]).
    pub reads: Vec<Found>,
}

/// The result of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Written {
    /// Answer to [`Write::Put`].
    Put { previous: Option<Entry> },
    /// Answer to [`Write::Add`]: the number after it.
    Added { value: i64 },
    /// Answer to [`Write::Stamp`]: the key that the store chose.
    Stamped { key: Bytes },
    /// Answer to [`Write::Delete`].
    Deleted { previous: Option<Entry> },
    /// Answer to [`Write::DeleteRange`].
    RangeDeleted { count: u64 },
}

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Answer to [`Read::Get`].
    Entry(Option<Entry>),
    /// Answer to [`Read::Scan`]. With `more` the range holds entries beyond the last one given.
    Entries { entries: Vec<Entry>, more: bool },
    /// Answer to [`Read::Count`].
    Count(u64),
}

/// Answers to reads, all of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision whose state was read.
    pub revision: Revision,
    /// One answer per read.
    pub reads: Vec<Found>,
}

/// The change of one key in one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The entry before the commit.
    pub previous: Option<Entry>,
    /// The entry after the commit.
    pub current: Option<Entry>,
}

/// All changes of one transaction, in the order of its writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The revision that the transaction made.
    pub revision: Revision,
    /// The changes; never empty.
    pub changes: Vec<Change>,
}

/// Encodes a number as [`Write::Add`] keeps it: eight bytes, big endian, two's complement.
pub fn number_bytes(number: i64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Decodes a number. `None` if `value` was not written by [`Write::Add`] or [`number_bytes`].
pub fn number(value: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(value.try_into().ok()?))
}

// === impl Keyspace ===

impl Keyspace {
    /// Names a keyspace. Stores accept every name of 1 to [`crate::Limits::key_bytes_max`] bytes.
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

// === impl Revision ===

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

// === impl Range ===

impl Range {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        // The first key after all keys of the prefix: drop trailing 0xff, then add one to the last byte.
        let kept = start.iter().rposition(|byte| *byte != 0xff);
        let end = kept.map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            end.into()
        });
        Self { start, end }
    }

    /// This range without what comes before `key` and without `key` itself.
    #[must_use]
    pub fn after(&self, key: &[u8]) -> Self {
        let start = [key, &[0]].concat().into();
        Self { start: std::cmp::max(start, self.start.clone()), end: self.end.clone() }
    }

    /// This range without what comes at or after `key`.
    #[must_use]
    pub fn before(&self, key: &Bytes) -> Self {
        let end = match &self.end {
            Some(end) if end <= key => end.clone(),
            _ => key.clone(),
        };
        Self { start: self.start.clone(), end: Some(end) }
    }

    /// Returns whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Returns whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

// === impl Guard ===

impl Guard {
    /// Returns the key that the guard looks at.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Absent { key }
            | Self::Present { key }
            | Self::ModifiedAt { key, .. }
            | Self::ValueIs { key, .. }
            | Self::ValueIsNot { key, .. } => key,
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Returns how many bytes of a client's content the entry holds.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

// === impl Found ===

impl Found {
    /// Returns the entry of a [`Read::Get`]. `None` also if this answers another read.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Entry(entry) => entry.as_ref(),
            Self::Entries { .. } | Self::Count(_) => None,
        }
    }

    /// Returns the entries of a [`Read::Scan`]. Empty if this answers another read.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Entries { entries, .. } => entries,
            Self::Entry(_) | Self::Count(_) => &[],
        }
    }

    /// Returns whether a [`Read::Scan`] left entries out. False if this answers another read.
    pub fn more(&self) -> bool {
        match self {
            Self::Entries { more, .. } => *more,
            Self::Entry(_) | Self::Count(_) => false,
        }
    }

    /// Returns the number of a [`Read::Count`]. Zero if this answers another read.
    pub fn count(&self) -> u64 {
        match self {
            Self::Count(count) => *count,
            Self::Entry(_) | Self::Entries { .. } => 0,
        }
    }
}

// === impl Written ===

impl Written {
    /// Returns the entry that a [`Write::Put`] replaced or a [`Write::Delete`] deleted.
    pub fn previous(&self) -> Option<&Entry> {
        match self {
            Self::Put { previous } | Self::Deleted { previous } => previous.as_ref(),
            Self::Added { .. } | Self::Stamped { .. } | Self::RangeDeleted { .. } => None,
        }
    }
}

// === impl Txn ===

impl Txn {
    /// Makes a transaction that asks and changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a guard.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// Adds a read.
    #[must_use]
    pub fn read(mut self, read: Read) -> Self {
        self.reads.push(read);
        self
    }

    /// Asks the reads only if the transaction is refused.
    #[must_use]
    pub fn if_refused(mut self) -> Self {
        self.ask = Ask::IfRefused;
        self
    }

    /// Returns the reads that are asked when the guards held, or did not.
    pub fn asked(&self, applied: bool) -> &[Read] {
        match self.ask {
            Ask::IfRefused if applied => &[],
            Ask::Always | Ask::IfRefused => &self.reads,
        }
    }

    /// Names this request, see [`Txn::once`].
    #[must_use]
    pub fn once(mut self, name: impl Into<Bytes>) -> Self {
        self.once = Some(name.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_range_holds_exactly_the_keys_of_the_prefix(
            prefix in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..4),
            key in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..5),
        ) {
            prop_assert_eq!(Range::prefix(prefix.clone()).contains(&key), key.starts_with(&prefix));
        }

        #[test]
        fn a_range_is_cut_at_a_key(cut in ".{0,3}", key in ".{0,3}") {
            let all = Range::prefix("");
            let cut = Bytes::from(cut);
            prop_assert_eq!(all.after(&cut).contains(key.as_bytes()), key.as_bytes() > cut.as_ref());
            prop_assert_eq!(all.before(&cut).contains(key.as_bytes()), key.as_bytes() < cut.as_ref());
        }

        #[test]
        fn a_number_survives_its_encoding(value: i64) {
            prop_assert_eq!(number(&number_bytes(value)), Some(value));
        }
    }
}
