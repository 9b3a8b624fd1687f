// SPDX-License-Identifier: Apache-2.0
//! A map from text to sets of text.
//!
//! Behaviour: `contract/multimap.md`. The values of a key are one entry, sorted; so a change of a key shows the whole set
//! before and after it, and a key without values does not exist. A call costs in proportion to the values of its key.

use std::collections::{BTreeMap, BTreeSet};

use atomix_store::{Ask, Change, Commit, Entry, Guard, Read, Txn, Write};
use bytes::Bytes;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::{Backing, ROUNDS_MAX};
use crate::kit::caller::Caller;
use crate::kit::codec::{Decoder, Encoder, LENGTH};
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, KeyKind};
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A multimap.
#[derive(Debug)]
pub struct MultiMap {
    backing: Backing,
}

/// A change of one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The change of one of its values.
    pub change: PairChange,
}

/// A change of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PairChange {
    Added { value: String },
    Removed { value: String },
}

type Values = BTreeSet<String>;

/// Bytes of all values of one key: the set is one entry of the store.
const KEY_BYTES_MAX: usize = 8 * 1024 * 1024;

// === impl MultiMap ===

impl MultiMap {
    /// Opens the multimap.
    pub fn open(backing: Backing) -> Self {
        Self { backing }
    }

    /// Returns the number of keys.
    pub async fn size(&self) -> Result<u32, Error> {
        self.backing.count(KeyKind::Entry.range()).await
    }

    /// Returns the values of `key`; none if it is absent.
    pub async fn get(&self, key: &str) -> Result<Vec<String>, Error> {
        self.backing.check_key(key)?;
        let entry = self.backing.get(entry_key(key)).await?;
        Ok(decode(entry.as_ref())?.into_iter().collect())
    }

    /// Returns whether `key` has `value`.
    pub async fn contains(&self, key: &str, value: &str) -> Result<bool, Error> {
        self.backing.check_key(key)?;
        let entry = self.backing.get(entry_key(key)).await?;
        Ok(decode(entry.as_ref())?.contains(value))
    }

    /// Adds `value` to `key`, or [`Reason::KeyExists`] if it is there.
    pub async fn put(&self, key: &str, value: String) -> Result<(), Error> {
        self.check([(key, std::slice::from_ref(&value))])?;
        self.change(&[key], |_, values| {
            if values.insert(value.clone()) {
                Ok(())
            } else {
                Err(Error::new(Reason::KeyExists, "entry already exists"))
            }
        })
        .await
        .map(drop)
    }

    /// Adds the `values` of `key` that are missing; returns whether there were any.
    pub async fn put_all(&self, key: &str, values: Vec<String>) -> Result<bool, Error> {
        self.put_entries(vec![(key.to_owned(), values)]).await
    }

    /// Adds the pairs that are missing, all in one step; returns whether there were any. A key may be named repeatedly.
    pub async fn put_entries(&self, entries: Vec<(String, Vec<String>)>) -> Result<bool, Error> {
        let entries = self.grouped(entries)?;
        let names: Vec<&str> = entries.keys().map(String::as_str).collect();
        let added = self.change(&names, |at, values| {
            values.extend(entries[names[at]].iter().cloned());
            Ok(())
        });
        Ok(added.await?.iter().any(|(before, after)| before != after))
    }

    /// Gives `key` exactly these `values` and returns those before. Without values the key is removed.
    pub async fn replace(&self, key: &str, values: Vec<String>) -> Result<Vec<String>, Error> {
        self.check([(key, values.as_slice())])?;
        let mut replaced = self
            .change(&[key], |_, current| {
                *current = values.iter().cloned().collect();
                Ok(())
            })
            .await?;
        Ok(replaced.swap_remove(0).0.into_iter().collect())
    }

