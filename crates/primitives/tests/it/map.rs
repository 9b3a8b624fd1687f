// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_env::{Env, ManualClock};
use atomix_primitives::map::{Done, EntryChange, Event, Operation, Stored, Versioned};
use atomix_primitives::{ErrorKind, Kind, Limits, Map, Reason};
use bytes::Bytes;
use futures::StreamExt;

use crate::ground::{Ground, all, caller, eventually, next, reason, silent, soon, take};
use crate::stores::{forgetful_store, needs};

async fn open() -> Map {
    on(&Ground::real()).await
}

async fn on(ground: &Ground) -> Map {
    Map::open(ground.backing(Kind::Map)).await.unwrap()
}

fn versioned(value: &'static str, version: u64) -> Versioned {
    Versioned { value: value.into(), version }
}

fn event(key: &str, change: EntryChange) -> Event {
    Event { key: key.to_owned(), change }
}

fn put(key: &str, value: &'static str) -> Operation {
    Operation::Put { key: key.to_owned(), value: value.into(), ttl: None, prev_version: 0 }
}

fn insert(key: &str, value: &'static str) -> Operation {
    Operation::Insert { key: key.to_owned(), value: value.into(), ttl: None }
}

fn update(key: &str, value: &'static str, prev_version: u64) -> Operation {
    Operation::Update { key: key.to_owned(), value: value.into(), ttl: None, prev_version }
}

fn remove(key: &str, prev_version: u64) -> Operation {
    Operation::Remove { key: key.to_owned(), prev_version }
}

fn seconds(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(count))
}

// --- Single calls ---

#[tokio::test]
async fn a_put_returns_its_version_and_what_was_before() {
    let map = open().await;
    let first = map.put("a", "1".into(), None, 0).await.unwrap();
    assert_eq!(first.previous, None);
    assert_ne!(first.version, 0);
    let second = map.put("a", "2".into(), None, 0).await.unwrap();
    assert_eq!(second.previous, Some(versioned("1", first.version)));
    assert!(second.version > first.version);
    assert_eq!(map.get("a").await, Ok(versioned("2", second.version)));
}

#[tokio::test]
async fn the_version_of_a_write_is_the_one_that_everybody_sees() {
    let map = open().await;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let version = map.put("a", "1".into(), None, 0).await.unwrap().version;
    assert_eq!(map.get("a").await, Ok(versioned("1", version)));
    let listed = all(map.entries(&caller(1), false).await.unwrap()).await;
    assert_eq!(listed, [("a".to_owned(), versioned("1", version))]);
    let change = EntryChange::Inserted { value: versioned("1", version) };
    assert_eq!(next(&mut events).await, event("a", change));
    assert_eq!(map.remove("a", 0).await, Ok(versioned("1", version)));
    let change = EntryChange::Removed { value: versioned("1", version), expired: false };
    assert_eq!(next(&mut events).await, event("a", change));
}

#[tokio::test]
async fn a_put_at_a_version_needs_that_version() {
    let map = open().await;
    let first = map.put("a", "1".into(), None, 0).await.unwrap().version;
    let second = map.put("a", "2".into(), None, first).await.unwrap();
    assert_eq!(second.previous, Some(versioned("1", first)));
    assert_eq!(reason(map.put("a", "3".into(), None, first).await), Reason::VersionMismatch);
    assert_eq!(map.get("a").await, Ok(versioned("2", second.version)));
}

