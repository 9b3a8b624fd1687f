// SPDX-License-Identifier: Apache-2.0
//! What all tests stand on: a store, an outside world, callers, and patience.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use atomix_driver_memory::{MemoryStore, Settings};
use atomix_driver_redis::RedisDriver;
use atomix_env::{Env, ManualClock, Shutdown};
use atomix_kv::{
    Context, Driver, ErrorKind, Health, Keyspace, Level, Outcome, Profile, Read, Snapshot, Store,
    StoreConfig, Txn, WatchFrom, WatchStream,
};
use atomix_primitives::{Backing, Caller, Error, Events, Kind, Limits, Owner, Reason};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// A store and the world around it. Every backing of one kind is the same primitive.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) env: Env,
    limits: Arc<Limits>,
}

/// A store whose commits can be made to go wrong.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn Store>,
    refused: AtomicUsize,
    lost: AtomicUsize,
    held: AtomicBool,
    answers: Notify,
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the store under test, empty: in memory, or with `ATOMIX_TEST_STORE=redis` on the Redis at
/// `ATOMIX_TEST_REDIS` (`host:port`).
pub(crate) fn store() -> Arc<dyn Store> {
    forgetful_store(Settings::default().history_commits_max)
}

/// Returns a store that keeps `commits` commits for those who follow.
pub(crate) fn forgetful_store(commits: usize) -> Arc<dyn Store> {
    match std::env::var("ATOMIX_TEST_STORE").as_deref() {
        Ok("redis") => redis(commits),
        _ => Arc::new(MemoryStore::new(Settings { history_commits_max: commits, ..Settings::default() })),
    }
}

/// Connects a store under a prefix of its own. What it needs in the background runs on threads of its own, so that tests may
/// ask for a store without waiting.
fn redis(commits: usize) -> Arc<dyn Store> {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("there are threads"));
    let address = std::env::var("ATOMIX_TEST_REDIS").unwrap_or_else(|_| "127.0.0.1:6379".to_owned());
    let config = StoreConfig::from_iter([
        ("address".to_owned(), address.into()),
        ("key-prefix".to_owned(), format!("test-{:x}:", Env::real().random()).into()),
        ("history-commits-max".to_owned(), commits.into()),
    ]);
    let context = Context { env: Env::real(), store: "test".to_owned() };
    let connect = || RUNTIME.block_on(RedisDriver.connect(config, context));
    std::thread::scope(|scope| scope.spawn(connect).join())
        .expect("it does not panic")
        .expect("redis is there")
}

/// Returns a caller of a session of its own.
pub(crate) fn caller(session: u64) -> Caller {
    Caller { owner: Owner { host: 7, session }, closed: Shutdown::new() }
}

/// Returns the reason of an error that must have come.
#[track_caller]
pub(crate) fn reason<T: fmt::Debug>(result: Result<T, Error>) -> Reason {
    result.expect_err("an error was expected").reason()
}

/// Takes the next `count` items of a stream, which must come soon.
pub(crate) async fn take<T>(events: &mut Events<T>, count: usize) -> Vec<T> {
    let mut items = Vec::with_capacity(count);
    while items.len() < count {
        let item = soon(events.next()).await;
        items.push(item.expect("the stream goes on").expect("the stream has no error"));
    }
    items
}

/// Takes the next item of a stream, which must come soon.
pub(crate) async fn next<T>(events: &mut Events<T>) -> T {
    take(events, 1).await.remove(0)
}

/// Takes all items up to the end of the stream, which must come soon.
pub(crate) async fn all<T>(mut events: Events<T>) -> Vec<T> {
    let mut items = Vec::new();
    while let Some(item) = soon(events.next()).await {
        items.push(item.expect("the stream has no error"));
    }
    items
}

/// Says that a stream is open and has nothing more.
pub(crate) async fn silent<T: fmt::Debug>(events: &mut Events<T>) {
    settle().await;
    let more = tokio::time::timeout(Duration::from_millis(5), events.next()).await;
    if let Ok(more) = more {
        panic!("nothing was expected, but there is {more:?}");
    }
}

/// Waits for what must come.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it must not take that long")
}

/// Asks again and again until the answer is yes.
pub(crate) async fn eventually(mut question: impl AsyncFnMut() -> bool) {
    soon(async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Lets all tasks run until they wait.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

// === impl Ground ===

impl Ground {
    /// Stands on an empty store in real time.
    pub(crate) fn real() -> Self {
        Self::on(store(), Env::real())
    }

    /// Stands on an empty store in a time that the test moves.
    pub(crate) fn manual() -> (Self, Arc<ManualClock>) {
        let clock = ManualClock::new();
        (Self::on(store(), Env::simulated(Arc::clone(&clock), 1)), clock)
    }

    pub(crate) fn on(store: Arc<dyn Store>, env: Env) -> Self {
        Self { store, env, limits: Arc::default() }
    }

    /// Changes the limits of arguments.
    pub(crate) fn limited(self, limits: Limits) -> Self {
        Self { limits: Arc::new(limits), ..self }
    }

    /// Returns the backing of the one primitive of `kind`.
    pub(crate) fn backing(&self, kind: Kind) -> Backing {
        Backing::new(Arc::clone(&self.store), kind, "it", self.env.clone(), Arc::clone(&self.limits))
    }
}

// === impl Faulty ===

impl Faulty {
    /// Makes everything work, until something else is asked for.
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let (refused, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (held, answers) = (AtomicBool::new(false), Notify::new());
        Arc::new(Self { inner, refused, lost, held, answers })
    }

    /// Refuses the next `count` commits as if the store could not be reached.
    pub(crate) fn refuse(&self, count: usize) {
        self.refused.store(count, Ordering::SeqCst);
    }

    /// Applies the next `count` commits and loses the answers.
    pub(crate) fn lose(&self, count: usize) {
        self.lost.store(count, Ordering::SeqCst);
    }

    /// Applies the commits from now on, but holds back their answers.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Answers the commits from now on.
    pub(crate) fn pass(&self) {
        self.held.store(false, Ordering::SeqCst);
    }

    /// Gives the answers that were held back.
    pub(crate) fn answer(&self) {
        self.pass();
        self.answers.notify_waiters();
    }
}

impl Store for Faulty {
    fn profile(&self) -> &Profile {
        self.inner.profile()
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
        level: Level,
    ) -> BoxFuture<'a, Result<Snapshot, atomix_kv::Error>> {
        self.inner.read(keyspace, reads, level)
    }

    fn commit<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        txn: Txn,
    ) -> BoxFuture<'a, Result<Outcome, atomix_kv::Error>> {
        let due = |count: &AtomicUsize| {
            count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
        };
        Box::pin(async move {
            if due(&self.refused) {
                return Err(atomix_kv::Error::new(ErrorKind::Unavailable, "refused by the test"));
            }
            let outcome = self.inner.commit(keyspace, txn).await;
            if due(&self.lost) {
                return Err(atomix_kv::Error::new(ErrorKind::OutcomeUnknown, "lost by the test"));
            }
            if self.held.load(Ordering::SeqCst) {
                self.answers.notified().await;
            }
            outcome
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, atomix_kv::Error>> {
        self.inner.watch(keyspace, from)
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, atomix_kv::Error>> {
        self.inner.check()
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.inner.close(grace)
    }
}
