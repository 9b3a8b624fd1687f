// SPDX-License-Identifier: Apache-2.0
//! Shared parts of the stores that keep their engines in this process.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use std::sync::atomic::{AtomicUsize, Ordering};

use atomix_env::{Env, Instant, Machine, Stored};
use parking_lot::{Mutex, RwLock};

use crate::engine::Engine;
use crate::once::Once;
use atomix_store::{
    Change, Error, ErrorKind, HistoryBudget, JsonObject, Keyspace, Limits, Outcome, Txn, Write, set_default,
};

/// The keyspaces of a store, found by name. Two cores rarely meet in one lock.
pub struct ShardedMap<T> {
    shards: Vec<RwLock<HashMap<Keyspace, Arc<T>>>>,
    hasher: RandomState,
}

/// The bytes that a store keeps in memory, and how many it may.
///
/// The default of `bytes-max` is for all embedded stores of the process together, because they share its memory.
#[derive(Debug)]
pub struct MemoryBudget {
    stored: Stored,
    machine: Machine,
    /// The bytes of named requests among them.
    named: AtomicUsize,
}

/// Schedules the removal of old named requests of a store.
#[derive(Debug)]
pub struct Rotation {
    env: Env,
    last: Mutex<Instant>,
}

/// The approximate cost of an entry and of a keyspace beside their keys and values. Counted, so that many
/// empty ones fill the store as well.
const ENTRY_BYTES: usize = 384;
const KEYSPACE_BYTES: usize = 1024;

/// The part of the bytes of a store that named requests may take.
const NAMED_PART: usize = 8;

const SHARDS: usize = 16;

// === impl ShardedMap ===

impl<T> ShardedMap<T> {
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

    /// Gives back one if `keep` does not want it: it is not found any more.
    pub fn retain_one(&self, keyspace: &Keyspace, keep: impl FnOnce(&T) -> bool) {
        let mut shard = self.shard(keyspace).write();
        if shard.get(keyspace).is_some_and(|space| !keep(space)) {
            shard.remove(keyspace);
            shrink(&mut shard);
        }
    }

    /// Removes those that `keep` does not want: [`ShardedMap::find`] does not return them any more.
    pub fn retain(&self, mut keep: impl FnMut(&Keyspace, &T) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.retain(|keyspace, space| keep(keyspace, space));
            shrink(&mut shard);
        }
    }

    /// Shows all that are kept, one after the other.
    pub fn each(&self, mut look: impl FnMut(&Keyspace, &T)) {
        for shard in &self.shards {
            for (keyspace, space) in &*shard.read() {
                look(keyspace, space);
            }
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

    /// Returns whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, keyspace: &Keyspace) -> &RwLock<HashMap<Keyspace, Arc<T>>> {
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is all that counts")]
        let at = self.hasher.hash_one(keyspace) as usize % SHARDS;
        &self.shards[at]
    }
}

/// Returns the memory of a table that is mostly empty.
fn shrink<T>(shard: &mut HashMap<Keyspace, Arc<T>>) {
    if shard.capacity() > 64 && shard.len() < shard.capacity() / 8 {
        shard.shrink_to(2 * shard.len());
    }
}

impl<T> Default for ShardedMap<T> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }
}

impl<T> fmt::Debug for ShardedMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardedMap").field("len", &self.len()).finish_non_exhaustive()
    }
}

// === impl MemoryBudget ===

impl MemoryBudget {
    /// Makes the count of an empty store.
    pub fn new(machine: &Machine) -> Self {
        Self { stored: machine.stored(), machine: machine.clone(), named: AtomicUsize::new(0) }
    }

    /// Returns the bytes in use.
    pub fn bytes(&self) -> usize {
        self.stored.bytes()
    }

    /// Returns the bytes that count against `bytes_max`: those of this store, or of all stores for the default.
    fn counted(&self, bytes_max: usize) -> usize {
        if bytes_max == default_bytes_max(&self.machine) { self.stored.bytes_of_all() } else { self.bytes() }
    }

