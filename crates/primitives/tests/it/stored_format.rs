// SPDX-License-Identifier: Apache-2.0
//! The bytes that primitives write into stores. A later version has to read them: none of these may change.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, ManualClock};
use atomix_primitives::{
    Counter, CounterMap, Election, IndexedMap, Kind, Known, List, Lock, Map, MultiMap, Set, Topic, Value,
};
use atomix_store::{Entry, Keyspace, Order, Range, Read, Txn, Write};
use bytes::Bytes;

use crate::ground::{Amnesiac, Ground, caller};

/// A store that keeps its content in memory and is shared, in a time that stands still.
fn still() -> Ground {
    Ground::on(Amnesiac::new(), Env::simulated(ManualClock::new(), 1))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// All entries of a keyspace, in the order of their keys.
async fn entries(ground: &Ground, keyspace: &Keyspace) -> Vec<Entry> {
    let all = Read::Scan { range: Range::prefix(""), order: Order::Key, limit: 100, keys_only: false };
    ground.store.read(keyspace, vec![all]).await.unwrap().reads[0].entries().to_vec()
}

/// All entries of the primitive of `kind`: key and value in hexadecimal.
async fn stored(ground: &Ground, kind: Kind) -> Vec<String> {
    let entries = entries(ground, &kind.keyspace("it")).await;
    entries.iter().map(|entry| format!("{} = {}", hex(&entry.key), hex(&entry.value))).collect()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn numbers() {
    let ground = still();
    Counter::open(ground.backing(Kind::Counter)).set(-2).await.unwrap();
    assert_eq!(stored(&ground, Kind::Counter).await, ["76 = fffffffffffffffe"]);
    let numbers = CounterMap::open(ground.backing(Kind::CounterMap)).await.unwrap();
    numbers.set("one", 1).await.unwrap();
    numbers.increment("", 258, None).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::CounterMap).await,
        ["6b = 0000000000000102", "6b6f6e65 = 0000000000000001"]
    );
}

#[tokio::test]
async fn entries_and_deadlines() {
    let ground = still();
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    map.put("kept", bytes("ab"), None, 0).await.unwrap();
    map.put("short", bytes("c"), Some(Duration::from_millis(2000)), 0).await.unwrap();
    map.put("gone", bytes("d"), Some(Duration::ZERO), 0).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::Map).await,
        [
            "6b6b657074 = 6162",
            "6b73686f7274 = 63",
            "7473686f7274 = 000000003b9ad1d000000000000007d0000000000000000700000000000007d0",
            "78 = "
        ]
    );
    let set = Set::open(ground.backing(Kind::Set)).await.unwrap();
    set.add("é", Some(Duration::from_micros(1))).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::Set).await,
        ["6bc3a9 = ", "74c3a9 = 000000003b9aca01000000000000000100000000000000070000000000000001"]
    );
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    value.set(bytes("v"), Some(Duration::from_secs(1))).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::Value).await,
        ["74 = 000000003b9acde800000000000003e8000000000000000700000000000003e8", "76 = 76"]
    );
}

#[tokio::test]
async fn deadlines_of_the_first_versions_count() {
    let ground = still();
    let keyspace = Kind::Map.keyspace("it");
    let now = u64::try_from(ground.env.wall().since_unix().as_millis()).unwrap();
    for (name, at) in [("a", now - 1), ("b", now + 1)] {
        // Without the member and its monotonic clock.
        let deadline = [at.to_be_bytes(), 1000u64.to_be_bytes()].concat();
        let txn = Txn::new()
            .write(Write::Put { key: format!("k{name}").into(), value: bytes("1") })
            .write(Write::Put { key: format!("t{name}").into(), value: deadline.into() });
        ground.store.commit(&keyspace, txn).await.unwrap();
    }
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    assert!(map.get("a").await.is_err());
    assert!(map.get("b").await.is_ok());
}

#[tokio::test]
async fn indexed_entries() {
    let ground = still();
    let map = IndexedMap::open(ground.backing(Kind::IndexedMap)).await.unwrap();
    map.append("a", bytes("xy"), None).await.unwrap();
    map.append("", bytes(""), Some(Duration::from_secs(1))).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::IndexedMap).await,
        [
            "690000000000000001 = 00000001617879",
            "690000000000000002 = 00000000",
            "6b = 0000000000000002",
            "6b61 = 0000000000000001",
            "6e = 0000000000000002",
            "740000000000000002 = 000000003b9acde800000000000003e8000000000000000700000000000003e8"
        ]
    );
}

