// SPDX-License-Identifier: Apache-2.0
//! A keyspace in memory, as the log has made it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use atomix_engine::{Engine, MemoryBudget};
use atomix_store::{Commit, History, HistoryBudget, Keyspace, Retention, Revision};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::record::{Section, StoredCommit};

/// The state of a keyspace, and its recent commits.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) name: Keyspace,
    /// May be ahead of the disk: see [`Space::batch`].
    pub(crate) engine: Mutex<Engine>,
    /// Never ahead of the disk.
    pub(crate) history: History,
    /// The number of the last batch with a commit of this keyspace. Read and written under the lock of the engine.
    batch: AtomicU64,
    /// Whether the keyspace was given back: a caller that found it before looks for it again. Read and written under the lock
    /// of the engine.
    gone: AtomicBool,
    /// The tips of the history at the last ticks of age, the oldest first.
    tips: Mutex<[Revision; Space::TICKS]>,
}

// === impl Space ===

impl Space {
    /// The number of checks of the age of commits within the time for which they are kept.
    pub(crate) const TICKS: usize = 4;

    /// Makes an empty keyspace whose revisions begin after `floor`.
    pub(crate) fn new(name: Keyspace, floor: Revision, histories: &HistoryBudget) -> Self {
        let mut engine = Engine::new();
        engine.restore_revision(floor);
        Self::with(name, engine, History::new(floor, histories))
    }

    /// Makes a keyspace of a snapshot, whose history begins after `floor`.
    pub(crate) fn of_section(section: Section, histories: &HistoryBudget) -> Self {
        let mut engine = Engine::new();
        engine.restore_revision(section.revision);
        Self::with(section.keyspace, engine, History::new(section.floor, histories))
    }

    fn with(name: Keyspace, engine: Engine, history: History) -> Self {
        Self {
            name,
            engine: Mutex::new(engine),
            history,
            batch: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            tips: Mutex::new([Revision(0); Self::TICKS]),
        }
    }

    /// Returns the batch that has to be durable before the state of the engine may be shown.
    pub(crate) fn batch(&self) -> u64 {
        self.batch.load(Ordering::Acquire)
    }

    /// Takes note of the batch of the latest commit.
    pub(crate) fn set_batch(&self, batch: u64) {
        self.batch.store(batch, Ordering::Release);
    }

    /// Returns whether the keyspace was given back.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Gives the keyspace back and returns its revision, if it holds nothing, remembers nothing and is not watched. Not if its
    /// last commit is in a batch after `durable`: a commit that is not on the disk may still be taken back.
    pub(crate) fn give_back(&self, durable: u64) -> Option<Revision> {
        let engine = self.engine.lock();
        if !engine.is_vacant() || self.history.followers() > 0 || self.batch() > durable || self.is_gone() {
            return None;
        }
        self.gone.store(true, Ordering::Release);
        Some(engine.revision())
    }

    /// Takes back a commit that could not be stored.
    pub(crate) fn undo(&self, commit: &Commit, named: Option<&Bytes>, budget: &MemoryBudget) {
        let mut engine = self.engine.lock();
        if !commit.changes.is_empty() {
            let before = Revision(commit.revision.0 - 1);
            budget.track(&mut engine, |engine| engine.undo(&commit.changes, before));
        }
        if let Some(name) = named {
            budget.track(&mut engine, |engine| engine.forget(name));
        }
        self.set_batch(0);
    }

    /// Makes a commit of the log again. What a snapshot has already is repeated without harm.
    pub(crate) fn redo(&self, mut stored: StoredCommit, retention: Retention, budget: &MemoryBudget) {
        let named = stored.named.take();
        let mut engine = self.engine.lock();
        let (commit, whole) =
            stored.commit(|key, modified| engine.entry(key).filter(|entry| entry.modified == modified));
        let revision = commit.revision;
        budget.track(&mut engine, |engine| engine.redo(&commit));
        if let Some((name, outcome)) = named {
            budget.track(&mut engine, |engine| engine.remember(&name, &outcome));
        }
        if !commit.changes.is_empty() && commit.revision > self.history.tip() {
            self.history.push(commit, retention);
            if !whole {
                // It was repeated over a later state, from a snapshot. Watches are not shown a value that is not known.
                self.history.compact(revision);
            }
        }
    }

    /// Forgets the commits that were there [`Space::TICKS`] ticks ago.
    pub(crate) fn tick(&self) {
        let mut tips = self.tips.lock();
        self.history.compact(tips[0]);
        tips.rotate_left(1);
        tips[Self::TICKS - 1] = self.history.tip();
    }
}
