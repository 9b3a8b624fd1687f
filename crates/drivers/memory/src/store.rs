// SPDX-License-Identifier: Apache-2.0
//! A host of the engine: one engine and one history per keyspace, each keyspace under a lock of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_kv::{
    Commit, Consistency, Durability, Engine, Error, Health, History, HistoryRoom, Keyspace, Level, Limits,
    Outcome, Profile, Read, Reconfigured, Retention, Room, Snapshot, Spaces, Store, StoreConfig, Txn,
    WatchFrom, WatchStream,
};
use futures::future::{BoxFuture, ready};
use parking_lot::{Mutex, RwLock};

use crate::Settings;

/// Keeps all keyspaces in memory.
#[derive(Debug)]
pub struct MemoryStore {
    profile: Profile,
    settings: RwLock<Settings>,
    spaces: Spaces<Space>,
    room: Room,
    histories: HistoryRoom,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Space {
    engine: Mutex<Engine>,
    history: History,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// Makes an empty store.
    pub fn new(settings: Settings) -> Self {
        let histories = HistoryRoom::new(settings.histories_bytes_max);
        Self {
            profile: Profile {
                consistency: Consistency::Linearizable,
                durability: Durability::Process,
                shared: false,
                limits: Limits::default(),
            },
            settings: RwLock::new(settings),
            spaces: Spaces::default(),
            room: Room::default(),
            histories,
            closed: AtomicBool::new(false),
        }
    }

    fn open(&self, keyspace: &Keyspace) -> Arc<Space> {
        self.spaces.open(keyspace, || {
            self.room.add_keyspace(keyspace);
            let engine = Engine::new();
            let history = History::new(engine.revision(), &self.histories);
            Space { engine: Mutex::new(engine), history }
        })
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
        self.room.check(txn, bytes_max)?;
        let space = self.open(keyspace);
        let mut engine = space.engine.lock();
        let limits = &self.profile.limits;
        let (outcome, changes) = self.room.weigh(&mut engine, |engine| engine.apply(txn, limits))?;
        if !changes.is_empty() {
            space.history.push(Commit { revision: outcome.revision, changes }, retention);
        }
        Ok(outcome)
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
        _level: Level,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        let snapshot = self.check_open().and_then(|()| match self.spaces.find(keyspace) {
            Some(space) => space.engine.lock().read(&reads, &self.profile.limits),
            None => Engine::new().read(&reads, &self.profile.limits),
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
        let stream = self.check_open().and_then(|()| self.open(keyspace).history.follow(from));
        Box::pin(ready(stream))
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        let health = self.check_open().map(|()| Health {
            facts: vec![
                ("keyspaces", self.spaces.len().to_string()),
                ("bytes", self.room.bytes().to_string()),
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
