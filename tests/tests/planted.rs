// SPDX-License-Identifier: Apache-2.0
//! Checks the checker: two runtimes share a store with a planted bug, clients use them, and each bug is found.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "servers in real time")]

use std::sync::Arc;
use std::time::Duration;

use atomix_chaos::record::{self, Kind, Options, Summary, Violations};
use atomix_config::{Config, DriverId, JsonObject, LaterRoute, Listen, StoreId};
use atomix_conformance::FixedStoreDriver;
use atomix_conformance::planted::{Bug, Planted};
use atomix_driver_memory::{MemoryStore, Settings as MemorySettings};
use atomix_env::{Env, Shutdown};
use atomix_runtime::{Routes, Runtime};
use atomix_store::{
    Consistency, Durability, Error, Health, Keyspace, Outcome, Profile, Read, Snapshot, Store, Txn,
    WatchFrom, WatchStream,
};
use futures::future::BoxFuture;
use tokio::task::JoinHandle;

/// A store that several runtimes share, some way from them.
#[derive(Debug)]
struct Distant {
    store: Arc<dyn Store>,
    profile: Profile,
}

/// A runtime that serves.
struct Served {
    endpoint: String,
    shutdown: Shutdown,
    server: JoinHandle<()>,
}

/// How often other tasks run while a request, or an answer, is on its way.
const DISTANCE: usize = 10;
/// How often a bug may escape.
const ROUNDS: u64 = 8;

/// Every bug, where it is planted, and what is used.
const MUTANTS: &[(Bug, &str, Kind)] = &[
    (Bug::OldRead, "map/", Kind::Map),
    (Bug::OldRead, "value/", Kind::Value),
    (Bug::OldRead, "counter/", Kind::Counter),
    (Bug::OldRead, "lock/", Kind::Lock),
    (Bug::OldRead, "election/", Kind::Election),
    (Bug::StaleRead, "set/", Kind::Set),
    (Bug::ForgottenAbsent, "map/", Kind::Map),
    (Bug::ForgottenVersion, "map/", Kind::Map),
    (Bug::ForgottenVersion, "value/", Kind::Value),
    (Bug::ForgottenRecord, "election/", Kind::Election),
    (Bug::ForgottenVersion, "list/", Kind::List),
    (Bug::ForgottenValue, "counter/", Kind::Counter),
    (Bug::ForgottenValue, "indexedmap/", Kind::IndexedMap),
    (Bug::LostWrite, "map/", Kind::Map),
    (Bug::LostWrite, "counter/", Kind::Counter),
    (Bug::LostWrite, "election/", Kind::Election),
    (Bug::RepeatedWrite, "counter/", Kind::Counter),
    (Bug::RepeatedWrite, "countermap/", Kind::CounterMap),
    (Bug::RepeatedWrite, "topic/", Kind::Topic),
    (Bug::TornWrite, "map/", Kind::Map),
    (Bug::RangeTooShort, "map/", Kind::Map),
    (Bug::LostPrevious, "map/", Kind::Map),
    (Bug::ReusedToken, "lock/", Kind::Lock),
    (Bug::SelfGranted, "lock/", Kind::Lock),
    (Bug::SelfGranted, "map/", Kind::KeyLock),
    (Bug::StolenOwner, "map/", Kind::KeyLock),
    (Bug::LostWakeup, "lock/", Kind::Lock),
    (Bug::LostDelete, "lock/", Kind::Lock),
    (Bug::LostDelete, "set/", Kind::Set),
    (Bug::WatchGap, "map/", Kind::Map),
    (Bug::WatchGap, "topic/", Kind::Topic),
    (Bug::WatchGap, "multimap/", Kind::MultiMap),
    (Bug::DuplicateEvent, "map/", Kind::Map),
    (Bug::DuplicateEvent, "list/", Kind::List),
    (Bug::SwappedEvents, "map/", Kind::Map),
    (Bug::SwappedEvents, "topic/", Kind::Topic),
    (Bug::WatchWithoutPrevious, "map/", Kind::Map),
    (Bug::WrongKey, "map/", Kind::Map),
    (Bug::WrongValue, "value/", Kind::Value),
    (Bug::LateWatch, "map/", Kind::Map),
    (Bug::TornEvent, "map/", Kind::Map),
    (Bug::EarlyTtl, "map/", Kind::Map),
    (Bug::LateTtl, "map/", Kind::Map),
    (Bug::NoTtl, "map/", Kind::Map),
];

/// A store without content that promises what one for several runtimes does.
fn shared() -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(MemorySettings::default()));
    let profile = Profile {
        consistency: Consistency::Linearizable,
        durability: Durability::Quorum,
        shared: true,
        limits: store.profile().limits.clone(),
    };
    Arc::new(Distant { store, profile })
}

