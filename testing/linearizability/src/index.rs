// SPDX-License-Identifier: Apache-2.0
//! An indexed map: entries in the order in which they were appended.

use serde::{Deserialize, Serialize};

use super::{Model, Version};

/// The entries by position, and the last numbers that were given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Index {
    /// The entries.
    pub entries: Vec<Item>,
    /// The last position that was given.
    pub position: Version,
    /// The last version that was given. Writes of different keys may share one.
    pub version: Version,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Item {
    /// The key.
    pub key: u64,
    /// The value, which no other write of the history writes.
    pub value: u64,
    /// The position.
    pub position: Version,
    /// The version.
    pub version: Version,
}

/// An entry as reported: key, value, position, version.
pub type Reported = (u64, u64, u64, u64);

/// The calls of an indexed map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Adds key and value at the end, if the key is new.
    Append(u64, u64),
    /// Writes the value of a key that is there.
    Update(u64, u64),
    /// Reads by key.
    Get(u64),
    /// Removes by key.
    Remove(u64),
    /// Reads the first entry.
    First,
    /// Reads the last entry.
    Last,
    /// Removes all entries.
    Clear,
}

/// The answers of an indexed map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The entry after a write; before it, if it was removed.
    Entry(Reported),
    /// There is none.
    Missing,
    /// The key is there.
    Exists,
    /// It is done, and the answer holds no more. Of a write: it took effect, with unknown numbers.
    Done,
}

// === impl Index ===

impl Default for Index {
    fn default() -> Self {
        Self { entries: Vec::new(), position: Version::Is(0), version: Version::Is(0) }
    }
}

impl Index {
    fn find(&self, key: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.key == key)
    }

    /// Returns the known state after the entry at `at` was reported.
    fn shown(&self, at: usize, reported: &Reported) -> Option<Self> {
        let mut after = self.clone();
        let newest = self.entries[at].position == self.position;
        let entry = &mut after.entries[at];
        if (entry.key, entry.value) != (reported.0, reported.1) {
            return None;
        }
        let written_last = entry.version == self.version;
        entry.position = entry.position.learn(reported.2)?;
        entry.version = entry.version.learn(reported.3)?;
        if newest {
            after.position = entry.position;
        }
        if written_last {
            after.version = entry.version;
        }
        Some(after)
    }

    fn read(&self, at: Option<usize>, answer: Option<&Answer>) -> Option<Self> {
        match (at, answer) {
            (Some(at), Some(Answer::Entry(reported))) => self.shown(at, reported),
            (None, Some(Answer::Missing)) => Some(self.clone()),
            _ => None,
        }
    }

    fn append(&self, key: u64, value: u64, reported: Option<&Reported>) -> Option<Self> {
        if reported.is_some_and(|reported| (reported.0, reported.1) != (key, value)) {
            return None;
        }
        let mut after = self.clone();
        after.position = self.position.next(reported.map(|reported| reported.2))?;
        after.version = self.version.next_or_same(reported.map(|reported| reported.3))?;
        after.entries.push(Item { key, value, position: after.position, version: after.version });
        Some(after)
    }

    fn update(&self, at: usize, value: u64, reported: Option<&Reported>) -> Option<Self> {
        let mut after = self.clone();
        let version = reported.map(|reported| reported.3);
        self.entries[at].version.next(version)?;
        after.version = self.version.next_or_same(version)?;
        after.entries[at].value = value;
        after.entries[at].version = after.version;
        match reported {
            Some(reported) => after.shown(at, reported),
            None => Some(after),
        }
    }

    fn without(mut self, at: usize) -> Self {
        self.entries.remove(at);
        self
    }
}

impl Model for Index {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        let reported = match answer {
            Some(Answer::Entry(reported)) => Some(reported),
            _ => None,
        };
        match (op, answer) {
            (Op::Append(key, value), Some(Answer::Entry(_) | Answer::Done) | None)
                if self.find(*key).is_none() =>
            {
                self.append(*key, *value, reported)
            }
            (Op::Append(key, _), Some(Answer::Exists)) => self.find(*key).map(|_| self.clone()),
            (Op::Update(key, value), Some(Answer::Entry(_) | Answer::Done) | None) => {
                self.update(self.find(*key)?, *value, reported)
            }
            (Op::Update(key, _) | Op::Remove(key), Some(Answer::Missing)) | (Op::Get(key), _) => {
                self.read(self.find(*key), answer)
            }
            (Op::Remove(key), Some(Answer::Entry(reported))) => {
                let at = self.find(*key)?;
                Some(self.shown(at, reported)?.without(at))
            }
            (Op::Remove(key), None) => Some(self.clone().without(self.find(*key)?)),
            (Op::First, _) => self.read((!self.entries.is_empty()).then_some(0), answer),
            (Op::Last, _) => self.read(self.entries.len().checked_sub(1), answer),
            (Op::Clear, Some(Answer::Done) | None) => Some(Self { entries: Vec::new(), ..self.clone() }),
            _ => None,
        }
    }

    fn is_over(&self, op: &Op, answer: &Answer) -> bool {
        match (op, answer) {
            (Op::Append(..), Answer::Entry(reported)) => {
                self.position.is_past(reported.2) || self.position == Version::Is(reported.2)
            }
            _ => false,
        }
    }

    fn only_reads(op: &Op) -> bool {
        matches!(op, Op::Get(_) | Op::First | Op::Last)
    }
}
