// SPDX-License-Identifier: Apache-2.0
//! A versioned value: the key of a map, or a value primitive.

use serde::{Deserialize, Serialize};

use super::{Model, Version};

/// A cell that is unset or keeps a value at a version. Every write of a history writes another value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// The value.
    pub value: Option<(u64, Version)>,
    /// The version of the last write, also if its value is gone.
    pub last: Version,
}

/// The calls of a cell. The condition of a write is a version; 0 means none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Reads.
    Get,
    /// Writes. With a condition also an unset cell is a conflict.
    Put(u64, u64),
    /// Writes if the cell is unset.
    Insert(u64),
    /// Writes if the cell is set.
    Update(u64, u64),
    /// Unsets a cell that is set.
    Remove(u64),
    /// Unsets the cell, set or not.
    Clear,
    /// The time of this value is over: it goes if it is still there.
    Expire(u64),
}

/// The answers of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// This is the value and its version: it was read, or removed.
    Is(u64, u64),
    /// A write has this version; that was there before.
    Written(u64, Option<(u64, u64)>),
    /// An insert has this version.
    Inserted(u64),
    /// The cell is unset.
    Missing,
    /// The cell is set.
    Exists,
    /// The condition does not hold.
    Conflict,
    /// It is done, and the answer holds no more. Of a write: it took effect, with an unknown version.
    Done,
}

// === impl Cell ===

impl Default for Cell {
    fn default() -> Self {
        Self { value: None, last: Version::Is(0) }
    }
}

impl Cell {
    fn write(&self, value: u64, reported: Option<u64>) -> Option<Self> {
        let last = self.last.next(reported)?;
        Some(Self { value: Some((value, last)), last })
    }

    /// Returns the known state of the cell after it was `reported` to hold this.
    fn shown(&self, reported: (u64, u64)) -> Option<Self> {
        let (value, version) = self.value?;
        let version = version.learn(reported.1)?;
        (value == reported.0).then_some(Self { value: Some((value, version)), last: version })
    }

    /// Returns whether a condition can hold. Zero is none.
    fn may_hold(&self, condition: u64) -> bool {
        condition == 0 || self.value.is_some_and(|(_, version)| version.may_be(condition))
    }

    fn may_fail(&self, condition: u64) -> bool {
        condition != 0 && self.value.is_none_or(|(_, version)| version.may_differ(condition))
    }

    fn replace(&self, value: u64, condition: u64, answer: Option<&Answer>) -> Option<Self> {
        match answer {
            Some(Answer::Written(version, before)) => {
                let seen = match before {
                    Some(before) => self.shown(*before)?,
                    None if self.value.is_none() => self.clone(),
                    None => return None,
                };
                seen.may_hold(condition).then(|| seen.write(value, Some(*version)))?
            }
            Some(Answer::Conflict) => self.may_fail(condition).then(|| self.clone()),
            None | Some(Answer::Done) if self.may_hold(condition) => self.write(value, None),
            Some(_) | None => None,
        }
    }
}

impl Model for Cell {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        let unset = || Self { value: None, last: self.last };
        match (op, answer) {
            (Op::Get | Op::Remove(_) | Op::Update(..), Some(Answer::Missing)) => {
                self.value.is_none().then(|| self.clone())
            }
            (Op::Get, Some(Answer::Is(value, version))) => self.shown((*value, *version)),
            (Op::Put(value, condition), answer) => self.replace(*value, *condition, answer),
            (Op::Update(value, condition), answer) => {
                self.value?;
                self.replace(*value, *condition, answer)
            }
            (Op::Insert(value), Some(Answer::Inserted(version))) if self.value.is_none() => {
                self.write(*value, Some(*version))
            }
            (Op::Insert(value), None | Some(Answer::Done)) if self.value.is_none() => {
                self.write(*value, None)
            }
            (Op::Insert(_), Some(Answer::Exists)) => self.value.is_some().then(|| self.clone()),
            (Op::Remove(condition), Some(Answer::Is(value, version))) => {
                let seen = self.shown((*value, *version))?;
                seen.may_hold(*condition).then_some(Self { value: None, ..seen })
            }
            (Op::Remove(condition), Some(Answer::Conflict)) => {
                (self.value.is_some() && self.may_fail(*condition)).then(|| self.clone())
            }
            (Op::Remove(condition), None) => (self.value.is_some() && self.may_hold(*condition)).then(unset),
            (Op::Clear, None | Some(Answer::Done)) => Some(unset()),
            (Op::Expire(value), None | Some(Answer::Done)) => match self.value {
                Some((held, _)) if held == *value => Some(unset()),
                _ => Some(self.clone()),
            },
            _ => None,
        }
    }

    fn is_over(&self, _op: &Op, answer: &Answer) -> bool {
        match answer {
            Answer::Is(_, version) => self.last.is_past(*version),
            Answer::Written(version, _) | Answer::Inserted(version) => {
                self.last.is_past(*version) || self.last == Version::Is(*version)
            }
            Answer::Missing | Answer::Exists | Answer::Conflict | Answer::Done => false,
        }
    }

    fn only_reads(op: &Op) -> bool {
        *op == Op::Get
    }
}
