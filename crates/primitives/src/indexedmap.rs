// SPDX-License-Identifier: Apache-2.0
//! A map from text to bytes whose entries have positions that only grow.
//!
//! Behaviour: `contract/indexedmap.md`. The entry lives under its index, and the key leads to the index. Indexes are
//! given one after the other and never again; the last one given is an entry of its own, which a runtime remembers, so
//! that an append without contention is one transaction.

use std::time::Duration;

use atomix_store::{
    Ask, Change, Commit, Entry as Stored, Guard, Order, Range, Read, Revision, Txn, Write, printable,
};
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::{Backing, ROUNDS_MAX};
use crate::kit::caller::Caller;
use crate::kit::codec::{Decoder, Encoder, LENGTH};
use crate::kit::expiry::{Expiry, is_expiry};
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, KeyKind};
use crate::map::Versioned;
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

pub use crate::map::EntryChange;

/// An indexed map.
#[derive(Debug)]
pub struct IndexedMap {
    backing: Backing,
    expiry: Expiry,
    /// The last index that this runtime knows to be given. Appends of one runtime take turns.
    last: Mutex<u64>,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The position: from one, never given twice.
    pub index: u64,
    /// The value and its version.
    pub value: Versioned,
}

/// A change of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The position.
    pub index: u64,
    /// The change.
    pub change: EntryChange,
}

/// The name of an entry: an index, a key or both. Zero and empty mean that it is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// The key.
    pub key: &'a str,
    /// The position.
    pub index: u64,
}

// === impl IndexedMap ===

impl IndexedMap {
    /// Opens the map. Removes what is overdue before it returns.
    pub async fn open(backing: Backing) -> Result<Self, Error> {
        let expiry = Expiry::open(&backing, |subject| {
            let (index, key) = decode_subject(subject)?;
            Ok(vec![by_index(index), by_key(key)])
        })
        .await?;
        Ok(Self { backing, expiry, last: Mutex::new(0) })
    }

    /// Returns the number of entries.
    pub async fn size(&self) -> Result<u32, Error> {
        self.backing.count(KeyKind::Index.range()).await
    }

