// SPDX-License-Identifier: Apache-2.0
//! A master, its replica and sentinels: failover, and what it takes.

use std::sync::Arc;
use std::time::Duration;

use atomix_env::Env;
use atomix_servers::redis::{Redis, Sentinels};
use atomix_servers::{START_TIMEOUT, eventually};
use atomix_store::{Consistency, ErrorKind, JsonObject, Keyspace, Read, Revision, Store, Txn, Write};
use serde_json::json;

use crate::fixture::{config, connect};
use crate::watch::{next, put, watch};

fn settings(sentinels: &Sentinels) -> JsonObject {
    let addresses: Vec<String> = sentinels.sentinels.iter().map(Redis::address).collect();
    config(json!({
        "addresses": addresses, "MasterName": Sentinels::MASTER,
        "connect-timeout": "500ms", "response-timeout": "500ms",
    }))
}

async fn recovered(store: &Arc<dyn Store>) {
    let env = Env::real();
    let begin = env.now();
    loop {
        let txn = Txn::new().write(Write::Put { key: "probe".into(), value: "".into() });
        match store.commit(&Keyspace::new("map/it"), txn).await {
            Ok(_) => return,
            Err(error) => assert!(env.now() - begin < Duration::from_mins(1), "{error}"),
        }
        env.sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_the_store_goes_on_with_the_new_master_and_so_do_its_watches() {
    let mut sentinels = Sentinels::start(&[]).await;
    let store = connect(settings(&sentinels)).await.unwrap();
    assert_eq!(store.profile().consistency, Consistency::UntilFailover);
    let mut watch = watch(&store).await;
    for value in 0..20 {
        put(&store, value).await;
    }
    let first = sentinels.servers[0].port();
    // Everything is replicated: nothing is lost.
    let offset = |redis: &Redis, name: &str| {
        let facts = redis.ask(&["INFO", "replication"]);
        facts.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()))
    };
    eventually(START_TIMEOUT, "the replica has everything", || {
        offset(&sentinels.servers[0], "master_repl_offset:")
            == offset(&sentinels.servers[1], "slave_repl_offset:")
    })
    .await;
    sentinels.servers[0].kill();
    recovered(&store).await;
    assert_ne!(sentinels.master_port(), Some(first));
    let read = vec![Read::Get { key: "k".into() }];
    let snapshot = store.read(&Keyspace::new("map/it"), read).await.unwrap();
    assert_eq!(snapshot.reads[0].entry().unwrap().value, "19");
    for revision in 1..=21 {
        assert_eq!(next(&mut watch).await.unwrap().revision, Revision(revision), "also across the failover");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_takes_back_commits_ends_the_watches_that_saw_them() {
    let mut sentinels = Sentinels::start(&[]).await;
    let store = connect(settings(&sentinels)).await.unwrap();
    let mut watch = watch(&store).await;
    put(&store, 0).await;
    next(&mut watch).await.unwrap();
    eventually(START_TIMEOUT, "the replica has it", || {
        let offset = |server: usize, name: &str| {
            let information = sentinels.servers[server].ask(&["INFO", "replication"]);
            information
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|offset| offset.trim().to_owned())
        };
        let copied = offset(1, "slave_repl_offset:");
        sentinels.servers[1].ask(&["DBSIZE"]).trim() != "0"
            && copied.is_some()
            && copied == offset(0, "master_repl_offset:")
    })
    .await;
    sentinels.servers[1].pause();
    // Requests to it would wait in its socket.
    sentinels.servers[0].ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    for value in 1..10 {
        put(&store, value).await;
        next(&mut watch).await.unwrap();
    }
    sentinels.servers[0].kill();
    sentinels.servers[1].resume();
    recovered(&store).await;
    assert!(matches!(next(&mut watch).await, Err(ErrorKind::Compacted { .. })));
    let read = vec![Read::Get { key: "k".into() }];
    let snapshot = store.read(&Keyspace::new("map/it"), read).await.unwrap();
    assert_eq!(snapshot.reads[0].entry().unwrap().value, "0", "the others are gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_waits_for_replicas_if_it_shall() {
    let master = Redis::start(&[]).await;
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &master.port().to_string()]).await;
    eventually(START_TIMEOUT, "the replica has caught up", || {
        replica.ask(&["INFO", "replication"]).contains("master_link_status:up")
    })
    .await;
    let wait = json!({ "address": master.address(), "wait-replicas": 1, "wait-timeout": "300ms" });
    let store = connect(config(wait)).await.unwrap();
    for value in 0..20 {
        put(&store, value).await;
    }
    let keyspace = Keyspace::new("map/it");
    let txn = || Txn::new().write(Write::Put { key: "k".into(), value: "x".into() });
    replica.pause();
    let error = store.commit(&keyspace, txn()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    // The content that a read shows is not on the replica, either.
    let read = store.read(&keyspace, vec![Read::Get { key: "k".into() }]).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
    replica.resume();
    store.commit(&keyspace, txn()).await.unwrap();
    let other = connect(config(json!({ "address": replica.address() }))).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Unavailable, "a replica is no store: {other}");
}