#[tokio::test]
async fn a_put_at_a_version_never_creates_a_key() {
    let map = open().await;
    assert_eq!(reason(map.put("a", "1".into(), None, 1).await), Reason::VersionMismatch);
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn the_version_is_checked_before_the_bytes_are_compared() {
    let map = open().await;
    // The version before that of the first write is zero, which checks nothing.
    map.put("other", "1".into(), None, 0).await.unwrap();
    let version = map.put("a", "1".into(), None, 0).await.unwrap().version;
    assert_eq!(reason(map.put("a", "1".into(), None, version - 1).await), Reason::VersionMismatch);
    let again = map.put("a", "1".into(), None, version).await.unwrap();
    assert_eq!(again, Stored { version, previous: Some(versioned("1", version)) });
}

#[tokio::test]
async fn a_put_of_the_same_bytes_keeps_the_version_and_shows_nothing() {
    let map = open().await;
    let version = map.put("a", "1".into(), None, 0).await.unwrap().version;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let mut entries = map.entries(&caller(1), true).await.unwrap();
    next(&mut entries).await;
    for ttl in [None, seconds(60), None] {
        let again = map.put("a", "1".into(), ttl, 0).await.unwrap();
        assert_eq!(again, Stored { version, previous: Some(versioned("1", version)) });
    }
    assert_eq!(map.get("a").await, Ok(versioned("1", version)));
    silent(&mut events).await;
    silent(&mut entries).await;
}

#[tokio::test]
async fn a_put_of_the_same_bytes_applies_its_time_to_live() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    for key in ["given", "renewed", "cleared"] {
        let ttl = if key == "given" { None } else { seconds(5) };
        map.put(key, "1".into(), ttl, 0).await.unwrap();
    }
    map.put("given", "1".into(), seconds(5), 0).await.unwrap();
    map.put("renewed", "1".into(), seconds(10), 0).await.unwrap();
    map.put("cleared", "1".into(), None, 0).await.unwrap();
    let mut events = map.events(&caller(1), None).await.unwrap();
    for key in ["given", "renewed"] {
        clock.advance(Duration::from_secs(5));
        let Event { key: expired, change: EntryChange::Removed { expired: true, .. } } =
            next(&mut events).await
        else {
            panic!("an expiry was expected");
        };
        assert_eq!(expired, key);
        silent(&mut events).await;
    }
    clock.advance(Duration::from_secs(600));
    silent(&mut events).await;
    assert_eq!(map.size().await, Ok(1));
}

#[tokio::test]
async fn an_insert_of_a_key_that_is_there_keeps_the_first() {
    let map = open().await;
    let version = map.insert("a", "1".into(), None).await.unwrap().version;
    assert_eq!(reason(map.insert("a", "2".into(), None).await), Reason::KeyExists);
    assert_eq!(map.get("a").await, Ok(versioned("1", version)));
}

#[tokio::test]
async fn an_update_needs_the_key_and_the_version() {
    let map = open().await;
    assert_eq!(reason(map.update("a", "1".into(), None, 0).await), Reason::KeyNotFound);
    assert_eq!(reason(map.update("a", "1".into(), None, 7).await), Reason::KeyNotFound);
    let first = map.put("a", "1".into(), None, 0).await.unwrap().version;
    assert_eq!(reason(map.update("a", "2".into(), None, first + 1).await), Reason::VersionMismatch);
    let second = map.update("a", "2".into(), None, first).await.unwrap();
    assert_eq!(second.previous, Some(versioned("1", first)));
    let third = map.update("a", "3".into(), None, 0).await.unwrap();
    assert_eq!(third.previous, Some(versioned("2", second.version)));
    assert_eq!(map.get("a").await, Ok(versioned("3", third.version)));
}

#[tokio::test]
async fn an_update_to_the_same_bytes_is_a_new_version_and_an_event() {
    let map = open().await;
    let first = map.put("a", "1".into(), None, 0).await.unwrap().version;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let second = map.update("a", "1".into(), None, 0).await.unwrap().version;
    assert!(second > first);
    let change = EntryChange::Updated { value: versioned("1", second), previous: versioned("1", first) };
    assert_eq!(next(&mut events).await, event("a", change));
}

