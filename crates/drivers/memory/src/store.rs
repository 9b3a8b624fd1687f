// SPDX-License-Identifier: Apache-2.0
//! The store: reads, commits and watches of keyspaces in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_engine::{Engine, Rotation};
use atomix_env::Env;
use atomix_store::{
    Commit, Consistency, Durability, Error, Health, HistoryBudget, JsonObject, Keyspace, Limits, Machine,
    Outcome, Profile, Read, Reconfigured, Snapshot, Store, Txn, WatchFrom, WatchStream,
};
use futures::future::{BoxFuture, ready};
use parking_lot::RwLock;

use crate::config::Settings;
use crate::core::Core;
use crate::error::sealed;

/// Keeps all keyspaces in memory.
#[derive(Debug)]
pub struct MemoryStore {
    profile: Profile,
    settings: RwLock<Settings>,
    core: Core,
    rotation: Option<Rotation>,
    /// Whether commits are refused. Read under the lock of a keyspace, so that setting it and then locking
    /// each keyspace observes all commits.
    sealed: AtomicBool,
    closed: AtomicBool,
}

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
            core: Core::new(machine, histories, begin),
            rotation,
            sealed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Forgets the named requests that are old enough, once a minute.
    fn rotate_named(&self) {
        if self.rotation.as_ref().is_some_and(Rotation::due) && self.core.budget.named_bytes() > 0 {
            for space in self.core.spaces.all() {
                if let Some(engine) = &mut *space.engine.lock() {
                    self.core.budget.track(engine, Engine::rotate_named);
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
            (settings.bytes_max, settings.retention())
        };
        let full = match self.core.full(txn, bytes_max) {
            // An absent keyspace cannot become smaller, and would itself take room.
            Some(full) if self.core.spaces.find(keyspace).is_none() => return Err(full),
            full => full,
        };
        self.core.with(keyspace, |engine, history| {
            if self.sealed.load(Ordering::SeqCst) {
                return Err(sealed());
            }
            let limits = &self.profile.limits;
            let (outcome, changes) = self.core.budget.apply(engine, txn, limits, bytes_max, full)?;
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
            let (space, limits) = (self.core.spaces.find(keyspace), &self.profile.limits);
            match space.as_ref().map(|space| space.engine.lock()).as_deref() {
                Some(Some(engine)) => engine.read(&reads, limits),
                Some(None) | None => self.core.empty().read(&reads, limits),
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
        let stream =
            self.check_open().and_then(|()| self.core.with(keyspace, |_, history| history.follow(from)));
        Box::pin(ready(stream))
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        let reclaimed = self.check_open();
        if reclaimed.is_ok() {
            self.core.reclaim(keyspace);
        }
        Box::pin(ready(reclaimed))
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.rotate_named();
        let health = self.check_open().map(|()| Health {
            facts: vec![
                ("keyspaces", self.core.spaces.len().to_string()),
                ("bytes", self.core.budget.bytes().to_string()),
                ("bytes-max", self.settings.read().bytes_max.to_string()),
                ("named-bytes", self.core.budget.named_bytes().to_string()),
                ("histories-bytes", self.core.histories.bytes().to_string()),
            ],
        });
        Box::pin(ready(health))
    }

    fn reconfigure<'a>(&'a self, config: &'a JsonObject) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        let reconfigured = self.check_open().and_then(|()| Settings::read(config)).map(|settings| {
            let retention = settings.retention();
            self.core.histories.set_bytes_max(settings.histories_bytes_max);
            *self.settings.write() = settings;
            for space in self.core.spaces.all() {
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
        self.core.spaces.each(|keyspace, space| {
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
        for space in self.core.spaces.all() {
            space.history.close();
        }
        Box::pin(ready(()))
    }
}
