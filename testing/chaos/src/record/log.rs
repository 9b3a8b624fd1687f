// SPDX-License-Identifier: Apache-2.0
//! The log that all clients of a recording write.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use atomix_linearizability::streams::{Change, Stream};
use atomix_linearizability::{Call, Cell, Election, History, Index, List, Lock, Member, Model, Number};

use super::Options;

/// The record while it grows.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) options: Options,
    pub(super) endpoints: Vec<String>,
    start: Instant,
    marks: AtomicU64,
    sessions: AtomicU32,
    /// Keys of maps, and values.
    pub(super) cells: Histories<Cell>,
    pub(super) counters: Histories<Number>,
    /// Keys of counter maps.
    pub(super) numbers: Histories<Number>,
    /// Elements of sets, and values of multimaps.
    pub(super) members: Histories<Member>,
    pub(super) lists: Histories<List>,
    pub(super) indices: Histories<Index>,
    /// Locks, and locks of keys of maps.
    pub(super) locks: Histories<Lock>,
    pub(super) elections: Histories<Election>,
    /// Published messages.
    pub(super) topics: Mutex<BTreeMap<String, Vec<Change>>>,
    /// Received events, by the primitive.
    pub(super) streams: Mutex<BTreeMap<String, Vec<Stream>>>,
    /// From when on the sessions that ended may have been over.
    pub(super) ends: Mutex<BTreeMap<u32, u64>>,
    /// Marks that one transaction writes.
    pub(super) pairs: Mutex<Vec<[u64; 2]>>,
    /// Locks that were not free at the end.
    pub(super) stuck: Mutex<Vec<String>>,
    pub(super) counts: Mutex<Counts>,
}

/// The histories of objects that begin alike, by name.
#[derive(Debug)]
pub(super) struct Histories<M: Model> {
    begin: M,
    by_name: Mutex<BTreeMap<String, History<M>>>,
}

/// Counts of calls.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Calls that were answered.
    pub done: u64,
    /// Calls that were certainly not applied.
    pub refused: u64,
    /// Calls with an unknown outcome.
    pub lost: u64,
    /// Errors by name.
    pub errors: BTreeMap<String, u64>,
}

/// Marks from here on are written when all clients have ended.
pub(super) const LAST: u64 = 1 << 40;

// === impl Log ===

impl Log {
    pub(super) fn new(options: Options, endpoints: Vec<String>) -> Self {
        Self {
            options,
            endpoints,
            start: Instant::now(),
            marks: AtomicU64::new(1),
            sessions: AtomicU32::new(1),
            cells: Histories::new(Cell::default()),
            counters: Histories::new(Number(Some(0))),
            numbers: Histories::new(Number(None)),
            members: Histories::new(Member(false)),
            lists: Histories::new(List::default()),
            indices: Histories::new(Index::default()),
            locks: Histories::new(Lock::default()),
            elections: Histories::new(Election::default()),
            topics: Mutex::default(),
            streams: Mutex::default(),
            ends: Mutex::default(),
            pairs: Mutex::default(),
            stuck: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Returns the nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("centuries")
    }

    /// Returns a number that was not returned before.
    pub(super) fn mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::Relaxed)
    }

    /// Names a new session.
    pub(super) fn session(&self) -> u32 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        open(&self.counts)
    }
}

/// Opens what is locked for a moment only.
pub(super) fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Histories ===

impl<M: Model> Histories<M> {
    fn new(begin: M) -> Self {
        Self { begin, by_name: Mutex::default() }
    }

    pub(super) fn note(&self, object: &str, call: Call<M::Op, M::Answer>) {
        let mut by_name = open(&self.by_name);
        if !by_name.contains_key(object) {
            by_name.insert(object.to_owned(), History::new(self.begin.clone()));
        }
        by_name.get_mut(object).expect("it was inserted").calls.push(call);
    }

    /// Returns the last number that an answer has reported of an object, or zero.
    pub(super) fn last(&self, object: &str, reply: impl Fn(&M::Answer) -> Option<u64>) -> u64 {
        let by_name = open(&self.by_name);
        let answers = by_name.get(object).into_iter().flat_map(|history| history.calls.iter().rev());
        answers.filter_map(|call| call.answer.as_ref()).find_map(reply).unwrap_or(0)
    }

    pub(super) fn all(&self) -> Vec<(String, History<M>)> {
        open(&self.by_name).iter().map(|(name, history)| (name.clone(), history.clone())).collect()
    }
}
