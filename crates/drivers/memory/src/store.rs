// SPDX-License-Identifier: Apache-2.0
//! Hosts the engine: one engine and one history per keyspace, each keyspace under a separate lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_engine::{Engine, MemoryBudget, Rotation, ShardedMap};
use atomix_env::Env;
use atomix_store::{
    Commit, Consistency, Durability, Error, Health, History, HistoryBudget, Keyspace, Limits, Machine,
    Outcome, Profile, Read, Reconfigured, Retention, Revision, Snapshot, Store, StoreConfig, Txn, WatchFrom,
    WatchStream,
};
use futures::future::{BoxFuture, ready};
use parking_lot::{Mutex, RwLock};

use crate::Settings;

/// Keeps all keyspaces in memory.
#[derive(Debug)]
pub struct MemoryStore {
    profile: Profile,
    settings: RwLock<Settings>,
    spaces: ShardedMap<Space>,
    budget: MemoryBudget,
    rotation: Option<Rotation>,
    histories: HistoryBudget,
    /// The first revision of new keyspaces: beyond all revisions of those that were given back or lost with an earlier
    /// store, so that no token comes twice.
    floor: AtomicU64,
    /// With so many keyspaces empty ones are given back before another one is made.
    sweep_at: AtomicUsize,
    /// Keyspaces that were left by the last sweep.
    swept: AtomicUsize,
    /// Whether commits are refused. Read under the lock of a keyspace, so that setting it and then locking
    /// each keyspace observes all commits.
    sealed: AtomicBool,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Space {
    /// `None` once the keyspace was given back: callers that have found it before look it up again.
    engine: Mutex<Option<Engine>>,
    history: History,
}

/// Fewer keyspaces are not worth a look.
const SWEEP_MIN: usize = 1024;
/// A store that is full is not swept again before so many keyspaces were made.
const SWEEP_FULL: usize = 16;

// === impl MemoryStore ===

impl MemoryStore {
    /// Makes an empty store whose bytes are counted alone. As it has no clock, its revisions begin at 1, and it remembers named
    /// requests for ever.
    pub fn new(settings: Settings) -> Self {
        Self::with_clock(settings, &Machine::default(), None, 0)
    }

    /// Makes an empty store in the memory of this machine, which forgets named requests by its clock.
    ///
    /// Its revisions begin at the microseconds of the wall clock, so that they are beyond those of a store that was lost with an
    /// earlier process or an earlier connection: a resource that has seen a fencing token refuses smaller ones. This
    /// holds while no keyspace commits a million times a second on average and the clock is not set back.
    pub(crate) fn with_env(settings: Settings, env: &Env) -> Self {
        let begin = u64::try_from(env.wall().since_unix().as_micros()).unwrap_or(0);
        Self::with_clock(settings, env.machine(), Some(Rotation::new(env.clone())), begin)
    }

