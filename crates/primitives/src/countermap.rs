// SPDX-License-Identifier: Apache-2.0
//! A map from text to signed numbers of 64 bits, with locks per key.
//!
//! Behaviour: `contract/countermap.md`. There are no versions: conditions compare numbers. Arithmetic wraps around, and
//! a key whose number becomes zero stays.

use atomix_store::{Change, Commit, Entry, Guard, Read, Txn, Write, number_bytes};
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::Backing;
use crate::kit::caller::Caller;
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, KeyKind};
use crate::kit::lock_table::{LockTable, QueueState};
use crate::kit::number::{added, number};
use crate::kit::ownership::Ownership;
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A counter map.
#[derive(Debug)]
pub struct CounterMap {
    backing: Backing,
    locks: LockTable,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The change.
    pub change: EntryChange,
}

/// A change of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum EntryChange {
    Inserted { value: i64 },
    Updated { value: i64, previous: i64 },
    Removed { value: i64 },
}

// === impl CounterMap ===

impl CounterMap {
    /// Opens the counter map. Gives the locks of dead members back before it returns.
    pub async fn open(backing: Backing) -> Result<Self, Error> {
        let locks = LockTable::open(backing.clone()).await?;
        Ok(Self { backing, locks })
    }

    /// Returns the number of keys. Cancel safe.
    pub async fn size(&self) -> Result<u32, Error> {
        self.backing.count(KeyKind::Entry.range()).await
    }

    /// Returns the number of `key`, or [`Reason::KeyNotFound`]. Cancel safe.
    pub async fn get(&self, key: &str) -> Result<i64, Error> {
        self.backing.check_key(key)?;
        let entry = self.backing.get(entry_key(key)).await?;
        number(&entry.ok_or_else(|| Error::key_not_found(key))?)
    }

    /// Sets the number of `key` and returns the one before, zero if the key is new. Makes an event also when the number
    /// stays the same.
    pub async fn set(&self, key: &str, value: i64) -> Result<i64, Error> {
        self.backing.check_key(key)?;
        let txn = Txn::new().write(Write::Put { key: entry_key(key), value: number_bytes(value) });
        let outcome = self.backing.commit(txn).await?;
        outcome.writes[0].previous().map_or(Ok(0), number)
    }

    /// Sets the number of a `key` that is new, else [`Reason::KeyExists`].
    pub async fn insert(&self, key: &str, value: i64) -> Result<(), Error> {
        self.backing.check_key(key)?;
        let at = entry_key(key);
        let txn = Txn::new()
            .guard(Guard::Absent { key: at.clone() })
            .write(Write::Put { key: at, value: number_bytes(value) });
        if self.backing.commit(txn).await?.applied { Ok(()) } else { Err(Error::key_exists(key)) }
    }

    /// Replaces the number of a `key` that exists, else [`Reason::KeyNotFound`], if it is `prev_value`, else
    /// [`Reason::ValueMismatch`]; returns the number before. Zero is compared like every other number.
    pub async fn update(&self, key: &str, value: i64, prev_value: i64) -> Result<i64, Error> {
        self.backing.check_key(key)?;
        let at = entry_key(key);
        let txn = Txn::new()
            .guard(Guard::ValueIs { key: at.clone(), value: number_bytes(prev_value) })
            .write(Write::Put { key: at.clone(), value: number_bytes(value) })
            .read(Read::Get { key: at })
            .if_refused();
        let outcome = self.backing.commit(txn).await?;
        if outcome.applied {
            return Ok(prev_value);
        }
        Err(match outcome.reads[0].entry() {
            Some(_) => Error::value_mismatch(),
            None => Error::key_to_write_not_found(key),
        })
    }

    /// Adds `delta` to the number of `key` and returns the number before, zero if the key is new. A `delta` of zero
    /// counts as one, which is how existing clients ask for it. See [`crate::Counter::increment`] for `once`.
    pub async fn increment(&self, key: &str, delta: i64, once: Option<Bytes>) -> Result<i64, Error> {
        self.add(key, or_one(delta), once).await
    }

    /// Subtracts `delta` from the number of `key`; see [`CounterMap::increment`].
    pub async fn decrement(&self, key: &str, delta: i64, once: Option<Bytes>) -> Result<i64, Error> {
        // Wraps for the smallest number only, whose addition and subtraction are the same.
        self.add(key, or_one(delta).wrapping_neg(), once).await
    }

