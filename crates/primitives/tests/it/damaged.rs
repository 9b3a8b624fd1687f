// SPDX-License-Identifier: Apache-2.0
//! Records that cannot be read are errors: calls fail, streams end, and nothing is left out.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, ManualClock};
use atomix_primitives::{
    CounterMap, Election, Events, IndexedMap, Kind, Known, List, Lock, Map, MultiMap, Owner, Reason, Set,
    Topic,
};
use atomix_store::{Keyspace, Range, Read, Txn, Write};
use bytes::Bytes;
use futures::StreamExt;

use crate::ground::{Amnesiac, Ground, MEMBER, caller, eventually, reason, soon};

/// Not UTF-8, and too short for any record.
const DAMAGE: &[u8] = &[0xff, 0xfe, 0xfd];

/// Writes an entry of a primitive past the primitive.
async fn put(ground: &Ground, kind: Kind, key: &[u8], value: &[u8]) {
    let write = Write::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) };
    ground.store.commit(&kind.keyspace("it"), Txn::new().write(write)).await.unwrap();
}

/// Writes something that no primitive writes, and asserts that `events` end with the error.
async fn ends<T: Debug>(ground: &Ground, kind: Kind, key: &[u8], mut events: Events<T>) {
    put(ground, kind, key, DAMAGE).await;
    let shown = soon(events.next()).await.expect("the stream goes on");
    assert_eq!(shown.expect_err("nothing can be shown").reason(), Reason::StoreCorrupt, "{kind}");
}

#[tokio::test]
async fn a_watch_ends_at_a_record_that_cannot_be_read() {
    let ground = Ground::real();
    let one = caller(1);
    let at = |kind| ground.backing(kind);
    let numbers = CounterMap::open(at(Kind::CounterMap)).await.unwrap();
    ends(&ground, Kind::CounterMap, b"ka", numbers.events(&one, None).await.unwrap()).await;
    let election = Election::open(at(Kind::Election)).await.unwrap();
    ends(&ground, Kind::Election, b"v", election.watch(&one).await.unwrap()).await;
    let indexed = IndexedMap::open(at(Kind::IndexedMap)).await.unwrap();
    ends(&ground, Kind::IndexedMap, b"i", indexed.events(&one, None).await.unwrap()).await;
    let list = List::open(at(Kind::List), false);
    ends(&ground, Kind::List, b"o", list.events(&one, false).await.unwrap()).await;
    let pairs = MultiMap::open(at(Kind::MultiMap));
    ends(&ground, Kind::MultiMap, b"ka", pairs.events(&one, None).await.unwrap()).await;
    let set = Set::open(at(Kind::Set)).await.unwrap();
    ends(&ground, Kind::Set, b"k\xff", set.events(&one).await.unwrap()).await;
    let topic = Topic::open(at(Kind::Topic));
    ends(&ground, Kind::Topic, b"v", topic.subscribe(&one).await.unwrap()).await;
}

#[tokio::test]
async fn a_listing_ends_at_a_record_that_cannot_be_read() {
    let ground = Ground::real();
    let numbers = CounterMap::open(ground.backing(Kind::CounterMap)).await.unwrap();
    let write = Write::Put { key: "ka".into(), value: Bytes::from_static(DAMAGE) };
    ground.store.commit(&Kind::CounterMap.keyspace("it"), Txn::new().write(write)).await.unwrap();
    let Err(error) = numbers.entries(&caller(1), false).await else { panic!("it cannot be shown") };
    assert_eq!(error.reason(), Reason::StoreCorrupt);
}

#[tokio::test]
async fn a_list_whose_chunks_have_other_items_than_its_root_counts_cannot_be_read() {
    let ground = Ground::real();
    let list = List::open(ground.backing(Kind::List), false);
    list.append("a".into()).await.unwrap();
    for items in [2, u32::MAX] {
        let root = [&1u64.to_be_bytes()[..], &1u64.to_be_bytes(), &items.to_be_bytes()].concat();
        put(&ground, Kind::List, b"r", &root).await;
        assert_eq!(reason(list.get(1).await), Reason::StoreCorrupt);
        assert_eq!(reason(list.set(1, "b".into()).await), Reason::StoreCorrupt);
        assert_eq!(reason(list.remove(1).await), Reason::StoreCorrupt);
        assert_eq!(reason(list.insert(0, "b".into()).await), Reason::StoreCorrupt);
        assert_eq!(reason(list.append("b".into()).await), Reason::StoreCorrupt);
        let Err(error) = list.items(&caller(1), false).await else { panic!("it cannot be shown") };
        assert_eq!(error.reason(), Reason::StoreCorrupt);
    }
    put(&ground, Kind::List, b"r", DAMAGE).await;
    assert_eq!(reason(list.size().await), Reason::StoreCorrupt);
}

