// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::time::Duration;

use atomix_primitives::value::{Event, Stored, Versioned};
use atomix_primitives::{Kind, Limits, Reason, Value};
use bytes::Bytes;

use crate::ground::{Ground, all, caller, next, reason, silent, take};

async fn open() -> Value {
    Value::open(Ground::real().backing(Kind::Value)).await.unwrap()
}

fn versioned(value: &'static str, version: u64) -> Versioned {
    Versioned { value: value.into(), version }
}

#[tokio::test]
async fn an_unset_value_is_not_found() {
    let value = open().await;
    assert_eq!(reason(value.get().await), Reason::ValueNotSet);
    assert_eq!(reason(value.update("a".into(), None, 0).await), Reason::ValueNotSet);
    assert_eq!(reason(value.update("a".into(), None, 3).await), Reason::ValueNotSet);
    assert_eq!(reason(value.delete(0).await), Reason::ValueNotSet);
    assert_eq!(reason(value.delete(3).await), Reason::ValueNotSet);
}

#[tokio::test]
async fn set_returns_the_version_and_what_was_before() {
    let value = open().await;
    let Stored { version: first, previous } = value.set("a".into(), None).await.unwrap();
    assert_eq!(previous, None);
    assert_ne!(first, 0);
    assert_eq!(value.get().await, Ok(versioned("a", first)));
    let Stored { version: second, previous } = value.set("b".into(), None).await.unwrap();
    assert_eq!(previous, Some(versioned("a", first)));
    assert!(second > first);
    assert_eq!(value.get().await, Ok(versioned("b", second)));
}

#[tokio::test]
async fn the_same_bytes_are_a_new_version_and_an_event() {
    let value = open().await;
    let mut events = value.events(&caller(1)).await.unwrap();
    let first = value.set("a".into(), None).await.unwrap().version;
    let second = value.set("a".into(), None).await.unwrap().version;
    let third = value.update("a".into(), None, second).await.unwrap().version;
    assert!(first < second && second < third);
    assert_eq!(
        take(&mut events, 3).await,
        [
            Event::Created { value: versioned("a", first) },
            Event::Updated { value: versioned("a", second), previous: versioned("a", first) },
            Event::Updated { value: versioned("a", third), previous: versioned("a", second) },
        ]
    );
}

#[tokio::test]
async fn insert_needs_an_unset_value() {
    let value = open().await;
    let version = value.insert("a".into(), None).await.unwrap().version;
    assert_eq!(reason(value.insert("b".into(), None).await), Reason::KeyExists);
    assert_eq!(value.get().await, Ok(versioned("a", version)));
}

#[tokio::test]
async fn an_update_at_another_version_writes_nothing() {
    let value = open().await;
    let first = value.set("a".into(), None).await.unwrap().version;
    assert_eq!(reason(value.update("b".into(), None, first + 1).await), Reason::VersionMismatch);
    assert_eq!(value.get().await, Ok(versioned("a", first)));
    let stored = value.update("b".into(), None, first).await.unwrap();
    assert_eq!(stored.previous, Some(versioned("a", first)));
    assert_eq!(reason(value.update("c".into(), None, first).await), Reason::VersionMismatch);
    let stored = value.update("c".into(), None, 0).await.unwrap();
    assert_eq!(value.get().await, Ok(versioned("c", stored.version)));
}

#[tokio::test]
async fn a_deletion_at_another_version_deletes_nothing() {
    let value = open().await;
    let version = value.set("a".into(), None).await.unwrap().version;
    assert_eq!(reason(value.delete(version + 1).await), Reason::VersionMismatch);
    assert_eq!(value.get().await, Ok(versioned("a", version)));
    assert_eq!(value.delete(version).await, Ok(versioned("a", version)));
    assert_eq!(reason(value.get().await), Reason::ValueNotSet);
}

#[tokio::test]
async fn versions_grow_across_deletion() {
    let value = open().await;
    let first = value.set("a".into(), None).await.unwrap().version;
    value.delete(0).await.unwrap();
    assert!(value.insert("a".into(), None).await.unwrap().version > first);
}

