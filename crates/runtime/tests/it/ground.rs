// SPDX-License-Identifier: Apache-2.0
//! The common base of all tests: one memory store for several runtimes, each with a time of its own, which can be cut off,
//! stopped and killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_config::{Config, DriverId, JsonObject, LaterRoute, Rule, StoreId};
use atomix_conformance::FixedStoreDriver;
use atomix_driver_memory::{MemoryStore, Settings as MemorySettings};
use atomix_env::{Env, ManualClock, TaskFaults};
use atomix_primitives::{Caller, Kind, MemberDetails, Reason, TypedPrimitive};
use atomix_runtime::{PrimitiveHandle, Routes, Runtime, Session, Settings};
use atomix_store::{
    Consistency, Durability, Error, ErrorKind, Health, Keyspace, Limits, Outcome, Profile, Read,
    Reconfigured, Snapshot, Store, Txn, WatchFrom, WatchStream,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

/// How long a member may be silent.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a test waits for what must come.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A backend and what it promises.
#[derive(Debug, Clone)]
pub(crate) struct World {
    backend: Arc<MemoryStore>,
    profile: Profile,
}

/// A runtime, its way to the backend, and its time.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) clock: Arc<ManualClock>,
    /// Panics of its tasks.
    pub(crate) faults: Arc<TaskFaults>,
    way: Arc<Way>,
}

/// A client of a node.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) session: Arc<Session>,
    pub(crate) runtime: Arc<Runtime>,
}

/// A primitive as a client has it.
#[derive(Debug)]
pub(crate) struct Has<P> {
    pub(crate) open: Arc<PrimitiveHandle>,
    session: Arc<Session>,
    of: std::marker::PhantomData<fn() -> P>,
}

/// A store that leads to the backend unless it is cut.
#[derive(Debug)]
struct Way {
    world: World,
    cut: watch::Sender<bool>,
    full: AtomicBool,
    closed: AtomicBool,
}

// === impl World ===

impl World {
    /// A backend that keeps its content for the next runtime, one at a time.
    pub(crate) fn alone() -> Self {
        Self::new(Durability::Disk, false)
    }

    /// A backend for several runtimes at a time.
    pub(crate) fn shared() -> Self {
        Self::new(Durability::Quorum, true)
    }

    pub(crate) fn new(durability: Durability, shared: bool) -> Self {
        let limits = Limits::default();
        let profile = Profile { consistency: Consistency::Linearizable, durability, shared, limits };
        Self { backend: Arc::new(MemoryStore::new(MemorySettings::default())), profile }
    }

    /// Starts a runtime with one store, `s`, to which everything is routed.
    pub(crate) async fn start(&self) -> Node {
        self.start_with(usize::MAX).await
    }

    /// Starts a runtime as [`World::start`], in which so many primitives may be in use.
    pub(crate) async fn start_with(&self, primitives_max: usize) -> Node {
        let node = self.bare(primitives_max);
        node.connect("s").await;
        node.route(&[("s", &[])]);
        settle().await;
        node
    }

    /// Starts a runtime without stores and routes.
    pub(crate) fn start_bare(&self) -> Node {
        self.bare(usize::MAX)
    }

    fn bare(&self, primitives_max: usize) -> Node {
        let (cut, closed) = (watch::Sender::new(false), AtomicBool::new(false));
        let full = AtomicBool::new(false);
        let way = Arc::new(Way { world: self.clone(), cut, full, closed });
        let clock = ManualClock::new();
        // Chance must differ from runtime to runtime, time must not.
        let faults = Arc::new(TaskFaults::default());
        let env = Env::simulated(Arc::clone(&clock), Env::real().random()).with_faults(Arc::clone(&faults));
        let driver = FixedStoreDriver::new({
            let way = Arc::clone(&way);
            move || {
                way.closed.store(false, Ordering::SeqCst);
                Arc::clone(&way) as _
            }
        });
        let runtime = Runtime::new(Settings {
            close_grace: Duration::from_secs(1),
            session_timeout: TIMEOUT,
            primitives_max,
            ..Settings::new(&Config::default(), env, vec![Arc::new(driver)])
        });
        Node { runtime, clock, faults, way }
    }

    /// Lets the backend keep so many bytes and no more.
    pub(crate) async fn bound(&self, bytes_max: usize) {
        let mut config = JsonObject::new();
        config.insert("bytes-max".to_owned(), bytes_max.into());
        assert_eq!(self.backend.reconfigure(&config).await.unwrap(), Reconfigured::InPlace);
    }

    /// Commits to a keyspace, past all runtimes.
    pub(crate) async fn write(&self, keyspace: &str, txn: Txn) {
        self.backend.commit(&Keyspace::new(keyspace.to_owned()), txn).await.unwrap();
    }

    /// Counts the keyspaces of the backend.
    pub(crate) async fn keyspaces(&self) -> usize {
        let facts = self.backend.check().await.unwrap().facts;
        facts.into_iter().find(|(fact, _)| *fact == "keyspaces").unwrap().1.parse().unwrap()
    }

    /// Counts the entries of a keyspace.
    pub(crate) async fn count(&self, keyspace: &str) -> u64 {
        let count = Read::Count { range: atomix_store::Range::prefix("") };
        let keyspace = Keyspace::new(keyspace.to_owned());
        self.backend.read(&keyspace, vec![count]).await.unwrap().reads[0].count()
    }
}

// === impl Node ===

impl Node {
    /// Connects the backend under a name.
    pub(crate) async fn connect(&self, name: &str) {
        let driver = DriverId { name: "test".to_owned(), version: "v1".to_owned() };
        self.runtime.connect(store(name), driver, JsonObject::new()).await.unwrap();
    }

