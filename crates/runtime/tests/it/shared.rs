// SPDX-License-Identifier: Apache-2.0
//! Several runtimes on one store that all live: what one writes, times and closes, the others see.

use std::time::Duration;

use atomix_env::WallTime;
use atomix_primitives::map::{EntryChange, Operation};
use atomix_primitives::{Counter, IndexedMap, Kind, Lock, Map, Reason, Set, Value};
use futures::StreamExt;
use futures::future::join_all;

use crate::ground::{Has, TIMEOUT, World, pass, reason, settle, soon};

const TTL: Duration = Duration::from_secs(5);
/// How long after its time an entry may be served that another runtime wrote.
const LATE: Duration = Duration::from_millis(300);

async fn put(map: &Has<Map>, key: &str, ttl: Option<Duration>) {
    map.put(key, format!("{ttl:?}").into(), ttl, 0).await.unwrap();
}

#[tokio::test]
async fn an_entry_of_a_killed_runtime_expires_on_time_wherever_it_is_open() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let (client, here) = (one.client(), two.client());
    let map = client.create::<Map>("m").await;
    let seen = here.create::<Map>("m").await;
    let set = here.create::<Set>("s").await;
    let value = here.create::<Value>("v").await;
    let indexed = here.create::<IndexedMap>("i").await;
    let mut events = seen.events(&seen.caller(), None).await.unwrap();
    put(&map, "a", Some(TTL)).await;
    client.create::<Set>("s").await.add("a", Some(TTL)).await.unwrap();
    client.create::<Value>("v").await.set("1".into(), Some(TTL)).await.unwrap();
    client.create::<IndexedMap>("i").await.append("a", "1".into(), Some(TTL)).await.unwrap();
    soon(events.next()).await.unwrap().unwrap();
    settle().await;
    one.kill();
    pass(&[&two], TTL).await;
    assert_eq!(seen.size().await, Ok(1), "the other one would have been first");
    two.clock.advance(LATE);
    settle().await;
    let event = soon(events.next()).await.unwrap().unwrap();
    assert!(matches!(event.change, EntryChange::Removed { expired: true, .. }));
    assert_eq!(seen.size().await, Ok(0));
    assert_eq!(set.size().await, Ok(0));
    assert_eq!(reason(value.get().await), Reason::ValueNotSet);
    assert_eq!(indexed.size().await, Ok(0));
}

#[tokio::test]
async fn an_entry_expires_once_by_the_runtime_that_wrote_it() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let map = one.client().create::<Map>("m").await;
    let seen = two.client().create::<Map>("m").await;
    let mut events = seen.events(&seen.caller(), None).await.unwrap();
    put(&map, "a", Some(TTL)).await;
    pass(&[&one, &two], 2 * TTL).await;
    for _ in 0..2 {
        soon(events.next()).await.unwrap().unwrap();
    }
    assert!(futures::poll!(events.next()).is_pending());
}

#[tokio::test]
async fn a_renewal_by_another_runtime_is_respected_whatever_its_wall_clock_says() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    two.clock.set_wall(WallTime::from_unix(Duration::from_hours(24 * 365)));
    let map = one.client().create::<Map>("m").await;
    let other = two.client().create::<Map>("m").await;
    put(&map, "renewed", Some(TTL)).await;
    put(&map, "kept", Some(TTL)).await;
    put(&map, "removed", Some(TTL)).await;
    pass(&[&one, &two], TTL / 2).await;
    put(&other, "renewed", Some(2 * TTL)).await;
    put(&other, "kept", None).await;
    other.remove("removed", 0).await.unwrap();
    put(&other, "removed", Some(2 * TTL)).await;
    pass(&[&one, &two], TTL + TTL / 2).await;
    assert_eq!(map.size().await, Ok(3));
    pass(&[&one, &two], TTL / 2 + LATE).await;
    assert_eq!(map.size().await, Ok(1));
    pass(&[&one, &two], 10 * TTL).await;
    map.get("kept").await.unwrap();
}