#[tokio::test]
async fn the_empty_value_is_a_value() {
    let value = open().await;
    let version = value.set(Bytes::new(), None).await.unwrap().version;
    assert_eq!(value.get().await, Ok(versioned("", version)));
}

#[tokio::test]
async fn a_value_beyond_the_limit_is_refused() {
    let ground = Ground::real().limited(Limits { value_bytes_max: 4, ..Limits::default() });
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    value.set("four".into(), None).await.unwrap();
    assert_eq!(reason(value.set("five5".into(), None).await), Reason::Invalid);
    assert_eq!(reason(value.update("five5".into(), None, 0).await), Reason::Invalid);
    value.delete(0).await.unwrap();
    assert_eq!(reason(value.insert("five5".into(), None).await), Reason::Invalid);
}

#[tokio::test]
async fn a_deleted_event_has_the_old_bytes_and_the_version_of_the_deletion() {
    let value = open().await;
    let mut events = value.events(&caller(1)).await.unwrap();
    let version = value.set("a".into(), None).await.unwrap().version;
    assert_eq!(value.delete(0).await, Ok(versioned("a", version)));
    let next = value.set("b".into(), None).await.unwrap().version;
    let seen = take(&mut events, 3).await;
    assert_eq!(seen[0], Event::Created { value: versioned("a", version) });
    let Event::Deleted { value: deleted, expired: false } = &seen[1] else {
        panic!("a deletion was expected: {:?}", seen[1]);
    };
    assert_eq!(deleted.value, "a");
    assert!(version < deleted.version && deleted.version < next);
    assert_eq!(seen[2], Event::Created { value: versioned("b", next) });
}

#[tokio::test]
async fn every_write_takes_a_time_to_live() {
    let (ground, clock) = Ground::manual();
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    let ttl = Some(Duration::from_secs(5));
    let mut events = value.events(&caller(1)).await.unwrap();
    for write in ["set", "insert", "update"] {
        let stored = match write {
            "set" => value.set("a".into(), ttl).await,
            "insert" => value.insert("a".into(), ttl).await,
            _ => {
                value.set("b".into(), None).await.unwrap();
                next(&mut events).await;
                value.update("a".into(), ttl, 0).await
            }
        };
        let version = stored.unwrap().version;
        next(&mut events).await;
        clock.advance(Duration::from_secs(4));
        silent(&mut events).await;
        assert_eq!(value.get().await, Ok(versioned("a", version)));
        clock.advance(Duration::from_secs(1));
        let Event::Deleted { value: deleted, expired: true } = next(&mut events).await else {
            panic!("an expiry was expected after {write}");
        };
        assert_eq!(deleted.value, "a");
        assert!(deleted.version > version);
        assert_eq!(reason(value.get().await), Reason::ValueNotSet);
    }
}

#[tokio::test]
async fn a_write_without_a_time_to_live_clears_the_earlier_one() {
    let (ground, clock) = Ground::manual();
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    value.set("a".into(), Some(Duration::from_secs(5))).await.unwrap();
    value.set("a".into(), None).await.unwrap();
    let mut events = value.events(&caller(1)).await.unwrap();
    clock.advance(Duration::from_secs(60));
    silent(&mut events).await;
    value.update("b".into(), Some(Duration::from_secs(5)), 0).await.unwrap();
    value.update("c".into(), None, 0).await.unwrap();
    take(&mut events, 2).await;
    clock.advance(Duration::from_secs(60));
    silent(&mut events).await;
    assert_eq!(value.get().await.unwrap().value, "c");
}

#[tokio::test]
async fn a_refused_write_leaves_the_time_to_live_alone() {
    let (ground, clock) = Ground::manual();
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    value.set("a".into(), Some(Duration::from_secs(5))).await.unwrap();
    value.insert("b".into(), None).await.unwrap_err();
    value.update("b".into(), None, u64::MAX).await.unwrap_err();
    value.delete(u64::MAX).await.unwrap_err();
    let mut events = value.events(&caller(1)).await.unwrap();
    clock.advance(Duration::from_secs(5));
    assert!(matches!(next(&mut events).await, Event::Deleted { expired: true, .. }));
}

