// SPDX-License-Identifier: Apache-2.0
//! Calls through a store against plain commands on the same client, in turns on the same Redis.
//!
//! `cargo run --release -p atomix-driver-redis --example compare [ADDRESS [put|get|add|stamp|none]]`; without an address on a
//! server of its own.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that tells figures, not a part of the house"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atomix_driver_redis::RedisDriver;
use atomix_env::Env;
use atomix_servers::redis::Redis;
use atomix_store::{
    Context, Driver, JsonObject, Keyspace, Order, Range, Read, Store, Txn, WatchFrom, WatchItem, Write,
    Written,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use redis::aio::MultiplexedConnection;

/// How long each pair of figures is measured.
const ROUND: Duration = Duration::from_secs(1);
const KEYS: usize = 1000;
const CALLERS: [usize; 4] = [1, 16, 64, 256];

/// One call of a caller, with the number of the caller.
type Call = Arc<dyn Fn(usize) -> BoxFuture<'static, ()> + Send + Sync>;

#[tokio::main]
async fn main() {
    let env = Env::real();
    let server = match std::env::args().nth(1) {
        Some(_) => None,
        None => Some(Redis::start(&[]).await),
    };
    let address =
        std::env::args().nth(1).or_else(|| server.as_ref().map(Redis::address)).expect("one of both");
    let config = JsonObject::from_iter([("address".to_owned(), address.clone().into())]);
    let context = Context { env: env.clone(), store: "compare".to_owned() };
    let store = RedisDriver.connect(config, context).await.expect("redis is there");
    let client = redis::Client::open(format!("redis://{address}")).expect("an address");
    let plain = client.get_multiplexed_async_connection().await.expect("redis is there");
    println!("{:8} {:>8} {:>12} {:>12} {:>7}", "call", "callers", "plain/s", "store/s", "ratio");
    let value = Bytes::from(vec![b'v'; 100]);
    // With a second argument only what has that name is measured, beside the watches.
    let only = std::env::args().nth(2);
    for (name, ours, theirs) in [
        ("put", put(&store, "bench/map", value.clone()), set(&plain, value.clone())),
        ("get", get(&store), plain_get(&plain)),
        ("add", add(&store), incr(&plain)),
        ("stamp", stamp(&store, value.clone()), xadd(&plain, value.clone())),
    ] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        for callers in CALLERS {
            let (mut store_rate, mut plain_rate) = (0.0, 0.0);
            for _ in 0..3 {
                plain_rate += rate(&env, callers, &theirs).await / 3.0;
                store_rate += rate(&env, callers, &ours).await / 3.0;
            }
            let ratio = store_rate / plain_rate;
            println!("{name:8} {callers:>8} {plain_rate:>12.0} {store_rate:>12.0} {ratio:>7.2}");
        }
    }
    wake(&env, &store).await;
    for contenders in [2, 16, 64] {
        hand_over(&env, &store, contenders).await;
    }
}

/// Calls per second of so many callers.
async fn rate(env: &Env, callers: usize, call: &Call) -> f64 {
    let begin = env.now();
    let work = (0..callers).map(|caller| {
        let (env, call) = (env.clone(), Arc::clone(call));
        tokio::task::spawn(async move {
            let mut calls = 0usize;
            while env.now() - begin < ROUND {
                call(caller * 7919 + calls).await;
                calls += 1;
            }
            calls
        })
    });
    let calls: usize = join_all(work).await.into_iter().map(|calls| calls.expect("no panic")).sum();
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = calls as f64 / (env.now() - begin).as_secs_f64();
    rate
}

