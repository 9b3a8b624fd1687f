// SPDX-License-Identifier: Apache-2.0
//! A memory store that fails as a test requests.

use std::sync::Arc;
use std::time::Duration;

use atomix_conformance::FixedStoreDriver;
use atomix_driver_memory::{MemoryStore, Settings};
use atomix_store::{
    BackupStream, Consistency, Durability, Error, ErrorKind, Guard, Health, Keyspace, Limits, Outcome,
    Profile, Range, Read, Snapshot, Store, Txn, WatchFrom, WatchStream, Write,
};
use bytes::Bytes;
use futures::future::{BoxFuture, pending, ready};
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;

/// A store whose profile is that of a remote one.
#[derive(Debug)]
pub(crate) struct StubStore {
    backend: MemoryStore,
    profile: Profile,
    mode: Mutex<Mode>,
}

/// The treatment of reads and commits.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Work,
    Fail(ErrorKind),
    /// The guards of no commit hold.
    Conflict,
    /// No answer comes.
    Hang,
}

// === impl StubStore ===

impl Default for StubStore {
    fn default() -> Self {
        let profile = Profile {
            consistency: Consistency::Linearizable,
            durability: Durability::Quorum,
            shared: true,
            limits: Limits::default(),
        };
        Self { backend: MemoryStore::new(Settings::default()), profile, mode: Mutex::new(Mode::Work) }
    }
}

impl StubStore {
    /// Makes a driver of this store alone.
    pub(crate) fn driver(self: &Arc<Self>) -> Arc<FixedStoreDriver> {
        let store = Arc::clone(self);
        Arc::new(FixedStoreDriver::new(move || Arc::clone(&store) as _))
    }

    /// Fails all reads and commits from now on.
    pub(crate) fn fail(&self, kind: ErrorKind) {
        *self.mode.lock() = Mode::Fail(kind);
    }

    /// Lets every commit find that its guards do not hold.
    pub(crate) fn conflict(&self) {
        *self.mode.lock() = Mode::Conflict;
    }

    /// Answers no call from now on.
    pub(crate) fn hang(&self) {
        *self.mode.lock() = Mode::Hang;
    }

    /// Deletes all content of a keyspace, as another member does.
    pub(crate) async fn erase(&self, keyspace: &str) {
        let keyspace = Keyspace::new(keyspace.to_owned());
        let txn = Txn::new().write(Write::DeleteRange { range: Range::prefix("") });
        assert!(self.backend.commit(&keyspace, txn).await.unwrap().applied);
    }

    /// Returns whether commits have to conflict.
    async fn conflicts(&self) -> Result<bool, Error> {
        let mode = *self.mode.lock();
        match mode {
            Mode::Work => Ok(false),
            Mode::Conflict => Ok(true),
            Mode::Fail(kind) => Err(Error::new(kind, "requested by the test")),
            Mode::Hang => pending().await,
        }
    }
}

impl Store for StubStore {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            self.conflicts().await?;
            self.backend.read(keyspace, reads).await
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            let absent = Guard::Present { key: Bytes::from_static(b"never there") };
            let txn = if self.conflicts().await? { txn.guard(absent) } else { txn };
            self.backend.commit(keyspace, txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        self.backend.watch(keyspace, from)
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.backend.check()
    }

    fn backup(&self) -> BoxFuture<'_, Result<BackupStream, Error>> {
        let pieces = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        Box::pin(ready(Ok(stream::iter(pieces.map(Ok)).boxed())))
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.backend.close(grace)
    }
}
