// SPDX-License-Identifier: Apache-2.0
//! Records that cannot be read end streams with an error: nothing is left out.

use std::fmt::Debug;

use atomix_primitives::{CounterMap, Election, Events, IndexedMap, Kind, List, MultiMap, Reason, Set, Topic};
use atomix_store::{Txn, Write};
use bytes::Bytes;
use futures::StreamExt;

use crate::ground::{Ground, caller, soon};

/// Not UTF-8, and too short for any record.
const DAMAGE: &[u8] = &[0xff, 0xfe, 0xfd];

/// Writes something that no primitive writes, and asserts that `events` end with the error.
async fn ends<T: Debug>(ground: &Ground, kind: Kind, key: &[u8], mut events: Events<T>) {
    let write = Write::Put { key: Bytes::copy_from_slice(key), value: Bytes::from_static(DAMAGE) };
    ground.store.commit(&kind.keyspace("it"), Txn::new().write(write)).await.unwrap();
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
