// SPDX-License-Identifier: Apache-2.0
//! A lock with a fencing token.

use serde::{Deserialize, Serialize};

use super::{Call, History, Model, Version};

/// The holder of the lock, and the last token that was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// The holder.
    pub holder: Option<Holder>,
    /// The token of the last grant.
    pub last: Version,
}

/// A session that holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The session.
    pub session: u32,
    /// Its hold may end by itself at any time: no client knows of the grant, or the session has ended.
    pub fleeting: bool,
}

/// The calls of a lock. The calling session is the client of the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Takes the lock for this session. A call that is not answered gives back what it was granted.
    Take(u32),
    /// Gives the lock of this session back.
    Release(u32),
    /// Asks for the token of the holder.
    Token,
    /// Asked for the lock, and did not get it in the time that was given.
    Wait,
    /// This session has ended, or is taken for dead: what it holds is given back now or later.
    End(u32),
}

/// The answers of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The token of the holder: of this very grant, if the call names one.
    Token(u64),
    /// It is free.
    Free,
    /// It is not held by the calling session.
    NotHeld,
    /// It is done, and the answer does not hold the token of a grant.
    Done,
}

// === impl Lock ===

impl Default for Lock {
    fn default() -> Self {
        Self { holder: None, last: Version::Is(0) }
    }
}

impl Lock {
    fn may_be_free(&self) -> bool {
        self.holder.is_none_or(|holder| holder.fleeting)
    }

    fn free(&self) -> Self {
        Self { holder: None, last: self.last }
    }

    fn held_by(&self, session: u32) -> Option<Holder> {
        self.holder.filter(|holder| holder.session == session)
    }
}

/// The maximum time of a hold whose end was not recorded: a session's, or that of a grant without an answer.
const LINGER: u64 = 15_000_000_000;

/// Returns the calls that waited in vain while the lock lay `free`, in nanoseconds, until they gave up:
/// waiters that were not woken.
pub fn forgotten(history: &History<Lock>, free: u64) -> Vec<&Call<Op, Answer>> {
    let holds: Vec<(u64, u64)> = history
        .calls
        .iter()
        .filter_map(|take| {
            let Op::Take(session) = take.op else { return None };
            if take.answer.is_none() && take.ended.is_some() {
                // It gave up, and what it may have been granted with it.
                return None;
            }
            let released = |call: &&Call<Op, Answer>| {
                call.op == Op::Release(session)
                    && call.began > take.began
                    && call.answer == Some(Answer::Done)
                    && take.answer.is_some()
            };
            let release = history.calls.iter().filter(released).filter_map(|call| call.ended).min();
            Some((take.began, release.unwrap_or(take.began + LINGER)))
        })
        .collect();
    let in_vain = |call: &&Call<Op, Answer>| {
        let ended = call.ended.unwrap_or(call.began);
        let lay_free = call.op == Op::Wait && ended - call.began > free;
        lay_free && !holds.iter().any(|(from, to)| *from < ended && *to > ended - free)
    };
    history.calls.iter().filter(in_vain).collect()
}

impl Model for Lock {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        match (op, answer) {
            (Op::Take(session), Some(Answer::Token(_) | Answer::Done) | None) if self.may_be_free() => {
                let reported = match answer {
                    Some(Answer::Token(token)) => Some(*token),
                    _ => None,
                };
                let holder = Holder { session: *session, fleeting: answer.is_none() };
                Some(Self { holder: Some(holder), last: self.last.next(reported)? })
            }
            (Op::Release(session), Some(Answer::Done) | None) => self.held_by(*session).map(|_| self.free()),
            (Op::Release(session), Some(Answer::NotHeld)) => match self.held_by(*session) {
                None => Some(self.clone()),
                Some(holder) => holder.fleeting.then(|| self.free()),
            },
            (Op::Token, Some(Answer::Token(token))) => {
                self.holder?;
                Some(Self { last: self.last.learn(*token)?, ..self.clone() })
            }
            (Op::Token, Some(Answer::Free)) => self.may_be_free().then(|| self.free()),
            (Op::Wait, Some(Answer::Done)) => Some(self.clone()),
            (Op::End(session), Some(Answer::Done) | None) => {
                let holder = self.held_by(*session)?;
                Some(Self { holder: Some(Holder { fleeting: true, ..holder }), last: self.last })
            }
            _ => None,
        }
    }

    fn is_over(&self, op: &Op, answer: &Answer) -> bool {
        match (op, answer) {
            (Op::Take(_), Answer::Token(token)) => {
                self.last.is_past(*token) || self.last == Version::Is(*token)
            }
            (_, Answer::Token(token)) => self.last.is_past(*token),
            _ => false,
        }
    }

    fn only_reads(op: &Op) -> bool {
        matches!(op, Op::Token | Op::Wait)
    }
}
