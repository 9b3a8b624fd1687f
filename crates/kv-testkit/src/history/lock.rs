// SPDX-License-Identifier: Apache-2.0
//! A lock with a fencing token.

use serde::{Deserialize, Serialize};

use super::{Model, Version};

/// Who holds the lock, and the last token that was given.
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
    /// Its hold may end by itself at any time: nobody knows of the grant, or the session has ended.
    pub fleeting: bool,
}

/// What can be asked of a lock. The session that asks is the client of the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Takes the lock for this session. A call that is not answered gives back what it was granted.
    Take(u32),
    /// Gives the lock of this session back.
    Release(u32),
    /// Asks for the token of the holder.
    Token,
    /// This session has ended, or is taken for dead: what it holds is given back now or later.
    End(u32),
}

/// What a lock can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The token of the holder: of this very grant, if one was asked for.
    Token(u64),
    /// Nobody holds it.
    Free,
    /// It is not held by the session that asks.
    NotHeld,
    /// It is done, and if it was granted, the token is not told.
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

impl Model for Lock {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Option<Self> {
        match (op, answer) {
            (Op::Take(session), Some(Answer::Token(_) | Answer::Done) | None) if self.may_be_free() => {
                let told = match answer {
                    Some(Answer::Token(token)) => Some(*token),
                    _ => None,
                };
                let holder = Holder { session: *session, fleeting: answer.is_none() };
                Some(Self { holder: Some(holder), last: self.last.next(told)? })
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
            (Op::End(session), Some(Answer::Done) | None) => {
                let holder = self.held_by(*session)?;
                Some(Self { holder: Some(Holder { fleeting: true, ..holder }), last: self.last })
            }
            _ => None,
        }
    }
}