    fn with_clock(settings: Settings, machine: &Machine, rotation: Option<Rotation>, begin: u64) -> Self {
        let histories = HistoryBudget::new(settings.histories_bytes_max);
        Self {
            profile: Profile {
                consistency: Consistency::Linearizable,
                durability: Durability::Process,
                shared: false,
                limits: Limits::default(),
            },
            settings: RwLock::new(settings),
            spaces: ShardedMap::default(),
            budget: MemoryBudget::new(machine),
            rotation,
            histories,
            floor: AtomicU64::new(begin),
            sweep_at: AtomicUsize::new(SWEEP_MIN),
            swept: AtomicUsize::new(0),
            sealed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Works on a keyspace, which is made if it is new.
    fn with<T>(&self, keyspace: &Keyspace, work: impl FnOnce(&mut Engine, &History) -> T) -> T {
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
    fn empty(&self) -> Engine {
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
    fn full(&self, txn: &Txn, bytes_max: usize) -> Option<Error> {
        let full = self.budget.full(txn, bytes_max)?;
        if self.spaces.len() < self.swept.load(Ordering::Relaxed) + SWEEP_FULL {
            return Some(full);
        }
        self.sweep();
        self.budget.full(txn, bytes_max)
    }

    /// Forgets the named requests that are old enough, once a minute.
    fn rotate_named(&self) {
        if self.rotation.as_ref().is_some_and(Rotation::due) && self.budget.named_bytes() > 0 {
            for space in self.spaces.all() {
                if let Some(engine) = &mut *space.engine.lock() {
                    self.budget.track(engine, Engine::rotate_named);
                }
            }
        }
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed()) } else { Ok(()) }
    }

    fn apply(&self, keyspace: &Keyspace, txn: &Txn) -> Result<Outcome, Error> {
        self.check_open()?;
        let (bytes_max, retention) = {
            let settings = self.settings.read();
            (settings.bytes_max, retention(&settings))
        };
        let full = match self.full(txn, bytes_max) {
            // An absent keyspace cannot become smaller, and would itself take room.
            Some(full) if self.spaces.find(keyspace).is_none() => return Err(full),
            full => full,
        };
        self.with(keyspace, |engine, history| {
            if self.sealed.load(Ordering::SeqCst) {
                return Err(Error::unavailable(
                    "store is being disconnected: connect it again, then repeat the call",
                ));
            }
            let limits = &self.profile.limits;
            let (outcome, changes) = self.budget.apply(engine, txn, limits, bytes_max, full)?;
            if !changes.is_empty() {
                history.push(Commit { revision: outcome.revision, changes }, retention);
            }
            Ok(outcome)
        })
    }
}

impl Store for MemoryStore {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        let snapshot = self.check_open().and_then(|()| {
            let (space, limits) = (self.spaces.find(keyspace), &self.profile.limits);
            match space.as_ref().map(|space| space.engine.lock()).as_deref() {
                Some(Some(engine)) => engine.read(&reads, limits),
                Some(None) | None => self.empty().read(&reads, limits),
            }
        });
        Box::pin(ready(snapshot))
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(ready(self.apply(keyspace, &txn)))
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        let stream = self.check_open().and_then(|()| self.with(keyspace, |_, history| history.follow(from)));
        Box::pin(ready(stream))
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        let reclaimed = self.check_open();
        if reclaimed.is_ok() {
            self.spaces.retain_one(keyspace, |space| self.is_needed(keyspace, space));
        }
        Box::pin(ready(reclaimed))
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.rotate_named();
        let health = self.check_open().map(|()| Health {
            facts: vec![
                ("keyspaces", self.spaces.len().to_string()),
                ("bytes", self.budget.bytes().to_string()),
                ("bytes-max", self.settings.read().bytes_max.to_string()),
                ("named-bytes", self.budget.named_bytes().to_string()),
                ("histories-bytes", self.histories.bytes().to_string()),
            ],
        });
        Box::pin(ready(health))
    }

    fn reconfigure<'a>(&'a self, config: &'a StoreConfig) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        let reconfigured = self.check_open().and_then(|()| Settings::read(config)).map(|settings| {
            let retention = retention(&settings);
            self.histories.set_bytes_max(settings.histories_bytes_max);
            *self.settings.write() = settings;
            for space in self.spaces.all() {
                space.history.trim(retention);
            }
            Reconfigured::InPlace
        });
        Box::pin(ready(reconfigured))
    }

    fn seal_if_empty<'a>(
        &'a self,
        counts: &'a (dyn Fn(&Keyspace) -> bool + Send + Sync),
    ) -> BoxFuture<'a, Result<usize, Error>> {
        let before = self.sealed.swap(true, Ordering::SeqCst);
        let mut holding = 0;
        self.spaces.each(|keyspace, space| {
            let engine = space.engine.lock();
            holding +=
                usize::from(engine.as_ref().is_some_and(|engine| !engine.is_empty()) && counts(keyspace));
        });
        if holding > 0 {
            self.sealed.store(before, Ordering::SeqCst);
        }
        Box::pin(ready(Ok(holding)))
    }

    fn close(&self, _grace: Duration) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        for space in self.spaces.all() {
            space.history.close();
        }
        Box::pin(ready(()))
    }
}

fn retention(settings: &Settings) -> Retention {
    Retention { commits_max: settings.history_commits_max, bytes_max: settings.history_bytes_max }
}
