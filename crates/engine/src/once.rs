// SPDX-License-Identifier: Apache-2.0
//! The named requests that an engine remembers.
//!
//! They are kept in generations. The store begins a new one every [`Once::PERIOD`] and drops the oldest as a
//! whole: no request is looked at again, and each is remembered for [`Once::KEPT`] at least and a period
//! longer at most.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use atomix_store::{Found, Outcome, Revision, Written};

/// Outcomes by the names of their requests.
#[derive(Debug)]
pub(crate) struct Once {
    /// The newest is the last.
    generations: VecDeque<HashMap<Box<[u8]>, Kept>>,
    bytes: usize,
}

/// An outcome.
#[derive(Debug)]
enum Kept {
    /// Of an increment: nearly all that are named.
    Added {
        revision: Revision,
        value: i64,
    },
    Other(Box<Outcome>),
}

/// A table entry, and what allocating a name costs.
const NAME_BYTES: usize = 96;

// === impl Once ===

impl Once {
    /// The time between two generations.
    pub(crate) const PERIOD: Duration = Duration::from_mins(1);
    /// The minimum time for which a request is remembered.
    pub(crate) const KEPT: Duration = Duration::from_mins(Self::GENERATIONS as u64 - 1);
    const GENERATIONS: usize = 6;

    /// Returns roughly the bytes of memory that are used.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes that a request of this name needs at least.
    pub(crate) fn cost(name: &[u8]) -> usize {
        NAME_BYTES + name.len()
    }

    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.generations.iter().any(|generation| generation.contains_key(name))
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<Outcome> {
        self.generations.iter().rev().find_map(|generation| generation.get(name)).map(Kept::outcome)
    }

    /// Remembers a request, unless it is remembered already.
    pub(crate) fn insert(&mut self, name: &[u8], outcome: &Outcome) {
        if self.contains(name) {
            return;
        }
        let kept = Kept::new(outcome);
        self.bytes += Self::cost(name) + kept.bytes();
        if let Some(newest) = self.generations.back_mut() {
            newest.insert(name.into(), kept);
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        if let Some(kept) = self.generations.iter_mut().rev().find_map(|generation| generation.remove(name)) {
            self.bytes -= Self::cost(name) + kept.bytes();
        }
    }

    /// Begins a new generation and forgets the oldest. Returns whether any request is left.
    pub(crate) fn rotate(&mut self) -> bool {
        self.generations.push_back(HashMap::new());
        while self.generations.len() > Self::GENERATIONS {
            let gone = self.generations.pop_front().unwrap_or_default();
            self.bytes -= gone.iter().map(|(name, kept)| Self::cost(name) + kept.bytes()).sum::<usize>();
        }
        self.bytes > 0
    }

    /// Returns all, the oldest generation first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Bytes, Outcome)> {
        let all = self.generations.iter().flatten();
        all.map(|(name, kept)| (Bytes::copy_from_slice(name), kept.outcome()))
    }
}

impl Default for Once {
    fn default() -> Self {
        Self { generations: VecDeque::from([HashMap::new()]), bytes: 0 }
    }
}

// === impl Kept ===

impl Kept {
    fn new(outcome: &Outcome) -> Self {
        if let ([Written::Added { value }], []) = (&outcome.writes[..], &outcome.reads[..]) {
            return Self::Added { revision: outcome.revision, value: *value };
        }
        Self::Other(Box::new(outcome.clone()))
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Added { revision, value } => Outcome {
                revision: *revision,
                applied: true,
                writes: vec![Written::Added { value: *value }],
                reads: Vec::new(),
            },
            Self::Other(outcome) => Outcome::clone(outcome),
        }
    }

    fn bytes(&self) -> usize {
        let Self::Other(outcome) = self else { return 0 };
        let writes = outcome.writes.iter().map(|written| match written {
            Written::Put { previous } | Written::Deleted { previous } => {
                previous.as_ref().map_or(0, atomix_store::Entry::bytes)
            }
            Written::Added { .. } | Written::RangeDeleted { .. } => 0,
            Written::Stamped { key } => key.len(),
        });
        let reads = outcome.reads.iter().map(|found| match found {
            Found::Entry(entry) => entry.as_ref().map_or(0, atomix_store::Entry::bytes),
            Found::Entries { entries, .. } => entries.iter().map(|entry| 64 + entry.bytes()).sum(),
            Found::Count(_) => 0,
        });
        let parts = outcome.writes.len() + outcome.reads.len();
        size_of::<Outcome>() + 128 * parts + writes.chain(reads).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(value: i64) -> Outcome {
        let writes = vec![Written::Added { value }];
        Outcome { revision: Revision(7), applied: true, writes, reads: Vec::new() }
    }

    #[test]
    fn a_request_is_remembered_for_its_time_however_many_others_come() {
        let mut once = Once::default();
        once.insert(b"payment", &added(1));
        let periods = Once::KEPT.as_secs() / Once::PERIOD.as_secs();
        for period in 0..periods {
            for other in 0..500 {
                once.insert(format!("{period}/{other}").as_bytes(), &added(2));
            }
            assert!(once.rotate());
            assert_eq!(once.get(b"payment"), Some(added(1)), "after {period}");
        }
        once.rotate();
        assert_eq!(once.get(b"payment"), None);
        (0..6).for_each(|_| assert!(once.rotate() || once.bytes() == 0));
        assert_eq!((once.bytes(), once.iter().count()), (0, 0));
    }

    #[test]
    fn outcomes_are_kept_as_they_were() {
        let mut once = Once::default();
        let refused = Outcome { applied: false, writes: Vec::new(), ..added(0) };
        for (name, outcome) in [("one", added(-5)), ("two", refused)] {
            once.insert(name.as_bytes(), &outcome);
            once.insert(name.as_bytes(), &added(99));
            assert_eq!(once.get(name.as_bytes()), Some(outcome));
        }
        assert_eq!(once.iter().count(), 2);
        once.remove(b"one");
        once.remove(b"two");
        assert_eq!(once.bytes(), 0);
    }
}