#[tokio::test]
async fn a_removal_needs_the_key_and_the_version() {
    let map = open().await;
    assert_eq!(reason(map.get("a").await), Reason::KeyNotFound);
    assert_eq!(reason(map.remove("a", 0).await), Reason::KeyNotFound);
    assert_eq!(reason(map.remove("a", 7).await), Reason::KeyNotFound);
    let version = map.put("a", "1".into(), None, 0).await.unwrap().version;
    assert_eq!(reason(map.remove("a", version + 1).await), Reason::VersionMismatch);
    assert_eq!(map.remove("a", version).await, Ok(versioned("1", version)));
    assert_eq!(reason(map.get("a").await), Reason::KeyNotFound);
}

#[tokio::test]
async fn versions_grow_across_removal() {
    let map = open().await;
    let first = map.put("a", "1".into(), None, 0).await.unwrap().version;
    map.remove("a", 0).await.unwrap();
    assert!(map.insert("a", "1".into(), None).await.unwrap().version > first);
}

#[tokio::test]
async fn empty_keys_and_empty_values_are_legal() {
    let map = open().await;
    let version = map.put("", Bytes::new(), None, 0).await.unwrap().version;
    assert_eq!(map.get("").await, Ok(versioned("", version)));
    assert_eq!(map.size().await, Ok(1));
    let listed = all(map.entries(&caller(1), false).await.unwrap()).await;
    assert_eq!(listed, [(String::new(), versioned("", version))]);
    map.remove("", 0).await.unwrap();
}

#[tokio::test]
async fn clear_removes_all_keys_with_an_event_each() {
    let map = open().await;
    map.put("a", "1".into(), None, 0).await.unwrap();
    map.put("b", "2".into(), seconds(60), 0).await.unwrap();
    let mut events = map.events(&caller(1), None).await.unwrap();
    map.clear().await.unwrap();
    assert_eq!(map.size().await, Ok(0));
    let mut seen = take(&mut events, 2).await;
    seen.sort_by(|one, other| one.key.cmp(&other.key));
    for (event, key) in seen.iter().zip(["a", "b"]) {
        assert_eq!(event.key, key);
        assert!(matches!(event.change, EntryChange::Removed { expired: false, .. }));
    }
    map.clear().await.unwrap();
    silent(&mut events).await;
}

#[tokio::test]
async fn what_is_beyond_the_limits_is_refused_before_anything_happens() {
    let limits = Limits { key_bytes_max: 4, value_bytes_max: 4, batch_max: 2, ..Limits::default() };
    let map = on(&Ground::real().limited(limits)).await;
    map.put("four", "four".into(), None, 0).await.unwrap();
    assert_eq!(reason(map.put("five5", "".into(), None, 0).await), Reason::Invalid);
    assert_eq!(reason(map.put("a", "five5".into(), None, 0).await), Reason::Invalid);
    assert_eq!(reason(map.insert("a", "five5".into(), None).await), Reason::Invalid);
    assert_eq!(reason(map.update("four", "five5".into(), None, 0).await), Reason::Invalid);
    assert_eq!(reason(map.get("five5").await), Reason::Invalid);
    assert_eq!(reason(map.remove("five5", 0).await), Reason::Invalid);
    assert_eq!(reason(map.commit(vec![put("five5", "")]).await), Reason::Invalid);
    assert_eq!(reason(map.commit(vec![put("a", "five5")]).await), Reason::Invalid);
    let three = ["a", "b", "c"].map(|key| put(key, "1"));
    assert_eq!(reason(map.commit(three.to_vec()).await), Reason::Invalid);
    assert_eq!(map.size().await, Ok(1));
}

// --- Transactions ---

