// SPDX-License-Identifier: Apache-2.0
//! Leaders that go in every way there is, and how long their successors do not know.

use std::time::Duration;

use anyhow::{Context, Result};
use atomix_env::Env;
use atomix_load::work::Entrant;
use atomix_load::{Candidate, Report, resign};
use atomix_servers::Process;
use serde_json::json;

use crate::compare::harness::{Harness, on, subject};
use crate::compare::peers::EtcdEntrant;
use crate::compare::servers::{Server, TestEnv};

/// How often a process is killed.
const KILLS: u64 = 20;
/// How often something happens that is found out only after a time-out.
const SILENCES: u64 = 3;
/// How long a connection is silent before it is pinged, and the settings for that.
const PING: (Duration, [&str; 2]) =
    (Duration::from_secs(1), ["limits.ping-interval=1s", "limits.ping-timeout=100ms"]);
/// The interval of heartbeats, a sixth of the session timeout, and its setting.
const LIFE: (Duration, [&str; 1]) = (Duration::from_millis(167), ["sessions.timeout=1s"]);
/// How long a round may take.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn elect(harness: &mut Harness) -> Result<()> {
    leader_goes(harness)?;
    leader_is_silent(harness)?;
    runtime_is_killed(harness)
}

fn leader_goes(harness: &mut Harness) -> Result<()> {
    let (memory, etcd, redis) = (
        harness.environment.atomix("memory", json!({}))?,
        harness.environment.etcd(false)?,
        harness.environment.redis()?,
    );
    let on_etcd = harness.environment.atomix("etcd", json!({"endpoints": [etcd.tcp]}))?;
    let on_redis = harness.environment.atomix("redis", json!({"address": redis.tcp}))?;
    let sides = [("memory", &memory), ("ours on Redis", &on_redis), ("ours on etcd", &on_etcd)];
    for (what, server) in sides {
        resigned(harness, &format!("{what}, leader resigns"), async |env| {
            let (one, other) = (entrant(env, &server.tcp, "one"), entrant(env, &server.tcp, "other"));
            Ok([one.await?, other.await?])
        })?;
    }
    resigned(harness, "etcd v3election, leader resigns", async |env| {
        Ok([EtcdEntrant::connect(env, &etcd.tcp).await?, EtcdEntrant::connect(env, &etcd.tcp).await?])
    })?;
    for (what, server) in sides {
        rounds(harness, &format!("{what}, leader killed"), KILLS, Duration::ZERO, |environment, _| {
            let leader = leader(environment, server)?;
            succession(&server.tcp, Duration::ZERO, || leader.strike())
        })?;
    }
    Ok(())
}

/// The kernel of a process that is stopped still takes packets, but no process answers the pings in them. To the server that
/// is the same as a network that is lost: a connection on which nothing comes any more.
fn leader_is_silent(harness: &mut Harness) -> Result<()> {
    let (interval, settings) = PING;
    let server = harness.environment.atomix_with("memory", json!({}), &settings)?;
    rounds(harness, "memory, leader silent, time-out 1.1 s", SILENCES, interval, |environment, phase| {
        let leader = leader(environment, &server)?;
        succession(&server.tcp, phase, || leader.pause())
    })
}

/// The leader is at one runtime, its successor at another one on the same store. The first round is mostly close to the
/// longest there can be: the observer reads the records, then the other sends its first heartbeat, and is killed right after.
fn runtime_is_killed(harness: &mut Harness) -> Result<()> {
    let (interval, settings) = LIFE;
    let (etcd, redis) = (harness.environment.etcd(false)?, harness.environment.redis()?);
    let sides = [
        ("ours on Redis", "redis", json!({"address": redis.tcp})),
        ("ours on etcd", "etcd", json!({"endpoints": [etcd.tcp]})),
    ];
    for (what, driver, config) in sides {
        let start = |environment: &TestEnv| environment.atomix_with(driver, config.clone(), &settings);
        let stays = start(&harness.environment)?;
        let what = format!("{what}, runtime killed, time-out 1 s");
        rounds(harness, &what, SILENCES, interval, |environment, phase| {
            let goes = start(environment)?;
            let _leader = leader(environment, &goes)?;
            succession(&stays.tcp, phase, || drop(goes.kill()))
        })?;
    }
    Ok(())
}

const LEADER: &str = "leader";

/// Starts a process that wants to lead.
fn leader(environment: &TestEnv, server: &Server) -> Result<Process> {
    environment.candidate(server, &subject(0).name, LEADER)
}

async fn entrant(env: &Env, address: &str, name: &str) -> Result<Entrant> {
    Ok(subject(0).entrant(env, address, name).await?)
}

/// Returns how long a successor does not know what `go` does to its leader a `phase` after it has lined up.
fn succession(address: &str, phase: Duration, go: impl FnOnce()) -> Result<Duration> {
    on(1, async |env| {
        let succession = async {
            let mut successor = entrant(env, address, "successor").await?;
            successor.led_by(LEADER).await?;
            successor.enter().await?;
            env.sleep(phase).await;
            let begin = env.now();
            go();
            successor.lead().await?;
            Ok(env.now() - begin)
        };
        env.timeout(WAIT_TIMEOUT, succession).await.context("no candidate follows a leader that is gone")?
    })
}

fn resigned<C: Candidate>(
    harness: &mut Harness,
    what: &str,
    connect: impl AsyncFnOnce(&Env) -> Result<[C; 2]>,
) -> Result<()> {
    let (warm_up, time) = (harness.warm_up, harness.time);
    let report = on(1, async |env| {
        let candidates = connect(env).await?;
        Ok(resign(env, warm_up, time, candidates).await?)
    });
    add(harness, what, &report.with_context(|| what.to_owned())?);
    Ok(())
}

/// Measures so many rounds, each at another phase of what goes on at an `interval`.
fn rounds(
    harness: &mut Harness,
    what: &str,
    count: u64,
    interval: Duration,
    round: impl Fn(&TestEnv, Duration) -> Result<Duration>,
) -> Result<()> {
    let count = u32::try_from((count / harness.shrink).max(1)).expect("counts here are small");
    let mut report = Report::new(harness.time);
    for at in 0..count {
        let took = round(&harness.environment, interval * at / count);
        report.took(took.with_context(|| what.to_owned())?);
    }
    add(harness, what, &report);
    Ok(())
}

fn add(harness: &mut Harness, what: &str, report: &Report) {
    let mut figures = harness.checked(what, report);
    // Most of the time is spent on getting ready for the next round.
    figures.remove("per_second");
    harness.add(what, figures);
}
