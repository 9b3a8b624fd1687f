// SPDX-License-Identifier: Apache-2.0
//! A lock with a queue in order of arrival and a fencing token.
//!
//! Behaviour: `contract/lock.md`. The owner is the session of the caller; a lock is not re-entrant.

use futures::future::BoxFuture;
use std::time::Duration;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::Backing;
use crate::kit::caller::Caller;
use crate::kit::lock_table::{Grant, Holding, LockTable, QueueState};
use crate::kit::ownership::Ownership;
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A lock.
#[derive(Debug)]
pub struct Lock {
    table: LockTable,
}

/// A [`Lock`] is the lock of this key.
const KEY: &str = "";

// === impl Lock ===

impl Lock {
    /// Opens the lock. Releases what dead members left before it returns.
    pub async fn open(backing: Backing) -> Result<Self, Error> {
        Ok(Self { table: LockTable::open(backing).await? })
    }

    /// Takes the lock and returns its token, which is greater than all tokens before.
    ///
    /// Waits in the order of arrival: for ever without a `timeout`, not at all with zero, else until the `timeout` is
    /// over, which is [`Reason::LockTimeout`]. [`Reason::Closed`] when the caller closes the primitive or its session
    /// ends; [`Reason::HostLost`] when other members expired this runtime. Cancel safe: a dropped call leaves the queue, and
    /// releases what it was granted.
    pub async fn lock(&self, caller: &Caller, timeout: Option<Duration>) -> Result<u64, Error> {
        Ok(self.grant(caller, timeout).await?.token())
    }

    /// As [`Lock::lock`], with a grant that can be revoked if it does not reach its client.
    pub async fn grant(&self, caller: &Caller, timeout: Option<Duration>) -> Result<Grant, Error> {
        self.table.acquire(caller, &[KEY.to_owned()], timeout).await
    }

    /// Gives the lock back, or [`Reason::LockNotHeld`].
    pub async fn unlock(&self, caller: &Caller) -> Result<(), Error> {
        self.table.release(caller, &[KEY.to_owned()]).await
    }

    /// Returns the token of the holder, of whichever session, or [`Reason::LockFree`].
    pub async fn token(&self) -> Result<u64, Error> {
        let holder = self.queue(1).await?;
        let free = || Error::new(Reason::LockFree, "lock not held");
        Ok(holder.first().ok_or_else(free)?.token)
    }

    /// Returns the holder and the first waiters, at most `max` in all.
    pub async fn queue(&self, max: usize) -> Result<Vec<Holding>, Error> {
        self.table.state(KEY, max).await
    }

    /// Returns the lock table, which holds this one lock.
    pub fn lock_table(&self) -> &LockTable {
        &self.table
    }
}

impl Primitive for Lock {
    fn ownership(&self) -> Option<&dyn Ownership> {
        Some(&self.table)
    }

    fn locks(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueState>, Error>> {
        Box::pin(async move {
            let queue = self.queue(max).await?;
            let lock = QueueState { key: KEY.to_owned(), queue };
            Ok(if lock.queue.is_empty() { Vec::new() } else { vec![lock] })
        })
    }
}

impl TypedPrimitive for Lock {
    const KIND: Kind = Kind::Lock;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Self::open(backing).await
    }
}
