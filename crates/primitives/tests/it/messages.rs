// SPDX-License-Identifier: Apache-2.0
//! The words of `NOT_FOUND`, `ALREADY_EXISTS` and `ABORTED` are those of the original: applications show and compare them.

use std::fmt;

use atomix_primitives::indexedmap::Address;
use atomix_primitives::map::Operation;
use atomix_primitives::{Counter, CounterMap, Error, IndexedMap, Kind, Lock, Map, MultiMap, Set, Value};
use bytes::Bytes;

use crate::ground::{Ground, caller};

fn message<T: fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("an error was expected").message().to_owned()
}

fn value() -> Bytes {
    Bytes::from_static(b"v")
}

fn insert(key: &str) -> Operation {
    Operation::Insert { key: key.to_owned(), value: value(), ttl: None }
}

#[tokio::test]
async fn messages_of_maps_name_key_and_versions() {
    let map = Map::open(Ground::real().backing(Kind::Map)).await.unwrap();
    let version = map.put("c", value(), None, 0).await.unwrap().version;
    let (none, other) = (Bytes::new(), version + 1);
    assert_eq!(message(map.get("d").await), "key d not found");
    assert_eq!(message(map.update("d", none.clone(), None, 0).await), "key 'd' not found");
    assert_eq!(message(map.update("d", none.clone(), None, other).await), "key 'd' not found");
    assert_eq!(message(map.remove("d", 0).await), "key 'd' not found");
    assert_eq!(message(map.insert("c", none.clone(), None).await), "key 'c' already exists");
    let mismatch = |found, action| format!("entry index {found} does not match {action} index {other}");
    assert_eq!(message(map.update("c", none.clone(), None, other).await), mismatch(version, "update"));
    assert_eq!(message(map.put("c", none.clone(), None, other).await), mismatch(version, "update"));
    assert_eq!(message(map.put("c", value(), None, other).await), mismatch(version, "update"));
    assert_eq!(message(map.put("d", none.clone(), None, other).await), mismatch(0, "update"));
    assert_eq!(message(map.remove("c", other).await), mismatch(version, "remove"));

    let commit = async |operation| message(map.commit(vec![operation]).await);
    let key = || "d".to_owned();
    assert_eq!(commit(Operation::Remove { key: key(), prev_version: 0 }).await, "key 'd' not found");
    assert_eq!(
        commit(Operation::Remove { key: "c".to_owned(), prev_version: other }).await,
        mismatch(version, "remove")
    );
    let put = Operation::Put { key: key(), value: value(), ttl: None, prev_version: other };
    assert_eq!(commit(put).await, mismatch(0, "update"));
    assert_eq!(commit(insert("c")).await, "key 'c' already exists");
    let twice = map.commit(vec![insert("b"), insert("b")]).await;
    assert_eq!(message(twice), "multiple modifications of key b in same transaction");

    // Keys come from clients.
    assert_eq!(message(map.get("a\nb\u{1b}").await), "key a\\nb\\u{1b} not found");
    let long = message(map.get(&"x".repeat(1000)).await);
    assert_eq!(long, format!("key {}… not found", "x".repeat(200)));
}

#[tokio::test]
async fn messages_of_numbers_name_key_and_number() {
    let map = CounterMap::open(Ground::real().backing(Kind::CounterMap)).await.unwrap();
    map.set("c", 5).await.unwrap();
    assert_eq!(message(map.get("d").await), "key d not found");
    assert_eq!(message(map.update("d", 1, 2).await), "key 'd' not found");
    assert_eq!(message(map.remove("d", 0).await), "key 'd' not found");
    assert_eq!(message(map.remove("d", 3).await), "key 'd' not found");
    assert_eq!(message(map.insert("c", 1).await), "key 'c' already exists");
    assert_eq!(message(map.update("c", 1, 2).await), "optimistic lock failure");
    assert_eq!(message(map.remove("c", 6).await), "entry value 5 does not match remove value 6");
    let counter = Counter::open(Ground::real().backing(Kind::Counter));
    assert_eq!(message(counter.update(1, 2).await), "optimistic lock failure");
}

#[tokio::test]
async fn messages_of_indexed_maps_name_key_and_index() {
    let map = IndexedMap::open(Ground::real().backing(Kind::IndexedMap)).await.unwrap();
    assert_eq!(message(map.first().await), "map is empty");
    let entry = map.append("b", value(), None).await.unwrap();
    let (by_key, by_index) = (|key| Address { key, index: 0 }, |index| Address { key: "", index });
    assert_eq!(message(map.append("b", value(), None).await), "key b already exists at index 1");
    assert_eq!(message(map.get(by_index(2)).await), "no entry found at index 2");
    assert_eq!(message(map.get(by_key("c")).await), "no entry found at key c");
    assert_eq!(message(map.remove(by_index(2), 0).await), "no entry found at index 2");
    assert_eq!(message(map.remove(by_key("c"), 0).await), "no entry found at key c");
    assert_eq!(message(map.update(by_index(2), value(), None, 0).await), "index 2 not found");
    assert_eq!(message(map.update(by_key("c"), value(), None, 0).await), "key c not found");
    let (version, other) = (entry.value.version, entry.value.version + 1);
    let mismatch = format!("key b version {version} does not match prev_version {other}");
    assert_eq!(message(map.update(by_key("b"), value(), None, other).await), mismatch);
    assert_eq!(message(map.remove(by_index(1), other).await), mismatch);
    let different = Address { key: "c", index: 1 };
    assert_eq!(
        message(map.remove(different, 0).await),
        "key and index name different entries: key=`c` index=`1` key-at-index=`b`"
    );
}

#[tokio::test]
async fn messages_of_the_others_are_those_of_the_original() {
    let cell = Value::open(Ground::real().backing(Kind::Value)).await.unwrap();
    assert_eq!(message(cell.get().await), "value not set");
    assert_eq!(message(cell.delete(0).await), "value not set");
    let version = cell.set(value(), None).await.unwrap().version;
    let other = version + 1;
    assert_eq!(message(cell.insert(value(), None).await), "value already set");
    let mismatch = |action| format!("value index {version} does not match {action} index {other}");
    assert_eq!(message(cell.update(value(), None, other).await), mismatch("update"));
    assert_eq!(message(cell.delete(other).await), mismatch("delete"));

    let set = Set::open(Ground::real().backing(Kind::Set)).await.unwrap();
    set.add("a", None).await.unwrap();
    assert_eq!(message(set.add("a", None).await), "element 'a' already exists");
    assert_eq!(message(set.remove("b").await), "element 'b' not found");
    assert_eq!(
        message(set.add(&"x".repeat(5000), None).await),
        "element too large, shorten it or raise `limits.key-bytes-max`: bytes=`5000` max=`4096`"
    );

    let map = MultiMap::open(Ground::real().backing(Kind::MultiMap));
    map.put("a", "1".to_owned()).await.unwrap();
    assert_eq!(message(map.put("a", "1".to_owned()).await), "entry already exists");
    assert_eq!(message(map.remove("a", "2").await), "entry not found");
    assert_eq!(message(map.remove_all("b", &[]).await), "entry not found");

    let lock = Lock::open(Ground::real().backing(Kind::Lock)).await.unwrap();
    let (one, two) = (caller(1), caller(2));
    assert_eq!(message(lock.unlock(&one).await), "lock not held by client");
    assert_eq!(message(lock.token().await), "lock not held");
    lock.lock(&one, None).await.unwrap();
    assert_eq!(message(lock.lock(&two, Some(std::time::Duration::ZERO)).await), "lock already held");
}
