// SPDX-License-Identifier: Apache-2.0
//! Keyspaces that were given back.

use std::time::Duration;

use atomix_env::Env;
use atomix_store::{Keyspace, Txn, WatchFrom, WatchItem, Write};
use futures::StreamExt;
use serde_json::json;

use crate::fixture::{Fixture, connect};

fn put() -> Txn {
    Txn::new().write(Write::Put { key: "k".into(), value: "v".into() })
}

fn delete() -> Txn {
    Txn::new().write(Write::Delete { key: "k".into() })
}

#[tokio::test]
async fn nothing_is_left_of_a_name_but_the_floor_of_its_slot() {
    let fixture = Fixture::start(&[]).await;
    let config = fixture.fresh(json!({}));
    let store = connect(config.clone()).await.unwrap();
    let keys = || fixture.redis.ask(&["DBSIZE"]).parse::<usize>().unwrap();
    let before = keys();
    let floors = || fixture.redis.ask(&["KEYS", "*{%s*}f"]).lines().count();
    // The check of the connection wrote a keyspace, so its slot has a floor.
    let others = before - floors();
    for round in 0..20 {
        let keyspace = Keyspace::new("lock/it");
        if round % 2 == 0 {
            // A watch that has ended does not keep it.
            drop(store.watch(&keyspace, WatchFrom::Now).await.unwrap());
        }
        store.commit(&keyspace, put()).await.unwrap();
        store.commit(&keyspace, delete()).await.unwrap();
        store.reclaim(&keyspace).await.unwrap();
        assert_eq!(keys(), before + 1, "the floor");
    }
    for at in 0..100 {
        let keyspace = Keyspace::new(format!("lock/{at}"));
        store.commit(&keyspace, put()).await.unwrap();
        store.commit(&keyspace, delete()).await.unwrap();
        store.reclaim(&keyspace).await.unwrap();
    }
    assert!(keys() <= before + 101);
    assert_eq!(keys() - floors(), others);
    // A keyspace that another runtime watches is not given back.
    let keyspace = Keyspace::new("lock/watched");
    store.commit(&keyspace, put()).await.unwrap();
    store.commit(&keyspace, delete()).await.unwrap();
    let other = connect(config).await.unwrap();
    let mut watch = other.watch(&keyspace, WatchFrom::Now).await.unwrap();
    let now = keys();
    store.reclaim(&keyspace).await.unwrap();
    assert_eq!(keys(), now);
    let revision = store.commit(&keyspace, put()).await.unwrap().revision;
    loop {
        match watch.next().await.unwrap().unwrap() {
            WatchItem::Commit(commit) => break assert_eq!(commit.revision, revision),
            WatchItem::Progress(_) => {}
        }
    }
    store.commit(&keyspace, delete()).await.unwrap();
    drop(watch);
    other.reclaim(&keyspace).await.unwrap();
    assert!(keys() < now);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_names_that_are_given_back_while_all_watches_are_looked_at() {
    // Longer than two audits of the watches, which happen every five seconds.
    const TIME: Duration = Duration::from_secs(11);
    let fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    let keys = || fixture.redis.ask(&["DBSIZE"]).parse::<usize>().unwrap();
    let floors = || fixture.redis.ask(&["KEYS", "*{%s*}f"]).lines().count();
    let others = keys() - floors();
    let env = Env::real();
    let begin = env.now();
    let work = (0..64).map(async |task| {
        let mut at = 0;
        while env.now() - begin < TIME {
            let keyspace = Keyspace::new(format!("map/{task}-{at}"));
            let mut watch = store.watch(&keyspace, WatchFrom::Now).await.unwrap();
            for txn in [put(), delete()] {
                let revision = store.commit(&keyspace, txn).await.unwrap().revision;
                // The name began at the floor of its slot, and the watch goes on from there.
                loop {
                    match watch.next().await.unwrap().unwrap() {
                        WatchItem::Commit(commit) => break assert_eq!(commit.revision, revision),
                        WatchItem::Progress(_) => {}
                    }
                }
            }
            drop(watch);
            store.reclaim(&keyspace).await.unwrap();
            at += 1;
        }
    });
    futures::future::join_all(work).await;
    assert_eq!(fixture.redis.ask(&["PUBSUB", "SHARDCHANNELS"]), "");
    assert_eq!(keys() - floors(), others);
}