/// How long it takes from a commit to a watch, one at a time.
async fn wake(env: &Env, store: &Arc<dyn Store>) {
    let keyspace = Keyspace::new("bench/wake");
    let mut watch = store.watch(&keyspace, WatchFrom::Now).await.expect("it can begin");
    watch.next().await;
    let mut times = Vec::new();
    for _ in 0..2000 {
        let begin = env.now();
        let txn = Txn::new().write(Write::Put { key: "k".into(), value: "v".into() });
        store.commit(&keyspace, txn).await.expect("redis is there");
        watch.next().await;
        times.push(env.now() - begin);
    }
    times.sort();
    println!("commit and wake: p50 {:?} p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
}

/// A lock as a queue of stamps: how often it changes hands, and how long that takes from the call that gives it back.
async fn hand_over(env: &Env, store: &Arc<dyn Store>, contenders: usize) {
    let keyspace = Keyspace::new(format!("bench/lock/{contenders}"));
    // Another run may have been ended while it held the lock.
    let clear = Txn::new().write(Write::DeleteRange { range: Range::prefix("q/") });
    store.commit(&keyspace, clear).await.expect("redis is there");
    let begin = env.now();
    let given = Arc::new(parking_lot::Mutex::new(begin));
    let work = (0..contenders).map(|_| {
        let (env, store, keyspace, given) =
            (env.clone(), Arc::clone(store), keyspace.clone(), Arc::clone(&given));
        tokio::task::spawn(async move {
            let mut times = Vec::new();
            while env.now() - begin < 2 * ROUND {
                let queue = Read::Scan {
                    range: Range::prefix("q/"),
                    order: Order::Created,
                    limit: 100,
                    keys_only: true,
                };
                let ask =
                    Txn::new().write(Write::Stamp { prefix: "q/".into(), value: Bytes::new() }).read(queue);
                let asked = store.commit(&keyspace, ask).await.expect("redis is there");
                let Written::Stamped { key: mine } = &asked.writes[0] else { unreachable!("it was a stamp") };
                let mut before: BTreeSet<Bytes> = asked.reads[0]
                    .entries()
                    .iter()
                    .map(|entry| entry.key.clone())
                    .filter(|key| key != mine)
                    .collect();
                if !before.is_empty() {
                    let from = WatchFrom::After(asked.revision);
                    let mut watch = store.watch(&keyspace, from).await.expect("it can begin");
                    while !before.is_empty() {
                        let item = watch.next().await.expect("it goes on").expect("it is complete");
                        if let WatchItem::Commit(commit) = item {
                            before.retain(|key| commit.changes.iter().all(|change| change.key != key));
                        }
                    }
                    times.push(env.now() - *given.lock());
                }
                *given.lock() = env.now();
                let give = Txn::new().write(Write::Delete { key: mine.clone() });
                store.commit(&keyspace, give).await.expect("redis is there");
            }
            times
        })
    });
    let mut times: Vec<_> =
        join_all(work).await.into_iter().flat_map(|times| times.expect("no panic")).collect();
    times.sort();
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = times.len() as f64 / (env.now() - begin).as_secs_f64();
    let at = |part: usize| times[times.len() * part / 100];
    println!("hand-over of a lock, {contenders} contenders: {rate:.0}/s, p50 {:?} p99 {:?}", at(50), at(99));
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("k{}", number % KEYS))
}

fn commit(
    store: &Arc<dyn Store>,
    keyspace: &'static str,
    txn: impl Fn(usize) -> Txn + Send + Sync + 'static,
) -> Call {
    let (store, keyspace) = (Arc::clone(store), Keyspace::new(keyspace));
    Arc::new(move |number| {
        let (store, keyspace, txn) = (Arc::clone(&store), keyspace.clone(), txn(number));
        Box::pin(async move { drop(store.commit(&keyspace, txn).await.expect("redis is there")) })
    })
}

fn put(store: &Arc<dyn Store>, keyspace: &'static str, value: Bytes) -> Call {
    commit(store, keyspace, move |number| {
        Txn::new().write(Write::Put { key: key(number), value: value.clone() })
    })
}

fn add(store: &Arc<dyn Store>) -> Call {
    commit(store, "bench/counter", |_| Txn::new().write(Write::Add { key: "v".into(), delta: 1 }))
}

fn stamp(store: &Arc<dyn Store>, value: Bytes) -> Call {
    commit(store, "bench/topic", move |_| {
        Txn::new().write(Write::Stamp { prefix: "s/".into(), value: value.clone() })
    })
}

fn get(store: &Arc<dyn Store>) -> Call {
    let store = Arc::clone(store);
    Arc::new(move |number| {
        let store = Arc::clone(&store);
        Box::pin(async move {
            let (keyspace, reads) = (Keyspace::new("bench/map"), vec![Read::Get { key: key(number) }]);
            let snapshot = store.read(&keyspace, reads).await.expect("redis is there");
            assert!(snapshot.reads[0].entry().is_some());
        })
    })
}

fn plain(
    connection: &MultiplexedConnection,
    cmd: impl Fn(usize) -> redis::Cmd + Send + Sync + 'static,
) -> Call {
    let connection = connection.clone();
    Arc::new(move |number| {
        let (mut connection, cmd) = (connection.clone(), cmd(number));
        Box::pin(async move {
            drop(cmd.query_async::<redis::Value>(&mut connection).await.expect("redis is there"));
        })
    })
}

fn set(connection: &MultiplexedConnection, value: Bytes) -> Call {
    plain(connection, move |number| redis::cmd("SET").arg(&key(number)[..]).arg(&value[..]).to_owned())
}

fn plain_get(connection: &MultiplexedConnection) -> Call {
    plain(connection, |number| redis::cmd("GET").arg(&key(number)[..]).to_owned())
}

fn incr(connection: &MultiplexedConnection) -> Call {
    plain(connection, |_| redis::cmd("INCR").arg("counter").to_owned())
}

fn xadd(connection: &MultiplexedConnection, value: Bytes) -> Call {
    plain(connection, move |_| redis::cmd("XADD").arg("stream").arg("*").arg("v").arg(&value[..]).to_owned())
}