    /// Removes `value` of `key` and returns what was removed, or [`Reason::KeyNotFound`]. An empty `value`, if
    /// the key has none such, stands for all values: that is how existing Java clients ask for it.
    pub async fn remove(&self, key: &str, value: &str) -> Result<Vec<String>, Error> {
        self.check([(key, &[][..])])?;
        let mut removed = self
            .change(&[key], |_, values| {
                if values.is_empty() {
                    return Err(entry_not_found());
                }
                if !values.remove(value) {
                    if !value.is_empty() {
                        return Err(entry_not_found());
                    }
                    values.clear();
                }
                Ok(())
            })
            .await?;
        let (before, after) = removed.swap_remove(0);
        Ok(before.difference(&after).cloned().collect())
    }

    /// Removes those of `values` that `key` has; returns whether there were any. [`Reason::KeyNotFound`] if there
    /// is no such key.
    pub async fn remove_all(&self, key: &str, values: &[String]) -> Result<bool, Error> {
        self.check([(key, values)])?;
        let removed = self
            .change(&[key], |_, current| {
                if current.is_empty() {
                    return Err(entry_not_found());
                }
                current.retain(|value| !values.contains(value));
                Ok(())
            })
            .await?;
        Ok(removed.iter().any(|(before, after)| before != after))
    }

    /// Removes the pairs that exist, all in one step; returns whether there were any.
    pub async fn remove_entries(&self, entries: Vec<(String, Vec<String>)>) -> Result<bool, Error> {
        let entries = self.grouped(entries)?;
        let names: Vec<&str> = entries.keys().map(String::as_str).collect();
        let removed = self.change(&names, |at, values| {
            values.retain(|value| !entries[names[at]].contains(value));
            Ok(())
        });
        Ok(removed.await?.iter().any(|(before, after)| before != after))
    }

    /// Removes everything, in one step.
    pub async fn clear(&self) -> Result<(), Error> {
        self.backing
            .commit(Txn::new().write(Write::DeleteRange { range: KeyKind::Entry.range() }))
            .await
            .map(drop)
    }

    /// Follows added and removed pairs of all keys, or of the one key `only`. The watch is registered when this returns.
    pub async fn events(&self, caller: &Caller, only: Option<String>) -> Result<Events<Event>, Error> {
        follow::changes(&self.backing, caller, move |commit| events(commit, only.as_deref())).await
    }

    /// Lists all keys with their values; with `watch` goes on with every key that changes and what it has then.
    pub async fn entries(
        &self,
        caller: &Caller,
        watch: bool,
    ) -> Result<Events<(String, Vec<String>)>, Error> {
        let listed = |entry: &Entry| pair(&entry.key, Some(entry));
        let shown = |change: &Change| pair(&change.key, change.current.as_ref());
        follow::listing(&self.backing, caller, KeyKind::Entry.range(), watch, listed, shown).await
    }

    fn check<'a>(&self, entries: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Result<(), Error> {
        let mut count = 0;
        for (key, values) in entries {
            self.backing.check_key(key)?;
            values.iter().try_for_each(|value| self.backing.check_value(value.as_bytes()))?;
            // A key without values costs as much as one value.
            count += values.len().max(1);
        }
        self.backing.check_batch(count)
    }

    fn grouped(&self, entries: Vec<(String, Vec<String>)>) -> Result<BTreeMap<String, Values>, Error> {
        self.check(entries.iter().map(|(key, values)| (key.as_str(), values.as_slice())))?;
        let mut grouped = BTreeMap::<String, Values>::new();
        for (key, values) in entries {
            grouped.entry(key).or_default().extend(values);
        }
        Ok(grouped)
    }

    /// Changes the values of several keys in one commit; returns those before and after, in the order of `names`.
    async fn change(
        &self,
        names: &[&str],
        change: impl Fn(usize, &mut Values) -> Result<(), Error>,
    ) -> Result<Vec<(Values, Values)>, Error> {
        let reads: Vec<Read> = names.iter().map(|name| Read::Get { key: entry_key(name) }).collect();
        let mut found = self.backing.read(reads.clone()).await?.reads;
        for _ in 0..ROUNDS_MAX {
            let mut changed = Vec::with_capacity(names.len());
            let mut txn = Txn { reads: reads.clone(), ask: Ask::IfRefused, ..Txn::default() };
            for (at, found) in found.iter().enumerate() {
                let key = entry_key(names[at]);
                let before = decode(found.entry())?;
                let mut after = before.clone();
                change(at, &mut after)?;
                // Also of a key that stays as it is: the step is right only for what it was read with.
                txn.guards.push(match found.entry() {
                    Some(entry) => Guard::ModifiedAt { key: key.clone(), revision: entry.modified },
                    None => Guard::Absent { key: key.clone() },
                });
                if after != before {
                    txn.writes.push(if after.is_empty() {
                        Write::Delete { key }
                    } else {
                        Write::Put { key, value: encode(&after)? }
                    });
                }
                changed.push((before, after));
            }
            if txn.writes.is_empty() {
                return Ok(changed);
            }
            let outcome = self.backing.commit(txn).await?;
            if outcome.applied {
                return Ok(changed);
            }
            found = outcome.reads;
        }
        Err(Error::contention())
    }
}

