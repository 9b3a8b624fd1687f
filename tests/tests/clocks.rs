// SPDX-License-Identifier: Apache-2.0
//! A wall clock that jumps by hours and days under a real runtime: what has a time lives exactly so long.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "times are measured in real time, and what was seen is told"
)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atomix_kv_testkit::Dice;
use atomix_kv_testkit::servers::redis::Redis;
use atomix_tests::faults::clock::Clock;
use atomix_tests::faults::seed;
use atomix_tests::{Server, program};

/// How much shorter a time may be than was asked for: stores keep milliseconds.
const EARLY: Duration = Duration::from_millis(5);
/// What a busy machine may add.
const LATE: Duration = Duration::from_secs(1);
const DAY: i64 = 24 * 60 * 60;

fn start(clock: Option<&Clock>, store: &str) -> Server {
    let mut command = Command::new(program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--set", "log.level=off"]);
    command.args(["--set", "sessions.timeout=1s", "--set", &format!("stores=[{store}]")]);
    if let Some(clock) = clock {
        clock.preload(&mut command);
    }
    Server::start_command(command)
}

/// Lets the clock of one runtime jump a hundred times while the other one looks on.
async fn jumps(clock: &Clock, store: &str, shared: bool) {
    let (seed, jumps) = (seed(), AtomicU64::new(0));
    let server = start(Some(clock), store);
    let client = server.client().await;
    // Who looks on shares the store, or the runtime.
    let other = if shared { Some(start(None, store)) } else { None };
    let other = other.as_ref().unwrap_or(&server).client().await;

    let lock = client.lock("held").open().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let looked_at = other.lock("held").open().await.unwrap();
    let boss = client.election("boss").open().await.unwrap();
    let term = boss.enter("me").await.unwrap();
    let map = client.map("leases").text().open().await.unwrap();
    let (stop, mut dice) = (Arc::new(AtomicBool::new(false)), Dice::new(seed));
    let jump = async {
        while !stop.load(Ordering::Relaxed) {
            clock.jump(i64::try_from(dice.roll(2 * DAY.unsigned_abs())).unwrap() - DAY);
            jumps.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    let measure = async {
        let (mut longest, mut round) = (Duration::ZERO, 0);
        while jumps.load(Ordering::Relaxed) < 100 {
            let (key, ttl) = (format!("k{round}"), Duration::from_millis(200 + 50 * (round % 5)));
            let sent = Instant::now();
            map.put(&key, &"v".to_owned()).ttl(ttl).await.unwrap();
            let answered = Instant::now();
            while map.get(&key).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let (least, most) = (answered.elapsed(), sent.elapsed());
            assert!(most + EARLY > ttl, "{ttl:?} ended after {most:?}, seed {seed}");
            assert!(least < ttl + LATE, "{ttl:?} ended after {least:?}, seed {seed}");
            longest = longest.max(least.saturating_sub(ttl));

            let began = Instant::now();
            assert!(looked_at.acquire().timeout(ttl).await.is_err(), "somebody has it");
            let waited = began.elapsed();
            assert!(waited + EARLY > ttl && waited < ttl + LATE, "{ttl:?} became {waited:?}, seed {seed}");
            assert_eq!(
                looked_at.holder().await.unwrap(),
                Some(guard.token()),
                "the holder lives, seed {seed}"
            );
            assert_eq!(boss.term().await.unwrap(), term, "the leader lives, seed {seed}");
            round += 1;
        }
        stop.store(true, Ordering::Relaxed);
        println!("{} jumps, {round} times to live, at most {longest:?} late", jumps.load(Ordering::Relaxed));
    };
    tokio::join!(jump, measure);
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_memory_lives_shorter_or_longer_when_the_clock_jumps() {
    let Some(clock) = Clock::or_skip("clocks that jump") else { return };
    jumps(&clock, "{ name: s, driver: { name: memory, version: v1 } }", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_redis_lives_shorter_or_longer_when_the_clock_of_its_runtime_jumps() {
    let Some(clock) = Clock::or_skip("clocks that jump") else { return };
    let redis = Redis::start(&[]).await;
    let address = redis.address();
    let store =
        format!("{{ name: s, driver: {{ name: redis, version: v1 }}, config: {{ address: '{address}' }} }}");
    jumps(&clock, &store, true).await;
}
