// SPDX-License-Identifier: Apache-2.0
//! Ownership of sessions in a primitive: locks or candidacies.
use futures::future::BoxFuture;

use crate::error::Error;
use crate::kit::caller::Owner;

/// The owners in one primitive: sessions of this member and of others.
pub trait Ownership: Send + Sync {
    /// Releases all that `owner` owns or waits for. Does not return before the store has confirmed it or was closed; goes
    /// on if the future is dropped.
    fn release_all(&self, owner: Owner) -> BoxFuture<'_, ()>;

    /// Deletes what `owner`, a session that has ended, owns, as an operator requested. Returns how much it was.
    fn remove_owner(&self, owner: Owner) -> BoxFuture<'_, Result<usize, Error>>;

    /// Releases what dead members left. Repeating it does no harm.
    fn release_dead_owners(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Counts the other runtimes that are alive and whose sessions own something.
    fn elsewhere(&self) -> BoxFuture<'_, Result<usize, Error>>;

    /// Returns the owners in this runtime that were granted a lock, some more than once.
    fn holders(&self) -> Vec<Owner> {
        Vec::new()
    }

    /// Returns how many calls of this runtime wait.
    fn waiters(&self) -> usize {
        0
    }

    /// Returns how many entries of this runtime were found that belonged to no call and no session, and were deleted.
    fn orphans_swept(&self) -> u64 {
        0
    }
}