#[tokio::test]
async fn a_transaction_answers_each_operation_in_order_with_one_version() {
    let map = open().await;
    let old = map.put("old", "1".into(), None, 0).await.unwrap().version;
    let gone = map.put("gone", "2".into(), None, 0).await.unwrap().version;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let operations =
        vec![put("new", "3"), insert("other", "4"), update("old", "5", old), remove("gone", gone)];
    let done = map.commit(operations).await.unwrap();
    let version = map.get("new").await.unwrap().version;
    assert_eq!(
        done,
        [
            Done::Stored(Stored { version, previous: None }),
            Done::Stored(Stored { version, previous: None }),
            Done::Stored(Stored { version, previous: Some(versioned("1", old)) }),
            Done::Removed(versioned("2", gone)),
        ]
    );
    assert_eq!(
        take(&mut events, 4).await,
        [
            event("new", EntryChange::Inserted { value: versioned("3", version) }),
            event("other", EntryChange::Inserted { value: versioned("4", version) }),
            event(
                "old",
                EntryChange::Updated { value: versioned("5", version), previous: versioned("1", old) }
            ),
            event("gone", EntryChange::Removed { value: versioned("2", gone), expired: false }),
        ]
    );
    silent(&mut events).await;
}

#[tokio::test]
async fn a_transaction_that_does_not_fit_leaves_nothing_behind() {
    let map = open().await;
    let version = map.put("there", "1".into(), None, 0).await.unwrap().version;
    let cases = [
        (update("missing", "3", 0), Reason::KeyNotFound),
        (remove("missing", 0), Reason::KeyNotFound),
        (remove("missing", 9), Reason::KeyNotFound),
        (insert("there", "3"), Reason::KeyExists),
        (update("there", "3", version + 1), Reason::VersionMismatch),
        (remove("there", version + 1), Reason::VersionMismatch),
        (
            Operation::Put { key: "missing".into(), value: "3".into(), ttl: None, prev_version: 4 },
            Reason::VersionMismatch,
        ),
    ];
    for (operation, expected) in cases {
        let done = map.commit(vec![put("a", "1"), insert("b", "2"), operation.clone()]).await;
        assert_eq!(reason(done), expected, "{operation:?}");
        assert_eq!(map.size().await, Ok(1));
        assert_eq!(map.get("there").await, Ok(versioned("1", version)));
    }
}

