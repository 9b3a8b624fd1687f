// SPDX-License-Identifier: Apache-2.0
//! A list.

use serde::{Deserialize, Serialize};

use super::Model;

/// The items in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct List(pub Vec<u64>);

/// The calls of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Adds an item at the end.
    Append(u64),
    /// Adds an item before the one at this place.
    Insert(u32, u64),
    /// Replaces the item at this place.
    Set(u32, u64),
    /// Reads the item at this place.
    Get(u32),
    /// Removes the item at this place.
    Remove(u32),
    /// Counts.
    Size,
    /// Removes all items.
    Clear,
    /// Reads all items.
    Items,
}

/// The answers of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The item that was read or removed.
    Item(u64),
    /// All items.
    Items(Vec<u64>),
    /// So many.
    Size(u32),
    /// There is no such place.
    Beyond,
    /// It is done, and the answer holds no more.
    Done,
}

// === impl List ===

impl Model for List {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
        let mut after = self.clone();
        let reported = match op {
            Op::Append(item) => {
                after.0.push(*item);
                Answer::Done
            }
            Op::Insert(at, item) if place(*at) <= self.0.len() => {
                after.0.insert(place(*at), *item);
                Answer::Done
            }
            Op::Set(at, item) if place(*at) < self.0.len() => {
                after.0[place(*at)] = *item;
                Answer::Done
            }
            Op::Get(at) if place(*at) < self.0.len() => Answer::Item(self.0[place(*at)]),
            Op::Remove(at) if place(*at) < self.0.len() => Answer::Item(after.0.remove(place(*at))),
            Op::Insert(..) | Op::Set(..) | Op::Get(_) | Op::Remove(_) => Answer::Beyond,
            Op::Size => Answer::Size(u32::try_from(self.0.len()).ok()?),
            Op::Clear => {
                after.0.clear();
                Answer::Done
            }
            Op::Items => Answer::Items(self.0.clone()),
        };
        answer.is_none_or(|answer| *answer == reported).then_some(after)
    }

    fn only_reads(op: &Op) -> bool {
        matches!(op, Op::Get(_) | Op::Size | Op::Items)
    }
}
