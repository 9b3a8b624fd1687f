// SPDX-License-Identifier: Apache-2.0
//! A wall clock that jumps by hours and days under a real runtime: what has a time lives exactly so long. And one that is hours
//! ahead of those of the other runtimes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "times are measured in real time, and results are printed"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atomix_chaos::faults::clock::Clock;
use atomix_chaos::faults::seed;
use atomix_chaos::{Server, program};
use atomix_client::{Client, Map};
use atomix_conformance::Dice;
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;

/// How much shorter a time may be than was asked for: stores keep milliseconds.
const EARLY: Duration = Duration::from_millis(5);
/// The delay that a busy machine may add.
const LATE: Duration = Duration::from_secs(1);
const DAY: i64 = 24 * 60 * 60;
/// How far the wrong clock is ahead, in seconds.
const AHEAD: i64 = 2 * 60 * 60;
/// How long the short entry lives, which is long against everything that has to happen in that time.
const SHORT: Duration = Duration::from_secs(30);
/// How long the test waits for what must come.
const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

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
    // The observer shares the store, or the runtime.
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
            assert!(looked_at.acquire().timeout(ttl).await.is_err(), "it is held");
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

/// Starts a runtime that logs to `log`.
fn start_logged(clock: Option<&Clock>, store: &str, log: &Path) -> Server {
    let mut command = Command::new(program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.args(["--set", "sessions.timeout=1s", "--set", &format!("stores=[{store}]")]);
    command.stderr(Stdio::from(fs::File::create(log).unwrap()));
    if let Some(clock) = clock {
        clock.preload(&mut command);
    }
    Server::start_command(command)
}

async fn eventually(what: &str, mut question: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !question().await {
        assert!(began.elapsed() < WAIT_TIMEOUT, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn logged(log: &Path, line: &str) {
    eventually(line, async || fs::read_to_string(log).unwrap().contains(line)).await;
}

async fn open(client: &Client) -> Map<String> {
    let began = Instant::now();
    loop {
        match client.map("leases").text().open().await {
            Ok(map) => return map,
            Err(error) => assert!(began.elapsed() < WAIT_TIMEOUT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the clocks of the others, and whether the own one is distrusted, as an operator sees them.
fn hosts(server: &Server) -> (Vec<f64>, bool) {
    let output = server.run(&["inspect", "hosts", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let offsets = rows.iter().filter_map(|row| row["clock_offset"].as_f64()).collect();
    (offsets, rows.iter().any(|row| row["clock_distrusted"] == true))
}

/// One runtime writes and is killed, one lives with the right clock and does not know the map, and one is two hours ahead.
async fn ahead(clock: &Clock, store: &str) {
    let folder = tempfile::tempdir().unwrap();
    let logs = ["writer", "right", "ahead"].map(|name| folder.path().join(name));
    let (mut writer, right) = (start_logged(None, store, &logs[0]), start_logged(None, store, &logs[1]));
    let map = open(&writer.client().await).await;
    let one = "1".to_owned();
    map.put("long", &one).ttl(Duration::from_hours(1)).await.unwrap();
    map.put("short", &one).ttl(SHORT).await.unwrap();
    let due = Instant::now() + SHORT;
    writer.kill();
    tokio::time::sleep_until(due.into()).await;

    clock.jump(AHEAD);
    let wrong = start_logged(Some(clock), store, &logs[2]);
    let map = open(&wrong.client().await).await;
    let read = Instant::now();
    assert!(map.get("long").await.unwrap().is_some(), "it has an hour to live");
    logged(&logs[2], "the wall clock of this runtime is ahead of that of another one on the store").await;
    logged(&logs[1], "the wall clock of this runtime is behind that of another one on the store").await;
    let near = |offset: f64, wanted: i64| (offset - f64::from(i32::try_from(wanted).unwrap())).abs() < 30.0;
    eventually("the runtime that is ahead shows it", async || {
        let (offsets, distrusted) = hosts(&wrong);
        distrusted && offsets.len() == 1 && near(offsets[0], -AHEAD)
    })
    .await;
    eventually("the right one shows it as well", async || {
        let (offsets, distrusted) = hosts(&right);
        !distrusted && offsets.len() == 1 && near(offsets[0], AHEAD)
    })
    .await;
    assert_eq!(map.size().await.unwrap(), 2, "what is overdue is deleted late rather than early");

    clock.jump(0);
    logged(&logs[2], "the wall clock of this runtime agrees with those of the others on the store again")
        .await;
    logged(&logs[1], "the wall clock of this runtime agrees with those of the others on the store again")
        .await;
    eventually("the short entry has expired", async || map.get("short").await.unwrap().is_none()).await;
    assert!(read.elapsed() < SHORT, "it was not timed from when it was read");
    assert!(map.get("long").await.unwrap().is_some());
    assert!(!hosts(&wrong).1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_is_ahead_on_etcd_expires_nothing_early_and_warns_until_its_clock_is_set() {
    let Some(clock) = Clock::or_skip("clocks that differ") else { return };
    let etcd = Etcd::start(&[]).await;
    let endpoint = etcd.endpoint();
    let store = format!(
        "{{ name: s, driver: {{ name: etcd, version: v3 }}, config: {{ endpoints: ['{endpoint}'] }} }}"
    );
    ahead(&clock, &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_is_ahead_on_redis_expires_nothing_early_and_warns_until_its_clock_is_set() {
    let Some(clock) = Clock::or_skip("clocks that differ") else { return };
    let redis = Redis::start(&[]).await;
    let address = redis.address();
    let store =
        format!("{{ name: s, driver: {{ name: redis, version: v1 }}, config: {{ address: '{address}' }} }}");
    ahead(&clock, &store).await;
}
