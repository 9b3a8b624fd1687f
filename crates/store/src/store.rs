// SPDX-License-Identifier: Apache-2.0
//! The trait that a driver implements.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::JsonObject;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, ready};
use futures::stream::BoxStream;

use crate::error::Error;
use crate::model::{Change, Commit, Keyspace, Outcome, Range, Read, Revision, Snapshot, Txn};
use crate::profile::Profile;

/// A connected backend that keeps keyspaces.
///
/// Every method may be called from many tasks at once. A future that is dropped before it is ready may or may not
/// have taken effect on the store; it never takes effect by half.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Returns the guarantees of the store.
    fn profile(&self) -> &Profile;

    /// Answers `reads`, all of one moment.
    ///
    /// # Behaviour
    /// - absent keyspace: like an empty one, at a revision before its first commit, mostly zero; it is not created.
    /// - fresh: reflects every commit that was answered before the call.
    /// - broken limit: [`crate::ErrorKind::Invalid`].
    /// - cancelled: nothing happened.
    fn read<'a>(&'a self, keyspace: &'a Keyspace, reads: Vec<Read>)
    -> BoxFuture<'a, Result<Snapshot, Error>>;

    /// Applies `txn` if its guards hold, and answers its reads, in one atomic step.
    ///
    /// # Behaviour
    /// - guard does not hold: `applied` is false, nothing changed, the reads show the untouched state.
    /// - repeated with the same [`Txn::once`]: the outcome of the first, nothing changes again.
    /// - an [`crate::Write::Add`] to a value that is no number, a broken limit, a key written twice:
    ///   [`crate::ErrorKind::Invalid`], nothing changed.
    /// - no space: [`crate::ErrorKind::Full`] unless the transaction only deletes. Stores in this process
    ///   also apply transactions that make the keyspace smaller.
    /// - the answer was lost: [`crate::ErrorKind::OutcomeUnknown`], never `Unavailable`.
    /// - cancelled: applied as a whole or not at all, which one is not known.
    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>>;

    /// Follows the commits of a keyspace.
    ///
    /// # Behaviour
    /// - the stream delivers every commit after the beginning, once, in order, whole; see [`WatchFrom`].
    /// - it never skips: when commits cannot be delivered any more it ends with
    ///   [`crate::ErrorKind::Compacted`]; when the store is closed with [`crate::ErrorKind::Closed`].
    /// - beginning before the history that is kept: [`crate::ErrorKind::Compacted`].
    /// - beginning after a revision that the store does not have: [`crate::ErrorKind::Compacted`] with the latest. What had
    ///   that revision is lost, and other commits will take its number.
    /// - dropped: the store forgets it.
    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>>;

    /// Follows a part of a keyspace: as [`Store::watch`], but of the commits only the changes in `range` are
    /// shown, and no commit without any. Commits of one moment may be shown as one, with the revision of the
    /// last. For followers of a small part of the changes: a store that can filters on its side.
    ///
    /// # Behaviour
    /// - a range that has no keys: [`crate::ErrorKind::Invalid`].
    fn watch_range<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        range: Range,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(async move {
            if range.is_empty() {
                return Err(Error::invalid("a watch of a range without keys"));
            }
            let watch = self.watch(keyspace, from).await?;
            Ok(watch.filter_map(move |item| ready(filter_to_range(&range, item))).boxed())
        })
    }

    /// Gives back what `keyspace` costs the store although it holds no entry. Callers use it for keyspaces that they do not need
    /// any more; whether it is used later does not matter.
    ///
    /// # Behaviour
    /// - an entry, a remembered request ([`Txn::once`]) or a watch: nothing happens. A remote store may not know of a watch
    ///   whose connection is interrupted at this moment; that watch ends with [`crate::ErrorKind::Compacted`].
    /// - used again: revisions continue beyond all that the keyspace has had.
    /// - a watch that begins later after a revision that was given back: [`crate::ErrorKind::Compacted`], unless there were
    ///   no commits after it.
    /// - cancelled: happens as a whole or not at all.
    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        let _ = keyspace;
        Box::pin(ready(Ok(())))
    }

    /// Asks the backend whether it works, with a real round trip.
    fn check(&self) -> BoxFuture<'_, Result<Health, Error>>;

    /// Applies a new configuration to the living store if it can.
    ///
    /// # Behaviour
    /// - [`Reconfigured::InPlace`]: all of it is in force, nothing was interrupted.
    /// - [`Reconfigured::Connect`]: nothing changed; the caller connects a new store and swaps.
    /// - bad configuration, or one that changes the location of the data: [`crate::ErrorKind::Config`], nothing changed.
    fn reconfigure<'a>(&'a self, config: &'a JsonObject) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        let _ = config;
        Box::pin(std::future::ready(Ok(Reconfigured::Connect)))
    }

    /// Copies the content of the store into one file, streamed in pieces, from which the driver can make a store
    /// again. Calls continue meanwhile.
    ///
    /// # Behaviour
    /// - commits answered before the call are in it; of those answered during the call a prefix, without gaps.
    /// - the stream ends without an error only when the file is complete.
    /// - a driver that cannot: [`crate::ErrorKind::Unsupported`].
    /// - dropped: the copy ends.
    fn backup(&self) -> BoxFuture<'_, Result<BackupStream, Error>> {
        let error = Error::new(
            crate::error::ErrorKind::Unsupported,
            "stores of this driver are backed up by their own means",
        );
        Box::pin(std::future::ready(Err(error)))
    }

    /// Refuses all later commits, if no keyspace that `counts` chooses holds an entry. For stores whose content
    /// ends with them: a check before such a store is closed stays true until it is.
    ///
    /// # Behaviour
    /// - returns how many of those keyspaces hold entries; with zero the store is sealed, else nothing has changed.
    /// - a commit meets the seal as a whole: it is counted, or refused with [`crate::ErrorKind::Unavailable`].
    /// - sealed already: the same again.
    /// - a driver whose content outlives its stores: [`crate::ErrorKind::Unsupported`].
    fn seal_if_empty<'a>(
        &'a self,
        _counts: &'a (dyn Fn(&Keyspace) -> bool + Send + Sync),
    ) -> BoxFuture<'a, Result<usize, Error>> {
        let message = "stores of this driver keep their content when they are closed";
        Box::pin(std::future::ready(Err(Error::new(crate::error::ErrorKind::Unsupported, message))))
    }

    /// Ends the store: calls that run may finish within `grace`, watches end with
    /// [`crate::ErrorKind::Closed`], later calls are refused with it. Repeating it does nothing.
    fn close(&self, grace: Duration) -> BoxFuture<'_, ()>;
}

