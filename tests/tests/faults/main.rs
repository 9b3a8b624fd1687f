// SPDX-License-Identifier: Apache-2.0
//! Faults of a store under load: servers are killed and paused, links cut, slowed or stalled in one direction. Calls end within
//! their deadline, answered writes are there, nothing is there twice, the other store of the runtime is not affected, and
//! everything works again after the repair.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "servers are awaited in real time, and results are printed"
)]

mod callers;

use std::time::{Duration, Instant};

use atomix_chaos::Server;
use atomix_chaos::faults::deployment::{Backend, Deployment, HEALTHY_TAG, Kind};
use atomix_chaos::faults::fault::{Fault, NetworkFault};
use atomix_chaos::faults::{fencing, network::Network, seed};
use atomix_client::{Client, Kind as Failure};
use atomix_conformance::Dice;
use atomix_servers::proxy::Half;

use callers::{CALL, Callers, Totals};

/// The delay that the machine may add to a promised time.
const SLACK: Duration = Duration::from_secs(3);
/// Longer than any store takes to come back.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The delay that a busy machine may add to a call; a call that waits for the faulty store takes longer.
const SCHEDULING_DELAY: Duration = Duration::from_millis(700);
/// The bytes by which a runtime may grow.
const GROWTH: u64 = 48 << 20;

/// Callers on one runtime of a stand.
struct Trial {
    deployment: Deployment,
    runtime: usize,
    callers: Callers,
    resident: u64,
    /// How many calls a second the other store answered before and during each fault.
    rates_before: Vec<f64>,
    rates_during: Vec<f64>,
}

impl Trial {
    async fn begin(deployment: Deployment, runtime: usize) -> Self {
        let client = deployment.runtimes[runtime].direct_client(CALL);
        let began = Instant::now();
        while let Err(error) = client.counter("first").open().await {
            assert_eq!(error.kind(), Failure::Unavailable, "{error}");
            assert!(began.elapsed() < WAIT_TIMEOUT, "{error}");
        }
        let callers = Callers::start(&deployment.runtimes[runtime]).await;
        callers.healthy(Duration::from_millis(500)).await;
        let resident = deployment.runtimes[runtime].server().resident();
        Self { deployment, runtime, callers, resident, rates_before: Vec::new(), rates_during: Vec::new() }
    }

    /// Injects a fault for a while and watches the callers.
    async fn inject(&mut self, fault: Fault, time: Duration) {
        let before = self.callers.healthy(Duration::from_millis(300)).await;
        let answered = self.callers.answered();
        fault.inject(&mut self.deployment).await;
        let during = self.callers.healthy(time).await;
        if fault.leaves_majority(self.deployment.ports().len()) {
            self.callers.answer(WAIT_TIMEOUT).await;
        }
        let answered = self.callers.answered() - answered;
        fault.repair(&mut self.deployment).await;
        let back = self.callers.answer(WAIT_TIMEOUT).await;
        println!(
            "{fault}, {time:?}: {answered} answers meanwhile, the next one {back:?} after; the other store: \
             {:.0}/s p50 {:?} p99 {:?} before, {:.0}/s p50 {:?} p99 {:?} meanwhile",
            before.per_second, before.median, before.p99, during.per_second, during.median, during.p99
        );
        assert!(during.median < 4 * before.median + SCHEDULING_DELAY, "{fault}: the other store is affected");
        self.rates_before.push(before.per_second);
        self.rates_during.push(during.per_second);
        // All of them have answers again, before something else happens.
        for _ in 0..32 {
            self.callers.answer(WAIT_TIMEOUT).await;
        }
    }

    async fn end(self) {
        let resident = self.deployment.runtimes[self.runtime].server().resident();
        let sums = self.callers.judge().await;
        let Totals { done, refused, unknown, named, longest, errors } = sums;
        println!(
            "{done} done, {refused} refused, {unknown} unknown, {named} named and applied once, longest call \
             {longest:?}, resident {} KiB, then {} KiB, errors {errors:#?}",
            self.resident / 1024,
            resident / 1024
        );
        assert!(refused + unknown > 0 && done > 100, "some calls failed, and some were answered");
        let [rates_before, rates_during] =
            [self.rates_before, self.rates_during].map(|rates| rates.iter().sum::<f64>());
        assert!(
            rates_during > rates_before / 8.0,
            "the other store is affected: {rates_during} instead of {rates_before}"
        );
        assert!(longest < CALL + SLACK, "calls end within their deadline");
        assert!(resident < self.resident + GROWTH, "memory grows with faults");
    }
}

/// All faults of the servers of a store and of the network.
async fn servers_and_network(deployment: Deployment) {
    const WHILE: Duration = Duration::from_millis(1500);
    let firewall = deployment.firewall.is_some();
    let mut trial = Trial::begin(deployment, 0).await;
    // The holder keeps its lock: no other runtime can reach the store and take it.
    let owner = trial.deployment.runtimes[0].direct_client(CALL);
    let lock = owner.lock("kept").open().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let all: Vec<usize> = (0..trial.deployment.ports().len()).collect();
    trial.inject(Fault::Killed(all.clone()), WHILE).await;
    trial.inject(Fault::Paused(all), 2 * WHILE).await;
    if firewall {
        trial.inject(Fault::RequestsLost, WHILE).await;
        trial.inject(Fault::AnswersLost, WHILE).await;
        trial.inject(Fault::Partitioned, 2 * WHILE).await;
    }
    for lost in [
        |leader| Fault::Killed(vec![leader]),
        |leader| Fault::Paused(vec![leader]),
        Fault::Isolated,
        Fault::Muted,
    ] {
        let Backend::Etcd(cluster) = &trial.deployment.backend else { break };
        let fault = lost(cluster.leader().await);
        if firewall || matches!(fault, Fault::Killed(_) | Fault::Paused(_)) {
            trial.inject(fault, 2 * WHILE).await;
        }
    }
    if let Backend::Etcd(_) = trial.deployment.backend {
        trial.inject(Fault::Compacted, WHILE).await;
    }
    assert_eq!(lock.holder().await.unwrap(), Some(guard.token()));
    guard.release().await.unwrap();
    trial.end().await;
}