    /// Adds an entry at the end, or [`Reason::KeyExists`].
    pub async fn append(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Entry, Error> {
        self.backing.check_key(key)?;
        self.backing.check_value(&value)?;
        let (by_key, counter) = (by_key(key), Key::LastIndex.encode());
        let mut last = self.last.lock().await;
        for _ in 0..ROUNDS_MAX {
            let index = *last + 1;
            let given = match *last {
                0 => Guard::Absent { key: counter.clone() },
                last => Guard::ValueIs { key: counter.clone(), value: number(last) },
            };
            let put = Write::Put { key: by_index(index), value: encode(key, &value) };
            let subject = subject(index, key);
            let (writes, pending_ttl) = self.expiry.writes(put, &subject, ttl);
            let mut txn = Txn {
                guards: vec![Guard::Absent { key: by_key.clone() }, given],
                writes,
                reads: vec![Read::Get { key: by_key.clone() }, Read::Get { key: counter.clone() }],
                ask: Ask::IfRefused,
                once: None,
            };
            txn.writes.push(Write::Put { key: by_key.clone(), value: number(index) });
            txn.writes.push(Write::Put { key: counter.clone(), value: number(index) });
            let outcome = self.backing.commit(txn).await?;
            if outcome.applied {
                *last = index;
                drop(last);
                pending_ttl.begin(outcome.revision).await;
                let value = Versioned { value, version: outcome.revision.0 };
                return Ok(Entry { key: key.to_owned(), index, value });
            }
            if let Some(entry) = outcome.reads[0].entry() {
                let at = read_number(&entry.value)?;
                let message = format!("key {} already exists at index {at}", printable(key));
                return Err(Error::new(Reason::KeyExists, message));
            }
            *last = outcome.reads[1].entry().map_or(Ok(0), |entry| read_number(&entry.value))?;
        }
        Err(Error::contention())
    }

    /// Replaces the value of an entry, or [`Reason::KeyNotFound`]. With a `prev_version` above zero only if it has that
    /// version, else [`Reason::VersionMismatch`]. The same bytes keep the version and make no event, but the
    /// entry lives for the new `ttl`. [`Reason::Invalid`] if nothing or two different entries are named.
    pub async fn update(
        &self,
        address: Address<'_>,
        value: Bytes,
        ttl: Option<Duration>,
        prev_version: u64,
    ) -> Result<Entry, Error> {
        self.backing.check_key(address.key)?;
        self.backing.check_value(&value)?;
        if address.index == 0 && address.key.is_empty() {
            return Err(Error::invalid("neither a key nor an index was given"));
        }
        for _ in 0..ROUNDS_MAX {
            let mut entry = self.find_checked(address, prev_version, missing_for_update).await?;
            let at = by_index(entry.index);
            let same = entry.value.value == value;
            let subject = subject(entry.index, &entry.key);
            let guard = Guard::ModifiedAt { key: at.clone(), revision: Revision(entry.value.version) };
            let (writes, pending_ttl) = if same {
                let (renewal, pending_ttl) = self.expiry.renewal(&subject, ttl);
                (vec![renewal], pending_ttl)
            } else {
                let put = Write::Put { key: at, value: encode(&entry.key, &value) };
                self.expiry.writes(put, &subject, ttl)
            };
            let txn = Txn { guards: vec![guard], writes, ..Txn::default() };
            let outcome = self.backing.commit(txn).await?;
            if outcome.applied {
                pending_ttl.begin(outcome.revision).await;
                if !same {
                    entry.value = Versioned { value, version: outcome.revision.0 };
                }
                return Ok(entry);
            }
        }
        Err(Error::contention())
    }

    /// Returns an entry by its index, or by its key if no index is given, or [`Reason::KeyNotFound`].
    pub async fn get(&self, address: Address<'_>) -> Result<Entry, Error> {
        self.find(address, missing).await
    }

    /// Returns the entry with the lowest index, or [`Reason::KeyNotFound`].
    pub async fn first(&self) -> Result<Entry, Error> {
        self.next(0).await
    }

    /// Returns the entry with the highest index, or [`Reason::KeyNotFound`].
    pub async fn last(&self) -> Result<Entry, Error> {
        self.scan(KeyKind::Index.range(), Order::KeyDescending).await
    }

    /// Returns the entry after `index`, which need not exist, or [`Reason::KeyNotFound`].
    pub async fn next(&self, index: u64) -> Result<Entry, Error> {
        self.scan(KeyKind::Index.range().after(&by_index(index)), Order::Key).await
    }

    /// Returns the entry before `index`, which need not exist, or [`Reason::KeyNotFound`].
    pub async fn prev(&self, index: u64) -> Result<Entry, Error> {
        self.scan(KeyKind::Index.range().before(&by_index(index)), Order::KeyDescending).await
    }

    /// Removes an entry and returns it, or [`Reason::KeyNotFound`]. With a `prev_version` above zero only if it has that
    /// version, else [`Reason::VersionMismatch`]. [`Reason::Invalid`] if two different entries are named.
    pub async fn remove(&self, address: Address<'_>, prev_version: u64) -> Result<Entry, Error> {
        self.backing.check_key(address.key)?;
        for _ in 0..ROUNDS_MAX {
            let entry = self.find_checked(address, prev_version, missing).await?;
            let at = by_index(entry.index);
            let subject = subject(entry.index, &entry.key);
            let guard = Guard::ModifiedAt { key: at.clone(), revision: Revision(entry.value.version) };
            let (writes, pending_ttl) = self.expiry.writes(Write::Delete { key: at }, &subject, None);
            let txn = Txn { guards: vec![guard], writes, ..Txn::default() }
                .write(Write::Delete { key: by_key(&entry.key) });
            let outcome = self.backing.commit(txn).await?;
            if outcome.applied {
                pending_ttl.begin(outcome.revision).await;
                return Ok(entry);
            }
        }
        Err(Error::contention())
    }

    /// Removes all entries, in one step. Indexes go on.
    pub async fn clear(&self) -> Result<(), Error> {
        self.expiry.clear(&[KeyKind::Entry, KeyKind::Index]).await
    }

    /// Follows the changes of all keys, or of the one key `only`. The watch is registered when this returns.
    pub async fn events(&self, caller: &Caller, only: Option<String>) -> Result<Events<Event>, Error> {
        follow::changes(&self.backing, caller, move |commit| events(commit, only.as_deref())).await
    }

    /// Lists all entries by index; with `watch` goes on with the entry of every change, a removed one as it was last.
    pub async fn entries(&self, caller: &Caller, watch: bool) -> Result<Events<Entry>, Error> {
        let listed = |stored: &Stored| decode(stored).map(Some);
        let shown =
            |change: &Change| change.current.as_ref().or(change.previous.as_ref()).map(decode).transpose();
        follow::listing(&self.backing, caller, KeyKind::Index.range(), watch, listed, shown).await
    }

    /// Finds an entry by its index, or by its key if no index is given; `missing` makes the error if there is none.
    async fn find(&self, address: Address<'_>, missing: fn(Address<'_>) -> Error) -> Result<Entry, Error> {
        self.backing.check_key(address.key)?;
        if address.index != 0 {
            return self.at(address.index).await?.ok_or_else(|| missing(address));
        }
        if address.key.is_empty() {
            return Err(missing(address));
        }
        for _ in 0..ROUNDS_MAX {
            let found = self.backing.get(by_key(address.key)).await?;
            let index = read_number(&found.ok_or_else(|| missing(address))?.value)?;
            // None: removed, and perhaps appended again, between the two reads.
            if let Some(entry) = self.at(index).await? {
                return Ok(entry);
            }
        }
        Err(Error::contention())
    }

