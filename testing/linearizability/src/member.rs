// SPDX-License-Identifier: Apache-2.0
//! Something that is there or not: an element of a set, or a value under a key of a multimap.

use serde::{Deserialize, Serialize};

use super::Model;

/// Whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Member(pub bool);

/// The calls of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Whether it is there.
    Has,
    /// Adds it.
    Add,
    /// Removes it.
    Remove,
    /// Removes it, without an answer whether it was there.
    Clear,
}

/// The answers of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is there; or the call has changed something.
    Yes,
    /// It is not; or the call has changed nothing.
    No,
    /// It is done, and the answer holds no more.
    Done,
}

// === impl Member ===

impl Model for Member {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        let (after, reported) = match op {
            Op::Has => (self.0, self.0),
            Op::Add => (true, !self.0),
            Op::Remove => (false, self.0),
            Op::Clear => (false, false),
        };
        let may = match answer {
            Some(Answer::Yes) => reported && *op != Op::Clear,
            Some(Answer::No) => !reported && *op != Op::Clear,
            Some(Answer::Done) | None => true,
        };
        may.then_some(Self(after))
    }

    fn only_reads(op: &Op) -> bool {
        *op == Op::Has
    }
}
