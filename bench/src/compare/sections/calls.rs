// SPDX-License-Identifier: Apache-2.0
//! Calls that have an answer.

use anyhow::Result;
use atomix_load::work::{Mix, Op};
use serde_json::json;

use crate::compare::lab::{Lab, Load, subject};
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

pub(super) fn memory(lab: &mut Lab) -> Result<()> {
    let (bare, ours) = (lab.ground.floor(&[])?, lab.ground.atomix("memory", json!({}))?);
    for (name, op, _) in OPS {
        // One kind of call shows what a socket is worth.
        let transports = if op == Op::Increment { &TRANSPORTS[..] } else { &TRANSPORTS[..1] };
        for (connections, callers) in LOADS {
            let load = Load::closed(connections, callers);
            for (transport, pick) in transports {
                lab.work(&format!("bare, {name}, {transport}"), load, &bare, pick(&bare), Mix::only(op))?;
                lab.work(&format!("memory, {name}, {transport}"), load, &ours, pick(&ours), Mix::only(op))?;
            }
        }
    }
    for (connections, callers) in &LOADS[1..] {
        let load = Load::closed(*connections, *callers).threads(2);
        lab.work("bare, increment, TCP", load, &bare, &bare.tcp, Mix::only(Op::Increment))?;
        lab.work("memory, increment, TCP", load, &ours, &ours.tcp, Mix::only(Op::Increment))?;
    }
    Ok(())
}

type Pick = fn(&Server) -> &str;

/// How a server is reached.
const TRANSPORTS: [(&str, Pick); 2] = [("TCP", |server| &server.tcp), ("UDS", |server| &server.unix)];

pub(super) fn threads(lab: &mut Lab) -> Result<()> {
    let servers = [
        ("one runtime with 2 workers, as shipped", lab.ground.floor(&[])?),
        ("one thread", lab.ground.floor(&["--layout", "single"])?),
        ("a runtime for each core", lab.ground.floor(&["--layout", "per-core"])?),
    ];
    for (connections, callers) in LOADS {
        for threads in [1, 2] {
            let load = Load::closed(connections, callers).threads(threads);
            for (layout, server) in &servers {
                lab.work(layout, load, server, &server.tcp, Mix::only(Op::Increment))?;
            }
        }
    }
    Ok(())
}

pub(super) fn redis(lab: &mut Lab) -> Result<()> {
    let store = lab.ground.redis()?;
    let url = format!("redis://{}", store.tcp);
    let through = lab.ground.floor(&["--redis", &url])?;
    let ours = lab.ground.atomix("redis", json!({"address": store.tcp}))?;
    for (name, op, direct) in OPS {
        for (connections, callers) in [(1, 1), (8, 16), (8, 64), (8, 256)] {
            let load = Load::closed(connections, callers);
            // One connection carries all calls of a runtime as well.
            let connect = async |_env: &_| ToRedis::connect(&url, 1, direct).await;
            lab.calls(&format!("Redis direct, {name}"), load.shared(), &store, connect)?;
            lab.work(
                &format!("bare through to Redis, {name}, TCP"),
                load,
                &through,
                &through.tcp,
                Mix::only(op),
            )?;
            lab.work(&format!("ours on Redis, {name}, TCP"), load, &ours, &ours.tcp, Mix::only(op))?;
        }
    }
    // All the way over Unix sockets.
    let through = lab.ground.floor(&["--redis", &store.unix])?;
    let path = store.unix.trim_start_matches("unix:");
    let ours = lab.ground.atomix("redis", json!({"address": path, "key-prefix": "uds:"}))?;
    for (connections, callers) in LOADS {
        let (load, mix) = (Load::closed(connections, callers), Mix::only(Op::Increment));
        let connect = async |_env: &_| ToRedis::connect(&store.unix, 1, peers::Op::Increment).await;
        lab.calls("Redis direct, increment, UDS", load.shared(), &store, connect)?;
        lab.work("bare through to Redis, increment, UDS", load, &through, &through.unix, mix.clone())?;
        lab.work("ours on Redis, increment, UDS", load, &ours, &ours.unix, mix)?;
    }
    Ok(())
}

/// Keys that are so many that calls under way hardly ever have the same.
const DISJOINT: u64 = 100_000;

