// SPDX-License-Identifier: Apache-2.0
//! A number: a counter, or the key of a counter map.

use serde::{Deserialize, Serialize};

use super::Model;

/// A number that may be absent. A counter begins with `Number(Some(0))` and is never absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Number(pub Option<i64>);

/// The calls of a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Reads.
    Get,
    /// Writes.
    Set(i64),
    /// Writes if it is absent.
    Insert(i64),
    /// Writes the second if it is the first.
    Update(i64, i64),
    /// Adds; an absent one counts as zero.
    Add(i64),
    /// Removes it.
    Remove,
    /// Removes it if it is this.
    RemoveIf(i64),
    /// Removes it, absent or not.
    Clear,
}

/// The answers of a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The number, after a write; before it, if it was removed.
    Is(i64),
    /// The number before a write, or zero.
    Was(i64),
    /// It is absent.
    Missing,
    /// It is there.
    Exists,
    /// It is another one.
    Conflict,
    /// It is done, and the answer holds no more.
    Done,
}

// === impl Number ===

impl Model for Number {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        let same = |holds: bool| holds.then_some(*self);
        // A write whose answer holds the number after it, or nothing.
        let reported = |after: Self, number: i64| {
            let may = match answer {
                Some(Answer::Is(reported)) => *reported == number,
                Some(Answer::Was(reported)) => *reported == self.0.unwrap_or(0),
                Some(Answer::Done) | None => true,
                Some(Answer::Missing | Answer::Exists | Answer::Conflict) => false,
            };
            may.then_some(after)
        };
        let becomes = |number: i64| reported(Self(Some(number)), number);
        let goes = |number: i64| reported(Self(None), number);
        match (op, answer, self.0) {
            (Op::Get, Some(Answer::Is(reported)), held) => same(held == Some(*reported)),
            (Op::Get | Op::Update(..) | Op::Remove | Op::RemoveIf(_), Some(Answer::Missing), held) => {
                same(held.is_none())
            }
            (Op::Insert(_), Some(Answer::Exists), held) => same(held.is_some()),
            (Op::Update(check, _) | Op::RemoveIf(check), Some(Answer::Conflict), held) => {
                same(held.is_some_and(|held| held != *check))
            }
            (Op::Set(number), _, _) | (Op::Insert(number), _, None) => becomes(*number),
            (Op::Update(check, update), _, Some(held)) if held == *check => becomes(*update),
            (Op::Add(delta), _, held) => becomes(held.unwrap_or(0).wrapping_add(*delta)),
            (Op::Remove, _, Some(held)) => goes(held),
            (Op::RemoveIf(check), _, Some(held)) if held == *check => goes(held),
            (Op::Clear, None | Some(Answer::Done), _) => Some(Self(None)),
            _ => None,
        }
    }

    fn only_reads(op: &Op) -> bool {
        *op == Op::Get
    }
}
