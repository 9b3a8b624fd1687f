// SPDX-License-Identifier: Apache-2.0
//! A runtime that is started again on a store that it has for itself.

use std::time::Duration;

use atomix_primitives::{Counter, Election, Kind, Lock, Map, Reason};
use atomix_store::Durability;

use crate::ground::{World, reason, settle};

const NOW: Option<Duration> = Some(Duration::ZERO);

#[tokio::test]
async fn a_lock_of_a_killed_process_is_free_and_its_queue_is_gone() {
    let world = World::alone();
    let first = world.start().await;
    let (holder, waiter) = (first.client(), first.client());
    let held = holder.create::<Lock>("l").await;
    let token = held.lock(&held.caller(), None).await.unwrap();
    let waits = waiter.create::<Lock>("l").await;
    let waiting = tokio::spawn(async move { waits.lock(&waits.caller(), None).await });
    settle().await;
    first.kill();
    waiting.abort();

    let second = world.start().await;
    let client = second.client();
    // Not created again: the store remembers.
    let lock = client.call::<Lock>("l").await.unwrap();
    assert_eq!(reason(lock.token().await), Reason::LockFree);
    assert!(lock.lock(&lock.caller(), NOW).await.unwrap() > token);
    assert_eq!(lock.queue(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn keys_that_a_killed_process_had_locked_are_free() {
    let world = World::alone();
    let first = world.start().await;
    let holder = first.client();
    let map = holder.create::<Map>("m").await;
    map.put("a", "1".into(), None, 0).await.unwrap();
    map.lock_table().acquire(&map.caller(), &["a".to_owned(), "b".to_owned()], None).await.unwrap();
    first.kill();

    let client = world.start().await.client();
    let map = client.create::<Map>("m").await;
    assert_eq!(map.lock_table().list(10).await, Ok(Vec::new()));
    assert_eq!(map.get("a").await.unwrap().value, "1");
}

#[tokio::test]
async fn an_election_of_a_killed_process_goes_on_with_a_new_term() {
    let world = World::alone();
    let first = world.start().await;
    let client = first.client();
    let election = client.create::<Election>("e").await;
    for name in ["a", "b"] {
        election.enter(&election.caller(), name).await.unwrap();
    }
    first.kill();

    let client = world.start().await.client();
    let election = client.call::<Election>("e").await.unwrap();
    let term = election.term().await.unwrap();
    assert_eq!((term.term, term.leader.as_str(), term.candidates.len()), (1, "", 0));
    let term = election.enter(&election.caller(), "c").await.unwrap();
    assert_eq!((term.term, term.leader.as_str()), (2, "c"));
}

#[tokio::test]
async fn a_primitive_is_remembered_with_its_tags_and_its_content_until_its_last_user_closes_it() {
    let world = World::alone();
    let first = world.start().await;
    let client = first.client();
    let tags = ["x".to_owned(), String::new()];
    client.runtime.create(&client.session, Kind::Counter, "c", &tags).await.unwrap();
    client.call::<Counter>("c").await.unwrap().set(5).await.unwrap();
    first.kill();

    let second = world.start().await;
    let client = second.client();
    assert!(client.call::<Counter>("other").await.is_none());
    assert!(client.call::<Lock>("c").await.is_none());
    let counter = client.call::<Counter>("c").await.unwrap();
    assert_eq!(counter.open.tags(), tags);
    assert_eq!(counter.get().await, Ok(5));
    assert_eq!(world.count("known").await, 1, "the entry of the dead member is gone");
    client.close(Kind::Counter, "c").await;
    assert!(client.call::<Counter>("c").await.is_none());
    second.kill();

    let third = world.start().await;
    let client = third.client();
    assert!(client.call::<Counter>("c").await.is_none());
    assert_eq!(client.create::<Counter>("c").await.get().await, Ok(5), "the content stays");
}

#[tokio::test]
async fn what_a_full_store_holds_is_opened_after_a_restart_and_can_be_deleted() {
    let world = World::alone();
    let first = world.start().await;
    let client = first.client();
    client.create::<Map>("m").await.put("a", "1".into(), None, 0).await.unwrap();
    client.create::<Counter>("c").await.set(5).await.unwrap();
    first.kill();
    world.bound(1).await;

    let second = world.start().await;
    let client = second.client();
    let map = client.create::<Map>("m").await;
    assert_eq!(map.get("a").await.unwrap().value, "1");
    assert_eq!(client.call::<Counter>("c").await.unwrap().get().await, Ok(5));
    assert_eq!(reason(map.put("b", "2".into(), None, 0).await), Reason::StoreFull);
    let other = client.runtime.create(&client.session, Kind::Counter, "other", &[]).await;
    assert_eq!(reason(other), Reason::StoreFull);
    map.remove("a", 0).await.unwrap();
    second.kill();

    world.bound(1 << 20).await;
    let client = world.start().await.client();
    assert_eq!(client.call::<Map>("m").await.unwrap().size().await, Ok(0));
}

#[tokio::test]
async fn a_primitive_that_is_closed_without_having_been_used_is_forgotten() {
    let world = World::alone();
    let first = world.start().await;
    first.client().create::<Counter>("c").await;
    first.kill();

    let client = world.start().await.client();
    client.close(Kind::Counter, "c").await;
    assert!(client.call::<Counter>("c").await.is_none());
    assert_eq!(world.count("known").await, 0);
}

#[tokio::test]
async fn who_uses_a_remembered_primitive_is_not_disturbed_by_who_closes_it() {
    let world = World::alone();
    let first = world.start().await;
    first.client().create::<Counter>("c").await;
    first.kill();

    let node = world.start().await;
    let (old, new) = (node.client(), node.client());
    assert!(old.call::<Counter>("c").await.is_some());
    new.create::<Counter>("c").await;
    new.close(Kind::Counter, "c").await;
    assert!(old.call::<Counter>("c").await.is_some());
    old.close(Kind::Counter, "c").await;
    assert!(old.call::<Counter>("c").await.is_none());
}

#[tokio::test]
async fn a_clean_stop_keeps_what_is_remembered() {
    let world = World::alone();
    let first = world.start().await;
    let client = first.client();
    let lock = client.create::<Lock>("l").await;
    lock.lock(&lock.caller(), None).await.unwrap();
    first.runtime.shut_down().await;

    let client = world.start().await.client();
    assert_eq!(reason(client.call::<Lock>("l").await.unwrap().token().await), Reason::LockFree);
}

#[tokio::test]
async fn a_store_that_goes_with_its_process_remembers_nothing() {
    let world = World::new(Durability::Process, false);
    let first = world.start().await;
    first.client().create::<Counter>("c").await;
    assert_eq!(world.count("known").await, 0);
}

#[tokio::test]
async fn a_remembered_primitive_is_looked_for_where_the_routes_lead() {
    let one = World::alone();
    let first = one.start_bare();
    first.connect("one").await;
    first.route(&[("one", &["x"])]);
    let client = first.client();
    client.runtime.create(&client.session, Kind::Counter, "c", &["x".to_owned()]).await.unwrap();
    first.kill();

    let second = one.start_bare();
    second.connect("one").await;
    let client = second.client();
    assert!(client.call::<Counter>("c").await.is_none(), "no routes yet");
    second.route(&[("elsewhere", &["x"]), ("one", &["y"])]);
    assert!(client.call::<Counter>("c").await.is_none(), "the routes lead elsewhere");
    second.route(&[("elsewhere", &["y"]), ("one", &["x"])]);
    assert!(client.call::<Counter>("c").await.is_some());
}

#[tokio::test]
async fn a_store_that_is_connected_again_still_knows_its_primitives_and_no_owners() {
    let world = World::alone();
    let node = world.start().await;
    let client = node.client();
    let lock = client.create::<Lock>("l").await;
    lock.lock(&lock.caller(), None).await.unwrap();
    node.runtime.disconnect(lock.open.store_id()).await.unwrap();
    assert!(client.call::<Lock>("l").await.is_none());
    node.connect("s").await;
    let lock = client.call::<Lock>("l").await.unwrap();
    assert_eq!(reason(lock.token().await), Reason::LockFree);
    assert_eq!(reason(lock.unlock(&lock.caller()).await), Reason::LockNotHeld);
}

#[tokio::test]
async fn tags_have_limits_because_they_are_kept() {
    let node = World::alone().start().await;
    let client = node.client();
    let create = async |name: &str, tags: &[String]| {
        client.runtime.create(&client.session, Kind::Counter, name, tags).await
    };
    let long = vec!["x".repeat(2048), "y".repeat(2048)];
    create("long", &long).await.unwrap();
    let error = create("longer", &[long, vec!["z".to_owned()]].concat()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Invalid);
    assert!(error.message().contains("bytes=`4097` max=`4096`"), "{error}");
    create("many", &vec![String::new(); 100]).await.unwrap();
    let error = create("more", &vec![String::new(); 101]).await.unwrap_err();
    assert!(error.message().contains("tags=`101` max=`100`"), "{error}");
    assert!(node.runtime.find(Kind::Counter, "more").is_none());
}
