// SPDX-License-Identifier: Apache-2.0
//! Keyspaces on the nodes of a cluster, and slots that move.

use std::collections::HashSet;
use std::sync::Arc;

use atomix_servers::redis::{Cluster, Redis};
use atomix_store::{
    ErrorKind, Keyspace, Read, Revision, Store, Txn, WatchFrom, WatchItem, WatchStream, Write,
};
use futures::StreamExt;
use serde_json::json;

use crate::fixture::{config, connect};
use crate::watch::next;

async fn store(cluster: &Cluster) -> Arc<dyn Store> {
    let config = config(json!({ "cluster": true, "Addr": cluster.nodes[0].address() }));
    connect(config).await.unwrap()
}

async fn put(store: &Arc<dyn Store>, keyspace: &Keyspace, value: &str) -> Revision {
    let txn = Txn::new().write(Write::Put { key: "k".into(), value: value.to_owned().into() });
    store.commit(keyspace, txn).await.unwrap().revision
}

async fn watch(store: &Arc<dyn Store>, keyspace: &Keyspace) -> WatchStream {
    let mut watch = store.watch(keyspace, WatchFrom::Now).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(_)))));
    watch
}

fn id(node: &Redis) -> String {
    node.ask(&["CLUSTER", "MYID"])
}

fn owner<'a>(cluster: &'a Cluster, slot: &str) -> (&'a Redis, &'a Redis) {
    let serves = |node: &&Redis| {
        let keys = node.ask(&["CLUSTER", "COUNTKEYSINSLOT", slot]);
        keys.trim() != "0"
    };
    let from = cluster.nodes.iter().find(serves).unwrap();
    let to = cluster.nodes.iter().find(|node| node.port() != from.port()).unwrap();
    (from, to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspaces_are_spread_over_the_nodes_and_each_is_whole() {
    let cluster = Cluster::start(&[]).await;
    let store = store(&cluster).await;
    let mut used = HashSet::new();
    for at in 0..30 {
        let keyspace = Keyspace::new(format!("map/{at}"));
        let mut watch = watch(&store, &keyspace).await;
        assert_eq!(put(&store, &keyspace, "1").await, Revision(1));
        assert_eq!(next(&mut watch).await.unwrap().revision, Revision(1));
        let slot = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", &format!("atomix:{{map/{at}}}v")]);
        used.insert(owner(&cluster, &slot).0.port());
    }
    assert_eq!(used.len(), 3);
    store.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_whose_slot_moves_is_found_again_and_its_watch_goes_on() {
    let cluster = Cluster::start(&[]).await;
    let store = store(&cluster).await;
    let keyspace = Keyspace::new("map/wanders");
    let mut watch = watch(&store, &keyspace).await;
    put(&store, &keyspace, "before").await;
    let slot = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", "atomix:{map/wanders}v"]);
    let (from, to) = owner(&cluster, &slot);
    to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    // On the way: some keys here, some there. Nothing is applied by half.
    let port = to.port().to_string();
    let found = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
    let mut names = found.lines().collect::<Vec<_>>();
    // The state of the keyspace first.
    names.sort_by_key(|name| *name != "atomix:{map/wanders}s");
    // The records, their order, the changes, and the floor of the slot.
    assert_eq!(names.len(), 4, "{names:?}");
    let move_one = |name: &str| from.ask(&["MIGRATE", "127.0.0.1", &port, name, "0", "5000"]);
    assert_eq!(move_one(names[0]), "OK");
    let txn = || Txn::new().write(Write::Put { key: "k".into(), value: "on the way".into() });
    let error = store.commit(&keyspace, txn()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for name in &names[1..] {
        assert_eq!(move_one(name), "OK");
    }
    // All keys are there, the slot is not yet: the node refuses each call with that.
    assert_eq!(store.commit(&keyspace, txn()).await.unwrap().revision, Revision(2));
    for node in [
        to,
        from,
        cluster.nodes.iter().find(|node| ![to.port(), from.port()].contains(&node.port())).unwrap(),
    ] {
        node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
    assert_eq!(put(&store, &keyspace, "after").await, Revision(3));
    let read = store.read(&keyspace, vec![Read::Get { key: "k".into() }]).await.unwrap();
    assert_eq!(read.reads[0].entry().unwrap().value, "after");
    for revision in 1..=3 {
        assert_eq!(next(&mut watch).await.unwrap().revision, Revision(revision));
    }
}
