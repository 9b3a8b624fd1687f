// SPDX-License-Identifier: Apache-2.0
//! The keyspaces and their budgets: one engine and one history per keyspace, each keyspace under a separate lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use atomix_engine::{Engine, MemoryBudget, ShardedMap};
use atomix_store::{Error, History, HistoryBudget, Keyspace, Machine, Revision, Txn};
use parking_lot::Mutex;

/// The content of a store.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) spaces: ShardedMap<Space>,
    pub(crate) budget: MemoryBudget,
    pub(crate) histories: HistoryBudget,
    /// The first revision of new keyspaces: beyond all revisions of those that were given back or lost with an earlier
    /// store, so that no token comes twice.
    floor: AtomicU64,
    /// With so many keyspaces empty ones are given back before another one is made.
    sweep_at: AtomicUsize,
    /// Keyspaces that were left by the last sweep.
    swept: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Space {
    /// `None` once the keyspace was given back: callers that have found it before look it up again.
    pub(crate) engine: Mutex<Option<Engine>>,
    pub(crate) history: History,
}

/// Fewer keyspaces are not worth a look.
const SWEEP_MIN: usize = 1024;
/// A store that is full is not swept again before so many keyspaces were made.
const SWEEP_FULL: usize = 16;

// === impl Core ===

impl Core {
    /// Makes the content of an empty store, whose first keyspaces begin at revision `begin`.
    pub(crate) fn new(machine: &Machine, histories: HistoryBudget, begin: u64) -> Self {
        Self {
            spaces: ShardedMap::default(),
            budget: MemoryBudget::new(machine),
            histories,
            floor: AtomicU64::new(begin),
            sweep_at: AtomicUsize::new(SWEEP_MIN),
            swept: AtomicUsize::new(0),
        }
    }

    /// Works on a keyspace, which is made if it is new.
    pub(crate) fn with<T>(&self, keyspace: &Keyspace, work: impl FnOnce(&mut Engine, &History) -> T) -> T {
        loop {
            let space = self.open(keyspace);
            if let Some(engine) = &mut *space.engine.lock() {
                return work(engine, &space.history);
            }
        }
    }

    fn open(&self, keyspace: &Keyspace) -> Arc<Space> {
        if let Some(space) = self.spaces.find(keyspace) {
            return space;
        }
        if self.spaces.len() >= self.sweep_at.load(Ordering::Relaxed) {
            self.sweep();
        }
        self.spaces.open(keyspace, || {
            self.budget.add_keyspace(keyspace);
            let engine = self.empty();
            let history = History::new(engine.revision(), &self.histories);
            Space { engine: Mutex::new(Some(engine)), history }
        })
    }

    /// Creates an empty keyspace.
    pub(crate) fn empty(&self) -> Engine {
        let mut engine = Engine::new();
        engine.restore_revision(Revision(self.floor.load(Ordering::Acquire)));
        engine
    }

    /// Gives back the keyspaces that hold nothing, remember nothing and are not watched.
    fn sweep(&self) {
        self.spaces.retain(|keyspace, space| self.is_needed(keyspace, space));
        let len = self.spaces.len();
        self.sweep_at.store(SWEEP_MIN.max(2 * len), Ordering::Relaxed);
        self.swept.store(len, Ordering::Relaxed);
    }

    /// Takes the engine away unless the keyspace holds or remembers something or is watched; returns whether
    /// it is needed.
    fn is_needed(&self, keyspace: &Keyspace, space: &Space) -> bool {
        let mut engine = space.engine.lock();
        let Some(idle) = engine.take_if(|engine| engine.is_vacant() && space.history.followers() == 0) else {
            return true;
        };
        self.floor.fetch_max(idle.revision().0, Ordering::AcqRel);
        self.budget.remove_keyspace(keyspace);
        false
    }

    /// Returns the refusal of what does not fit. Empty keyspaces are given back before that, if enough were made since the last
    /// time.
    pub(crate) fn full(&self, txn: &Txn, bytes_max: usize) -> Option<Error> {
        let full = self.budget.full(txn, bytes_max)?;
        if self.spaces.len() < self.swept.load(Ordering::Relaxed) + SWEEP_FULL {
            return Some(full);
        }
        self.sweep();
        self.budget.full(txn, bytes_max)
    }

    /// Gives `keyspace` back if it is not needed.
    pub(crate) fn reclaim(&self, keyspace: &Keyspace) {
        self.spaces.retain_one(keyspace, |space| self.is_needed(keyspace, space));
    }
}