    /// Returns the bytes that are more than `bytes_max` allows, as after a start on a smaller machine.
    pub fn excess(&self, bytes_max: usize) -> Option<usize> {
        self.counted(bytes_max).checked_sub(bytes_max).filter(|excess| *excess > 0)
    }

    /// Refuses content that is larger than the memory of the process, before the kernel kills it. A larger `bytes_max`
    /// allows it.
    pub fn check_memory(&self, bytes_max: usize) -> Result<(), Error> {
        let bytes = self.bytes();
        let limit = self.machine.memory;
        if (bytes as u64) < limit.bytes || bytes <= bytes_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "the content of the store is larger than the memory of the process: give it more memory, or set \
                 `bytes-max` if there is swap space: bytes-read=`{bytes}` memory-limit=`{}` source=`{}`",
                limit.bytes, limit.source
            ),
        ))
    }

    /// Returns the [`ErrorKind::Full`] of a transaction that may grow the store beyond `bytes_max`, for
    /// [`MemoryBudget::apply`]. None for a transaction that only deletes.
    pub fn full(&self, txn: &Txn, bytes_max: usize) -> Option<Error> {
        let max_growth = max_growth(txn);
        let bytes = self.counted(bytes_max);
        (max_growth > 0 && bytes + max_growth > bytes_max).then(|| {
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
    ///
    /// # Errors
    /// [`ErrorKind::Full`] also for a new named request when those that are remembered take an eighth of `bytes_max`.
    pub fn apply(
        &self,
        engine: &mut Engine,
        txn: &Txn,
        limits: &Limits,
        bytes_max: usize,
        full: Option<Error>,
    ) -> Result<(Outcome, Vec<Change>), Error> {
        if let Some(name) = &txn.once
            && !engine.remembers(name)
        {
            self.check_named(name, bytes_max)?;
        }
        let Some(full) = full else { return self.track(engine, |engine| engine.apply(txn, limits)) };
        let (before, revision) = (weight(engine), engine.revision());
        let named = txn.once.as_ref().filter(|name| !engine.remembers(name));
        self.track(engine, |engine| {
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

    fn check_named(&self, name: &[u8], bytes_max: usize) -> Result<(), Error> {
        let (bytes, max) = (self.named.load(Ordering::Relaxed), bytes_max / NAMED_PART);
        if bytes + Once::cost(name) <= max {
            return Ok(());
        }
        let minutes = Once::KEPT.as_secs() / 60;
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "too many named requests in the last {minutes} minutes: try again in a minute, or raise `bytes-max`: bytes=`{bytes}` max=`{max}`"
            ),
        ))
    }

    /// Returns the bytes that named requests take.
    pub fn named_bytes(&self) -> usize {
        self.named.load(Ordering::Relaxed)
    }

    /// Counts a new keyspace.
    pub fn add_keyspace(&self, keyspace: &Keyspace) {
        self.stored.replace(0, keyspace_weight(keyspace));
    }

    /// Takes back the count of an empty keyspace.
    pub fn remove_keyspace(&self, keyspace: &Keyspace) {
        self.stored.replace(keyspace_weight(keyspace), 0);
    }

    /// Counts what `change` does to `engine`.
    pub fn track<T>(&self, engine: &mut Engine, change: impl FnOnce(&mut Engine) -> T) -> T {
        let (before, named) = (weight(engine), engine.named_bytes());
        let done = change(engine);
        // Wrapping, because the difference may be negative.
        if engine.named_bytes() != named {
            self.named.fetch_add(engine.named_bytes().wrapping_sub(named), Ordering::Relaxed);
        }
        self.stored.replace(before, weight(engine));
        done
    }
}

impl Default for MemoryBudget {
    /// A separate count, on a simulated machine.
    fn default() -> Self {
        Self::new(&Machine::default())
    }
}

/// Fills in the defaults of an embedded store that follow the memory of the process: `bytes-max` is three eighths of it,
/// and `histories-bytes-max` a sixteenth, at most 64 MiB.
pub fn complete(config: &mut JsonObject, machine: &Machine) {
    set_default(config, "bytes-max", default_bytes_max(machine));
    HistoryBudget::complete(config, machine);
}

fn default_bytes_max(machine: &Machine) -> usize {
    // The rest is for buffers, connections, histories, and for what the allocator loses.
    machine.memory_share(8).saturating_mul(3)
}

// === impl Rotation ===

impl Rotation {
    /// Makes a rotation that is due a period from now.
    pub fn new(env: Env) -> Self {
        let last = Mutex::new(env.now());
        Self { env, last }
    }

    /// Returns whether [`Engine::rotate_named`] is due for all keyspaces of the store. Asked from time to time, it is true
    /// once a minute at most.
    pub fn due(&self) -> bool {
        let (now, mut last) = (self.env.now(), self.last.lock());
        let due = now.since(*last) >= Once::PERIOD;
        if due {
            *last = now;
        }
        due
    }
}

/// Returns the bytes by which a transaction makes a store grow at most; zero if it only deletes and has no name.
pub fn max_growth(txn: &Txn) -> usize {
    let named = txn.once.as_ref().map_or(0, |name| Once::cost(name));
    let written: usize = txn
        .writes
        .iter()
        .map(|write| match write {
            Write::Put { key, value } => ENTRY_BYTES + key.len() + value.len(),
            Write::Add { key, .. } => ENTRY_BYTES + key.len() + 8,
            Write::Stamp { prefix, value } => ENTRY_BYTES + prefix.len() + 8 + value.len(),
            Write::Delete { .. } | Write::DeleteRange { .. } => 0,
        })
        .sum();
    named + written
}

fn keyspace_weight(keyspace: &Keyspace) -> usize {
    KEYSPACE_BYTES + keyspace.as_bytes().len()
}

fn weight(engine: &Engine) -> usize {
    engine.bytes() + engine.len() * ENTRY_BYTES + engine.named_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn put(bytes: usize) -> Txn {
        Txn::new().write(Write::Put { key: "key".into(), value: vec![7; bytes].into() })
    }

    /// Writes a value into a new engine that belongs to `budget`.
    fn fill(budget: &MemoryBudget, bytes: usize) {
        let mut engine = Engine::new();
        budget.track(&mut engine, |engine| engine.apply(&put(bytes), &Limits::default())).unwrap();
    }

    #[test]
    fn defaults_follow_the_memory_and_an_explicit_setting_wins() {
        let mut config = JsonObject::new();
        complete(&mut config, &Machine::simulated(256 * MIB));
        assert_eq!(config["bytes-max"], 96 * MIB);
        assert_eq!(config["histories-bytes-max"], 16 * MIB);
        let mut config = JsonObject::from_iter([("bytes-max".to_owned(), 5.into())]);
        complete(&mut config, &Machine::simulated(64 << 30));
        assert_eq!(config["bytes-max"], 5);
        assert_eq!(config["histories-bytes-max"], 64 * MIB, "no more than this is of use");
    }

    #[test]
    fn the_default_is_for_all_stores_of_the_process_together() {
        let machine = Machine::simulated(8 * MIB);
        let default = default_bytes_max(&machine);
        let (one, other) = (MemoryBudget::new(&machine), MemoryBudget::new(&machine));
        fill(&one, 2 << 20);
        let full = |budget: &MemoryBudget, bytes_max| {
            budget.full(&put(1 << 20), bytes_max).map(|error| error.kind())
        };
        assert_eq!(full(&one, default), Some(ErrorKind::Full));
        assert_eq!(full(&other, default), Some(ErrorKind::Full));
        assert_eq!(full(&other, 2 << 20), None);
        drop(one);
        assert_eq!(full(&other, default), None);
    }

    #[test]
    fn content_larger_than_the_memory_is_not_read_to_the_end() {
        let budget = MemoryBudget::new(&Machine::simulated(MIB));
        fill(&budget, 900_000);
        budget.check_memory(1).unwrap();
        fill(&budget, 200_000);
        let error = budget.check_memory(1).unwrap_err();
        assert!(error.to_string().contains("memory-limit=`1048576` source=`machine`"), "{error}");
        budget.check_memory(1 << 30).unwrap();
    }
}
