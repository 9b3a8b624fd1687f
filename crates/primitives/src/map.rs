// SPDX-License-Identifier: Apache-2.0
//! A map from text to bytes, with versions, times to live, transactions and locks per key.
//!
//! Behaviour: `contract/map.md`. This is the primitive to read first.
//!
//! The version of an entry is the revision that last wrote it, so versions grow, also across removal and insertion.

use std::collections::HashSet;
use std::time::Duration;

use atomix_store::{
    Ask, Change, Commit, Entry, Guard, Outcome, Range, Read, Revision, Txn, Write, printable,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::{Backing, ROUNDS_MAX};
use crate::kit::caller::Caller;
use crate::kit::expiry::{Expiry, entry_keys, is_expiry};
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, KeyKind};
use crate::kit::lock_table::{LockTable, QueueState};
use crate::kit::ownership::Ownership;
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A map.
#[derive(Debug)]
pub struct Map {
    backing: Backing,
    expiry: Expiry,
    locks: LockTable,
    /// Transactions of one runtime that were overtaken take turns, so that they do not overtake each other again.
    turn: Mutex<()>,
}

/// A value and the version of the entry that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub value: Bytes,
    /// Grows with every write of the map; never zero.
    pub version: u64,
}

/// The result of a write of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The version that the entry has now.
    pub version: u64,
    /// The entry before the write.
    pub previous: Option<Versioned>,
}

/// A change of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The change.
    pub change: EntryChange,
}

/// A change of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum EntryChange {
    Inserted { value: Versioned },
    Updated { value: Versioned, previous: Versioned },
    Removed { value: Versioned, expired: bool },
}

/// One operation of a transaction. `prev_version` zero means "any".
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the calls")]
pub enum Operation {
    Put { key: String, value: Bytes, ttl: Option<Duration>, prev_version: u64 },
    Insert { key: String, value: Bytes, ttl: Option<Duration> },
    Update { key: String, value: Bytes, ttl: Option<Duration>, prev_version: u64 },
    Remove { key: String, prev_version: u64 },
}

/// The result of an operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// A put, an insert or an update.
    Stored(Stored),
    /// A removal, with what was removed.
    Removed(Versioned),
}

// === impl Map ===

impl Map {
    /// Opens the map. Removes what is overdue, and the locks of dead members, before it returns.
    pub async fn open(backing: Backing) -> Result<Self, Error> {
        let expiry = Expiry::open(&backing, entry_keys).await?;
        let locks = LockTable::open(backing.clone()).await?;
        Ok(Self { backing, expiry, locks, turn: Mutex::new(()) })
    }

    /// Returns the number of entries.
    pub async fn size(&self) -> Result<u32, Error> {
        self.backing.count(KeyKind::Entry.range()).await
    }

    /// Returns the entry of `key`, or [`Reason::KeyNotFound`].
    pub async fn get(&self, key: &str) -> Result<Versioned, Error> {
        self.backing.check_key(key)?;
        let entry = self.backing.get(entry_key(key)).await?;
        Ok(versioned(&entry.ok_or_else(|| Error::key_not_found(key))?))
    }

