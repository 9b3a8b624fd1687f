// SPDX-License-Identifier: Apache-2.0
//! Trouble with a store that real runtimes are at work on: servers killed and paused, ways cut, slow or one-way. Calls end
//! within their deadline, what was answered is there, nothing is there twice, the other store of the runtime does not
//! notice, and all works again by itself.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "servers are awaited in real time, and what was seen is told"
)]

mod callers;

use std::time::{Duration, Instant};

use atomix_chaos::Server;
use atomix_chaos::faults::stand::{Backend, Kind, NEAR, Stand};
use atomix_chaos::faults::trouble::{Bad, Trouble};
use atomix_chaos::faults::{fencing, network::Network, seed};
use atomix_client::{Client, Kind as Failure};
use atomix_conformance::Dice;
use atomix_servers::proxy::Half;

use callers::{CALL, Callers, Sums};

/// What the machine may add to a time that is promised.
const SLACK: Duration = Duration::from_secs(3);
/// Longer than any store takes to come back.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// What a busy machine may add to the time of a call; who waits for the store in trouble waits for longer.
const HICCUP: Duration = Duration::from_millis(700);
/// What a runtime may grow by.
const GROWTH: u64 = 48 << 20;

/// Callers on one runtime of a stand.
struct Trial {
    stand: Stand,
    runtime: usize,
    callers: Callers,
    resident: u64,
    /// How many calls a second the other store answered before and during each trouble.
    calm: Vec<f64>,
    troubled: Vec<f64>,
}

impl Trial {
    async fn begin(stand: Stand, runtime: usize) -> Self {
        let client = stand.runtimes[runtime].direct_client(CALL);
        let began = Instant::now();
        while let Err(error) = client.counter("first").open().await {
            assert_eq!(error.kind(), Failure::Unavailable, "{error}");
            assert!(began.elapsed() < WAIT_TIMEOUT, "{error}");
        }
        let callers = Callers::start(&stand.runtimes[runtime]).await;
        callers.near(Duration::from_millis(500)).await;
        let resident = stand.runtimes[runtime].server().resident();
        Self { stand, runtime, callers, resident, calm: Vec::new(), troubled: Vec::new() }
    }

    /// Makes trouble for a while and watches the callers.
    async fn suffer(&mut self, trouble: Trouble, time: Duration) {
        let before = self.callers.near(Duration::from_millis(300)).await;
        let answered = self.callers.answered();
        trouble.begin(&mut self.stand).await;
        let during = self.callers.near(time).await;
        if trouble.leaves_a_majority(self.stand.ports().len()) {
            self.callers.answer(WAIT_TIMEOUT).await;
        }
        let answered = self.callers.answered() - answered;
        trouble.end(&mut self.stand).await;
        let back = self.callers.answer(WAIT_TIMEOUT).await;
        println!(
            "{trouble}, {time:?}: {answered} answers meanwhile, the next one {back:?} after; the other store: \
             {:.0}/s p50 {:?} p99 {:?} before, {:.0}/s p50 {:?} p99 {:?} meanwhile",
            before.per_second, before.median, before.p99, during.per_second, during.median, during.p99
        );
        assert!(during.median < 4 * before.median + HICCUP, "{trouble}: the other store suffers");
        self.calm.push(before.per_second);
        self.troubled.push(during.per_second);
        // All of them have answers again, before something else happens.
        for _ in 0..32 {
            self.callers.answer(WAIT_TIMEOUT).await;
        }
    }

    async fn end(self) {
        let resident = self.stand.runtimes[self.runtime].server().resident();
        let sums = self.callers.judge().await;
        let Sums { done, refused, unknown, named, longest, errors } = sums;
        println!(
            "{done} done, {refused} refused, {unknown} unknown, {named} named and applied once, longest call \
             {longest:?}, resident {} KiB, then {} KiB, errors {errors:#?}",
            self.resident / 1024,
            resident / 1024
        );
        assert!(refused + unknown > 0 && done > 100, "there was trouble, and work");
        let [calm, troubled] = [self.calm, self.troubled].map(|rates| rates.iter().sum::<f64>());
        assert!(troubled > calm / 8.0, "the other store suffers: {troubled} instead of {calm}");
        assert!(longest < CALL + SLACK, "calls end within their deadline");
        assert!(resident < self.resident + GROWTH, "memory grows with trouble");
    }
}

