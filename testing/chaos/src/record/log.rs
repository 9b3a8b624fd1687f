// SPDX-License-Identifier: Apache-2.0
//! What all clients of a recording write into.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use atomix_linearizability::feed::{Deed, Stream};
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
    pub(super) cells: Book<Cell>,
    pub(super) counters: Book<Number>,
    /// Keys of counter maps.
    pub(super) numbers: Book<Number>,
    /// Elements of sets, and values of multimaps.
    pub(super) members: Book<Member>,
    pub(super) lists: Book<List>,
    pub(super) indices: Book<Index>,
    /// Locks, and locks of keys of maps.
    pub(super) locks: Book<Lock>,
    pub(super) elections: Book<Election>,
    /// What was published.
    pub(super) topics: Mutex<BTreeMap<String, Vec<Deed>>>,
    /// What was shown, by the primitive.
    pub(super) streams: Mutex<BTreeMap<String, Vec<Stream>>>,
    /// From when on the sessions that ended may have been over.
    pub(super) ends: Mutex<BTreeMap<u32, u64>>,
    pub(super) tally: Mutex<Tally>,
}

/// The histories of objects that begin alike, by name.
#[derive(Debug)]
pub(super) struct Book<M: Model> {
    begin: M,
    histories: Mutex<BTreeMap<String, History<M>>>,
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) refused: u64,
    pub(super) lost: u64,
    /// Errors by name.
    pub(super) errors: BTreeMap<String, u64>,
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
            cells: Book::new(Cell::default()),
            counters: Book::new(Number(Some(0))),
            numbers: Book::new(Number(None)),
            members: Book::new(Member(false)),
            lists: Book::new(List::default()),
            indices: Book::new(Index::default()),
            locks: Book::new(Lock::default()),
            elections: Book::new(Election::default()),
            topics: Mutex::default(),
            streams: Mutex::default(),
            ends: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    /// Returns the nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("centuries")
    }

    /// Returns a number that nobody has got before.
    pub(super) fn mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::Relaxed)
    }

    /// Names a new session.
    pub(super) fn session(&self) -> u32 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        open(&self.tally)
    }
}

/// Opens what is locked for a moment only.
pub(super) fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Book ===

impl<M: Model> Book<M> {
    fn new(begin: M) -> Self {
        Self { begin, histories: Mutex::default() }
    }

    pub(super) fn note(&self, object: &str, call: Call<M::Op, M::Answer>) {
        let mut histories = open(&self.histories);
        if !histories.contains_key(object) {
            histories.insert(object.to_owned(), History::new(self.begin.clone()));
        }
        histories.get_mut(object).expect("it was inserted").calls.push(call);
    }

    /// Returns the last number that an answer has told of an object, or zero.
    pub(super) fn last(&self, object: &str, told: impl Fn(&M::Answer) -> Option<u64>) -> u64 {
        let histories = open(&self.histories);
        let answers = histories.get(object).into_iter().flat_map(|history| history.calls.iter().rev());
        answers.filter_map(|call| call.answer.as_ref()).find_map(told).unwrap_or(0)
    }

    pub(super) fn all(&self) -> Vec<(String, History<M>)> {
        open(&self.histories).iter().map(|(name, history)| (name.clone(), history.clone())).collect()
    }
}