    /// Stores `value` under `key`, for `ttl` or for ever. With a `prev_version` above zero only if the entry has that
    /// version, else [`Reason::VersionMismatch`].
    ///
    /// The same bytes again keep the version and make no event, but the entry lives for the new `ttl`.
    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        prev_version: u64,
    ) -> Result<Stored, Error> {
        self.check(key, &value)?;
        let at = entry_key(key);
        for _ in 0..ROUNDS_MAX {
            let other = Guard::ValueIsNot { key: at.clone(), value: value.clone() };
            let guards = version_guard(&at, prev_version).into_iter().chain([other]).collect();
            let outcome = self.expiry.put(&at, key.as_bytes(), value.clone(), guards, ttl).await?;
            if outcome.applied {
                return Ok(stored(&outcome));
            }
            let Some(same) = outcome.reads[0].entry() else {
                return Err(Error::version_mismatch(0, "update", prev_version));
            };
            if prev_version != 0 && same.modified.0 != prev_version {
                return Err(Error::version_mismatch(same.modified.0, "update", prev_version));
            }
            let (renewal, pending_ttl) = self.expiry.renewal(key.as_bytes(), ttl);
            let txn = Txn::new()
                .guard(Guard::ModifiedAt { key: at.clone(), revision: same.modified })
                .write(renewal);
            let renewed = self.backing.commit(txn).await?;
            if renewed.applied {
                pending_ttl.begin(renewed.revision).await;
                return Ok(Stored { version: same.modified.0, previous: Some(versioned(same)) });
            }
        }
        Err(Error::contention())
    }

    /// Stores `value` under a `key` that is new, else [`Reason::KeyExists`].
    pub async fn insert(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Stored, Error> {
        self.check(key, &value)?;
        let at = entry_key(key);
        let guards = vec![Guard::Absent { key: at.clone() }];
        let outcome = self.expiry.put(&at, key.as_bytes(), value, guards, ttl).await?;
        if outcome.applied { Ok(stored(&outcome)) } else { Err(Error::key_exists(key)) }
    }

    /// Replaces the value of a `key` that exists, else [`Reason::KeyNotFound`]; also by the same bytes. With a
    /// `prev_version` above zero only if the entry has that version, else [`Reason::VersionMismatch`].
    pub async fn update(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        prev_version: u64,
    ) -> Result<Stored, Error> {
        self.check(key, &value)?;
        let at = entry_key(key);
        let guard = version_guard(&at, prev_version).unwrap_or(Guard::Present { key: at.clone() });
        let outcome = self.expiry.put(&at, key.as_bytes(), value, vec![guard], ttl).await?;
        if outcome.applied {
            Ok(stored(&outcome))
        } else {
            Err(refusal(&outcome, key, "update", prev_version))
        }
    }

    /// Removes the entry of `key` and returns what it held, or [`Reason::KeyNotFound`]. With a `prev_version` above
    /// zero only if the entry has that version, else [`Reason::VersionMismatch`].
    pub async fn remove(&self, key: &str, prev_version: u64) -> Result<Versioned, Error> {
        self.backing.check_key(key)?;
        let at = entry_key(key);
        let (writes, pending_ttl) =
            self.expiry.writes(Write::Delete { key: at.clone() }, key.as_bytes(), None);
        let txn = Txn {
            guards: version_guard(&at, prev_version).into_iter().collect(),
            writes,
            reads: vec![Read::Get { key: at }],
            ask: Ask::IfRefused,
            once: None,
        };
        let outcome = self.backing.commit(txn).await?;
        if !outcome.applied {
            return Err(refusal(&outcome, key, "remove", prev_version));
        }
        let removed = outcome.writes[0].previous().ok_or_else(|| Error::key_to_write_not_found(key))?;
        pending_ttl.begin(outcome.revision).await;
        Ok(versioned(removed))
    }

    /// Removes all entries, in one step.
    pub async fn clear(&self) -> Result<(), Error> {
        self.expiry.clear(&[KeyKind::Entry]).await
    }

    /// Applies all `operations` or none. Each is checked against the state before the transaction, in order; the
    /// first that does not fit decides the error. A key may be named once, else [`Reason::KeyRepeated`].
    pub async fn commit(&self, operations: Vec<Operation>) -> Result<Vec<Done>, Error> {
        self.backing.check_batch(operations.len())?;
        for operation in &operations {
            self.backing.check_key(operation.key())?;
            self.backing.check_value(operation.value().map_or(&[], AsRef::as_ref))?;
        }
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let reads: Vec<Read> =
            operations.iter().map(|operation| Read::Get { key: entry_key(operation.key()) }).collect();
        let mut turn = None;
        for _ in 0..ROUNDS_MAX {
            let before = self.backing.read(reads.clone()).await?;
            let mut named = HashSet::new();
            for (operation, found) in operations.iter().zip(&before.reads) {
                if !named.insert(operation.key()) {
                    let key = printable(operation.key());
                    let message = format!("multiple modifications of key {key} in same transaction");
                    return Err(Error::new(Reason::KeyRepeated, message));
                }
                operation.check(found.entry())?;
            }
            let (mut txn, mut pending_ttls) = (Txn::new(), Vec::with_capacity(operations.len()));
            for (operation, found) in operations.iter().zip(&before.reads) {
                let key = entry_key(operation.key());
                txn.guards.push(match found.entry() {
                    Some(entry) => Guard::ModifiedAt { key: key.clone(), revision: entry.modified },
                    None => Guard::Absent { key: key.clone() },
                });
                let (subject, ttl) = (operation.key().as_bytes(), operation.ttl());
                if operation.repeats(found.entry()) {
                    let (renewal, pending_ttl) = self.expiry.renewal(subject, ttl);
                    txn.writes.push(renewal);
                    pending_ttls.push(pending_ttl);
                    continue;
                }
                let write = match operation.value() {
                    Some(value) => Write::Put { key, value: value.clone() },
                    None => Write::Delete { key },
                };
                let (mut writes, pending_ttl) = self.expiry.writes(write, subject, ttl);
                txn.writes.append(&mut writes);
                pending_ttls.push(pending_ttl);
            }
            let outcome = self.backing.commit(txn).await?;
            if outcome.applied {
                let mut done = Vec::with_capacity(operations.len());
                for ((operation, found), pending_ttl) in
                    operations.iter().zip(&before.reads).zip(pending_ttls)
                {
                    pending_ttl.begin(outcome.revision).await;
                    done.push(operation.done(found.entry(), outcome.revision));
                }
                return Ok(done);
            }
            if turn.is_none() {
                turn = Some(self.turn.lock().await);
            }
        }
        Err(Error::contention())
    }

    /// Returns the locks of the keys.
    pub fn lock_table(&self) -> &LockTable {
        &self.locks
    }

    /// Follows the changes of all keys, or of the one key `only`. The watch is registered when this returns.
    pub async fn events(&self, caller: &Caller, only: Option<String>) -> Result<Events<Event>, Error> {
        follow::changes(&self.backing, caller, move |commit| events(commit, only.as_deref())).await
    }

    /// Lists all entries; with `watch` goes on with the entry of every change, a removed one as it was last.
    pub async fn entries(&self, caller: &Caller, watch: bool) -> Result<Events<(String, Versioned)>, Error> {
        let range: Range = KeyKind::Entry.range();
        let shown =
            |change: &Change| change.current.as_ref().or(change.previous.as_ref()).map_or(Ok(None), listed);
        follow::listing(&self.backing, caller, range, watch, listed, shown).await
    }

    fn check(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.backing.check_key(key)?;
        self.backing.check_value(value)
    }
}

