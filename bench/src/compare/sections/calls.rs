// SPDX-License-Identifier: Apache-2.0
//! Calls that have an answer.

use anyhow::Result;
use atomix_load::work::{Mix, Op};
use serde_json::json;

use crate::compare::harness::{Harness, Load, subject};
use crate::compare::peers::{self, ToEtcd, ToRedis};
use crate::compare::servers::Server;

/// One caller, and as many as are needed to keep the machine busy.
const LOADS: [(usize, usize); 3] = [(1, 1), (8, 64), (8, 256)];

/// The calls, by name, as a runtime and as a store has them.
const OPS: [(&str, Op, peers::Op); 3] = [
    ("increment", Op::Increment, peers::Op::Increment),
    ("get", Op::Get, peers::Op::Get),
    ("put", Op::Put, peers::Op::Put),
];

pub(super) fn memory(harness: &mut Harness) -> Result<()> {
    let (bare, ours) = (harness.environment.baseline(&[])?, harness.environment.atomix("memory", json!({}))?);
    for (name, op, _) in OPS {
        // One kind of call shows what a socket is worth.
        let transports = if op == Op::Increment { &TRANSPORTS[..] } else { &TRANSPORTS[..1] };
        for (connections, callers) in LOADS {
            let load = Load::closed(connections, callers);
            for (transport, pick) in transports {
                harness.work(
                    &format!("bare, {name}, {transport}"),
                    load,
                    &bare,
                    pick(&bare),
                    Mix::only(op),
                )?;
                harness.work(
                    &format!("memory, {name}, {transport}"),
                    load,
                    &ours,
                    pick(&ours),
                    Mix::only(op),
                )?;
            }
        }
    }
    for (connections, callers) in &LOADS[1..] {
        let load = Load::closed(*connections, *callers).threads(2);
        harness.work("bare, increment, TCP", load, &bare, &bare.tcp, Mix::only(Op::Increment))?;
        harness.work("memory, increment, TCP", load, &ours, &ours.tcp, Mix::only(Op::Increment))?;
    }
    Ok(())
}

type Pick = fn(&Server) -> &str;

/// How a server is reached.
const TRANSPORTS: [(&str, Pick); 2] = [("TCP", |server| &server.tcp), ("UDS", |server| &server.unix)];

pub(super) fn threads(harness: &mut Harness) -> Result<()> {
    let servers = [
        ("one runtime with 2 workers, as shipped", harness.environment.baseline(&[])?),
        ("one thread", harness.environment.baseline(&["--layout", "single"])?),
        ("a runtime for each core", harness.environment.baseline(&["--layout", "per-core"])?),
    ];
    for (connections, callers) in LOADS {
        for threads in [1, 2] {
            let load = Load::closed(connections, callers).threads(threads);
            for (layout, server) in &servers {
                harness.work(layout, load, server, &server.tcp, Mix::only(Op::Increment))?;
            }
        }
    }
    Ok(())
}

pub(super) fn redis(harness: &mut Harness) -> Result<()> {
    let store = harness.environment.redis()?;
    let url = format!("redis://{}", store.tcp);
    let through = harness.environment.baseline(&["--redis", &url])?;
    let ours = harness.environment.atomix("redis", json!({"address": store.tcp}))?;
    for (name, op, direct) in OPS {
        for (connections, callers) in [(1, 1), (8, 16), (8, 64), (8, 256)] {
            let load = Load::closed(connections, callers);
            // One connection carries all calls of a runtime as well.
            let connect = async |_env: &_| ToRedis::connect(&url, 1, direct).await;
            harness.calls(&format!("Redis direct, {name}"), load.shared(), &store, connect)?;
            harness.work(
                &format!("bare through to Redis, {name}, TCP"),
                load,
                &through,
                &through.tcp,
                Mix::only(op),
            )?;
            harness.work(&format!("ours on Redis, {name}, TCP"), load, &ours, &ours.tcp, Mix::only(op))?;
        }
    }
    // All the way over Unix sockets.
    let through = harness.environment.baseline(&["--redis", &store.unix])?;
    let path = store.unix.trim_start_matches("unix:");
    let ours = harness.environment.atomix("redis", json!({"address": path, "key-prefix": "uds:"}))?;
    for (connections, callers) in LOADS {
        let (load, mix) = (Load::closed(connections, callers), Mix::only(Op::Increment));
        let connect = async |_env: &_| ToRedis::connect(&store.unix, 1, peers::Op::Increment).await;
        harness.calls("Redis direct, increment, UDS", load.shared(), &store, connect)?;
        harness.work("bare through to Redis, increment, UDS", load, &through, &through.unix, mix.clone())?;
        harness.work("ours on Redis, increment, UDS", load, &ours, &ours.unix, mix)?;
    }
    Ok(())
}

