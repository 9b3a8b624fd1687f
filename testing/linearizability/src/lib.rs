// SPDX-License-Identifier: Apache-2.0
//! Judges recorded histories: can all answers be explained by one object that does one call at a time?
//!
//! A history has one object: a key of a map, a counter, a lock. Objects do not know of each other, so that
//! each can be judged alone (linearizability is local), and a long run is many short histories. [`streams`]
//! judges streams.
//!
//! ```
//! use atomix_linearizability::{Call, History, Number, Verdict, number};
//!
//! let mut history = History::new(Number(Some(0)));
//! history.calls.push(Call::done(1, 0..10, number::Op::Add(1), number::Answer::Is(1)));
//! history.calls.push(Call::done(2, 20..30, number::Op::Get, number::Answer::Is(0)));
//! // The second call began when the first was over, and does not show it.
//! assert!(matches!(history.check(1000), Verdict::Broken(_)));
//! ```

pub mod cell;
pub mod election;
pub mod index;
pub mod list;
pub mod lock;
pub mod member;
pub mod number;
mod object;
mod search;
pub mod streams;
#[cfg(test)]
mod tests;
mod version;

pub use cell::Cell;
pub use election::Election;
pub use index::Index;
pub use list::List;
pub use lock::Lock;
pub use member::Member;
pub use number::Number;
pub use object::{Judgement, Object};
pub use search::{Broken, Verdict};
pub use streams::WatchHistory;
pub use version::Version;

use std::fmt::Debug;
use std::hash::Hash;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// An object that does one call at a time. Its value is its state.
pub trait Model: Clone + Eq + Hash + Debug + Serialize + DeserializeOwned {
    /// The calls of the object.
    type Op: Clone + PartialEq + Debug + Serialize + DeserializeOwned;
    /// The answers of the object.
    type Answer: Clone + Debug + Serialize + DeserializeOwned;

    /// Returns the state after `op`, or `None` if `op` cannot be answered by `answer` in this state. Without
    /// an answer: returns the state if the call has an effect, because only that distinguishes it from a
    /// refusal.
    fn step(&self, op: &Self::Op, answer: Option<&Self::Answer>) -> Option<Self>;

    /// Returns whether `op` changes nothing, with any answer. A call that only reads and can be next may as
    /// well be next, which spares the search all other ways.
    fn only_reads(op: &Self::Op) -> bool {
        let _ = op;
        false
    }

    /// Returns whether `op` can never be answered by `answer` any more, after any other calls: because a
    /// number that only grows is past the reported one. Spares the search dead ends.
    fn is_over(&self, op: &Self::Op, answer: &Self::Answer) -> bool {
        let _ = (op, answer);
        false
    }
}

/// A call of a client, and what it knows of its outcome. Times are nanoseconds since the beginning of the record.
///
/// Calls that were certainly refused, and reads that were not answered, have no effect and are not recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call<O, A> {
    /// The client.
    pub client: u32,
    /// It took effect after this, if at all.
    pub began: u64,
    /// It took effect before this, if at all.
    pub ended: Option<u64>,
    /// The call.
    pub op: O,
    /// The answer. Without one the call took effect or did not.
    pub answer: Option<A>,
}

/// All calls of one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct History<M: Model> {
    /// The object before all calls.
    pub begin: M,
    /// The calls, in any order.
    pub calls: Vec<Call<M::Op, M::Answer>>,
}

// === impl Call ===

impl<O, A> Call<O, A> {
    /// A call that was answered.
    pub fn done(client: u32, during: Range<u64>, op: O, answer: A) -> Self {
        Self { client, began: during.start, ended: Some(during.end), op, answer: Some(answer) }
    }

    /// A call without a known outcome. It may take effect at any later time.
    pub fn lost(client: u32, began: u64, op: O) -> Self {
        Self { client, began, ended: None, op, answer: None }
    }
}

// === impl History ===

impl<M: Model> History<M> {
    /// Begins a history without calls.
    pub fn new(begin: M) -> Self {
        Self { begin, calls: Vec::new() }
    }

    /// Judges the history. Gives up with [`Verdict::Unknown`] after that many `steps`.
    pub fn check(&self, steps: usize) -> Verdict {
        search::check(&self.begin, &self.calls, steps)
    }
}