    /// Removes `key` and returns its number, or [`Reason::KeyNotFound`]. With a `prev_value` other than zero only if
    /// that is the number, else [`Reason::ValueMismatch`].
    pub async fn remove(&self, key: &str, prev_value: i64) -> Result<i64, Error> {
        self.backing.check_key(key)?;
        let at = entry_key(key);
        let mut txn = Txn::new()
            .write(Write::Delete { key: at.clone() })
            .read(Read::Get { key: at.clone() })
            .if_refused();
        if prev_value != 0 {
            txn = txn.guard(Guard::ValueIs { key: at, value: number_bytes(prev_value) });
        }
        let outcome = self.backing.commit(txn).await?;
        if !outcome.applied {
            let Some(entry) = outcome.reads[0].entry() else {
                return Err(Error::key_to_write_not_found(key));
            };
            let found = number(entry)?;
            let message = format!("entry value {found} does not match remove value {prev_value}");
            return Err(Error::new(Reason::ValueMismatch, message));
        }
        number(outcome.writes[0].previous().ok_or_else(|| Error::key_to_write_not_found(key))?)
    }

    /// Removes all keys, in one step.
    pub async fn clear(&self) -> Result<(), Error> {
        let txn = Txn::new().write(Write::DeleteRange { range: KeyKind::Entry.range() });
        self.backing.commit(txn).await.map(drop)
    }

    /// Returns the locks of the keys.
    pub fn lock_table(&self) -> &LockTable {
        &self.locks
    }

    /// Follows the changes of all keys, or of the one key `only`. The watch is registered when this returns.
    pub async fn events(&self, caller: &Caller, only: Option<String>) -> Result<Events<Event>, Error> {
        follow::changes(&self.backing, caller, move |commit| events(commit, only.as_deref())).await
    }

    /// Lists all keys with their numbers; with `watch` goes on with the number after every change, for a removed key
    /// the last one.
    pub async fn entries(&self, caller: &Caller, watch: bool) -> Result<Events<(String, i64)>, Error> {
        let range = KeyKind::Entry.range();
        let shown =
            |change: &Change| change.current.as_ref().or(change.previous.as_ref()).map_or(Ok(None), listed);
        follow::listing(&self.backing, caller, range, watch, listed, shown).await
    }

    async fn add(&self, key: &str, delta: i64, once: Option<Bytes>) -> Result<i64, Error> {
        self.backing.check_key(key)?;
        let write = Write::Add { key: entry_key(key), delta };
        let outcome = self.backing.commit(Txn { writes: vec![write], once, ..Txn::default() }).await?;
        Ok(added(&outcome)?.wrapping_sub(delta))
    }
}

impl Primitive for CounterMap {
    fn ownership(&self) -> Option<&dyn Ownership> {
        Some(&self.locks)
    }

    fn locks(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueState>, Error>> {
        Box::pin(self.locks.list(max))
    }
}

impl TypedPrimitive for CounterMap {
    const KIND: Kind = Kind::CounterMap;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Self::open(backing).await
    }
}

fn entry_key(key: &str) -> Bytes {
    Key::Entry(key).encode()
}

fn or_one(delta: i64) -> i64 {
    if delta == 0 { 1 } else { delta }
}

fn listed(entry: &Entry) -> Result<Option<(String, i64)>, Error> {
    let Some(key) = Key::entry(&entry.key)? else { return Ok(None) };
    Ok(Some((key.to_owned(), number(entry)?)))
}

fn events(commit: &Commit, only: Option<&str>) -> Result<Vec<Event>, Error> {
    let event = |change: &Change| {
        let Some(key) = Key::entry(&change.key)? else { return Ok(None) };
        if only.is_some_and(|only| only != key) {
            return Ok(None);
        }
        let held = |entry: &Option<Entry>| entry.as_ref().map(number).transpose();
        let change = match (held(&change.previous)?, held(&change.current)?) {
            (None, Some(value)) => EntryChange::Inserted { value },
            (Some(previous), Some(value)) => EntryChange::Updated { value, previous },
            (Some(value), None) => EntryChange::Removed { value },
            (None, None) => return Ok(None),
        };
        Ok(Some(Event { key: key.to_owned(), change }))
    };
    commit.changes.iter().filter_map(|change| event(change).transpose()).collect()
}