impl Primitive for Map {
    fn ownership(&self) -> Option<&dyn Ownership> {
        Some(&self.locks)
    }

    fn locks(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueState>, Error>> {
        Box::pin(self.locks.list(max))
    }
}

impl TypedPrimitive for Map {
    const KIND: Kind = Kind::Map;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Self::open(backing).await
    }
}

// === impl Operation ===

impl Operation {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. }
            | Self::Insert { key, .. }
            | Self::Update { key, .. }
            | Self::Remove { key, .. } => key,
        }
    }

    fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Put { value, .. } | Self::Insert { value, .. } | Self::Update { value, .. } => Some(value),
            Self::Remove { .. } => None,
        }
    }

    fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Put { ttl, .. } | Self::Insert { ttl, .. } | Self::Update { ttl, .. } => *ttl,
            Self::Remove { .. } => None,
        }
    }

    /// Returns whether this fits the entry that is there, by the rules of the single call.
    fn check(&self, entry: Option<&Entry>) -> Result<(), Error> {
        let version = |action: &str, prev_version: u64, entry: &Entry| {
            if prev_version == 0 || entry.modified.0 == prev_version {
                Ok(())
            } else {
                Err(Error::version_mismatch(entry.modified.0, action, prev_version))
            }
        };
        match (self, entry) {
            (Self::Put { prev_version: 0, .. } | Self::Insert { .. }, None) => Ok(()),
            (Self::Put { prev_version, .. }, None) => {
                Err(Error::version_mismatch(0, "update", *prev_version))
            }
            (Self::Insert { key, .. }, Some(_)) => Err(Error::key_exists(key)),
            (Self::Update { key, .. } | Self::Remove { key, .. }, None) => {
                Err(Error::key_to_write_not_found(key))
            }
            (Self::Put { prev_version, .. } | Self::Update { prev_version, .. }, Some(entry)) => {
                version("update", *prev_version, entry)
            }
            (Self::Remove { prev_version, .. }, Some(entry)) => version("remove", *prev_version, entry),
        }
    }

    /// Returns whether this is a put of the bytes that are there.
    fn repeats(&self, entry: Option<&Entry>) -> bool {
        matches!((self, entry), (Self::Put { value, .. }, Some(entry)) if entry.value == value)
    }

    fn done(&self, before: Option<&Entry>, revision: Revision) -> Done {
        let previous = before.map(versioned);
        match (self, previous) {
            (Self::Remove { .. }, Some(removed)) => Done::Removed(removed),
            (_, Some(previous)) if self.repeats(before) => {
                Done::Stored(Stored { version: previous.version, previous: Some(previous) })
            }
            (_, previous) => Done::Stored(Stored { version: revision.0, previous }),
        }
    }
}

