// SPDX-License-Identifier: Apache-2.0
//! A host of the engine: one engine and one history per keyspace, each keyspace under a lock of its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_kv::{
    Commit, Consistency, Durability, Engine, Error, ErrorKind, Health, History, Keyspace, Level, Limits,
    Outcome, Profile, Read, Reconfigured, Retention, Snapshot, Store, StoreConfig, Txn, WatchFrom,
    WatchStream, Write,
};
use futures::future::{BoxFuture, ready};
use parking_lot::{Mutex, RwLock};

use crate::Settings;

/// Keeps all keyspaces in memory.
#[derive(Debug)]
pub struct MemoryStore {
    profile: Profile,
    settings: RwLock<Settings>,
    shards: Vec<RwLock<HashMap<Keyspace, Arc<Space>>>>,
    hasher: RandomState,
    bytes: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Space {
    engine: Mutex<Engine>,
    history: History,
}

/// What an entry and a keyspace cost beside their keys and values, roughly. Counted, so that many empty ones fill the
/// store as well.
const ENTRY_BYTES: usize = 128;
const KEYSPACE_BYTES: usize = 1024;

/// Enough that two cores rarely meet in one shard.
const SHARDS: usize = 16;

// === impl MemoryStore ===

impl MemoryStore {
    /// Makes an empty store.
    pub fn new(settings: Settings) -> Self {
        Self {
            profile: Profile {
                consistency: Consistency::Linearizable,
                durability: Durability::Process,
                shared: false,
                limits: Limits::default(),
            },
            settings: RwLock::new(settings),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            bytes: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    fn shard(&self, keyspace: &Keyspace) -> &RwLock<HashMap<Keyspace, Arc<Space>>> {
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is all that counts")]
        let at = self.hasher.hash_one(keyspace) as usize % SHARDS;
        &self.shards[at]
    }

    fn find(&self, keyspace: &Keyspace) -> Option<Arc<Space>> {
        self.shard(keyspace).read().get(keyspace).cloned()
    }

    fn open(&self, keyspace: &Keyspace) -> Arc<Space> {
        if let Some(space) = self.find(keyspace) {
            return space;
        }
        let mut shard = self.shard(keyspace).write();
        Arc::clone(shard.entry(keyspace.clone()).or_insert_with(|| {
            self.bytes.fetch_add(KEYSPACE_BYTES + keyspace.as_bytes().len(), Ordering::Relaxed);
            Arc::default()
        }))
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed()) } else { Ok(()) }
    }

    fn check_room(&self, txn: &Txn, bytes_max: usize) -> Result<(), Error> {
        let growth: usize = txn
            .writes
            .iter()
            .map(|write| match write {
                Write::Put { key, value } => ENTRY_BYTES + key.len() + value.len(),
                Write::Add { key, .. } => ENTRY_BYTES + key.len() + 8,
                Write::Stamp { prefix, value } => ENTRY_BYTES + prefix.len() + 8 + value.len(),
                Write::Delete { .. } | Write::DeleteRange { .. } => 0,
            })
            .sum();
        let bytes = self.bytes.load(Ordering::Relaxed);
        if growth > 0 && bytes + growth > bytes_max {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "store is full: delete entries or raise `bytes-max`: bytes=`{bytes}` bytes-max=`{bytes_max}`"
                ),
            ));
        }
        Ok(())
    }

    fn apply(&self, keyspace: &Keyspace, txn: &Txn) -> Result<Outcome, Error> {
        self.check_open()?;
        let (bytes_max, retention) = {
            let settings = self.settings.read();
            (settings.bytes_max, retention(&settings))
        };
        self.check_room(txn, bytes_max)?;
        let space = self.open(keyspace);
        let mut engine = space.engine.lock();
        let before = weight(&engine);
        let (outcome, changes) = engine.apply(txn, &self.profile.limits)?;
        // Wrapping, because the difference may be negative.
        self.bytes.fetch_add(weight(&engine).wrapping_sub(before), Ordering::Relaxed);
        if !changes.is_empty() {
            space.history.push(Commit { revision: outcome.revision, changes }, retention);
        }
        Ok(outcome)
    }

    fn spaces(&self) -> Vec<Arc<Space>> {
        self.shards.iter().flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>()).collect()
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
        let snapshot = self.check_open().and_then(|()| match self.find(keyspace) {
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
                ("keyspaces", self.shards.iter().map(|shard| shard.read().len()).sum::<usize>().to_string()),
                ("bytes", self.bytes.load(Ordering::Relaxed).to_string()),
            ],
        });
        Box::pin(ready(health))
    }

    fn reconfigure<'a>(&'a self, config: &'a StoreConfig) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        let reconfigured = self.check_open().and_then(|()| Settings::read(config)).map(|settings| {
            let retention = retention(&settings);
            *self.settings.write() = settings;
            for space in self.spaces() {
                space.history.trim(retention);
            }
            Reconfigured::InPlace
        });
        Box::pin(ready(reconfigured))
    }

    fn close(&self, _grace: Duration) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        for space in self.spaces() {
            space.history.close();
        }
        Box::pin(ready(()))
    }
}

// === impl Space ===

impl Default for Space {
    fn default() -> Self {
        let engine = Engine::new();
        let history = History::new(engine.revision());
        Self { engine: Mutex::new(engine), history }
    }
}

fn weight(engine: &Engine) -> usize {
    engine.bytes() + engine.len() * ENTRY_BYTES
}

fn retention(settings: &Settings) -> Retention {
    Retention { commits_max: settings.history_commits_max, bytes_max: settings.history_bytes_max }
}
