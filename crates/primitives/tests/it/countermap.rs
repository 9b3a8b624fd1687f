// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atomix_primitives::countermap::{EntryChange, Event};
use atomix_primitives::{CounterMap, Kind, Limits, Reason};
use bytes::Bytes;

use crate::ground::{Ground, all, caller, next, reason, silent, soon, take};

async fn open() -> CounterMap {
    CounterMap::open(Ground::real().backing(Kind::CounterMap)).await.unwrap()
}

fn event(key: &str, change: EntryChange) -> Event {
    Event { key: key.to_owned(), change }
}

#[tokio::test]
async fn set_answers_the_number_before_or_zero() {
    let map = open().await;
    assert_eq!(map.set("a", 5).await, Ok(0));
    assert_eq!(map.set("a", -7).await, Ok(5));
    assert_eq!(map.get("a").await, Ok(-7));
}

#[tokio::test]
async fn get_of_a_missing_key_is_an_error() {
    assert_eq!(reason(open().await.get("a").await), Reason::KeyNotFound);
}

#[tokio::test]
async fn insert_needs_a_new_key() {
    let map = open().await;
    map.insert("a", 1).await.unwrap();
    assert_eq!(reason(map.insert("a", 2).await), Reason::KeyExists);
    assert_eq!(map.get("a").await, Ok(1));
}

#[tokio::test]
async fn update_compares_with_the_number_also_when_it_is_zero() {
    let map = open().await;
    assert_eq!(reason(map.update("a", 1, 0).await), Reason::KeyNotFound);
    map.set("a", 5).await.unwrap();
    assert_eq!(reason(map.update("a", 1, 0).await), Reason::ValueMismatch);
    assert_eq!(map.get("a").await, Ok(5));
    assert_eq!(map.update("a", 0, 5).await, Ok(5));
    assert_eq!(map.update("a", 3, 0).await, Ok(0));
    assert_eq!(map.get("a").await, Ok(3));
}

#[tokio::test]
async fn increment_answers_the_number_before() {
    let map = open().await;
    assert_eq!(map.increment("a", 5, None).await, Ok(0));
    assert_eq!(map.increment("a", 2, None).await, Ok(5));
    assert_eq!(map.decrement("a", 10, None).await, Ok(7));
    assert_eq!(map.get("a").await, Ok(-3));
    assert_eq!(map.decrement("b", 4, None).await, Ok(0));
    assert_eq!(map.get("b").await, Ok(-4));
}

#[tokio::test]
async fn a_delta_of_zero_counts_as_one() {
    let map = open().await;
    assert_eq!(map.increment("a", 0, None).await, Ok(0));
    assert_eq!(map.increment("a", 0, None).await, Ok(1));
    assert_eq!(map.decrement("a", 0, None).await, Ok(2));
    assert_eq!(map.get("a").await, Ok(1));
}

#[tokio::test]
async fn arithmetic_wraps_around() {
    let map = open().await;
    map.set("a", i64::MAX).await.unwrap();
    assert_eq!(map.increment("a", 1, None).await, Ok(i64::MAX));
    assert_eq!(map.decrement("a", 1, None).await, Ok(i64::MIN));
    assert_eq!(map.decrement("a", i64::MIN, None).await, Ok(i64::MAX));
    assert_eq!(map.get("a").await, Ok(-1));
}

#[tokio::test]
async fn a_named_increment_is_applied_once() {
    let map = open().await;
    let name = Some(Bytes::from_static(b"a"));
    assert_eq!(map.increment("a", 5, None).await, Ok(0));
    assert_eq!(map.increment("a", 2, name.clone()).await, Ok(5));
    assert_eq!(map.increment("a", 2, name).await, Ok(5));
    assert_eq!(map.get("a").await, Ok(7));
}

#[tokio::test]
async fn a_key_at_zero_stays() {
    let map = open().await;
    map.increment("a", 1, None).await.unwrap();
    map.decrement("a", 1, None).await.unwrap();
    assert_eq!((map.get("a").await, map.size().await), (Ok(0), Ok(1)));
}

#[tokio::test]
async fn remove_answers_the_number_and_zero_checks_nothing() {
    let map = open().await;
    assert_eq!(reason(map.remove("a", 0).await), Reason::KeyNotFound);
    assert_eq!(reason(map.remove("a", 3).await), Reason::KeyNotFound);
    map.set("a", 5).await.unwrap();
    assert_eq!(reason(map.remove("a", 4).await), Reason::ValueMismatch);
    assert_eq!(map.remove("a", 5).await, Ok(5));
    map.set("a", 6).await.unwrap();
    assert_eq!(map.remove("a", 0).await, Ok(6));
    assert_eq!(reason(map.get("a").await), Reason::KeyNotFound);
}

#[tokio::test]
async fn size_counts_keys_and_clear_removes_them() {
    let map = open().await;
    for key in ["a", "b", "", "c"] {
        map.set(key, 1).await.unwrap();
    }
    assert_eq!(map.size().await, Ok(4));
    map.clear().await.unwrap();
    assert_eq!(map.size().await, Ok(0));
    map.clear().await.unwrap();
}