#[tokio::test]
async fn what_expired_while_nobody_was_there_is_gone_before_the_first_answer() {
    let world = World::shared();
    let one = world.start().await;
    put(&one.client().create::<Map>("m").await, "a", Some(TTL)).await;
    one.kill();
    let two = world.start().await;
    two.clock.advance(TTL);
    let map = two.client().call::<Map>("m").await.unwrap();
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn a_runtime_that_could_not_follow_reads_what_it_missed() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let map = one.client().create::<Map>("m").await;
    let seen = two.client().create::<Map>("m").await;
    two.cut();
    put(&map, "a", Some(TTL)).await;
    // More than the store keeps for those who follow.
    for round in 0..5000 {
        map.put("b", format!("{round}").into(), None, 0).await.unwrap();
    }
    two.mend();
    settle().await;
    one.kill();
    pass(&[&two], TTL + LATE).await;
    assert_eq!(seen.size().await, Ok(1));
}

#[tokio::test]
async fn counters_and_transactions_of_two_runtimes_add_up() {
    let world = World::shared();
    let nodes = [world.start().await, world.start().await];
    let work = nodes.iter().map(|node| async {
        let client = node.client();
        let (counter, map) = (client.create::<Counter>("c").await, client.create::<Map>("m").await);
        for _ in 0..100 {
            counter.increment(1, None).await.unwrap();
            loop {
                let (a, b) = (map.get("a").await, map.get("b").await);
                let (a, b) = match (a, b) {
                    (Ok(a), Ok(b)) => (Some(a), Some(b)),
                    _ => (None, None),
                };
                let next = |old: Option<&atomix_primitives::map::Versioned>| {
                    let old = old.map_or(0, |old| std::str::from_utf8(&old.value).unwrap().parse().unwrap());
                    bytes::Bytes::from(format!("{}", old + 1u32))
                };
                let put = |key: &str, old: Option<&atomix_primitives::map::Versioned>| match old {
                    Some(old) => Operation::Put {
                        key: key.to_owned(),
                        value: next(Some(old)),
                        ttl: None,
                        prev_version: old.version,
                    },
                    None => Operation::Insert { key: key.to_owned(), value: next(None), ttl: None },
                };
                if map.commit(vec![put("a", a.as_ref()), put("b", b.as_ref())]).await.is_ok() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        (counter, map)
    });
    let (counter, map) = join_all(work).await.remove(0);
    assert_eq!(counter.get().await, Ok(200));
    assert_eq!(map.get("a").await.unwrap().value, "200");
    assert_eq!(map.get("b").await.unwrap().value, "200");
}

#[tokio::test]
async fn a_close_in_one_runtime_leaves_the_clients_of_others_alone() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let (here, there) = (one.client(), two.client());
    let lock = here.create::<Lock>("l").await;
    let other = there.create::<Lock>("l").await;
    let token = other.lock(&other.caller(), None).await.unwrap();
    here.close(Kind::Lock, "l").await;
    assert_eq!(lock.token().await, Ok(token), "what is held there stays held");
    assert!(there.call::<Lock>("l").await.is_some());
    two.kill();

    // The runtime of the other client is started again: its client finds what it created.
    let two = world.start().await;
    let there = two.client();
    assert!(there.call::<Lock>("l").await.is_some());
    pass(&[&one, &two], 2 * TIMEOUT).await;
    there.close(Kind::Lock, "l").await;
    assert!(there.call::<Lock>("l").await.is_none(), "no live member knows it any more");
    assert_eq!(world.count("known").await, 0);
}

#[tokio::test]
async fn a_runtime_that_begins_again_is_remembered_under_its_new_name() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    one.client().create::<Counter>("c").await;
    one.cut();
    pass(&[&two], 2 * TIMEOUT).await;
    one.mend();
    pass(&[&one], TIMEOUT).await;
    // Closed by another runtime, which takes the old name for dead.
    let client = two.client();
    client.create::<Counter>("c").await;
    client.close(Kind::Counter, "c").await;
    assert_eq!(world.count("known").await, 1);
    one.kill();
    assert!(world.start().await.client().call::<Counter>("c").await.is_some());
}