pub(super) fn etcd(lab: &mut Lab) -> Result<()> {
    let store = lab.ground.etcd(false)?;
    let through = lab.ground.floor(&["--etcd", &store.tcp])?;
    let ours = lab.ground.atomix("etcd", json!({"endpoints": [store.tcp]}))?;
    for (connections, callers) in LOADS {
        let load = Load::closed(connections, callers);
        for (name, op, direct) in [OPS[1], OPS[2]] {
            // What is got has to be put first, so those are fewer.
            let keys = if op == Op::Put { DISJOINT } else { peers::KEYS };
            let (map, mix) = (subject(keys), Mix::only(op));
            // One connection carries all calls of a runtime as well.
            let connect = async |env: &_| ToEtcd::connect(env, &store.tcp, 1, direct, keys).await;
            lab.calls(&format!("etcd direct, {name}"), load.shared(), &store, connect)?;
            for (what, server) in [("bare through to etcd", &through), ("ours on etcd", &ours)] {
                let what = format!("{what}, {name}, TCP");
                lab.work_on(&what, load, server, &server.tcp, mix.clone(), &map)?;
            }
        }
    }
    let load = Load::closed(8, 64);
    lab.work("ours on etcd, put of 1000 keys", load, &ours, &ours.tcp, Mix::only(Op::Put))?;
    let connect =
        async |env: &_| ToEtcd::connect(env, &store.tcp, 1, peers::Op::Increment, peers::KEYS).await;
    lab.calls("etcd direct, one counter by compare-and-swap", load.shared(), &store, connect)?;
    let (one, spread) = (subject(1), subject(1000));
    lab.work_on("ours on etcd, one counter", load, &ours, &ours.tcp, Mix::only(Op::Increment), &one)?;
    lab.work_on("ours on etcd, 1000 counters", load, &ours, &ours.tcp, Mix::only(Op::Increment), &spread)
}

pub(super) fn disk(lab: &mut Lab) -> Result<()> {
    let memory = lab.ground.atomix("memory", json!({}))?;
    let disk = lab.ground.atomix("disk", json!({}))?;
    let store = lab.ground.etcd(true)?;
    for (connections, callers) in LOADS {
        let load = Load::closed(connections, callers);
        let connect = async |env: &_| ToEtcd::connect(env, &store.tcp, 1, peers::Op::Put, peers::KEYS).await;
        lab.calls("etcd on the disk, put", load.shared(), &store, connect)?;
        lab.work("disk beside memory, put", load, &memory, &memory.tcp, Mix::only(Op::Put))?;
        lab.work("disk, put", load, &disk, &disk.tcp, Mix::only(Op::Put))?;
    }
    Ok(())
}

pub(super) fn paced(lab: &mut Lab) -> Result<()> {
    let (bare, memory) = (lab.ground.floor(&[])?, lab.ground.atomix("memory", json!({}))?);
    let (redis, etcd) = (lab.ground.redis()?, lab.ground.etcd(false)?);
    let on_redis = lab.ground.atomix("redis", json!({"address": redis.tcp}))?;
    let on_etcd = lab.ground.atomix("etcd", json!({"endpoints": [etcd.tcp]}))?;
    let (load, url) = (Load::paced(), format!("redis://{}", redis.tcp));
    for (transport, pick) in TRANSPORTS {
        lab.work(&format!("bare, paced get, {transport}"), load, &bare, pick(&bare), Mix::only(Op::Get))?;
        lab.work(
            &format!("memory, paced get, {transport}"),
            load,
            &memory,
            pick(&memory),
            Mix::only(Op::Get),
        )?;
    }
    for (name, op, direct) in [OPS[1], OPS[2]] {
        let connect = async |_env: &_| ToRedis::connect(&url, load.connections, direct).await;
        lab.calls(&format!("Redis direct, paced {name}"), load, &redis, connect)?;
        lab.work(&format!("ours on Redis, paced {name}"), load, &on_redis, &on_redis.tcp, Mix::only(op))?;
        let connect =
            async |env: &_| ToEtcd::connect(env, &etcd.tcp, load.connections, direct, peers::KEYS).await;
        lab.calls(&format!("etcd direct, paced {name}"), load, &etcd, connect)?;
        lab.work(&format!("ours on etcd, paced {name}"), load, &on_etcd, &on_etcd.tcp, Mix::only(op))?;
    }
    Ok(())
}
