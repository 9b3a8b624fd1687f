// SPDX-License-Identifier: Apache-2.0
//! Measures the store against the bare client, on a separate etcd and in the same run.
//!
//! `cargo run --release -p atomix-driver-etcd --features test-util --example load [SECONDS]`
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for people that starts callers"
)]

use std::sync::Arc;
use std::time::Duration;

use atomix_driver_etcd::direct::Client;
use atomix_driver_etcd::{EtcdStore, Settings};
use atomix_env::{Env, Instant};
use atomix_servers::etcd::Etcd;
use atomix_store::{Error, Keyspace, Read, Store, Txn, Write};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use serde_json::json;

/// One call of a caller, by the number of the caller and of the call.
type Call = Arc<dyn Fn(usize, usize) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    let env = Env::real();
    let etcd = Etcd::start(&[]).await;
    let config = json!({ "endpoints": [etcd.endpoint()] });
    let settings = Settings::read(config.as_object().expect("it is an object"))?;
    let client = Client::connect(settings.clone(), env.clone()).await?;
    let store = Arc::new(EtcdStore::connect(settings, env.clone()).await?);
    let value = Bytes::from(vec![b'v'; 128]);

    let direct_add: Call = {
        let client = client.clone();
        Arc::new(move |_, _| {
            let client = client.clone();
            Box::pin(async move { client.add("hot".into(), 1).await.map(drop) })
        })
    };
    let store_add: Call = {
        let store = Arc::clone(&store);
        Arc::new(move |_, _| {
            let store = Arc::clone(&store);
            let txn = Txn::new().write(Write::Add { key: "v".into(), delta: 1 });
            Box::pin(async move { store.commit(&Keyspace::new("counter/hot"), txn).await.map(drop) })
        })
    };
    let direct_put: Call = {
        let (client, value) = (client.clone(), value.clone());
        Arc::new(move |caller, call| {
            let (client, value) = (client.clone(), value.clone());
            Box::pin(async move { client.put(key(caller, call), value).await })
        })
    };
    let store_put = |keyspace: fn(usize) -> Keyspace| -> Call {
        let (store, value) = (Arc::clone(&store), value.clone());
        Arc::new(move |caller, call| {
            let store = Arc::clone(&store);
            let txn = Txn::new().write(Write::Put { key: key(caller, call), value: value.clone() });
            Box::pin(async move { store.commit(&keyspace(caller), txn).await.map(drop) })
        })
    };
    let direct_get: Call = Arc::new(move |caller, call| {
        let client = client.clone();
        Box::pin(async move { client.get(key(caller, call)).await.map(drop) })
    });
    let store_get: Call = {
        let store = Arc::clone(&store);
        Arc::new(move |caller, call| {
            let store = Arc::clone(&store);
            let reads = vec![Read::Get { key: key(caller, call) }];
            Box::pin(async move { store.read(&one_map(0), reads).await.map(drop) })
        })
    };

    println!("{:<44} {:>9} {:>10} {:>10}", "", "calls/s", "p50", "p99");
    measure(&env, "one counter, 64 callers, direct", 64, time, &direct_add).await?;
    for callers in [1, 64, 256] {
        measure(&env, &format!("one counter, {callers} callers, store"), callers, time, &store_add).await?;
    }
    for callers in [1, 64, 256] {
        measure(&env, &format!("put, {callers} callers, direct"), callers, time, &direct_put).await?;
        let name = format!("put, {callers} callers, store, one keyspace");
        measure(&env, &name, callers, time, &store_put(one_map)).await?;
        let name = format!("put, {callers} callers, store, keyspace each");
        measure(&env, &name, callers, time, &store_put(map_each)).await?;
    }
    for callers in [1, 64, 256] {
        measure(&env, &format!("get, {callers} callers, direct"), callers, time, &direct_get).await?;
        measure(&env, &format!("get, {callers} callers, store"), callers, time, &store_get).await?;
    }
    store.close(Duration::from_secs(1)).await;
    Ok(())
}

fn key(caller: usize, call: usize) -> Bytes {
    format!("k/{caller}/{}", call % 16).into()
}

fn one_map(_: usize) -> Keyspace {
    Keyspace::new("map/one")
}

fn map_each(caller: usize) -> Keyspace {
    Keyspace::new(format!("map/{caller}"))
}

/// Lets so many callers call as fast as they are answered, and prints how that went.
async fn measure(env: &Env, name: &str, callers: usize, time: Duration, call: &Call) -> anyhow::Result<()> {
    // etcd commits its backend every 100 ms: a pause, so that no row pays for the one before.
    env.sleep(Duration::from_millis(200)).await;
    run(env, callers, time / 5, call).await?;
    let begun = env.now();
    let mut times = run(env, callers, time, call).await?;
    let took = env.now().since(begun).as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    #[allow(clippy::cast_precision_loss, reason = "a figure to be read")]
    let rate = times.len() as f64 / took;
    println!("{name:<44} {rate:>9.0} {:>10.2?} {:>10.2?}", at(50), at(99));
    Ok(())
}

async fn run(env: &Env, callers: usize, time: Duration, call: &Call) -> anyhow::Result<Vec<Duration>> {
    let end: Instant = env.now() + time;
    let tasks = (0..callers).map(|caller| {
        let (env, call) = (env.clone(), Arc::clone(call));
        tokio::task::spawn(async move {
            let (mut times, mut at) = (Vec::new(), 0);
            while env.now() < end {
                let begun = env.now();
                call(caller, at).await?;
                times.push(env.now().since(begun));
                at += 1;
            }
            Ok::<_, Error>(times)
        })
    });
    let mut times = Vec::new();
    for task in join_all(tasks).await {
        times.extend(task??);
    }
    Ok(times)
}
