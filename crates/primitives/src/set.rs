// SPDX-License-Identifier: Apache-2.0
//! A set of texts, each of which may have a time to live.
//!
//! Behaviour: `contract/set.md`.

use std::time::Duration;

use atomix_store::{Change, Commit, Entry, Guard, Txn, Write, printable};
use bytes::Bytes;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::Backing;
use crate::kit::caller::Caller;
use crate::kit::expiry::{Expiry, entry_keys, is_expiry};
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, KeyKind};
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A set.
#[derive(Debug)]
pub struct Set {
    backing: Backing,
    expiry: Expiry,
}

/// A change of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Event {
    Added { element: String },
    Removed { element: String, expired: bool },
}

// === impl Set ===

impl Set {
    /// Opens the set. Removes what is overdue before it returns.
    pub async fn open(backing: Backing) -> Result<Self, Error> {
        let expiry = Expiry::open(&backing, entry_keys).await?;
        Ok(Self { backing, expiry })
    }

    /// Returns the number of elements. Cancel safe.
    pub async fn size(&self) -> Result<u32, Error> {
        self.backing.count(KeyKind::Entry.range()).await
    }

    /// Returns whether `element` is in the set. Cancel safe.
    pub async fn contains(&self, element: &str) -> Result<bool, Error> {
        self.backing.check_element(element)?;
        Ok(self.backing.get(entry_key(element)).await?.is_some())
    }

    /// Adds an `element` that is new, for `ttl` or for ever, else [`Reason::KeyExists`]; one that is there keeps
    /// its time to live. A call that is dropped before it is ready is applied or not.
    pub async fn add(&self, element: &str, ttl: Option<Duration>) -> Result<(), Error> {
        self.backing.check_element(element)?;
        let at = entry_key(element);
        let guards = vec![Guard::Absent { key: at.clone() }];
        let put = Write::Put { key: at, value: Bytes::new() };
        let (writes, pending_ttl) = self.expiry.writes(put, element.as_bytes(), ttl);
        let outcome = self.backing.commit(Txn { guards, writes, ..Txn::default() }).await?;
        if !outcome.applied {
            let message = format!("element '{}' already exists", printable(element));
            return Err(Error::new(Reason::KeyExists, message));
        }
        pending_ttl.begin(outcome.revision).await;
        Ok(())
    }

    /// Removes `element`, or [`Reason::KeyNotFound`]. A call that is dropped before it is ready is applied or
    /// not.
    pub async fn remove(&self, element: &str) -> Result<(), Error> {
        self.backing.check_element(element)?;
        let delete = Write::Delete { key: entry_key(element) };
        let (writes, pending_ttl) = self.expiry.writes(delete, element.as_bytes(), None);
        let outcome = self.backing.commit(Txn { writes, ..Txn::default() }).await?;
        let absent =
            || Error::new(Reason::KeyNotFound, format!("element '{}' not found", printable(element)));
        outcome.writes[0].previous().ok_or_else(absent)?;
        pending_ttl.begin(outcome.revision).await;
        Ok(())
    }

    /// Removes all elements, in one step.
    pub async fn clear(&self) -> Result<(), Error> {
        self.expiry.clear(&[KeyKind::Entry]).await
    }

    /// Follows the changes. The watch is registered when this returns.
    pub async fn events(&self, caller: &Caller) -> Result<Events<Event>, Error> {
        follow::changes(&self.backing, caller, events).await
    }

    /// Lists all elements; with `watch` goes on with the element of every change, added or removed.
    pub async fn elements(&self, caller: &Caller, watch: bool) -> Result<Events<String>, Error> {
        let listed = |entry: &Entry| element(&entry.key);
        let shown = |change: &Change| element(&change.key);
        follow::listing(&self.backing, caller, KeyKind::Entry.range(), watch, listed, shown).await
    }
}

impl Primitive for Set {}

impl TypedPrimitive for Set {
    const KIND: Kind = Kind::Set;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Self::open(backing).await
    }
}

fn entry_key(element: &str) -> Bytes {
    Key::Entry(element).encode()
}

fn element(key: &Bytes) -> Result<Option<String>, Error> {
    Ok(Key::entry(key)?.map(str::to_owned))
}

fn events(commit: &Commit) -> Result<Vec<Event>, Error> {
    let expired = is_expiry(commit);
    let event = |change: &Change| {
        let Some(element) = element(&change.key)? else { return Ok(None) };
        Ok(Some(if change.current.is_some() {
            Event::Added { element }
        } else {
            Event::Removed { element, expired }
        }))
    };
    commit.changes.iter().filter_map(|change| event(change).transpose()).collect()
}
