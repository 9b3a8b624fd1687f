// SPDX-License-Identifier: Apache-2.0
//! What stores share that keep their engines in this process.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::{Change, Engine, Error, ErrorKind, Keyspace, Limits, Outcome, Txn, Write};

/// The keyspaces of a store, found by name. Two cores rarely meet in one lock.
pub struct Spaces<T> {
    shards: Vec<RwLock<HashMap<Keyspace, Arc<T>>>>,
    hasher: RandomState,
}

/// The bytes that a store keeps in memory, and how many it may.
#[derive(Debug, Default)]
pub struct Room {
    bytes: AtomicUsize,
}

/// What an entry and a keyspace cost beside their keys and values, roughly. Counted, so that many empty ones fill the
/// store as well.
const ENTRY_BYTES: usize = 384;
const KEYSPACE_BYTES: usize = 1024;

const SHARDS: usize = 16;

// === impl Spaces ===

impl<T> Spaces<T> {
    /// Returns what is kept for `keyspace`, if it was opened before.
    pub fn find(&self, keyspace: &Keyspace) -> Option<Arc<T>> {
        self.shard(keyspace).read().get(keyspace).cloned()
    }

    /// Returns what is kept for `keyspace`; makes it if it is new.
    pub fn open(&self, keyspace: &Keyspace, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(space) = self.find(keyspace) {
            return space;
        }
        let mut shard = self.shard(keyspace).write();
        Arc::clone(shard.entry(keyspace.clone()).or_insert_with(|| Arc::new(make())))
    }

    /// Gives back those that `keep` does not want: nobody finds them any more.
    pub fn retain(&self, mut keep: impl FnMut(&Keyspace, &T) -> bool) {
        for shard in &self.shards {
            shard.write().retain(|keyspace, space| keep(keyspace, space));
        }
    }

    /// Returns all that are kept.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.shards.iter().flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Returns how many are kept.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Tells whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, keyspace: &Keyspace) -> &RwLock<HashMap<Keyspace, Arc<T>>> {
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is all that counts")]
        let at = self.hasher.hash_one(keyspace) as usize % SHARDS;
        &self.shards[at]
    }
}

impl<T> Default for Spaces<T> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }
}

impl<T> fmt::Debug for Spaces<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spaces").field("len", &self.len()).finish_non_exhaustive()
    }
}

// === impl Room ===

impl Room {
    /// Returns the bytes in use.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the [`ErrorKind::Full`] of a transaction that may grow the store beyond `bytes_max`, for
    /// [`Room::apply`]. None for a transaction that only deletes.
    pub fn full(&self, txn: &Txn, bytes_max: usize) -> Option<Error> {
        let growth = growth(txn);
        let bytes = self.bytes();
        (growth > 0 && bytes + growth > bytes_max).then(|| {
            Error::new(
                ErrorKind::Full,
                format!(
                    "store is full: delete entries or raise `bytes-max`: bytes=`{bytes}` bytes-max=`{bytes_max}`"
                ),
            )
        })
    }

    /// Applies a transaction to `engine` and counts its bytes. With `full` the transaction is applied only if it makes
    /// the keyspace smaller, as the removal from a list does, which writes the rest of the list; otherwise nothing
    /// changes and `full` is returned.
    pub fn apply(
        &self,
        engine: &mut Engine,
        txn: &Txn,
        limits: &Limits,
        full: Option<Error>,
    ) -> Result<(Outcome, Vec<Change>), Error> {
        let Some(full) = full else { return self.weigh(engine, |engine| engine.apply(txn, limits)) };
        let (before, revision) = (weight(engine), engine.revision());
        let named = txn.once.as_ref().filter(|name| !engine.remembers(name));
        self.weigh(engine, |engine| {
            let (outcome, changes) = engine.apply(txn, limits)?;
            if weight(engine) < before || (changes.is_empty() && named.is_none()) {
                return Ok((outcome, changes));
            }
            engine.undo(&changes, revision);
            if let Some(name) = named {
                engine.forget(name);
            }
            Err(full)
        })
    }

    /// Counts a new keyspace.
    pub fn add_keyspace(&self, keyspace: &Keyspace) {
        self.bytes.fetch_add(keyspace_weight(keyspace), Ordering::Relaxed);
    }

    /// Takes back the count of an empty keyspace.
    pub fn remove_keyspace(&self, keyspace: &Keyspace) {
        self.bytes.fetch_sub(keyspace_weight(keyspace), Ordering::Relaxed);
    }

    /// Counts what `change` does to `engine`.
    pub fn weigh<T>(&self, engine: &mut Engine, change: impl FnOnce(&mut Engine) -> T) -> T {
        let before = weight(engine);
        let done = change(engine);
        // Wrapping, because the difference may be negative.
        self.bytes.fetch_add(weight(engine).wrapping_sub(before), Ordering::Relaxed);
        done
    }
}

/// Returns the bytes by which a transaction makes a store grow at most; zero if it only deletes.
pub fn growth(txn: &Txn) -> usize {
    txn.writes
        .iter()
        .map(|write| match write {
            Write::Put { key, value } => ENTRY_BYTES + key.len() + value.len(),
            Write::Add { key, .. } => ENTRY_BYTES + key.len() + 8,
            Write::Stamp { prefix, value } => ENTRY_BYTES + prefix.len() + 8 + value.len(),
            Write::Delete { .. } | Write::DeleteRange { .. } => 0,
        })
        .sum()
}

fn keyspace_weight(keyspace: &Keyspace) -> usize {
    KEYSPACE_BYTES + keyspace.as_bytes().len()
}

fn weight(engine: &Engine) -> usize {
    engine.bytes() + engine.len() * ENTRY_BYTES
}
