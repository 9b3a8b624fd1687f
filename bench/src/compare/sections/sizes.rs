// SPDX-License-Identifier: Apache-2.0
//! Memory, start, size.

use anyhow::Result;
use atomix_load::work::{Mix, Op};
use atomix_load::{Channel, Method, frame};
use atomix_proto::runtime::PrimitiveId;
use atomix_proto::{counter, lock};
use serde_json::json;

use crate::compare::harness::{Harness, on, subject};
use crate::compare::servers::Server;

const MIB: f64 = 1024.0 * 1024.0;
const KIB: f64 = 1024.0;

pub(super) fn sizes(harness: &mut Harness) -> Result<()> {
    starts(harness)?;
    let shrink = harness.shrink;
    let (connections, watchers) = (1000 / shrink, 10_000 / shrink);
    for (what, bare) in [("bare", true), ("ours", false)] {
        let server = if bare {
            harness.environment.baseline(&[])?
        } else {
            harness.environment.atomix("memory", json!({}))?
        };
        harness.value(&format!("{what}, idle, MiB"), bytes(&server) / MIB);
        let address = &server.tcp;
        let used = on(1, async |env| {
            let before = bytes(&server);
            let open = subject(1).work(env, address, narrow(connections), Mix::only(Op::Put)).await?;
            let used = bytes(&server) - before;
            drop(open);
            Ok(used)
        })?;
        harness.value(&format!("{what}, a connection, KiB"), each(used, connections));

        let server = if bare {
            harness.environment.baseline(&[])?
        } else {
            harness.environment.atomix("memory", json!({}))?
        };
        let address = &server.tcp;
        let used = on(1, async |env| {
            let works = subject(1).work(env, address, 10, Mix::only(Op::Put)).await?;
            let before = bytes(&server);
            let open = subject(1).watchers(&works, narrow(watchers)).await?;
            let used = bytes(&server) - before;
            drop(open);
            Ok(used)
        })?;
        harness.value(&format!("{what}, a watcher, KiB"), each(used, watchers));
    }
    primitives(harness, 100_000 / shrink, 10_000 / shrink)?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let size = harness.environment.size("atomix")? as f64 / 1e6;
    harness.value("ours, program, MB", size);
    Ok(())
}

/// Many counters with a value, and many locks that one connection holds.
fn primitives(harness: &mut Harness, counters: u64, locks: u64) -> Result<()> {
    let server = harness.environment.atomix("memory", json!({}))?;
    let (counter_used, lock_used) = on(1, async |env| {
        let channel = Channel::connect(env, &server.tcp).await?;
        let id = |at| Some(PrimitiveId { name: format!("p-{at:08}") });
        let create = Method::new("/atomix.runtime.counter.v1.Counter/Create");
        let increment = Method::new("/atomix.runtime.counter.v1.Counter/Increment");
        let before = bytes(&server);
        channel
            .each(&create, counters, |at| frame(&counter::CreateRequest { id: id(at), tags: Vec::new() }))
            .await?;
        channel
            .each(&increment, counters, |at| frame(&counter::IncrementRequest { id: id(at), delta: 1 }))
            .await?;
        let between = bytes(&server);
        let create = Method::new("/atomix.runtime.lock.v1.Lock/Create");
        let acquire = Method::new("/atomix.runtime.lock.v1.Lock/Lock");
        channel
            .each(&create, locks, |at| frame(&lock::CreateRequest { id: id(at), tags: Vec::new() }))
            .await?;
        channel.each(&acquire, locks, |at| frame(&lock::LockRequest { id: id(at), timeout: None })).await?;
        Ok((between - before, bytes(&server) - between))
    })?;
    harness.value("ours, a counter with its value, KiB", each(counter_used, counters));
    harness.value("ours, a lock that is held, KiB", each(lock_used, locks));
    Ok(())
}

/// From the start of a process to its first answer.
fn starts(harness: &mut Harness) -> Result<()> {
    let millis = |server: &Server| server.started.as_secs_f64() * 1e3;
    let (bare, memory, etcd, redis) = (
        harness.environment.baseline(&[])?,
        harness.environment.atomix("memory", json!({}))?,
        harness.environment.etcd(false)?,
        harness.environment.redis()?,
    );
    let on_redis = harness.environment.atomix("redis", json!({"address": redis.tcp}))?;
    let on_etcd = harness.environment.atomix("etcd", json!({"endpoints": [etcd.tcp]}))?;
    let entries = 100_000 / harness.shrink;
    let disk = harness.environment.atomix("disk", json!({}))?;
    on(1, async |env| {
        // Getting needs every key to be there.
        subject(entries).work(env, &disk.tcp, 1, Mix::only(Op::Get)).await?;
        Ok(())
    })?;
    let folder = disk.kill().expect("a disk store has a folder");
    let disk = harness.environment.atomix_in("disk", json!({}), folder)?;
    let started = [
        ("bare".to_owned(), &bare),
        ("Redis".to_owned(), &redis),
        ("etcd".to_owned(), &etcd),
        ("memory".to_owned(), &memory),
        ("ours on Redis".to_owned(), &on_redis),
        ("ours on etcd".to_owned(), &on_etcd),
        ("disk with entries".to_owned(), &disk),
    ];
    for (what, server) in started {
        harness.value(&format!("{what}, start to first answer, ms"), millis(server));
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn bytes(server: &Server) -> f64 {
    server.memory() as f64
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn each(used: f64, count: u64) -> f64 {
    used / KIB / count as f64
}

fn narrow(count: u64) -> usize {
    usize::try_from(count).expect("counts here are small")
}