/// Returns the changes of a commit that are in `range`.
fn filter_to_range(range: &Range, item: Result<WatchItem, Error>) -> Option<Result<WatchItem, Error>> {
    let Ok(WatchItem::Commit(commit)) = &item else { return Some(item) };
    let inside = |change: &&Change| range.contains(&change.key);
    let changes: Vec<Change> = commit.changes.iter().filter(inside).cloned().collect();
    if changes.is_empty() {
        return None;
    }
    Some(Ok(WatchItem::Commit(Arc::new(Commit { revision: commit.revision, changes }))))
}

/// The start of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFrom {
    /// At the latest revision, which the first item, a [`WatchItem::Progress`], carries.
    Now,
    /// After this revision: the first commit that can come is the next one.
    After(Revision),
}

/// An item of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes of one commit.
    Commit(Arc<Commit>),
    /// Every commit up to this revision has been delivered.
    Progress(Revision),
}

/// The items of a watch. Ends after the first error.
pub type WatchStream = BoxStream<'static, Result<WatchItem, Error>>;

/// The pieces of a backup. Ends after the first error.
pub type BackupStream = BoxStream<'static, Result<Bytes, Error>>;

/// The answer of a store to a health check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Facts for an operator, such as `("entries", "12")`.
    pub facts: Vec<(&'static str, String)>,
}

/// The result of applying a new configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconfigured {
    /// It is in force.
    InPlace,
    /// It needs a new connection.
    Connect,
}
