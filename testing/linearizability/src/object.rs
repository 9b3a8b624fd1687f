// SPDX-License-Identifier: Apache-2.0
//! The recorded history of one object, as it is judged, written to a file and judged again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Cell, Election, History, Index, List, Lock, Member, Number, Verdict, WatchHistory, lock};

/// The record of one object. As text it is JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Object {
    /// A key of a map, or a value.
    Cell(History<Cell>),
    /// A counter, or a key of a counter map.
    Number(History<Number>),
    /// An element of a set, or a value of a multimap.
    Member(History<Member>),
    /// A list.
    List(History<List>),
    /// An indexed map.
    Index(History<Index>),
    /// A lock, and the nanoseconds for which it may be free while a session waits.
    Lock(History<Lock>, Option<u64>),
    /// An election.
    Election(History<Election>),
    /// The streams of a primitive.
    WatchHistory(WatchHistory),
}

/// The judgement on one object.
#[derive(Debug)]
pub enum Judgement {
    /// Nothing is wrong with it.
    Fine,
    /// This is wrong, for people.
    Wrong(String),
    /// It could not be judged within so many steps, and is not to be counted as fine. So far it came, for people.
    Unknown(String),
}

// === impl Object ===

impl Object {
    /// Judges, within so many `steps`.
    pub fn judge(&self, steps: usize) -> Judgement {
        match self {
            Self::Cell(history) => history.check(steps).into(),
            Self::Number(history) => history.check(steps).into(),
            Self::Member(history) => history.check(steps).into(),
            Self::List(history) => history.check(steps).into(),
            Self::Index(history) => history.check(steps).into(),
            Self::Lock(history, free) => {
                let forgotten = free.map_or(Vec::new(), |free| lock::forgotten(history, free));
                match forgotten.first() {
                    Some(call) => {
                        Judgement::Wrong(format!("it was free, and this waiter was not granted it: {call:?}"))
                    }
                    None => history.check(steps).into(),
                }
            }
            Self::Election(history) => history.check(steps).into(),
            Self::WatchHistory(streams) => {
                let violations: Vec<String> = streams.check().iter().map(ToString::to_string).collect();
                if violations.is_empty() { Judgement::Fine } else { Judgement::Wrong(violations.join("\n")) }
            }
        }
    }

    /// Returns how many calls, or events of streams, there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Cell(history) => history.calls.len(),
            Self::Number(history) => history.calls.len(),
            Self::Member(history) => history.calls.len(),
            Self::List(history) => history.calls.len(),
            Self::Index(history) => history.calls.len(),
            Self::Lock(history, _) => history.calls.len(),
            Self::Election(history) => history.calls.len(),
            Self::WatchHistory(streams) => streams.streams.iter().map(|stream| stream.events.len()).sum(),
        }
    }

    /// Returns whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the record to a file.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, serde_json::to_vec(self)?)
    }

    /// Reads a record from a file.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

// === impl Judgement ===

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fine(_) => Self::Fine,
            Verdict::Broken(broken) => Self::Wrong(broken.to_string()),
            Verdict::Unknown(broken) => Self::Unknown(broken.to_string()),
        }
    }
}