    /// Finds the entry that a write is about, and checks key and version.
    async fn find_checked(
        &self,
        address: Address<'_>,
        prev_version: u64,
        missing: fn(Address<'_>) -> Error,
    ) -> Result<Entry, Error> {
        let entry = self.find(address, missing).await?;
        if address.index != 0 && !address.key.is_empty() && entry.key != address.key {
            let (named, found) = (printable(address.key), printable(&entry.key));
            let index = address.index;
            return Err(Error::invalid(format!(
                "key and index name different entries: key=`{named}` index=`{index}` key-at-index=`{found}`"
            )));
        }
        if prev_version != 0 && entry.value.version != prev_version {
            let (key, version) = (printable(&entry.key), entry.value.version);
            let message = format!("key {key} version {version} does not match prev_version {prev_version}");
            return Err(Error::new(Reason::VersionMismatch, message));
        }
        Ok(entry)
    }

    async fn at(&self, index: u64) -> Result<Option<Entry>, Error> {
        self.backing.get(by_index(index)).await?.as_ref().map(decode).transpose()
    }

    async fn scan(&self, range: Range, order: Order) -> Result<Entry, Error> {
        let scan = Read::Scan { range, order, limit: 1, keys_only: false };
        let snapshot = self.backing.read(vec![scan]).await?;
        let none = || Error::new(Reason::KeyNotFound, "map is empty");
        decode(snapshot.reads[0].entries().first().ok_or_else(none)?)
    }
}

impl Primitive for IndexedMap {}

impl TypedPrimitive for IndexedMap {
    const KIND: Kind = Kind::IndexedMap;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Self::open(backing).await
    }
}

/// The error of a read or a removal that does not find its entry.
fn missing(address: Address<'_>) -> Error {
    let message = match address {
        Address { index: 0, key } => format!("no entry found at key {}", printable(key)),
        Address { index, .. } => format!("no entry found at index {index}"),
    };
    Error::new(Reason::KeyNotFound, message)
}

/// The error of an update that does not find its entry.
fn missing_for_update(address: Address<'_>) -> Error {
    match address {
        Address { index: 0, key } => Error::key_not_found(key),
        Address { index, .. } => Error::new(Reason::KeyNotFound, format!("index {index} not found")),
    }
}