/// Keys that are so many that calls under way hardly ever have the same.
const DISJOINT: u64 = 100_000;

pub(super) fn etcd(harness: &mut Harness) -> Result<()> {
    let store = harness.environment.etcd(false)?;
    let through = harness.environment.baseline(&["--etcd", &store.tcp])?;
    let ours = harness.environment.atomix("etcd", json!({"endpoints": [store.tcp]}))?;
    for (connections, callers) in LOADS {
        let load = Load::closed(connections, callers);
        for (name, op, direct) in [OPS[1], OPS[2]] {
            // Keys that are read have to be written first, so those are fewer.
            let keys = if op == Op::Put { DISJOINT } else { peers::KEYS };
            let (map, mix) = (subject(keys), Mix::only(op));
            // One connection carries all calls of a runtime as well.
            let connect = async |env: &_| ToEtcd::connect(env, &store.tcp, 1, direct, keys).await;
            harness.calls(&format!("etcd direct, {name}"), load.shared(), &store, connect)?;
            for (what, server) in [("bare through to etcd", &through), ("ours on etcd", &ours)] {
                let what = format!("{what}, {name}, TCP");
                harness.work_on(&what, load, server, &server.tcp, mix.clone(), &map)?;
            }
        }
    }
    let load = Load::closed(8, 64);
    harness.work("ours on etcd, put of 1000 keys", load, &ours, &ours.tcp, Mix::only(Op::Put))?;
    let connect =
        async |env: &_| ToEtcd::connect(env, &store.tcp, 1, peers::Op::Increment, peers::KEYS).await;
    harness.calls("etcd direct, one counter by compare-and-swap", load.shared(), &store, connect)?;
    let (one, spread) = (subject(1), subject(1000));
    harness.work_on("ours on etcd, one counter", load, &ours, &ours.tcp, Mix::only(Op::Increment), &one)?;
    harness.work_on("ours on etcd, 1000 counters", load, &ours, &ours.tcp, Mix::only(Op::Increment), &spread)
}

pub(super) fn disk(harness: &mut Harness) -> Result<()> {
    let memory = harness.environment.atomix("memory", json!({}))?;
    let disk = harness.environment.atomix("disk", json!({}))?;
    let store = harness.environment.etcd(true)?;
    for (connections, callers) in LOADS {
        let load = Load::closed(connections, callers);
        let connect = async |env: &_| ToEtcd::connect(env, &store.tcp, 1, peers::Op::Put, peers::KEYS).await;
        harness.calls("etcd on the disk, put", load.shared(), &store, connect)?;
        harness.work("disk beside memory, put", load, &memory, &memory.tcp, Mix::only(Op::Put))?;
        harness.work("disk, put", load, &disk, &disk.tcp, Mix::only(Op::Put))?;
    }
    Ok(())
}

pub(super) fn paced(harness: &mut Harness) -> Result<()> {
    let (bare, memory) =
        (harness.environment.baseline(&[])?, harness.environment.atomix("memory", json!({}))?);
    let (redis, etcd) = (harness.environment.redis()?, harness.environment.etcd(false)?);
    let on_redis = harness.environment.atomix("redis", json!({"address": redis.tcp}))?;
    let on_etcd = harness.environment.atomix("etcd", json!({"endpoints": [etcd.tcp]}))?;
    let (load, url) = (Load::paced(), format!("redis://{}", redis.tcp));
    for (transport, pick) in TRANSPORTS {
        harness.work(
            &format!("bare, paced get, {transport}"),
            load,
            &bare,
            pick(&bare),
            Mix::only(Op::Get),
        )?;
        harness.work(
            &format!("memory, paced get, {transport}"),
            load,
            &memory,
            pick(&memory),
            Mix::only(Op::Get),
        )?;
    }
    for (name, op, direct) in [OPS[1], OPS[2]] {
        let connect = async |_env: &_| ToRedis::connect(&url, load.connections, direct).await;
        harness.calls(&format!("Redis direct, paced {name}"), load, &redis, connect)?;
        harness.work(
            &format!("ours on Redis, paced {name}"),
            load,
            &on_redis,
            &on_redis.tcp,
            Mix::only(op),
        )?;
        let connect =
            async |env: &_| ToEtcd::connect(env, &etcd.tcp, load.connections, direct, peers::KEYS).await;
        harness.calls(&format!("etcd direct, paced {name}"), load, &etcd, connect)?;
        harness.work(&format!("ours on etcd, paced {name}"), load, &on_etcd, &on_etcd.tcp, Mix::only(op))?;
    }
    Ok(())
}