/// All the trouble that a store can have at its servers and in the network.
async fn servers_and_network(stand: Stand) {
    const WHILE: Duration = Duration::from_millis(1500);
    let firewall = stand.firewall.is_some();
    let mut trial = Trial::begin(stand, 0).await;
    // Whoever holds a lock keeps it: nobody else could reach the store and take it away.
    let owner = trial.stand.runtimes[0].direct_client(CALL);
    let lock = owner.lock("kept").open().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let all: Vec<usize> = (0..trial.stand.ports().len()).collect();
    trial.suffer(Trouble::Killed(all.clone()), WHILE).await;
    trial.suffer(Trouble::Paused(all), 2 * WHILE).await;
    if firewall {
        trial.suffer(Trouble::RequestsLost, WHILE).await;
        trial.suffer(Trouble::AnswersLost, WHILE).await;
        trial.suffer(Trouble::Partitioned, 2 * WHILE).await;
    }
    for lost in [
        |leader| Trouble::Killed(vec![leader]),
        |leader| Trouble::Paused(vec![leader]),
        Trouble::Isolated,
        Trouble::Muted,
    ] {
        let Backend::Etcd(cluster) = &trial.stand.backend else { break };
        let trouble = lost(cluster.leader().await);
        if firewall || matches!(trouble, Trouble::Killed(_) | Trouble::Paused(_)) {
            trial.suffer(trouble, 2 * WHILE).await;
        }
    }
    if let Backend::Etcd(_) = trial.stand.backend {
        trial.suffer(Trouble::Compacted, WHILE).await;
    }
    assert_eq!(lock.holder().await.unwrap(), Some(guard.token()));
    guard.release().await.unwrap();
    trial.end().await;
}

/// All the trouble that a way can have.
async fn ways(kind: Kind) {
    const WHILE: Duration = Duration::from_secs(1);
    let mut trial = Trial::begin(Stand::start(kind, 2, None).await, 1).await;
    for bad in [
        Bad::Slow(60, 20),
        Bad::CutAfter(Half::Requests, 777),
        Bad::CutAfter(Half::Answers, 333),
        Bad::Cut,
        Bad::Refused,
        Bad::Stalled(Half::Requests),
        Bad::Stalled(Half::Answers),
        Bad::BlackHole,
    ] {
        trial.suffer(Trouble::Way(1, bad), WHILE).await;
    }
    trial.end().await;
}

/// A store that is not there when its runtime starts.
async fn down_at_start(kind: Kind) {
    let mut stand = Stand::start(kind, 0, None).await;
    let down = Trouble::Killed((0..stand.ports().len()).collect());
    down.begin(&mut stand).await;
    stand.add_runtime().await;
    let client = stand.runtimes[0].direct_client(CALL);
    client.counter("near").tag(NEAR).open().await.unwrap().increment(1).await.unwrap();
    for _ in 0..3 {
        let began = Instant::now();
        let error = client.counter("far").open().await.map(drop).unwrap_err();
        assert_eq!(error.kind(), Failure::Unavailable, "{error}");
        assert_eq!(error.reason(), Some("STORE_UNAVAILABLE"), "{error}");
        assert!(error.message().contains("last-error"), "{error}");
        assert!(began.elapsed() < SLACK);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    down.end(&mut stand).await;
    let began = Instant::now();
    while let Err(error) = client.counter("far").open().await {
        assert!(began.elapsed() < SLACK, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("{kind:?} down at start: the first answer {:?} after it was there", began.elapsed());
}

/// Holders of a lock that stand still, and runtimes that die.
async fn fenced(kind: Kind) {
    let seed = seed();
    let mut stand = Stand::start(kind, 3, None).await;
    let tally = fencing::run(&mut stand, &mut Dice::new(seed), Duration::from_secs(15)).await;
    println!("{kind:?}: {tally:?}, seed {seed}");
    assert_eq!((tally.lost, tally.doubled), (0, 0), "seed {seed}");
    assert_eq!(tally.tokens_back, [], "tokens grow, seed {seed}");
    assert!(
        tally.updates > 50 && tally.pauses > 0 && tally.kills > 0,
        "there was work, and trouble: {tally:?}"
    );
    assert!(tally.fenced > 0, "somebody came too late: {tally:?}");
    assert!(tally.unguarded_lost > 0, "without a token updates are lost: {tally:?}");
}

fn in_a_network(what: &str, kind: Kind) {
    if let Some(network) = Network::or_skip(what) {
        network.run(async |firewall| servers_and_network(Stand::start(kind, 1, Some(firewall)).await).await);
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async { servers_and_network(Stand::start(kind, 1, None).await).await });
    }
}

#[test]
fn an_etcd_that_is_killed_paused_and_cut_off_breaks_no_promise() {
    in_a_network("partitions of etcd", Kind::Etcd);
}

#[test]
fn a_redis_that_is_killed_paused_and_cut_off_breaks_no_promise() {
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
async fn tokens_of_etcd_locks_keep_out_those_who_stood_still() {
    fenced(Kind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_redis_locks_keep_out_those_who_stood_still() {
    fenced(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_way_to_etcd_breaks_no_promise() {
    ways(Kind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_way_to_redis_breaks_no_promise() {
    ways(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_runtime_that_stood_still_takes_up_late_releases_no_lock_that_was_taken_since() {
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
