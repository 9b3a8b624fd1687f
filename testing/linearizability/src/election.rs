// SPDX-License-Identifier: Apache-2.0
//! A leader election.

use serde::{Deserialize, Serialize};

use super::Model;

/// The term, the leader, and the waiting candidates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Election {
    /// The number of leaderships so far.
    pub term: u64,
    /// The leader first, then the waiting candidates, each with the session that entered it.
    pub queue: Vec<(String, u32)>,
}

/// The calls of an election.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Enters this candidate for this session.
    Enter(String, u32),
    /// Takes this candidate of this session back.
    Withdraw(String, u32),
    /// Makes a waiting candidate the leader.
    Anoint(String),
    /// Moves a candidate forward.
    Promote(String),
    /// Moves a candidate back.
    Demote(String),
    /// Removes a candidate.
    Evict(String),
    /// Reads.
    Get,
    /// This session has ended, or is taken for dead: all its candidates go.
    End(u32),
}

/// The term after a call; the leader is the first of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// See [`Election::term`].
    pub term: u64,
    /// The leader, then the waiting candidates.
    pub queue: Vec<String>,
}

// === impl Election ===

impl Election {
    fn place(&self, name: &str) -> Option<usize> {
        self.queue.iter().position(|(other, _)| other == name)
    }

    /// The position among the waiting candidates.
    fn waits(&self, name: &str) -> Option<usize> {
        self.queue.iter().skip(1).position(|(other, _)| other == name).map(|at| at + 1)
    }

    fn leads(&self, name: &str) -> bool {
        self.place(name) == Some(0)
    }

    fn remove(&mut self, at: usize) {
        self.queue.remove(at);
        if at == 0 && !self.queue.is_empty() {
            self.term += 1;
        }
    }

    /// Exchanges this candidate and the one before it.
    fn forward(&mut self, at: usize) {
        self.queue.swap(at, at - 1);
        if at == 1 {
            self.term += 1;
        }
    }

    fn enter(&mut self, name: &str, session: u32) {
        let candidate = (name.to_owned(), session);
        if self.queue.is_empty() {
            self.term += 1;
            self.queue.push(candidate);
        } else if self.queue.contains(&candidate) {
            // It is there already.
        } else if let Some(at) = self.waits(name) {
            self.queue[at] = candidate;
        } else {
            self.queue.push(candidate);
        }
    }

    fn withdraw(&mut self, name: &str, session: u32) {
        let own = |(other, owner): &(String, u32)| other == name && *owner == session;
        while let Some(at) = self.queue.iter().position(own) {
            self.remove(at);
        }
    }

    fn end(&mut self, session: u32) {
        let led = self.queue.first().is_some_and(|(_, owner)| *owner == session);
        self.queue.retain(|(_, owner)| *owner != session);
        if led && !self.queue.is_empty() {
            self.term += 1;
        }
    }
}

impl Model for Election {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        let mut after = self.clone();
        match op {
            Op::Enter(name, session) => after.enter(name, *session),
            Op::Withdraw(name, session) => after.withdraw(name, *session),
            Op::Anoint(name) => {
                if let Some(at) = after.waits(name).filter(|_| !after.leads(name)) {
                    let new = after.queue.remove(at);
                    after.queue.insert(0, new);
                    after.term += 1;
                }
            }
            Op::Promote(name) => {
                if let Some(at) = after.waits(name).filter(|_| !after.leads(name)) {
                    after.forward(at);
                }
            }
            Op::Demote(name) => {
                if let Some(at) = after.place(name).filter(|at| at + 1 < after.queue.len()) {
                    after.forward(at + 1);
                }
            }
            Op::Evict(name) => {
                if after.leads(name) {
                    after.remove(0);
                } else {
                    after.queue.retain(|(other, _)| other != name);
                }
            }
            Op::Get => {}
            Op::End(session) => after.end(*session),
        }
        let reported = |answer: &Answer| {
            answer.term == after.term && answer.queue.iter().eq(after.queue.iter().map(|(name, _)| name))
        };
        answer.is_none_or(reported).then_some(after)
    }

    fn is_over(&self, _op: &Op, answer: &Answer) -> bool {
        self.term > answer.term
    }

    fn only_reads(op: &Op) -> bool {
        *op == Op::Get
    }
}
