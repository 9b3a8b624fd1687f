// SPDX-License-Identifier: Apache-2.0
//! The store under test.
//!
//! `ATOMIX_TEST_STORE` names it; `memory` if it does not. To run the suite on another store add the driver and its
//! subject of the conformance kit (`tests/…` of the driver's crate) here, in [`subject`], and nowhere else.

#[path = "../../../drivers/disk/tests/disk/mod.rs"]
mod disk;
#[path = "../../../drivers/memory/tests/memory/mod.rs"]
mod memory;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

use atomix_conformance::Subject;
use atomix_driver_etcd::EtcdDriver;
use atomix_driver_redis::RedisDriver;
use atomix_env::Env;
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use atomix_store::{
    Context, Driver, Durability, Error, Health, Keyspace, Outcome, Profile, Read, Snapshot, Store, Txn,
    WatchFrom, WatchStream,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// The requirements of a test beyond those that every store fulfils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Revisions without gaps.
    Dense,
    /// A call that was polled once has done its work.
    Immediate,
    /// A history whose length the test sets.
    History,
    /// Values as large as all values that a multimap may have under one key.
    LargeValues,
}

/// A store with what must live as long as it.
#[derive(Debug)]
struct Kept {
    store: Arc<dyn Store>,
    profile: Profile,
    /// Whether requests and answers take their time on the way.
    distant: bool,
    _subject: Arc<dyn Subject>,
}

/// Stores on one server, each under a prefix of its own.
#[derive(Debug, Default)]
struct Served {
    server: OnceCell<Server>,
    stores: AtomicU64,
}

#[derive(Debug)]
enum Server {
    Etcd(Etcd),
    Redis(Redis),
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

/// Returns the reason why the store under test lacks what a test needs. The one list of all reasons.
pub(crate) fn lacks(need: Need) -> Option<&'static str> {
    match need {
        // A revision counts the commits of a keyspace on the embedded stores only.
        Need::Dense if profile().shared => Some("revisions of a shared store have gaps"),
        // A future that is polled by hand makes no progress while it is not polled.
        Need::Immediate if !immediate() => {
            Some("the store answers later, and the test polls its calls by hand")
        }
        Need::History if subject().open_forgetful(1).is_none() => {
            Some("the length of this store's history cannot be set")
        }
        Need::LargeValues if profile().limits.value_bytes_max < 9 << 20 => {
            Some("the store itself refuses values of this size before the primitive does")
        }
        Need::Dense | Need::Immediate | Need::History | Need::LargeValues => None,
    }
}

/// Returns whether calls are answered at once.
pub(crate) fn immediate() -> bool {
    profile().durability == Durability::Process
}

fn name() -> String {
    std::env::var("ATOMIX_TEST_STORE").unwrap_or_else(|_| "memory".to_owned())
}

/// The subject of the store under test.
fn subject() -> Arc<dyn Subject> {
    match name().as_str() {
        // `distant` is memory as a remote store shows itself: shared, and every answer takes its time.
        "memory" | "distant" => Arc::new(memory::Memory),
        "disk" => Arc::new(disk::Disk::default()),
        "etcd" | "redis" => Served::shared(),
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
    F: FnOnce() -> BoxFuture<'static, (Result<Arc<dyn Store>, Error>, Arc<dyn Subject>)>,
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

// === impl Served ===

impl Served {
    /// Returns the server of all tests that run now. The last of them stops it.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Served>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::default();
            *shared = Arc::downgrade(&server);
            server
        })
    }

    async fn start() -> Server {
        match name().as_str() {
            "etcd" => Server::Etcd(Etcd::start(&[]).await),
            _ => Server::Redis(Redis::start(&[]).await),
        }
    }

    async fn connect(&self, more: &[(&str, Value)]) -> Result<Arc<dyn Store>, Error> {
        let number = self.stores.fetch_add(1, Ordering::Relaxed);
        let context = Context { env: Env::real(), store: "it".to_owned() };
        let (driver, config): (Box<dyn Driver>, _) = match self.server.get_or_init(Self::start).await {
            Server::Etcd(etcd) => (
                Box::new(EtcdDriver),
                json!({"endpoints": [etcd.endpoint()], "prefix": format!("it/{number}/")}),
            ),
            Server::Redis(redis) => (
                Box::new(RedisDriver),
                json!({"address": redis.address(), "key-prefix": format!("it{number}:")}),
            ),
        };
        let mut config = config.as_object().cloned().unwrap();
        config.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        driver.connect(config, context).await
    }
}

impl Subject for Served {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(self.connect(&[]))
    }

    fn open_forgetful(&self, commits: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        let short = async move { self.connect(&[("history-commits-max", json!(commits))]).await };
        (name() == "redis").then(|| Box::pin(short) as _)
    }
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
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            self.travel().await;
            let answer = self.store.read(keyspace, reads).await;
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

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        self.store.reclaim(keyspace)
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.store.check()
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.store.close(grace)
    }
}