#[tokio::test]
async fn a_damaged_stamp_is_an_error_after_all_others_were_released() {
    let ground = Ground::on(Amnesiac::new(), Env::real());
    let lock = Lock::open(ground.backing(Kind::Lock)).await.unwrap();
    let stamp = async |name: &[u8], value: &[u8]| {
        let prefix = [b"l\0\0\0\x01", name].concat().into();
        let write = Write::Stamp { prefix, value: Bytes::copy_from_slice(value) };
        ground.store.commit(&Kind::Lock.keyspace("it"), Txn::new().write(write)).await.unwrap();
    };
    let table = lock.lock_table();
    stamp(b"a", DAMAGE).await;
    stamp(b"b", &[[0; 7].as_slice(), &[9], &[0; 7], &[1], &[0; 16]].concat()).await;
    assert_eq!(reason(table.elsewhere().await), Reason::StoreCorrupt);
    assert_eq!(reason(table.list(9).await), Reason::StoreCorrupt);
    assert_eq!(reason(table.release(&caller(1), &["a".to_owned()]).await), Reason::StoreCorrupt);
    assert_eq!(reason(table.release_dead_owners().await), Reason::StoreCorrupt);
    assert!(table.acquire(&caller(1), &["b".to_owned()], None).await.is_ok(), "its owner was dead");
    let owner = Owner { member: MEMBER, session: 1 };
    assert_eq!(reason(table.remove_owner(owner).await), Reason::StoreCorrupt);
    assert!(table.acquire(&caller(2), &["b".to_owned()], None).await.is_ok(), "its session was removed");
}

#[tokio::test]
async fn deadlines_that_cannot_be_read_end_nothing() {
    let clock = ManualClock::new();
    let ground = Ground::on(Amnesiac::new(), Env::simulated(Arc::clone(&clock), 1));
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    map.put("a", "1".into(), Some(Duration::from_secs(1)), 0).await.unwrap();
    // One task reaps both, in the order of their deadlines.
    map.put("b", "1".into(), Some(Duration::from_secs(5)), 0).await.unwrap();
    put(&ground, Kind::Map, b"ta", DAMAGE).await;
    put(&ground, Kind::Map, b"t\xff", &[0; 32]).await;
    eventually(async || {
        clock.advance(Duration::from_secs(1));
        map.get("b").await.is_err()
    })
    .await;
    assert!(map.get("a").await.is_ok());
    // A map that cannot be opened has removed all the same each entry that is overdue.
    let deadline = [0u64, 1000].map(u64::to_be_bytes).concat();
    put(&ground, Kind::Map, b"ty", &deadline).await;
    let Err(error) = Map::open(ground.backing(Kind::Map)).await else { panic!("it has deadlines") };
    assert_eq!(error.reason(), Reason::StoreCorrupt);
    let count = Read::Count { range: Range::prefix("ty") };
    assert_eq!(ground.store.read(&Kind::Map.keyspace("it"), vec![count]).await.unwrap().reads[0].count(), 0);
}

#[tokio::test]
async fn members_of_a_damaged_entry_are_unknown() {
    let ground = Ground::on(Amnesiac::new(), Env::real());
    let known = Known::new(Arc::clone(&ground.store), Arc::clone(&ground.membership));
    let key = [b"p\0\0\0\x06map/it".as_slice(), DAMAGE].concat();
    let write = Write::Put { key: key.into(), value: Bytes::from_static(DAMAGE) };
    ground.store.commit(&Keyspace::new("known"), Txn::new().write(write)).await.unwrap();
    assert_eq!(reason(known.recall(Kind::Map, "it").await), Reason::StoreCorrupt);
    assert_eq!(reason(known.elsewhere(Kind::Map, "it").await), Reason::StoreCorrupt);
    assert_eq!(reason(known.remember(Kind::Map, "it", &[]).await), Reason::StoreCorrupt);
}

#[tokio::test]
async fn the_record_of_a_member_that_cannot_be_read_keeps_it_alive() {
    let ground = Ground::on(Amnesiac::new(), Env::real());
    let write =
        Write::Put { key: b"h\0\0\0\0\0\0\0\x09".as_slice().into(), value: Bytes::from_static(DAMAGE) };
    ground.store.commit(&Keyspace::new("host"), Txn::new().write(write)).await.unwrap();
    ground.membership.join().await.unwrap();
    assert!(ground.membership.dead([9].into()).await.unwrap().is_empty());
    assert_eq!(ground.membership.list().len(), 1);
}
