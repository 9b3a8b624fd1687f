// SPDX-License-Identifier: Apache-2.0
//! One signed number of 64 bits.
//!
//! Behaviour: `contract/counter.md`. A counter that was never written is zero; arithmetic wraps around.

use atomix_store::{Entry, Guard, Read, Txn, Write, number_bytes};
use bytes::Bytes;

use crate::error::Error;
use crate::kind::Kind;
use crate::kit::backing::{Backing, ROUNDS_MAX};
use crate::kit::keys::Key;
use crate::kit::number::{added, number};
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A counter.
#[derive(Debug)]
pub struct Counter {
    backing: Backing,
}

// === impl Counter ===

impl Counter {
    /// Opens the counter.
    pub fn open(backing: Backing) -> Self {
        Self { backing }
    }

    /// Returns the number. Cancel safe.
    pub async fn get(&self) -> Result<i64, Error> {
        current(self.backing.get(key()).await?.as_ref())
    }

    /// Sets the number and returns it. A call that is dropped before it is ready is applied or not.
    pub async fn set(&self, value: i64) -> Result<i64, Error> {
        let txn = Txn::new().write(Write::Put { key: key(), value: number_bytes(value) });
        self.backing.commit(txn).await?;
        Ok(value)
    }

    /// Sets the number to `update` and returns that if it is `check` now, else [`crate::Reason::ValueMismatch`]. A `check` of
    /// zero is also met by a counter that was never written. A call that is dropped before it is ready is applied or
    /// not.
    pub async fn update(&self, check: i64, update: i64) -> Result<i64, Error> {
        let written = Guard::ValueIs { key: key(), value: number_bytes(check) };
        let mut guard = written.clone();
        for _ in 0..ROUNDS_MAX {
            let txn = Txn::new()
                .guard(guard)
                .write(Write::Put { key: key(), value: number_bytes(update) })
                .read(Read::Get { key: key() })
                .if_refused();
            let outcome = self.backing.commit(txn).await?;
            if outcome.applied {
                return Ok(update);
            }
            let found = outcome.reads[0].entry();
            if current(found)? != check {
                return Err(Error::value_mismatch());
            }
            // Absent is zero as well, but no single guard checks both.
            guard = if found.is_some() { written.clone() } else { Guard::Absent { key: key() } };
        }
        Err(Error::contention())
    }

    /// Adds `delta` and returns the new number.
    ///
    /// With `once`, a name of 1 to 64 bytes, the same request may be sent again: it is applied once, and answered with
    /// the answer of the first, while the store remembers the name. A longer or an empty name is [`crate::Reason::Invalid`].
    /// A call that is dropped before it is ready is applied or not.
    pub async fn increment(&self, delta: i64, once: Option<Bytes>) -> Result<i64, Error> {
        let txn = Txn { writes: vec![Write::Add { key: key(), delta }], once, ..Txn::default() };
        added(&self.backing.commit(txn).await?)
    }

    /// Subtracts `delta` and returns the new number; see [`Counter::increment`].
    pub async fn decrement(&self, delta: i64, once: Option<Bytes>) -> Result<i64, Error> {
        // Wraps for the smallest number only, whose addition and subtraction are the same.
        self.increment(delta.wrapping_neg(), once).await
    }
}

impl Primitive for Counter {}

impl TypedPrimitive for Counter {
    const KIND: Kind = Kind::Counter;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Ok(Self::open(backing))
    }
}

fn key() -> Bytes {
    Key::Single.encode()
}

fn current(entry: Option<&Entry>) -> Result<i64, Error> {
    entry.map_or(Ok(0), number)
}