#[tokio::test]
async fn operations_are_checked_against_the_state_before_the_transaction() {
    let map = open().await;
    let done = map.commit(vec![insert("a", "1"), update("b", "2", 0)]).await;
    assert_eq!(reason(done), Reason::KeyNotFound);
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn the_first_operation_that_does_not_fit_decides_the_error() {
    let map = open().await;
    map.put("there", "1".into(), None, 0).await.unwrap();
    let done = map.commit(vec![insert("there", "2"), update("missing", "2", 0)]).await;
    assert_eq!(reason(done), Reason::KeyExists);
    let done = map.commit(vec![update("missing", "2", 0), insert("there", "2")]).await;
    assert_eq!(reason(done), Reason::KeyNotFound);
}

#[tokio::test]
async fn a_key_named_twice_is_refused_when_its_turn_comes() {
    let map = open().await;
    assert_eq!(reason(map.commit(vec![put("a", "1"), put("a", "2")]).await), Reason::KeyRepeated);
    // The second operation would not fit either; the repetition is seen first.
    let done = map.commit(vec![put("a", "1"), update("a", "2", 9)]).await;
    assert_eq!(reason(done), Reason::KeyRepeated);
    // The first operation is checked before the repetition.
    let done = map.commit(vec![update("a", "1", 0), put("a", "2")]).await;
    assert_eq!(reason(done), Reason::KeyNotFound);
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn an_empty_transaction_is_answered_empty() {
    assert_eq!(open().await.commit(Vec::new()).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_put_of_the_same_bytes_in_a_transaction_keeps_the_version() {
    let map = open().await;
    let version = map.put("a", "1".into(), None, 0).await.unwrap().version;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let done = map.commit(vec![put("a", "1"), put("b", "2")]).await.unwrap();
    assert_eq!(done[0], Done::Stored(Stored { version, previous: Some(versioned("1", version)) }));
    assert_eq!(next(&mut events).await.key, "b");
    silent(&mut events).await;
}

#[tokio::test]
async fn a_transaction_gives_and_clears_times_to_live() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    map.put("cleared", "1".into(), seconds(5), 0).await.unwrap();
    map.put("same", "1".into(), None, 0).await.unwrap();
    map.put("removed", "1".into(), seconds(5), 0).await.unwrap();
    let with = |key: &str| Operation::Put {
        key: key.to_owned(),
        value: "1".into(),
        ttl: seconds(5),
        prev_version: 0,
    };
    let zero = Operation::Insert { key: "zero".into(), value: "1".into(), ttl: seconds(0) };
    map.commit(vec![with("new"), with("same"), put("cleared", "1"), remove("removed", 0), zero])
        .await
        .unwrap();
    assert_eq!(reason(map.get("zero").await), Reason::KeyNotFound);
    map.insert("removed", "2".into(), None).await.unwrap();
    assert_eq!(map.size().await, Ok(4));
    clock.advance(Duration::from_secs(5));
    eventually(async || map.size().await == Ok(2)).await;
    let left = all(map.entries(&caller(1), false).await.unwrap()).await;
    assert_eq!(left.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["cleared", "removed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_transactions_move_but_never_make_or_lose() {
    const ACCOUNTS: u64 = 4;
    let map = Arc::new(open().await);
    let balance = |value: &Bytes| i64::from_be_bytes(value[..].try_into().unwrap());
    for account in 0..ACCOUNTS {
        let value = Bytes::copy_from_slice(&100i64.to_be_bytes());
        map.put(&format!("{account}"), value, None, 0).await.unwrap();
    }
    let tasks = (0..16).map(|task: u64| {
        let map = Arc::clone(&map);
        tokio::spawn(async move {
            let mut moved = 0;
            for round in 0..50 {
                let from = format!("{}", (task + round) % ACCOUNTS);
                let to = format!("{}", (task + round + 1) % ACCOUNTS);
                let (giver, taker) = (map.get(&from).await.unwrap(), map.get(&to).await.unwrap());
                let write = |key: String, old: &Versioned, by: i64| Operation::Update {
                    key,
                    value: Bytes::copy_from_slice(&(balance(&old.value) + by).to_be_bytes()),
                    ttl: None,
                    prev_version: old.version,
                };
                let operations = vec![write(from, &giver, -1), write(to, &taker, 1)];
                match map.commit(operations).await {
                    Ok(_) => moved += 1,
                    Err(error) => assert_eq!(error.reason(), Reason::VersionMismatch),
                }
            }
            moved
        })
    });
    let mut moved = 0;
    for task in tasks.collect::<Vec<_>>() {
        moved += task.await.unwrap();
    }
    assert!(moved > 0);
    let entries = all(map.entries(&caller(1), false).await.unwrap()).await;
    assert_eq!(entries.iter().map(|(_, value)| balance(&value.value)).sum::<i64>(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_without_versions_all_get_through() {
    let map = Arc::new(open().await);
    let tasks = (0..32).map(|task: u64| {
        let map = Arc::clone(&map);
        tokio::spawn(async move {
            for round in 0..20 {
                let value = Bytes::from(format!("{task} {round}"));
                let write = |key: &str| Operation::Put {
                    key: key.to_owned(),
                    value: value.clone(),
                    ttl: None,
                    prev_version: 0,
                };
                map.commit(vec![write("a"), write("b")]).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let (a, b) = (map.get("a").await.unwrap(), map.get("b").await.unwrap());
    assert_eq!(a, b, "both keys were always written together");
}

// --- Locks ---

#[tokio::test]
async fn all_keys_are_locked_or_none() {
    let map = open().await;
    let (one, two) = (caller(1), caller(2));
    let [a, b] = ["a", "b"].map(str::to_owned);
    map.lock_table().acquire(&one, std::slice::from_ref(&a), None).await.unwrap();
    let both = [b.clone(), a.clone()];
    assert_eq!(reason(map.lock_table().acquire(&two, &both, seconds(0)).await), Reason::LockTimeout);
    assert_eq!(
        reason(map.lock_table().acquire(&two, &both, Some(Duration::from_millis(5))).await),
        Reason::LockTimeout
    );
    map.lock_table().acquire(&one, std::slice::from_ref(&b), seconds(0)).await.unwrap();
    assert_eq!(reason(map.lock_table().release(&two, &both).await), Reason::LockNotHeld);
    map.lock_table().release(&one, &both).await.unwrap();
    map.lock_table().acquire(&two, &both, seconds(0)).await.unwrap();
    assert_eq!(
        reason(map.lock_table().release(&two, &[a.clone(), "c".to_owned()]).await),
        Reason::LockNotHeld
    );
    assert_eq!(map.lock_table().list(10).await.unwrap().len(), 2, "a refused unlock unlocks nothing");
    map.lock_table().release(&two, std::slice::from_ref(&a)).await.unwrap();
    assert_eq!(map.lock_table().list(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_named_twice_is_locked_once() {
    let map = open().await;
    let one = caller(1);
    let twice = ["a".to_owned(), "a".to_owned()];
    map.lock_table().acquire(&one, &twice, seconds(0)).await.unwrap();
    map.lock_table().release(&one, &twice).await.unwrap();
    assert_eq!(map.lock_table().list(10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn locking_no_keys_is_refused() {
    let map = open().await;
    assert_eq!(reason(map.lock_table().acquire(&caller(1), &[], None).await), Reason::Invalid);
    assert_eq!(reason(map.lock_table().release(&caller(1), &[]).await), Reason::Invalid);
}

#[tokio::test]
async fn a_lock_of_a_key_hinders_no_write_and_survives_clear() {
    let map = open().await;
    let key = ["a".to_owned()];
    map.lock_table().acquire(&caller(1), &key, None).await.unwrap();
    assert_eq!(map.size().await, Ok(0));
    map.put("a", "1".into(), None, 0).await.unwrap();
    map.clear().await.unwrap();
    assert_eq!(reason(map.lock_table().acquire(&caller(2), &key, seconds(0)).await), Reason::LockTimeout);
}

#[tokio::test]
async fn locked_keys_are_listed_with_their_queues() {
    needs!(Immediate);
    let map = open().await;
    let (one, two) = (caller(1), caller(2));
    let [a, b] = ["a", "b"].map(|key| vec![key.to_owned()]);
    map.lock_table().acquire(&one, &a, None).await.unwrap();
    map.lock_table().acquire(&two, &b, None).await.unwrap();
    let mut waiting = Box::pin(map.lock_table().acquire(&two, &a, None));
    assert!(futures::poll!(&mut waiting).is_pending());
    let locked = map.lock_table().list(10).await.unwrap();
    assert_eq!(locked.iter().map(|lock| lock.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let owners: Vec<_> = locked[0].queue.iter().map(|holding| holding.owner).collect();
    assert_eq!(owners, [one.owner, two.owner]);
    assert!(locked[0].queue[0].token < locked[0].queue[1].token);
    assert_eq!(map.lock_table().list(1).await.unwrap().len(), 1);
    map.lock_table().release(&one, &a).await.unwrap();
    soon(waiting).await.unwrap();
}

// --- Streams ---

#[tokio::test]
async fn events_come_in_the_order_of_the_writes() {
    let map = open().await;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let mut versions = Vec::new();
    for number in 0..200u32 {
        let value = Bytes::copy_from_slice(&number.to_be_bytes());
        versions.push(map.put(&format!("{}", number % 7), value, None, 0).await.unwrap().version);
    }
    let seen: Vec<u64> = take(&mut events, 200)
        .await
        .into_iter()
        .map(|event| match event.change {
            EntryChange::Inserted { value } | EntryChange::Updated { value, .. } => value.version,
            EntryChange::Removed { .. } => panic!("nothing was removed"),
        })
        .collect();
    assert_eq!(seen, versions);
    silent(&mut events).await;
}

#[tokio::test]
async fn events_of_one_key_are_of_that_key() {
    let map = open().await;
    let mut events = map.events(&caller(1), Some("a".to_owned())).await.unwrap();
    let mut empty = map.events(&caller(1), Some(String::new())).await.unwrap();
    for key in ["b", "aa", "a", ""] {
        map.put(key, "1".into(), None, 0).await.unwrap();
    }
    assert_eq!(next(&mut events).await.key, "a");
    assert_eq!(next(&mut empty).await.key, "");
    silent(&mut events).await;
    silent(&mut empty).await;
}

#[tokio::test]
async fn refused_calls_are_no_events() {
    let map = open().await;
    map.put("a", "1".into(), None, 0).await.unwrap();
    let mut events = map.events(&caller(1), None).await.unwrap();
    map.insert("a", "2".into(), None).await.unwrap_err();
    map.update("b", "2".into(), None, 0).await.unwrap_err();
    map.remove("b", 0).await.unwrap_err();
    map.put("a", "2".into(), None, 99).await.unwrap_err();
    map.commit(vec![put("c", "1"), insert("a", "2")]).await.unwrap_err();
    map.lock_table().acquire(&caller(1), &["a".to_owned()], None).await.unwrap();
    silent(&mut events).await;
}

#[tokio::test]
async fn a_watching_listing_shows_each_later_change_once() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    let first = map.put("a", "1".into(), None, 0).await.unwrap().version;
    let mut entries = map.entries(&caller(1), true).await.unwrap();
    let entry = |key: &str, value, version| (key.to_owned(), versioned(value, version));
    assert_eq!(next(&mut entries).await, entry("a", "1", first));
    let second = map.update("a", "2".into(), None, 0).await.unwrap().version;
    assert_eq!(next(&mut entries).await, entry("a", "2", second));
    map.remove("a", 0).await.unwrap();
    assert_eq!(next(&mut entries).await, entry("a", "2", second));
    let third = map.insert("b", "3".into(), seconds(1)).await.unwrap().version;
    assert_eq!(next(&mut entries).await, entry("b", "3", third));
    clock.advance(Duration::from_secs(1));
    assert_eq!(next(&mut entries).await, entry("b", "3", third));
    map.put("c", "4".into(), None, 0).await.unwrap();
    map.put("d", "5".into(), None, 0).await.unwrap();
    map.clear().await.unwrap();
    assert_eq!(take(&mut entries, 4).await.len(), 4);
    silent(&mut entries).await;
}

#[tokio::test]
async fn a_listing_of_many_pages_shows_every_entry_once() {
    let map = open().await;
    for number in 0..3000 {
        map.put(&format!("{number:04}"), Bytes::from(vec![0; 1000]), None, 0).await.unwrap();
    }
    let listed = all(map.entries(&caller(1), false).await.unwrap()).await;
    let keys: Vec<String> = listed.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, (0..3000).map(|number| format!("{number:04}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn streams_end_without_an_error_when_the_caller_closes() {
    let map = open().await;
    let (one, two) = (caller(1), caller(2));
    let events = map.events(&one, None).await.unwrap();
    let entries = map.entries(&one, true).await.unwrap();
    let mut others = map.events(&two, None).await.unwrap();
    one.closed.cancel();
    assert_eq!(all(events).await, []);
    assert_eq!(all(entries).await, []);
    map.put("a", "1".into(), None, 0).await.unwrap();
    assert_eq!(next(&mut others).await.key, "a");
}

#[tokio::test]
async fn streams_end_without_an_error_when_the_store_is_closed() {
    let ground = Ground::real();
    let map = on(&ground).await;
    map.put("a", "1".into(), None, 0).await.unwrap();
    let events = map.events(&caller(1), None).await.unwrap();
    let mut entries = map.entries(&caller(1), true).await.unwrap();
    next(&mut entries).await;
    ground.store.close(Duration::ZERO).await;
    assert_eq!(all(events).await, []);
    assert_eq!(all(entries).await, []);
    assert_eq!(reason(map.get("a").await).kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so() {
    needs!(History);
    let map = on(&Ground::on(forgetful_store(4), Env::real())).await;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let mut entries = map.entries(&caller(1), true).await.unwrap();
    silent(&mut entries).await;
    for number in 0..10u32 {
        map.put("a", Bytes::copy_from_slice(&number.to_be_bytes()), None, 0).await.unwrap();
    }
    for error in [soon(events.next()).await.unwrap().map(drop), soon(entries.next()).await.unwrap().map(drop)]
    {
        assert_eq!(reason(error), Reason::WatchOverrun);
    }
    assert!(soon(events.next()).await.is_none() && soon(entries.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_mirror_of_a_watching_listing_equals_the_map() {
    const KEYS: u64 = 3000;
    const ROUNDS: u64 = 3;
    needs!(History);
    for round in 0..ROUNDS {
        let map = Arc::new(on(&Ground::on(forgetful_store(1 << 20), Env::real())).await);
        for number in 0..KEYS {
            map.put(&format!("{number:04}"), Bytes::from(vec![0; 100]), None, 0).await.unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..3).map(|writer| {
            let (map, stop) = (Arc::clone(&map), Arc::clone(&stop));
            let chance = Env::simulated(ManualClock::new(), 100 * round + writer);
            tokio::spawn(async move {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{:04}", chance.random() % (KEYS + 100));
                    let value = Bytes::copy_from_slice(&chance.random().to_be_bytes());
                    match chance.random() % 5 {
                        0 => drop(map.remove(&key, 0).await),
                        1 => drop(map.update(&key, value, None, 0).await),
                        2 => drop(map.insert(&key, value, None).await),
                        // A time to live of zero is two changes at once.
                        3 => drop(map.put(&key, value, seconds(0), 0).await),
                        _ => last = map.put(&key, value, None, 0).await.unwrap().version,
                    }
                    tokio::task::yield_now().await;
                }
                last
            })
        });
        let writers: Vec<_> = writers.collect();
        let mut entries = map.entries(&caller(1), true).await.unwrap();
        // Only the entry of the same version in the mirror shows whether an item is a removal.
        let mut mirror: BTreeMap<String, Versioned> = BTreeMap::new();
        let mut apply = |(key, value): (String, Versioned)| match mirror.get(&key) {
            Some(known) if known.version == value.version => {
                assert_eq!(known.value, value.value);
                mirror.remove(&key);
            }
            Some(known) => {
                assert!(known.version < value.version, "changes of one key come in order");
                mirror.insert(key, value);
            }
            None => drop(mirror.insert(key, value)),
        };
        for _ in 0..2 * KEYS {
            apply(next(&mut entries).await);
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        let last = map.put("the end", "1".into(), None, 0).await.unwrap().version;
        loop {
            let (key, value) = next(&mut entries).await;
            let end = value.version == last;
            apply((key, value));
            if end {
                break;
            }
        }
        let listed = all(map.entries(&caller(1), false).await.unwrap()).await;
        assert_eq!(mirror.into_iter().collect::<Vec<_>>(), listed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_after_registration_are_complete() {
    let map = Arc::new(open().await);
    let writers = (0..4).map(|writer: u64| {
        let map = Arc::clone(&map);
        tokio::spawn(async move {
            for number in 0..200u64 {
                let value = Bytes::copy_from_slice(&(1000 * writer + number).to_be_bytes());
                map.put(&format!("{}", number % 3), value, None, 0).await.unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut events = map.events(&caller(1), None).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let last = map.put("the end", "1".into(), None, 0).await.unwrap().version;
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let Event { key, change } = next(&mut events).await;
        match change {
            EntryChange::Inserted { value } => {
                assert_eq!(versions.insert(key, value.version), None);
                if value.version == last {
                    break;
                }
            }
            EntryChange::Updated { value, previous } => {
                let known = versions.insert(key, value.version);
                assert!(known.is_none_or(|known| known == previous.version), "no change is left out");
            }
            EntryChange::Removed { .. } => panic!("nothing was removed"),
        }
    }
}