#[tokio::test]
async fn lists() {
    let ground = still();
    let list = List::open(ground.backing(Kind::List), false);
    list.append(bytes("a")).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::List).await,
        [
            "630000000000000001 = 0000000161",
            "6f = 01000000000000000161",
            "72 = 0000000000000001000000000000000100000001"
        ]
    );
    list.insert(0, bytes("")).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::List).await,
        [
            "630000000000000001 = 000000000000000161",
            "6f = 020000000000000000",
            "72 = 0000000000000001000000000000000100000002"
        ]
    );
    list.set(1, bytes("bc")).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::List).await,
        [
            "630000000000000001 = 00000000000000026263",
            "6f = 030000000100000002626361",
            "72 = 0000000000000001000000000000000100000002"
        ]
    );
    list.append(Bytes::from(vec![7; 65_536])).await.unwrap();
    let entries = entries(&ground, &Kind::List.keyspace("it")).await;
    assert_eq!(
        hex(&entries.last().unwrap().value),
        "0000000000000002000000000000000100000002000000000000000200000001"
    );
    list.remove(2).await.unwrap();
    list.remove(0).await.unwrap();
    assert_eq!(
        stored(&ground, Kind::List).await,
        [
            "630000000000000001 = 000000026263",
            "6f = 040000000000000000",
            "72 = 0000000000000002000000000000000100000001"
        ]
    );
    list.clear().await.unwrap();
    assert_eq!(stored(&ground, Kind::List).await, ["6f = 050000000000000000", "72 = 0000000000000002"]);
}

#[tokio::test]
async fn multimaps() {
    let ground = still();
    let pairs = MultiMap::open(ground.backing(Kind::MultiMap));
    pairs.put_all("k", vec!["b".to_owned(), String::new(), "aa".to_owned()]).await.unwrap();
    assert_eq!(stored(&ground, Kind::MultiMap).await, ["6b6b = 000000000000000261610000000162"]);
}

#[tokio::test]
async fn elections() {
    let ground = still();
    let election = Election::open(ground.backing(Kind::Election)).await.unwrap();
    ground.membership.join().await.unwrap();
    election.enter(&caller(1), "a").await.unwrap();
    election.enter(&caller(2), "bc").await.unwrap();
    assert_eq!(
        stored(&ground, Kind::Election).await,
        [
            "76 = 00000000000000010100000000000000070000000000000001000000016100000000000000070000000000000002000000026263"
        ]
    );
    election.evict("a").await.unwrap();
    election.evict("bc").await.unwrap();
    assert_eq!(stored(&ground, Kind::Election).await, ["76 = 000000000000000200"]);
}

#[tokio::test]
async fn messages() {
    let ground = still();
    Topic::open(ground.backing(Kind::Topic)).publish(bytes("hi")).await.unwrap();
    assert_eq!(stored(&ground, Kind::Topic).await, ["76 = 000000003b9aca006869"]);
}

#[tokio::test]
async fn stamps() {
    let ground = still();
    let lock = Lock::open(ground.backing(Kind::Lock)).await.unwrap();
    lock.lock(&caller(3), None).await.unwrap();
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    map.lock_table().acquire(&caller(4), &["ab".to_owned()], None).await.unwrap();
    // The store chooses the end of the key, and the nonce is drawn by chance.
    let stamp = async |kind: Kind, prefix: usize| {
        let entries = entries(&ground, &kind.keyspace("it")).await;
        let [Entry { key, value, .. }] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(value.len(), 32);
        format!("{}… = {}…{}", hex(&key[..prefix]), hex(&value[..16]), hex(&value[24..]))
    };
    assert_eq!(stamp(Kind::Lock, 5).await, "6c00000000… = 00000000000000070000000000000003…000000003b9aca00");
    assert_eq!(
        stamp(Kind::Map, 7).await,
        "6c000000026162… = 00000000000000070000000000000004…000000003b9aca00"
    );
}

#[tokio::test]
async fn members_and_known_primitives() {
    let ground = still();
    ground.membership.join().await.unwrap();
    let show = |entries: Vec<Entry>| {
        let shown = entries.iter().map(|entry| format!("{} = {}", hex(&entry.key), hex(&entry.value)));
        shown.collect::<Vec<_>>()
    };
    assert_eq!(
        show(entries(&ground, &Keyspace::new("host")).await),
        ["680000000000000007 = 0000000000002710000000003b9aca00"]
    );
    let known = Known::new(Arc::clone(&ground.store), Arc::clone(&ground.membership));
    known.remember(Kind::Map, "a", &[]).await.unwrap();
    known.remember(Kind::Set, "", &["x".to_owned(), String::new(), "yz".to_owned()]).await.unwrap();
    assert_eq!(
        show(entries(&ground, &Keyspace::new("known")).await),
        [
            "70000000047365742f0000000000000007 = 00000001780000000000000002797a",
            "70000000056d61702f610000000000000007 = "
        ]
    );
}