#[tokio::test]
async fn a_time_to_live_of_zero_expires_at_once() {
    let value = open().await;
    let mut events = value.events(&caller(1)).await.unwrap();
    value.set("a".into(), Some(Duration::ZERO)).await.unwrap();
    assert_eq!(reason(value.get().await), Reason::ValueNotSet);
    let seen = take(&mut events, 2).await;
    assert!(matches!(seen[1], Event::Deleted { expired: true, .. }));
}

#[tokio::test]
async fn a_deleted_value_leaves_no_time_to_live_to_the_next() {
    let (ground, clock) = Ground::manual();
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    value.set("a".into(), Some(Duration::from_secs(5))).await.unwrap();
    value.delete(0).await.unwrap();
    value.insert("b".into(), None).await.unwrap();
    let mut events = value.events(&caller(1)).await.unwrap();
    clock.advance(Duration::from_secs(60));
    silent(&mut events).await;
}

#[tokio::test]
async fn a_watch_begins_with_the_value_if_there_is_one() {
    let value = open().await;
    let mut unset = value.watch(&caller(1)).await.unwrap();
    silent(&mut unset).await;
    let version = value.set("a".into(), None).await.unwrap().version;
    let mut set = value.watch(&caller(1)).await.unwrap();
    assert_eq!(next(&mut unset).await, versioned("a", version));
    assert_eq!(next(&mut set).await, versioned("a", version));
    silent(&mut set).await;
}

#[tokio::test]
async fn a_watch_shows_a_deleted_value_with_its_old_version() {
    let (ground, clock) = Ground::manual();
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    let mut watch = value.watch(&caller(1)).await.unwrap();
    silent(&mut watch).await;
    let first = value.insert("a".into(), None).await.unwrap().version;
    let second = value.update("b".into(), None, 0).await.unwrap().version;
    value.delete(0).await.unwrap();
    let third = value.set("c".into(), Some(Duration::from_secs(1))).await.unwrap().version;
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        take(&mut watch, 5).await,
        [
            versioned("a", first),
            versioned("b", second),
            versioned("b", second),
            versioned("c", third),
            versioned("c", third),
        ]
    );
    silent(&mut watch).await;
}

#[tokio::test]
async fn streams_end_when_the_caller_closes() {
    let value = open().await;
    let caller = caller(1);
    let events = value.events(&caller).await.unwrap();
    let watch = value.watch(&caller).await.unwrap();
    caller.closed.cancel();
    assert_eq!(all(events).await, []);
    assert_eq!(all(watch).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_updates_at_one_version_one_succeeds_and_a_watch_misses_nothing() {
    const ROUNDS: usize = 100;
    let value = Arc::new(open().await);
    let mut watch = value.watch(&caller(1)).await.unwrap();
    let mut version = value.set("0".into(), None).await.unwrap().version;
    let mut written = vec![version];
    for _ in 0..ROUNDS {
        let tasks = (0..4).map(|task| {
            let value = Arc::clone(&value);
            tokio::spawn(async move { value.update(format!("{task}").into(), None, version).await })
        });
        let mut succeeded = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            match task.await.unwrap() {
                Ok(stored) => succeeded.push(stored.version),
                Err(error) => assert_eq!(error.reason(), Reason::VersionMismatch),
            }
        }
        assert_eq!(succeeded.len(), 1);
        version = succeeded[0];
        written.push(version);
    }
    // The listing may begin with any version; from there on nothing is left out.
    let first = next(&mut watch).await.version;
    let at = written.iter().position(|version| *version == first).unwrap();
    let rest = take(&mut watch, written.len() - at - 1).await;
    assert_eq!(rest.iter().map(|value| value.version).collect::<Vec<_>>(), written[at + 1..]);
}