/// All faults of a link.
async fn store_links(kind: Kind) {
    const WHILE: Duration = Duration::from_secs(1);
    let mut trial = Trial::begin(Deployment::start(kind, 2, None).await, 1).await;
    for fault in [
        NetworkFault::Slow(60, 20),
        NetworkFault::CutAfter(Half::Requests, 777),
        NetworkFault::CutAfter(Half::Answers, 333),
        NetworkFault::Cut,
        NetworkFault::Refused,
        NetworkFault::Stalled(Half::Requests),
        NetworkFault::Stalled(Half::Answers),
        NetworkFault::BlackHole,
    ] {
        trial.inject(Fault::StoreLink(1, fault), WHILE).await;
    }
    trial.end().await;
}

/// A store that is down when its runtime starts.
async fn down_at_start(kind: Kind) {
    let mut deployment = Deployment::start(kind, 0, None).await;
    let down = Fault::Killed((0..deployment.ports().len()).collect());
    down.inject(&mut deployment).await;
    deployment.add_runtime().await;
    let client = deployment.runtimes[0].direct_client(CALL);
    client.counter("healthy").tag(HEALTHY_TAG).open().await.unwrap().increment(1).await.unwrap();
    for _ in 0..3 {
        let began = Instant::now();
        let error = client.counter("tested").open().await.map(drop).unwrap_err();
        assert_eq!(error.kind(), Failure::Unavailable, "{error}");
        assert_eq!(error.reason(), Some("STORE_UNAVAILABLE"), "{error}");
        assert!(error.message().contains("last-error"), "{error}");
        assert!(began.elapsed() < SLACK);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    down.repair(&mut deployment).await;
    let began = Instant::now();
    while let Err(error) = client.counter("tested").open().await {
        assert!(began.elapsed() < SLACK, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("{kind:?} down at start: the first answer {:?} after it was there", began.elapsed());
}

/// Holders of a lock are paused, and runtimes are killed.
async fn fenced(kind: Kind) {
    let seed = seed();
    let mut deployment = Deployment::start(kind, 3, None).await;
    let counts = fencing::run(&mut deployment, &mut Dice::new(seed), Duration::from_secs(15)).await;
    println!("{kind:?}: {counts:?}, seed {seed}");
    assert_eq!((counts.lost, counts.doubled), (0, 0), "seed {seed}");
    assert_eq!(counts.tokens_back, [], "tokens grow, seed {seed}");
    assert!(
        counts.updates > 50 && counts.pauses > 0 && counts.kills > 0,
        "there were updates and faults: {counts:?}"
    );
    assert!(counts.fenced > 0, "some tokens were too old: {counts:?}");
    assert!(counts.unguarded_lost > 0, "without a token updates are lost: {counts:?}");
}

fn in_a_network(what: &str, kind: Kind) {
    if let Some(network) = Network::or_skip(what) {
        network.run(async |firewall| {
            servers_and_network(Deployment::start(kind, 1, Some(firewall)).await).await;
        });
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async { servers_and_network(Deployment::start(kind, 1, None).await).await });
    }
}

#[test]
fn an_etcd_that_is_killed_paused_and_cut_off_breaks_no_guarantee() {
    in_a_network("partitions of etcd", Kind::Etcd);
}

#[test]
fn a_redis_that_is_killed_paused_and_cut_off_breaks_no_guarantee() {
    in_a_network("partitions of Redis", Kind::Redis);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_comes_after_its_runtime_is_found() {
    down_at_start(Kind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_after_its_runtime_is_found() {
    down_at_start(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_etcd_locks_fence_paused_holders() {
    fenced(Kind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_redis_locks_fence_paused_holders() {
    fenced(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_link_to_etcd_breaks_no_guarantee() {
    store_links(Kind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_link_to_redis_breaks_no_guarantee() {
    store_links(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_unlock_of_a_paused_runtime_releases_no_newer_hold() {
    let server = Server::start();
    let client =
        Client::builder().endpoint(format!("http://{}", server.listen())).retry_budget(Duration::ZERO);
    let client = client.call_timeout(Duration::from_millis(500)).connect().await.unwrap();
    let lock = client.lock("l").open().await.unwrap();
    for _ in 0..8 {
        server.pause();
        // It is not answered, and neither is the unlock that the client sends after it.
        assert!(lock.acquire().timeout(Duration::from_millis(20)).await.is_err());
        let again = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire().await }
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        server.resume();
        let released = again.await.unwrap().unwrap().release().await;
        // On a busy machine the answer may be late; that it is not held is never an answer.
        let held = released.as_ref().map_or_else(|error| error.kind() == Failure::Timeout, |()| true);
        assert!(held, "an old unlock has released it: {released:?}");
    }
}
