// SPDX-License-Identifier: Apache-2.0
//! One value with a version and perhaps a time to live.
//!
//! Behaviour: `contract/value.md`. The version is the revision that last wrote the value, so versions grow, also across
//! deletion. Unlike a map, the same bytes again are a new version and an event.

use std::time::Duration;

use atomix_store::{Ask, Change, Commit, Entry, Guard, Outcome, Range, Read, Txn, Write};
use bytes::Bytes;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::Backing;
use crate::kit::caller::Caller;
use crate::kit::codec::Decoder;
use crate::kit::expiry::{Expiry, is_expiry};
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, SINGLE};
use crate::map::{stored, version_guard, versioned};
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

pub use crate::map::{Stored, Versioned};

/// A value.
#[derive(Debug)]
pub struct Value {
    backing: Backing,
    expiry: Expiry,
}

/// A change of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was unset before.
    Created {
        /// The value after the change.
        value: Versioned,
    },
    /// It was set before.
    Updated {
        /// The value after the change.
        value: Versioned,
        /// The value before the change.
        previous: Versioned,
    },
    /// It is unset now.
    Deleted {
        /// The bytes that it had, with the version of the *deletion*: caches of existing clients drop their copy only
        /// if the event is younger.
        value: Versioned,
        /// Whether its time was over.
        expired: bool,
    },
}

/// The only value is the subject of this name.
const SUBJECT: &[u8] = b"";

// === impl Value ===

impl Value {
    /// Opens the value. Unsets it before it returns if its time is over.
    pub async fn open(backing: Backing) -> Result<Self, Error> {
        let expiry =
            Expiry::open(&backing, |subject| Decoder::new("deadline", subject).end(vec![key()])).await?;
        Ok(Self { backing, expiry })
    }

    /// Returns the value, or [`Reason::ValueNotSet`]. Cancel safe.
    pub async fn get(&self) -> Result<Versioned, Error> {
        Ok(versioned(&self.backing.get(key()).await?.ok_or_else(not_set)?))
    }

    /// Sets the value, for `ttl` or for ever. A call that is dropped before it is ready is applied or not.
    pub async fn set(&self, value: Bytes, ttl: Option<Duration>) -> Result<Stored, Error> {
        Ok(stored(&self.store(None, value, ttl).await?))
    }

    /// Sets the value if it is not set, else [`Reason::KeyExists`]. A call that is dropped before it is ready is
    /// applied or not.
    pub async fn insert(&self, value: Bytes, ttl: Option<Duration>) -> Result<Stored, Error> {
        let outcome = self.store(Some(Guard::Absent { key: key() }), value, ttl).await?;
        if outcome.applied {
            Ok(stored(&outcome))
        } else {
            Err(Error::new(Reason::KeyExists, "value already set"))
        }
    }

    /// Replaces the value if it is set, else [`Reason::ValueNotSet`]. With a `prev_version` above zero only if it has
    /// that version, else [`Reason::VersionMismatch`]. A call that is dropped before it is ready is applied or not.
    pub async fn update(
        &self,
        value: Bytes,
        ttl: Option<Duration>,
        prev_version: u64,
    ) -> Result<Stored, Error> {
        let guard = version_guard(&key(), prev_version).unwrap_or_else(|| Guard::Present { key: key() });
        let outcome = self.store(Some(guard), value, ttl).await?;
        if outcome.applied { Ok(stored(&outcome)) } else { Err(refusal(&outcome, "update", prev_version)) }
    }

    /// Unsets the value and returns what it was, or [`Reason::ValueNotSet`]. With a `prev_version` above zero only if
    /// it has that version, else [`Reason::VersionMismatch`]. A call that is dropped before it is ready is applied or
    /// not.
    pub async fn delete(&self, prev_version: u64) -> Result<Versioned, Error> {
        let (writes, pending_ttl) = self.expiry.writes(Write::Delete { key: key() }, SUBJECT, None);
        let txn = Txn {
            guards: version_guard(&key(), prev_version).into_iter().collect(),
            writes,
            reads: vec![Read::Get { key: key() }],
            ask: Ask::IfRefused,
            once: None,
        };
        let outcome = self.backing.commit(txn).await?;
        if !outcome.applied {
            return Err(refusal(&outcome, "delete", prev_version));
        }
        let deleted = outcome.writes[0].previous().ok_or_else(not_set)?;
        pending_ttl.begin(outcome.revision).await;
        Ok(versioned(deleted))
    }

    /// Follows the changes. The watch is registered when this returns.
    pub async fn events(&self, caller: &Caller) -> Result<Events<Event>, Error> {
        follow::changes(&self.backing, caller, |commit| Ok(event(commit).into_iter().collect())).await
    }

    /// Shows the value if it is set, and then the value of every change, a deleted one as it was last.
    pub async fn watch(&self, caller: &Caller) -> Result<Events<Versioned>, Error> {
        let listed = |entry: &Entry| Ok(Some(versioned(entry)));
        let shown = |change: &Change| Ok(change.current.as_ref().or(change.previous.as_ref()).map(versioned));
        let range = Range::prefix(key());
        follow::listing(&self.backing, caller, range, true, listed, shown).await
    }

    /// Stores `value` with its TTL under `guard`; the one read of a refusal is the entry.
    async fn store(
        &self,
        guard: Option<Guard>,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Outcome, Error> {
        self.backing.check_value(&value)?;
        self.expiry.put(&key(), SUBJECT, value, guard.into_iter().collect(), ttl).await
    }
}

impl Primitive for Value {}

impl TypedPrimitive for Value {
    const KIND: Kind = Kind::Value;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Self::open(backing).await
    }
}

fn key() -> Bytes {
    Key::Single.encode()
}

/// Returns the error of a refused transaction that needs a value, of a version or any.
fn refusal(outcome: &Outcome, action: &str, prev_version: u64) -> Error {
    match outcome.reads[0].entry() {
        Some(entry) => {
            let found = entry.modified.0;
            let message = format!("value index {found} does not match {action} index {prev_version}");
            Error::new(Reason::VersionMismatch, message)
        }
        None => not_set(),
    }
}

fn not_set() -> Error {
    Error::new(Reason::ValueNotSet, "value not set")
}

fn event(commit: &Commit) -> Option<Event> {
    let change = commit.changes.iter().find(|change| change.key == SINGLE)?;
    let (previous, current) =
        (change.previous.as_ref().map(versioned), change.current.as_ref().map(versioned));
    match (previous, current) {
        (None, Some(value)) => Some(Event::Created { value }),
        (Some(previous), Some(value)) => Some(Event::Updated { value, previous }),
        (Some(deleted), None) => {
            let value = Versioned { version: commit.revision.0, ..deleted };
            Some(Event::Deleted { value, expired: is_expiry(commit) })
        }
        (None, None) => None,
    }
}