impl Primitive for MultiMap {}

impl TypedPrimitive for MultiMap {
    const KIND: Kind = Kind::MultiMap;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Ok(Self::open(backing))
    }
}

fn entry_not_found() -> Error {
    Error::new(Reason::KeyNotFound, "entry not found")
}

fn entry_key(key: &str) -> Bytes {
    Key::Entry(key).encode()
}

/// Each value as its length (4) and its bytes, in order.
fn encode(values: &Values) -> Result<Bytes, Error> {
    let len = values.iter().map(|value| LENGTH + value.len()).sum();
    if len > KEY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "too many values under one key: bytes=`{len}` max=`{KEY_BYTES_MAX}`"
        )));
    }
    let record = Encoder::with_capacity(len);
    Ok(values.iter().fold(record, |record, value| record.part(value.as_bytes())).finish())
}

fn decode(entry: Option<&Entry>) -> Result<Values, Error> {
    let Some(entry) = entry else { return Ok(Values::new()) };
    decode_values(&entry.value)
}

fn decode_values(value: &[u8]) -> Result<Values, Error> {
    let (mut record, mut values) = (Decoder::new("values of a multimap", value), Values::new());
    while !record.is_empty() {
        let value = record.text()?;
        // Each once, in order.
        if values.last().is_some_and(|last| last.as_str() >= value) {
            return Err(record.damaged());
        }
        values.insert(value.to_owned());
    }
    Ok(values)
}

fn pair(key: &Bytes, entry: Option<&Entry>) -> Result<Option<(String, Vec<String>)>, Error> {
    let Some(key) = Key::entry(key)? else { return Ok(None) };
    Ok(Some((key.to_owned(), decode(entry)?.into_iter().collect())))
}

/// First what was added, then what was removed, key by key.
fn events(commit: &Commit, only: Option<&str>) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    for change in &commit.changes {
        let Some(key) = Key::entry(&change.key)? else { continue };
        if only.is_some_and(|only| only != key) {
            continue;
        }
        let before = decode(change.previous.as_ref())?;
        let after = decode(change.current.as_ref())?;
        let added = after.difference(&before).map(|value| PairChange::Added { value: value.clone() });
        let removed = before.difference(&after).map(|value| PairChange::Removed { value: value.clone() });
        events.extend(added.chain(removed).map(|change| Event { key: key.to_owned(), change }));
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kit::codec;

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(values in codec::tests::texts()) {
            let values: Values = values.into_iter().collect();
            prop_assert_eq!(decode_values(&encode(&values)?), Ok(values));
        }

        #[test]
        fn any_bytes_are_values_or_damage(bytes in codec::tests::bytes()) {
            match decode_values(&bytes) {
                Ok(values) => prop_assert_eq!(encode(&values)?, bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("values of a multimap")),
            }
        }
    }
}
