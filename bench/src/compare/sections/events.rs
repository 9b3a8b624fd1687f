// SPDX-License-Identifier: Apache-2.0
//! Locks that change hands, and events that are watched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use atomix_env::Env;
use atomix_load::work::{Mix, Op};
use atomix_load::{
    Channel, Contender, Dice, Feed, Method, Pace, Plan, Report, Target, drive, flood, frame, hand_over,
    singles,
};
use atomix_proto::map;
use atomix_proto::runtime::PrimitiveId;
use serde_json::json;

use crate::compare::harness::{Harness, Load, on, subject};
use crate::compare::peers::{self, EtcdFeed, EtcdWaiter, ToEtcd};
use crate::compare::results::figures;

const WATCHERS: usize = 1000;
const CONNECTIONS: usize = 10;
const WRITERS: usize = 16;

pub(super) fn lock(harness: &mut Harness) -> Result<()> {
    let (memory, etcd, redis) = (
        harness.environment.atomix("memory", json!({}))?,
        harness.environment.etcd(false)?,
        harness.environment.redis()?,
    );
    let on_etcd = harness.environment.atomix("etcd", json!({"endpoints": [etcd.tcp]}))?;
    let on_redis = harness.environment.atomix("redis", json!({"address": redis.tcp}))?;
    for contenders in [2, 16, 64] {
        for (what, server) in [("memory", &memory), ("ours on Redis", &on_redis), ("ours on etcd", &on_etcd)]
        {
            let address = &server.tcp;
            handed(harness, &format!("{what}, lock, {contenders} contenders"), async |env| {
                Ok(subject(1).waiters(env, address, contenders).await?)
            })?;
        }
        handed(harness, &format!("etcd v3lock, {contenders} contenders"), async |env| {
            EtcdWaiter::connect(env, &etcd.tcp, contenders).await
        })?;
    }
    Ok(())
}

fn handed<C: Contender>(
    harness: &mut Harness,
    what: &str,
    connect: impl AsyncFnOnce(&Env) -> Result<Vec<C>>,
) -> Result<()> {
    let (warm_up, time) = (harness.warm_up, harness.time);
    let report = on(1, async |env| {
        let contenders = connect(env).await?;
        Ok(hand_over(env, warm_up, time, contenders).await)
    })?;
    let figures = harness.checked(what, &report);
    harness.add(what, figures);
    Ok(())
}

pub(super) fn watch(harness: &mut Harness) -> Result<()> {
    let (bare, memory) =
        (harness.environment.baseline(&[])?, harness.environment.atomix("memory", json!({}))?);
    let etcd = harness.environment.etcd(false)?;
    let on_etcd = harness.environment.atomix("etcd", json!({"endpoints": [etcd.tcp]}))?;
    let put = || Mix::only(Op::Put);
    let sides = [
        ("bare broadcast", &bare, 0),
        ("memory", &memory, 0),
        ("memory, one stalled", &memory, 1),
        ("ours on etcd", &on_etcd, 0),
    ];
    for (what, server, stalled) in sides {
        let address = &server.tcp;
        fan_out(harness, what, &async |env: &Env| {
            let subject = subject(1000);
            let works = subject.work(env, address, CONNECTIONS, put()).await?;
            let silent = subject.watchers(&works, stalled).await?;
            let feeds = subject.watchers(&works, WATCHERS).await?;
            let writers = subject.work(env, address, WRITERS, put()).await?;
            Ok((feeds, writers, (works, silent)))
        })?;
    }
    fan_out(harness, "etcd direct", &async |env: &Env| {
        let feeds = EtcdFeed::connect(env, &etcd.tcp, CONNECTIONS, WATCHERS).await?;
        Ok((feeds, ToEtcd::connect(env, &etcd.tcp, WRITERS, peers::Op::Put, peers::KEYS).await?, ()))
    })
}

/// Measures one event at a time, then a flood. What `connect` returns third is kept while it lasts.
fn fan_out<F: Feed, T: Target, K>(
    harness: &mut Harness,
    what: &str,
    connect: &impl AsyncFn(&Env) -> Result<(Vec<F>, Vec<T>, K)>,
) -> Result<()> {
    let (warm_up, time) = (harness.warm_up, harness.time);
    let single = on(1, async |env| {
        let (feeds, mut writers, _kept) = connect(env).await?;
        Ok(singles(env, warm_up, time, feeds, writers.remove(0)).await)
    })?;
    for (which, report) in [("each", &single.each), ("the last", &single.last)] {
        let what = format!("{what}, one event to {which} watcher");
        let figures = harness.checked(&what, report);
        harness.add(&what, figures);
    }
    let flood = on(1, async |env| {
        let (feeds, writers, _kept) = connect(env).await?;
        Ok(flood(env, warm_up, time, feeds, writers).await)
    })?;
    let written = harness.checked(&format!("{what}, flood, writes"), &flood.writes);
    harness.checked(&format!("{what}, flood, feeds"), &flood.lost);
    harness.add(&format!("{what}, flood, writes"), written);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let delivered = flood.delivered as f64 / time.as_secs_f64();
    harness.add(&format!("{what}, flood, deliveries"), [("per_second", delivered)].into());
    Ok(())
}

