// SPDX-License-Identifier: Apache-2.0
//! The content of a store in memory: its keyspaces and their budgets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use atomix_engine::{Engine, MemoryBudget, ShardedMap};
use atomix_store::{Error, HistoryBudget, Keyspace, Machine, Retention, Revision};

use crate::config::Tuning;
use crate::record::{self, Section, StoredCommit};
use crate::space::Space;

/// The keyspaces: all of them, or as far as they have been read.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) spaces: ShardedMap<Space>,
    pub(crate) budget: MemoryBudget,
    pub(crate) histories: HistoryBudget,
    /// New keyspaces begin beyond all revisions of those that were given back, so that no token comes twice. Kept in snapshots;
    /// commits of the log after a snapshot raise it again when their keyspaces are found empty.
    floor: AtomicU64,
    /// Keyspaces that were left when the empty ones were given back the last time.
    swept: AtomicUsize,
    pub(crate) retention: Retention,
    pub(crate) bytes_max: usize,
}

/// A store without room is not swept again before so many keyspaces were made.
const SWEEP_FULL: usize = 16;

// === impl Content ===

impl Core {
    pub(crate) fn new(tuning: &Tuning, histories: HistoryBudget, machine: &Machine) -> Self {
        Self {
            spaces: ShardedMap::default(),
            budget: MemoryBudget::new(machine),
            histories,
            floor: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
            retention: tuning.retention,
            bytes_max: tuning.bytes_max,
        }
    }

    /// Returns a keyspace; makes it if it is new.
    pub(crate) fn open(&self, name: &Keyspace) -> Arc<Space> {
        self.spaces.open(name, || {
            self.budget.add_keyspace(name);
            Space::new(name.clone(), self.floor(), &self.histories)
        })
    }

    /// Makes what a keyspace is that was never written to, or was given back.
    pub(crate) fn empty(&self) -> Engine {
        let mut engine = Engine::new();
        engine.restore_revision(self.floor());
        engine
    }

    /// Returns the revision beyond which new keyspaces begin.
    pub(crate) fn floor(&self) -> Revision {
        Revision(self.floor.load(Ordering::Acquire))
    }

    /// Lets new keyspaces begin beyond `floor`.
    pub(crate) fn raise_floor(&self, floor: Revision) {
        self.floor.fetch_max(floor.0, Ordering::AcqRel);
    }

    /// Gives `keyspace` back if it is empty, see [`Space::give_back`].
    pub(crate) fn reclaim(&self, keyspace: &Keyspace, durable: u64) {
        self.spaces.retain_one(keyspace, |space| self.is_needed(space, durable));
    }

    /// Gives all empty keyspaces back.
    pub(crate) fn sweep(&self, durable: u64) {
        self.spaces.retain(|_, space| self.is_needed(space, durable));
        self.swept.store(self.spaces.len(), Ordering::Relaxed);
    }

    /// Returns whether so many keyspaces were made since the last sweep that a store without room shall look for empty ones.
    pub(crate) fn may_sweep(&self) -> bool {
        self.spaces.len() >= self.swept.load(Ordering::Relaxed) + SWEEP_FULL
    }

    fn is_needed(&self, space: &Space, durable: u64) -> bool {
        let Some(revision) = space.give_back(durable) else { return true };
        // Under the lock under which the next keyspace of this name is made: it begins there.
        self.raise_floor(revision);
        self.budget.remove_keyspace(&space.name);
        false
    }

    /// Makes the commits of a batch again.
    pub(crate) fn batch(&self, payload: &[u8]) -> Result<(), Error> {
        record::each(payload, |stored: StoredCommit| {
            let space = self.open(&Keyspace::new(stored.keyspace.clone()));
            space.redo(stored, self.retention, &self.budget);
            Ok(())
        })?;
        self.budget.check_memory(self.bytes_max)
    }

    /// Makes the keyspace of a section of a snapshot.
    pub(crate) fn section(&self, payload: &[u8]) -> Result<Arc<Space>, Error> {
        let section: Section = record::one(payload)?;
        let name = section.keyspace.clone();
        Ok(self.spaces.open(&name, || {
            self.budget.add_keyspace(&name);
            Space::of_section(section, &self.histories)
        }))
    }
}

impl Default for Core {
    /// For tools that read a folder once, however large it is.
    fn default() -> Self {
        Self {
            spaces: ShardedMap::default(),
            budget: MemoryBudget::default(),
            histories: HistoryBudget::default(),
            floor: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
            retention: Retention::default(),
            bytes_max: usize::MAX,
        }
    }
}
