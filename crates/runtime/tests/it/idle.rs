// SPDX-License-Identifier: Apache-2.0
//! Primitives that no session uses any more.

use std::time::Duration;

use atomix_primitives::TypedPrimitive;
use atomix_primitives::{Counter, Election, Kind, Lock, Map, Reason};
use atomix_store::Durability;

use crate::ground::{Client, Node, World, pass, reason, settle};

/// Longer than a primitive stays open without sessions, and its keyspace after that.
const IDLE: Duration = Duration::from_secs(8);
/// More than are found again by clients that come back.
const MANY: usize = 5_000;

fn worlds() -> [World; 3] {
    [World::new(Durability::Process, false), World::alone(), World::shared()]
}

/// Uses a name of each kind, in order, and leaves nothing but what an election keeps.
async fn use_once(client: &Client, name: &str, close: bool) -> u64 {
    let lock = client.create::<Lock>(name).await;
    let token = lock.lock(&lock.caller(), None).await.unwrap();
    lock.unlock(&lock.caller()).await.unwrap();
    let map = client.create::<Map>(name).await;
    map.put("k", "v".into(), None, 0).await.unwrap();
    map.clear().await.unwrap();
    let counter = client.create::<Counter>(name).await;
    counter.increment(1, None).await.unwrap();
    counter.set(0).await.unwrap();
    if close {
        for kind in [Kind::Lock, Kind::Map, Kind::Counter] {
            client.close(kind, name).await;
        }
    }
    token
}

fn open(node: &Node) -> usize {
    node.runtime.primitives(None, usize::MAX, |_| true).len()
}

#[tokio::test]
async fn names_that_were_used_once_cost_nothing() {
    for (world, close) in worlds().into_iter().chain(worlds()).zip([false, false, false, true, true, true]) {
        let node = world.start().await;
        let client = node.client();
        let first = use_once(&client, "again", close).await;
        client.end();
        pass(&[&node], IDLE).await;
        let (known, keyspaces) = (world.count("known").await, world.keyspaces().await);
        assert_eq!((open(&node), known), (0, 0));
        for at in 0..50 {
            let client = node.client();
            use_once(&client, &format!("name-{at}"), close).await;
            client.end();
        }
        pass(&[&node], IDLE).await;
        assert_eq!(open(&node), 0);
        assert_eq!((world.count("known").await, world.keyspaces().await), (known, keyspaces));
        let client = node.client();
        assert!(use_once(&client, "again", close).await > first, "tokens go on");
    }
}

#[tokio::test]
async fn content_stays_and_is_found_without_being_created_again() {
    for world in worlds() {
        let node = world.start().await;
        let client = node.client();
        client.create::<Counter>("c").await.set(5).await.unwrap();
        let election = client.create::<Election>("e").await;
        election.enter(&election.caller(), "a").await.unwrap();
        drop(election);
        client.end();
        pass(&[&node], IDLE).await;
        assert_eq!(open(&node), 0);
        assert_eq!(world.count("known").await, 2);
        let client = node.client();
        assert_eq!(client.call::<Counter>("c").await.unwrap().get().await, Ok(5));
        let election = client.call::<Election>("e").await.unwrap();
        assert_eq!(election.enter(&election.caller(), "b").await.unwrap().term, 2, "terms go on");
        // The last Close forgets it, with its content in place.
        client.close(Kind::Counter, "c").await;
        assert!(client.call::<Counter>("c").await.is_none());
        assert_eq!(client.create::<Counter>("c").await.get().await, Ok(5));
    }
}

#[tokio::test]
async fn a_client_that_comes_back_finds_what_it_created_although_it_is_empty() {
    for world in worlds() {
        let node = world.start().await;
        let client = node.client();
        let tags = ["x".to_owned()];
        client.runtime.create(&client.session, Kind::Lock, "l", &tags).await.unwrap();
        client.end();
        pass(&[&node], IDLE).await;
        assert_eq!(open(&node), 0);
        let client = node.client();
        let lock = client.call::<Lock>("l").await.unwrap();
        assert_eq!(lock.open.tags(), tags);
        lock.lock(&lock.caller(), None).await.unwrap();
        // Not for ever: the list is short.
        drop(lock);
        client.end();
        pass(&[&node], IDLE).await;
        for at in 0..MANY {
            let client = node.client();
            client.create::<Counter>(&at.to_string()).await;
            client.end();
        }
        pass(&[&node], IDLE).await;
        let client = node.client();
        assert!(client.call::<Lock>("l").await.is_none());
        let error = node.runtime.not_open(Kind::Lock, "l");
        assert_eq!(error.reason(), Reason::NotOpen);
        assert!(error.message() == "primitive not found for 'l'", "{error}");
    }
}

#[tokio::test]
async fn a_primitive_is_open_while_a_call_or_a_deadline_needs_it() {
    let world = World::new(Durability::Process, false);
    let node = world.start().await;
    let (creator, non_user) = (node.client(), node.client());
    creator.create::<Lock>("l").await;
    let lock = non_user.call::<Lock>("l").await.unwrap();
    creator.end();
    pass(&[&node], IDLE).await;
    // The call found it before and has not begun to wait.
    lock.lock(&lock.caller(), None).await.unwrap();
    pass(&[&node], IDLE).await;
    let again = non_user.call::<Lock>("l").await.unwrap();
    assert_eq!(reason(again.lock(&again.caller(), Some(Duration::ZERO)).await), Reason::LockTimeout);
    drop((lock, again));
    non_user.end();
    let client = node.client();
    let map = client.create::<Map>("m").await;
    map.put("k", "v".into(), Some(Duration::from_mins(1)), 0).await.unwrap();
    drop(map);
    client.end();
    pass(&[&node], IDLE).await;
    assert_eq!(open(&node), 1, "its deadline is looked after");
    pass(&[&node], Duration::from_mins(1) + IDLE).await;
    assert_eq!((open(&node), world.count("map/m").await), (0, 0));
}

#[tokio::test]
async fn the_limit_counts_those_that_are_in_use() {
    let world = World::alone();
    let node = world.start_with(100).await;
    for at in 0..250 {
        let client = node.client();
        client.create::<Lock>(&at.to_string()).await;
        client.end();
        settle().await;
    }
    assert!(open(&node) <= 200);
    let client = node.client();
    for at in 0..100 {
        client.create::<Lock>(&at.to_string()).await;
    }
    let refused = client.runtime.create(&client.session, Kind::Lock, "more", &[]).await;
    assert_eq!(refused.unwrap_err().reason(), Reason::PrimitivesFull);
    client.close(Kind::Lock, "0").await;
    client.create::<Lock>("more").await;
}

#[tokio::test]
async fn a_call_after_a_disconnect_says_so() {
    let world = World::shared();
    let node = world.start().await;
    let client = node.client();
    let lock = client.create::<Lock>("l").await;
    node.runtime.disconnect(lock.open.store_id()).await.unwrap();
    assert!(client.call::<Lock>("l").await.is_none());
    let error = node.runtime.not_open(Lock::KIND, "l");
    assert_eq!(error.reason(), Reason::NotOpen);
    assert!(
        error.message().contains("was disconnected") && error.message().contains("store=`/s`"),
        "{error}"
    );
    assert!(node.runtime.not_open(Lock::KIND, "other").message().ends_with('\''));
    node.connect("s").await;
    assert!(node.runtime.not_open(Lock::KIND, "l").message().ends_with('\''));
}