pub(super) fn neighbours(harness: &mut Harness) -> Result<()> {
    catch_up(harness).context("catching up")?;
    let server = harness.environment.atomix("memory", json!({}))?;
    let quiet = Load { connections: 1, pace: Pace::Open(100.0), threads: 1 };
    let mut tenant = subject(1000);
    "quiet".clone_into(&mut tenant.name);
    harness.work_on("get at 100/s, alone", quiet, &server, &server.tcp, Mix::only(Op::Get), &tenant)?;
    // The noise comes from a thread of its own, so that the quiet one waits for the server only.
    let plan = Plan {
        pace: Pace::Closed(64),
        warm_up: Duration::ZERO,
        time: harness.warm_up + harness.time + NOISE_BEFORE * 2,
    };
    let (address, (done, ended)) = (server.tcp.clone(), std::sync::mpsc::channel());
    on(1, async |env| {
        env.thread("noise", move || {
            let noise = on(1, async |env| {
                let works = subject(1000).work(env, &address, 8, Mix::only(Op::Put)).await?;
                Ok(drive(env, plan, works).await)
            });
            done.send(noise).ok();
        })?;
        env.sleep(NOISE_BEFORE).await;
        Ok(())
    })?;
    harness.work_on(
        "get at 100/s, a neighbour puts at full speed",
        quiet,
        &server,
        &server.tcp,
        Mix::only(Op::Get),
        &tenant,
    )?;
    let noise = ended.recv()??;
    harness.add("that neighbour", figures(&noise.summary()));
    Ok(())
}

const NOISE_BEFORE: Duration = Duration::from_millis(300);

const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A watcher that has not read for many events reads them, while another client calls.
fn catch_up(harness: &mut Harness) -> Result<()> {
    let behind = 100_000;
    let config = json!({"history-commits-max": 2 * behind, "history-bytes-max": 1 << 30});
    let server = harness.environment.atomix("memory", config)?;
    let address = &server.tcp;
    let mut live = subject(1000);
    "live".clone_into(&mut live.name);
    let get = || Mix::only(Op::Get);
    harness.work_on("get, no watcher catches up", Load::closed(1, 1), &server, address, get(), &live)?;
    let (reading, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (per_second, calls) = thread::scope(|scope| {
        // From a thread of its own, so that the caller waits for the server only.
        let caller = scope.spawn(|| {
            on(1, async |env| {
                let caller = live.work(env, address, 1, get()).await?.remove(0);
                let (mut report, mut dice) = (Report::new(Duration::ZERO), Dice::new(env.random()));
                while !done.load(Ordering::Relaxed) {
                    let (counts, sent) = (reading.load(Ordering::Relaxed), env.now());
                    caller.call(dice.draw()).await?;
                    if counts {
                        let took = env.now() - sent;
                        report.time += took;
                        report.took(took);
                    }
                }
                Ok(report)
            })
        });
        let per_second = on(1, async |env| {
            let (mut feed, waiting) = fall_behind(env, address, behind).await?;
            reading.store(true, Ordering::Relaxed);
            let (begin, mut arrived) = (env.now(), waiting);
            while arrived < behind {
                let more = env.timeout(WAIT_TIMEOUT, feed.next()).await.context("no event comes")??;
                anyhow::ensure!(more > 0, "the watch ended");
                arrived += more as u64;
            }
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
            Ok((behind - waiting) as f64 / (env.now() - begin).as_secs_f64())
        });
        done.store(true, Ordering::Relaxed);
        (per_second, caller.join().expect("the caller does not panic"))
    });
    harness.add("catching up, events", [("per_second", per_second?)].into());
    let figures = harness.checked("get, a watcher catches up", &calls?);
    harness.add("get, a watcher catches up, 1 caller", figures);
    Ok(())
}

/// Makes a watcher that has not read so many events. What fits into the window of its stream is on its side already: the
/// number of those is returned beside it.
async fn fall_behind(env: &Env, address: &str, behind: u64) -> Result<(impl Feed, u64)> {
    let subject = subject(1000);
    let works = subject.work(env, address, 1, Mix::only(Op::Put)).await?;
    let mut feed = subject.watchers(&works, 1).await?.remove(0);
    let channel = Channel::connect(env, address).await?;
    let put = Method::new("/atomix.runtime.map.v1.Map/Put");
    let id = Some(PrimitiveId { name: subject.name.clone() });
    // Never the same, because to put what is there already is no event.
    let value = |at: u64| bytes::Bytes::from(format!("{at:0100}"));
    let message = |at| map::PutRequest {
        id: id.clone(),
        key: format!("key-{at:012}"),
        value: value(at),
        ttl: None,
        prev_version: 0,
    };
    channel.each(&put, behind, |at| frame(&message(at))).await?;
    let waiting = feed.next().await? as u64;
    Ok((feed, waiting))
}