async fn serve(store: Arc<dyn Store>) -> Served {
    let anywhere = || vec![Listen::tcp("127.0.0.1", 0)];
    let config = Config { listen: anywhere(), control: anywhere(), ..Config::default() };
    let driver = FixedStoreDriver::new(move || Arc::clone(&store));
    let settings = atomix_runtime::Settings::new(&config, Env::real(), vec![Arc::new(driver)]);
    let runtime = Runtime::new(settings);
    let store = StoreId { namespace: String::new(), name: "s".to_owned() };
    let driver = DriverId { name: "test".to_owned(), version: "v1".to_owned() };
    runtime.connect(store.clone(), driver, JsonObject::new()).await.unwrap();
    runtime.program(Routes::Later(vec![LaterRoute { store, rules: Vec::new() }])).unwrap();
    let settings =
        atomix_grpc::Settings { grace: Duration::ZERO, ..atomix_grpc::Settings::new(&config, None) };
    let bound = atomix_grpc::Server::new(runtime, settings).bind().await.unwrap();
    let endpoint = format!("http://{}", bound.listen()[0]);
    let shutdown = Shutdown::new();
    let server = tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            bound.run(shutdown).await;
        }
    });
    Served { endpoint, shutdown, server }
}

/// Records two runtimes on a store, which each sees through a wrapper of its own, and judges.
async fn judge(
    wrap: impl Fn(Arc<dyn Store>) -> Arc<dyn Store>,
    seed: u64,
    duration: Duration,
    options: &Options,
) -> Result<Summary, Violations> {
    let store = shared();
    let (one, two) = (serve(wrap(Arc::clone(&store))).await, serve(wrap(store)).await);
    let endpoints = [one.endpoint.clone(), two.endpoint.clone()];
    let recording = record::run(&endpoints, seed, duration, options).await;
    for served in [one, two] {
        served.shutdown.cancel();
        served.server.await.unwrap();
    }
    recording.judge()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_bug_nothing_is_found() {
    let seed = Env::real().random();
    match judge(|store| store, seed, Duration::from_secs(4), &Options::default()).await {
        Ok(summary) => println!("{summary}"),
        Err(violations) => panic!("{violations}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_planted_bug_is_found() {
    let seed = Env::real().random();
    println!("seed {seed}");
    let mut escaped = Vec::new();
    let only = std::env::var("ATOMIX_MUTANT").unwrap_or_default();
    let chosen = |mutant: &&(Bug, &str, Kind)| format!("{:?}", mutant.0).contains(&only);
    for (bug, within, kind) in MUTANTS.iter().filter(chosen) {
        // A late expiry shows later than anything else. Few calls in that time are enough, and soon judged.
        let late = matches!(bug, Bug::LateTtl | Bug::NoTtl);
        let (first, pause) = if late { (9_000, 200) } else { (400, 3) };
        let pause = Duration::from_millis(pause);
        let options = Options { kinds: vec![*kind], pause, ..Options::default() };
        let plant = |store| -> Arc<dyn Store> { Arc::new(Planted::new(store, *bug).within(*within)) };
        let mut calls = 0;
        let mut found = None;
        for round in 0..ROUNDS {
            let duration = Duration::from_millis(first + 600 * round);
            match judge(plant, seed.wrapping_add(round), duration, &options).await {
                Ok(summary) => calls += summary.done,
                Err(violations) => {
                    calls += violations.summary.done;
                    found = violations.all.into_iter().find(|violation| !violation.unknown);
                    if found.is_some() {
                        break;
                    }
                }
            }
        }
        let mutant = format!("{bug:?} in {within}");
        match found {
            Some(found) => {
                let why = found.why.lines().next().unwrap_or_default().to_owned();
                println!("{mutant:32} found in {:20} after {calls:5} calls: {why:.90}", found.object);
            }
            None => escaped.push(format!("{mutant} after {calls} calls")),
        }
    }
    assert!(escaped.is_empty(), "not found: {escaped:#?}");
}

// === impl Distant ===

async fn travel() {
    for _ in 0..DISTANCE {
        tokio::task::yield_now().await;
    }
}

impl Store for Distant {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            travel().await;
            let answer = self.store.read(keyspace, reads).await;
            travel().await;
            answer
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            travel().await;
            let answer = self.store.commit(keyspace, txn).await;
            travel().await;
            answer
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        self.store.watch(keyspace, from)
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.store.check()
    }

    fn close(&self, _grace: Duration) -> BoxFuture<'_, ()> {
        // The other runtime has it still.
        Box::pin(async {})
    }
}