    /// Sets routes: stores, each with the tags that lead there.
    pub(crate) fn route(&self, routes: &[(&str, &[&str])]) {
        let route = |(name, tags): &(&str, &[&str])| LaterRoute {
            store: store(name),
            rules: vec![Rule {
                primitive_type: None,
                names: Vec::new(),
                tags: tags.iter().map(ToString::to_string).collect(),
                config: JsonObject::new(),
            }],
        };
        self.runtime.program(Routes::Later(routes.iter().map(route).collect())).unwrap();
    }

    /// Returns the members of the store.
    pub(crate) fn members(&self) -> Vec<MemberDetails> {
        self.runtime.stores().remove(0).members
    }

    /// Connects a client.
    pub(crate) fn client(&self) -> Client {
        let session = self.runtime.open_session("test".to_owned(), Box::new(|| {}));
        Client { session, runtime: Arc::clone(&self.runtime) }
    }

    /// Returns the ids of the sessions whose connections are there.
    pub(crate) fn connected(&self) -> Vec<u64> {
        self.runtime.sessions(None, usize::MAX).iter().map(|session| session.id()).collect()
    }

    /// Ends everything at once, as `kill -9` does. Nothing of it reaches the backend.
    pub(crate) fn kill(self) {
        self.cut();
    }

    /// Cuts the way to the backend: the network, or this runtime, stands still.
    pub(crate) fn cut(&self) {
        self.way.cut.send_replace(true);
    }

    /// Lets the backend say that it has no room.
    pub(crate) fn fill(&self) {
        self.way.full.store(true, Ordering::SeqCst);
    }

    /// Mends the way to the backend.
    pub(crate) fn mend(&self) {
        self.way.cut.send_replace(false);
    }
}

/// Lets time go by for some nodes, in steps that are short against all timeouts.
pub(crate) async fn pass(nodes: &[&Node], time: Duration) {
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(TIMEOUT / 20);
        for node in nodes {
            node.clock.advance(step);
        }
        left = left.saturating_sub(step);
        settle().await;
    }
}

// === impl Client ===

impl Client {
    /// Creates a primitive and returns it.
    pub(crate) async fn create<P: TypedPrimitive>(&self, name: &str) -> Has<P> {
        self.runtime.create(&self.session, P::KIND, name, &[]).await.unwrap();
        self.call(name).await.unwrap()
    }

    /// Finds a primitive as a call does.
    pub(crate) async fn call<P: TypedPrimitive>(&self, name: &str) -> Option<Has<P>> {
        let open = self.runtime.find_for(&self.session, P::KIND, name).await.unwrap()?;
        Some(Has { open, session: Arc::clone(&self.session), of: std::marker::PhantomData })
    }

    /// Closes a primitive.
    pub(crate) async fn close(&self, kind: Kind, name: &str) {
        self.runtime.close(&self.session, kind, name).await;
    }

    /// Ends the connection.
    pub(crate) fn end(self) {
        self.runtime.close_session(&self.session);
    }
}

// === impl Has ===

impl<P: TypedPrimitive> Has<P> {
    /// Returns who calls.
    pub(crate) fn caller(&self) -> Caller {
        self.session.caller(&self.open)
    }
}

impl<P> Clone for Has<P> {
    fn clone(&self) -> Self {
        Self { open: Arc::clone(&self.open), session: Arc::clone(&self.session), of: self.of }
    }
}

impl<P: TypedPrimitive> std::ops::Deref for Has<P> {
    type Target = P;

    fn deref(&self) -> &P {
        P::downcast(self.open.primitive()).unwrap()
    }
}

// === impl Way ===

impl Way {
    fn check(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::closed());
        }
        if *self.cut.borrow() {
            return Err(Error::unavailable("cut by the test"));
        }
        Ok(())
    }
}

impl Store for Way {
    fn profile(&self) -> &Profile {
        &self.world.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            self.check()?;
            self.world.backend.read(keyspace, reads).await
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            self.check()?;
            self.world.backend.commit(keyspace, txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(async move {
            self.check()?;
            let items = self.world.backend.watch(keyspace, from).await?;
            let cut = self.cut.subscribe();
            // Events of the meantime come when the connection is restored.
            let passed = items.then(move |item| {
                let mut cut = cut.clone();
                async move {
                    cut.wait_for(|cut| !cut).await.map(drop).ok();
                    item
                }
            });
            Ok(passed.boxed())
        })
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.check()?;
            self.world.backend.reclaim(keyspace).await
        })
    }

    fn seal_if_empty<'a>(
        &'a self,
        counts: &'a (dyn Fn(&Keyspace) -> bool + Send + Sync),
    ) -> BoxFuture<'a, Result<usize, Error>> {
        self.world.backend.seal_if_empty(counts)
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        let room = Way::check(self).and_then(|()| {
            let full = self.full.load(Ordering::SeqCst);
            if full { Err(Error::new(ErrorKind::Full, "filled by the test")) } else { Ok(Health::default()) }
        });
        Box::pin(std::future::ready(room))
    }

    fn close(&self, _grace: Duration) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::SeqCst);
        Box::pin(std::future::ready(()))
    }
}

pub(crate) fn store(name: &str) -> StoreId {
    StoreId { namespace: String::new(), name: name.to_owned() }
}

/// Returns the reason of an error that must have come.
#[track_caller]
pub(crate) fn reason<T: std::fmt::Debug>(result: Result<T, atomix_primitives::Error>) -> Reason {
    result.expect_err("an error was expected").reason()
}

/// Waits for what must come.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(WAIT_TIMEOUT, future).await.expect("it must not take that long")
}

/// Lets all tasks run until they wait.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}