fn by_index(index: u64) -> Bytes {
    Key::Index(index).encode()
}

fn by_key(key: &str) -> Bytes {
    Key::Entry(key).encode()
}

/// Names an entry that expires: index (8), key. So both of its keys can be deleted.
fn subject(index: u64, key: &str) -> Bytes {
    Encoder::with_capacity(8 + key.len()).u64(index).rest(key.as_bytes()).finish()
}

fn decode_subject(subject: &[u8]) -> Result<(u64, &str), Error> {
    let mut subject = Decoder::new("deadline", subject);
    Ok((subject.u64()?, subject.rest_text()?))
}

fn number(index: u64) -> Bytes {
    Encoder::with_capacity(8).u64(index).finish()
}

fn read_number(value: &[u8]) -> Result<u64, Error> {
    let mut record = Decoder::new("index", value);
    let index = record.u64()?;
    record.end(index)
}

/// Key length (4), key, value.
fn encode(key: &str, value: &[u8]) -> Bytes {
    Encoder::with_capacity(LENGTH + key.len() + value.len()).part(key.as_bytes()).rest(value).finish()
}

fn decode_value(stored: &Bytes) -> Result<(&str, Bytes), Error> {
    let mut record = Decoder::new("entry of an indexed map", stored);
    Ok((record.text()?, stored.slice_ref(record.rest())))
}

fn decode(stored: &Stored) -> Result<Entry, Error> {
    let Key::Index(index) = Key::decode(&stored.key)? else {
        return Err(Error::damaged("entry of an indexed map"));
    };
    let (key, value) = decode_value(&stored.value)?;
    Ok(Entry { key: key.to_owned(), index, value: Versioned { value, version: stored.modified.0 } })
}

fn events(commit: &Commit, only: Option<&str>) -> Result<Vec<Event>, Error> {
    let expired = is_expiry(commit);
    let event = |change: &Change| {
        if KeyKind::of(&change.key) != Some(KeyKind::Index) {
            return Ok(None);
        }
        let entry = |stored: &Option<Stored>| stored.as_ref().map(decode).transpose();
        let (previous, current) = (entry(&change.previous)?, entry(&change.current)?);
        let Some(shown) = current.as_ref().or(previous.as_ref()) else { return Ok(None) };
        if only.is_some_and(|only| only != shown.key) {
            return Ok(None);
        }
        let (key, index) = (shown.key.clone(), shown.index);
        let change = match (previous, current) {
            (None, Some(entry)) => EntryChange::Inserted { value: entry.value },
            (Some(previous), Some(entry)) => {
                EntryChange::Updated { value: entry.value, previous: previous.value }
            }
            (Some(entry), None) => EntryChange::Removed { value: entry.value, expired },
            (None, None) => return Ok(None),
        };
        Ok(Some(Event { key, index, change }))
    };
    commit.changes.iter().filter_map(|change| event(change).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kit::codec;

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(index in any::<u64>(), key in ".*", value in any::<Vec<u8>>()) {
            let stored = encode(&key, &value);
            prop_assert_eq!(decode_value(&stored), Ok((key.as_str(), Bytes::from(value))));
            let subject = subject(index, &key);
            prop_assert_eq!(decode_subject(&subject), Ok((index, key.as_str())));
            prop_assert_eq!(read_number(&number(index)), Ok(index));
        }

        #[test]
        fn any_bytes_are_an_entry_or_damage(bytes in codec::tests::bytes()) {
            let bytes = Bytes::from(bytes);
            match decode_value(&bytes) {
                Ok((key, value)) => prop_assert_eq!(encode(key, &value), &bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("entry of an indexed map")),
            }
            match decode_subject(&bytes) {
                Ok((index, key)) => prop_assert_eq!(subject(index, key), &bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("deadline")),
            }
            match read_number(&bytes) {
                Ok(index) => prop_assert_eq!(number(index), &bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("index")),
            }
        }
    }
}