fn entry_key(key: &str) -> Bytes {
    Key::Entry(key).encode()
}

/// Returns the guard of a call that names a version; none for version zero.
pub(crate) fn version_guard(key: &Bytes, prev_version: u64) -> Option<Guard> {
    (prev_version != 0).then(|| Guard::ModifiedAt { key: key.clone(), revision: Revision(prev_version) })
}

/// Returns the error of a refused transaction that needs an entry, of a version or any.
fn refusal(outcome: &Outcome, key: &str, action: &str, prev_version: u64) -> Error {
    match outcome.reads[0].entry() {
        Some(entry) => Error::version_mismatch(entry.modified.0, action, prev_version),
        None => Error::key_to_write_not_found(key),
    }
}

pub(crate) fn versioned(entry: &Entry) -> Versioned {
    Versioned { value: entry.value.clone(), version: entry.modified.0 }
}

pub(crate) fn stored(outcome: &Outcome) -> Stored {
    Stored { version: outcome.revision.0, previous: outcome.writes[0].previous().map(versioned) }
}

fn listed(entry: &Entry) -> Result<Option<(String, Versioned)>, Error> {
    Ok(Key::entry(&entry.key)?.map(|key| (key.to_owned(), versioned(entry))))
}

fn events(commit: &Commit, only: Option<&str>) -> Result<Vec<Event>, Error> {
    let expired = is_expiry(commit);
    let event = |change: &Change| {
        let Some(key) = Key::entry(&change.key)? else { return Ok(None) };
        if only.is_some_and(|only| only != key) {
            return Ok(None);
        }
        let (previous, current) =
            (change.previous.as_ref().map(versioned), change.current.as_ref().map(versioned));
        let change = match (previous, current) {
            (None, Some(value)) => EntryChange::Inserted { value },
            (Some(previous), Some(value)) => EntryChange::Updated { value, previous },
            (Some(value), None) => EntryChange::Removed { value, expired },
            (None, None) => return Ok(None),
        };
        Ok(Some(Event { key: key.to_owned(), change }))
    };
    commit.changes.iter().filter_map(|change| event(change).transpose()).collect()
}
