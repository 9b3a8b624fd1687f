// SPDX-License-Identifier: Apache-2.0
//! The store under test.
//!
//! `ATOMIX_TEST_STORE` names it; `memory` if it does not. To run the suite on another store add the driver and its
//! subject of the conformance kit (`tests/…` of the driver's crate) here, in [`subject`], and nowhere else.

#[path = "../../../drivers/disk/tests/disk/mod.rs"]
mod disk;
#[path = "../../../drivers/etcd/tests/cluster/mod.rs"]
mod etcd;
#[path = "../../../drivers/memory/tests/memory/mod.rs"]
mod memory;

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use atomix_kv::{
    Durability, Error, Health, Keyspace, Level, Outcome, Profile, Read, Snapshot, Store, Txn, WatchFrom,
    WatchStream,
};
use atomix_kv_testkit::Subject;
use futures::future::BoxFuture;
use tokio::runtime::Runtime;

/// What a test asks for beyond what every store promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Revisions without gaps.
    Dense,
    /// A call that was polled once has done its work.
    Immediate,
    /// A history whose length the test sets.
    History,
    /// Values of several megabytes.
    Large,
}

/// A store with what must live as long as it.
#[derive(Debug)]
struct Kept {
    store: Arc<dyn Store>,
    profile: Profile,
    /// Whether requests and answers take their time on the way.
    distant: bool,
    _subject: Box<dyn Subject>,
}

/// How often other tasks run before a request, or an answer, has come over a distance.
const DISTANCE: usize = 10;

/// Skips a test that asks for more than the store under test has.
macro_rules! needs {
    ($need:ident) => {
        if let Some(reason) = crate::stores::lacks(crate::stores::Need::$need) {
            println!("skipped: {reason}");
            return;
        }
    };
}

pub(crate) use needs;

/// Returns a store that is empty and shares nothing with others.
pub(crate) fn store() -> Arc<dyn Store> {
    let subject = subject();
    wait_for(|| Box::pin(async move { (subject.open().await, subject) }))
}

/// Returns a store that keeps `commits` commits for those who follow. The test [`needs`] `History`.
pub(crate) fn forgetful_store(commits: usize) -> Arc<dyn Store> {
    let subject = subject();
    wait_for(|| {
        Box::pin(async move {
            let store = subject.open_forgetful(commits).expect("the test says what it needs").await;
            (store, subject)
        })
    })
}

/// Says why the store under test has not got what a test needs. The one list of all reasons.
pub(crate) fn lacks(need: Need) -> Option<&'static str> {
    match need {
        // A revision counts the commits of a keyspace on the hosts of the engine only.
        Need::Dense if profile().shared => Some("revisions of a shared store have gaps"),
        // A future that is polled by hand makes no progress while it is not polled.
        Need::Immediate if !immediate() => {
            Some("the store answers later, and the test polls its calls by hand")
        }
        Need::History if subject().open_forgetful(1).is_none() => {
            Some("the length of this store's history cannot be set")
        }
        Need::Large if profile().limits.value_bytes_max < 16 * 1024 * 1024 => {
            Some("the store takes no values of several megabytes")
        }
        Need::Dense | Need::Immediate | Need::History | Need::Large => None,
    }
}

/// Tells whether calls are answered at once.
pub(crate) fn immediate() -> bool {
    profile().durability == Durability::Process
}

fn name() -> String {
    std::env::var("ATOMIX_TEST_STORE").unwrap_or_else(|_| "memory".to_owned())
}

/// The subject of the store under test.
fn subject() -> Box<dyn Subject> {
    match name().as_str() {
        // `distant` is memory as a remote store shows itself: shared, and every answer takes its time.
        "memory" | "distant" => Box::new(memory::Memory),
        "disk" => Box::new(disk::Disk::default()),
        "etcd" => Box::new(etcd::Shared),
        other => panic!("no such store to test: ATOMIX_TEST_STORE=`{other}`"),
    }
}

fn profile() -> &'static Profile {
    static PROFILE: LazyLock<Profile> = LazyLock::new(|| store().profile().clone());
    &PROFILE
}

/// Connects a store without the runtime of the test, whose only thread may be the one that waits here.
fn wait_for<F>(open: F) -> Arc<dyn Store>
where
    F: FnOnce() -> BoxFuture<'static, (Result<Arc<dyn Store>, Error>, Box<dyn Subject>)>,
{
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let (told, opened) = std::sync::mpsc::channel();
    let opening = open();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).spawn(async move {
        told.send(opening.await).unwrap();
    });
    let (store, subject) = opened.recv().unwrap();
    let store = store.unwrap();
    let mut profile = store.profile().clone();
    let distant = name() == "distant";
    if distant {
        (profile.shared, profile.durability) = (true, Durability::Quorum);
    }
    Arc::new(Kept { store, profile, distant, _subject: subject })
}

// === impl Kept ===

impl Kept {
    /// Lets a request, or an answer, travel.
    async fn travel(&self) {
        for _ in 0..if self.distant { DISTANCE } else { 0 } {
            tokio::task::yield_now().await;
        }
    }
}

impl Store for Kept {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
        level: Level,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            self.travel().await;
            let answer = self.store.read(keyspace, reads, level).await;
            self.travel().await;
            answer
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            self.travel().await;
            let answer = self.store.commit(keyspace, txn).await;
            self.travel().await;
            answer
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(async move {
            self.travel().await;
            self.store.watch(keyspace, from).await
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.store.check()
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.store.close(grace)
    }
}