#[tokio::test]
async fn a_key_beyond_the_limit_is_refused() {
    let ground = Ground::real().limited(Limits { key_bytes_max: 4, ..Limits::default() });
    let map = CounterMap::open(ground.backing(Kind::CounterMap)).await.unwrap();
    map.set("four", 1).await.unwrap();
    assert_eq!(reason(map.set("five5", 1).await), Reason::Invalid);
    assert_eq!(reason(map.increment("five5", 1, None).await), Reason::Invalid);
    assert_eq!(reason(map.insert("five5", 1).await), Reason::Invalid);
    assert_eq!(reason(map.update("five5", 1, 1).await), Reason::Invalid);
    assert_eq!(reason(map.remove("five5", 0).await), Reason::Invalid);
    assert_eq!(reason(map.get("five5").await), Reason::Invalid);
    assert_eq!(map.size().await, Ok(1));
}

#[tokio::test]
async fn every_change_is_an_event_with_the_numbers() {
    let map = open().await;
    let mut events = map.events(&caller(1), None).await.unwrap();
    map.increment("a", 5, None).await.unwrap();
    map.decrement("a", 2, None).await.unwrap();
    map.set("a", 3).await.unwrap();
    map.update("a", 9, 3).await.unwrap();
    map.remove("a", 0).await.unwrap();
    map.insert("b", 1).await.unwrap();
    map.insert("b", 1).await.unwrap_err();
    map.set("c", 2).await.unwrap();
    map.clear().await.unwrap();
    let seen = take(&mut events, 9).await;
    let expected = [
        event("a", EntryChange::Inserted { value: 5 }),
        event("a", EntryChange::Updated { value: 3, previous: 5 }),
        event("a", EntryChange::Updated { value: 3, previous: 3 }),
        event("a", EntryChange::Updated { value: 9, previous: 3 }),
        event("a", EntryChange::Removed { value: 9 }),
        event("b", EntryChange::Inserted { value: 1 }),
        event("c", EntryChange::Inserted { value: 2 }),
    ];
    assert_eq!(seen[..7], expected);
    assert!(seen[7..].contains(&event("b", EntryChange::Removed { value: 1 })));
    assert!(seen[7..].contains(&event("c", EntryChange::Removed { value: 2 })));
    silent(&mut events).await;
}

#[tokio::test]
async fn events_of_one_key_are_of_that_key() {
    let map = open().await;
    let mut events = map.events(&caller(1), Some("a".to_owned())).await.unwrap();
    map.set("b", 1).await.unwrap();
    map.set("aa", 1).await.unwrap();
    map.set("a", 1).await.unwrap();
    assert_eq!(next(&mut events).await, event("a", EntryChange::Inserted { value: 1 }));
    silent(&mut events).await;
}

#[tokio::test]
async fn a_listing_shows_every_key_and_ends() {
    let map = open().await;
    map.set("b", 2).await.unwrap();
    map.set("a", 1).await.unwrap();
    let listed = all(map.entries(&caller(1), false).await.unwrap()).await;
    assert_eq!(BTreeMap::from_iter(listed), BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
}

#[tokio::test]
async fn a_watching_listing_shows_new_numbers_and_the_last_of_removed_keys() {
    let map = open().await;
    map.set("a", 1).await.unwrap();
    let mut entries = map.entries(&caller(1), true).await.unwrap();
    assert_eq!(next(&mut entries).await, ("a".to_owned(), 1));
    map.increment("a", 5, None).await.unwrap();
    assert_eq!(next(&mut entries).await, ("a".to_owned(), 6));
    map.decrement("a", 2, None).await.unwrap();
    assert_eq!(next(&mut entries).await, ("a".to_owned(), 4));
    map.remove("a", 0).await.unwrap();
    assert_eq!(next(&mut entries).await, ("a".to_owned(), 4));
    silent(&mut entries).await;
}

#[tokio::test]
async fn streams_end_when_the_caller_closes() {
    let map = open().await;
    let caller = caller(1);
    let events = map.events(&caller, None).await.unwrap();
    let entries = map.entries(&caller, true).await.unwrap();
    caller.closed.cancel();
    assert_eq!(all(events).await, []);
    assert_eq!(all(entries).await, []);
}

#[tokio::test]
async fn keys_are_locked_by_sessions() {
    let map = open().await;
    let (one, two) = (caller(1), caller(2));
    let keys = ["a".to_owned(), "b".to_owned()];
    map.lock_table().acquire(&one, &keys, None).await.unwrap();
    map.lock_table().acquire(&two, &["c".to_owned()], None).await.unwrap();
    let refused = map.lock_table().acquire(&two, &keys[1..], Some(Duration::ZERO)).await;
    assert_eq!(reason(refused), Reason::LockTimeout);
    assert_eq!(reason(map.lock_table().release(&two, &keys[..1]).await), Reason::LockNotHeld);
    assert_eq!(map.lock_table().list(10).await.unwrap().len(), 3);
    let (waiting, ()) = tokio::join!(
        soon(map.lock_table().acquire(&two, &keys, None)),
        map.lock_table().release_all(one.owner)
    );
    waiting.unwrap();
    map.lock_table().release(&two, &keys).await.unwrap();
    let locked = map.lock_table().list(10).await.unwrap();
    assert_eq!(locked.iter().map(|lock| lock.key.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(map.size().await, Ok(0), "locks are no keys of the map");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_are_exact_per_key() {
    let map = Arc::new(open().await);
    let tasks = (0..64).map(|task: u32| {
        let map = Arc::clone(&map);
        tokio::spawn(async move {
            for round in 0..50 {
                let key = format!("{}", (task + round) % 5);
                map.increment(&key, 3, None).await.unwrap();
                map.decrement(&key, 2, None).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let entries = all(map.entries(&caller(1), false).await.unwrap()).await;
    assert_eq!(entries.iter().map(|(_, value)| value).sum::<i64>(), 64 * 50);
    assert!(entries.iter().all(|(_, value)| *value == 640));
}
