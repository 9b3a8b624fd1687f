// SPDX-License-Identifier: Apache-2.0
//! Times to live, through the primitives that have them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atomix_env::{Env, ManualClock, WallTime};
use atomix_primitives::map::{EntryChange, Event, Operation};
use atomix_primitives::{Kind, Map, Reason};
use atomix_store::{Range, Read};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::ground::{Amnesiac, Faulty, Ground, caller, eventually, next, reason, settle, silent, take};
use crate::stores::{needs, store};

async fn on(ground: &Ground) -> Map {
    Map::open(ground.backing(Kind::Map)).await.unwrap()
}

fn seconds(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(count))
}

async fn put(map: &Map, key: &str, ttl: Option<Duration>) {
    map.put(key, "1".into(), ttl, 0).await.unwrap();
}

/// Returns how many subjects are timed, which only the debug form shows.
fn timers(map: &Map) -> String {
    let shown = format!("{map:?}");
    let at = shown.find("timers: ").unwrap() + "timers: ".len();
    shown[at..].chars().take_while(char::is_ascii_digit).collect()
}

/// Counts the deadlines that the store holds, whether they still count or not.
async fn deadlines(ground: &Ground) -> u64 {
    let count = Read::Count { range: Range::prefix("t") };
    let keyspace = Kind::Map.keyspace("it");
    ground.store.read(&keyspace, vec![count]).await.unwrap().reads[0].count()
}

#[tokio::test]
async fn an_entry_expires_with_its_last_bytes_and_version() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let version = map.insert("a", "1".into(), seconds(5)).await.unwrap().version;
    next(&mut events).await;
    clock.advance(Duration::from_millis(4999));
    silent(&mut events).await;
    assert_eq!(map.get("a").await.unwrap().version, version);
    clock.advance(Duration::from_millis(1));
    let Event { key, change: EntryChange::Removed { value, expired: true } } = next(&mut events).await else {
        panic!("an expiry was expected");
    };
    assert_eq!((key.as_str(), value.value, value.version), ("a", Bytes::from("1"), version));
    assert_eq!(reason(map.get("a").await), Reason::KeyNotFound);
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn an_entry_expires_in_real_time_hardly_late() {
    let ground = Ground::real();
    let map = on(&ground).await;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let begin = Instant::now();
    put(&map, "a", Some(Duration::from_millis(50))).await;
    next(&mut events).await;
    next(&mut events).await;
    let lived = begin.elapsed();
    assert!(lived >= Duration::from_millis(50), "{lived:?}");
    assert!(lived < Duration::from_millis(150), "{lived:?}");
}

#[tokio::test]
async fn every_write_sets_or_clears_the_time_to_live() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    for key in ["put", "update"] {
        put(&map, key, seconds(5)).await;
    }
    map.put("put", "2".into(), None, 0).await.unwrap();
    map.update("update", "2".into(), None, 0).await.unwrap();
    clock.advance(Duration::from_secs(60));
    settle().await;
    assert_eq!(map.size().await, Ok(2));
    map.put("put", "3".into(), seconds(5), 0).await.unwrap();
    map.update("update", "3".into(), seconds(5), 0).await.unwrap();
    map.insert("insert", "3".into(), seconds(5)).await.unwrap();
    clock.advance(Duration::from_secs(5));
    eventually(async || map.size().await == Ok(0)).await;
}

#[tokio::test]
async fn a_renewed_entry_lives_for_its_new_time() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    for (written, ttl) in [("1", 5), ("2", 5), ("3", 2)] {
        map.put("a", written.into(), seconds(ttl), 0).await.unwrap();
        clock.advance(Duration::from_secs(1));
        settle().await;
    }
    assert_eq!(map.get("a").await.unwrap().value, "3");
    clock.advance(Duration::from_secs(1));
    eventually(async || map.size().await == Ok(0)).await;
}

#[tokio::test]
async fn a_shorter_time_to_live_is_not_kept_waiting_by_a_longer_one() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    put(&map, "long", seconds(100)).await;
    settle().await;
    put(&map, "short", seconds(1)).await;
    settle().await;
    clock.advance(Duration::from_secs(1));
    eventually(async || map.size().await == Ok(1)).await;
    assert!(map.get("long").await.is_ok());
}

#[tokio::test]
async fn a_time_to_live_of_zero_has_passed_when_the_call_returns() {
    let (ground, _clock) = Ground::manual();
    let map = on(&ground).await;
    put(&map, "a", seconds(60)).await;
    map.put("a", "2".into(), seconds(0), 0).await.unwrap();
    assert_eq!(reason(map.get("a").await), Reason::KeyNotFound);
    map.insert("a", "1".into(), seconds(0)).await.unwrap();
    assert_eq!(reason(map.get("a").await), Reason::KeyNotFound);
}

#[tokio::test]
async fn the_smallest_time_to_live_is_not_zero() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    put(&map, "a", Some(Duration::from_nanos(1))).await;
    clock.advance(Duration::from_nanos(1));
    eventually(async || map.size().await == Ok(0)).await;
}

#[tokio::test]
async fn the_greatest_time_to_live_is_for_ever() {
    for ground in [Ground::manual().0, Ground::real()] {
        let map = on(&ground).await;
        put(&map, "a", Some(Duration::MAX)).await;
        settle().await;
        drop(map);
        let map = on(&ground).await;
        settle().await;
        assert_eq!(map.size().await, Ok(1));
    }
}

#[tokio::test]
async fn a_removed_key_leaves_no_time_to_live_to_the_next() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    put(&map, "removed", seconds(5)).await;
    put(&map, "cleared", seconds(5)).await;
    map.remove("removed", 0).await.unwrap();
    put(&map, "removed", None).await;
    map.clear().await.unwrap();
    put(&map, "cleared", None).await;
    put(&map, "removed", None).await;
    clock.advance(Duration::from_secs(60));
    settle().await;
    assert_eq!(map.size().await, Ok(2));
}

#[tokio::test]
async fn a_write_ends_a_time_to_live_of_which_its_runtime_knows_nothing() {
    let (ground, clock) = Ground::manual();
    // Each has timers of its own, and the second was open before there was anything to be timed.
    let (first, second) = (on(&ground).await, on(&ground).await);
    for key in ["put", "removed", "renewed", "freed", "left alone"] {
        put(&first, key, seconds(5)).await;
    }
    second.put("put", "2".into(), None, 0).await.unwrap();
    second.remove("removed", 0).await.unwrap();
    put(&second, "removed", None).await;
    put(&second, "renewed", seconds(50)).await;
    put(&second, "freed", None).await;
    clock.advance(Duration::from_secs(6));
    eventually(async || first.size().await == Ok(4)).await;
    assert_eq!(reason(first.get("left alone").await), Reason::KeyNotFound);
    clock.advance(Duration::from_secs(50));
    eventually(async || first.size().await == Ok(3)).await;
    assert_eq!(reason(first.get("renewed").await), Reason::KeyNotFound);
    eventually(async || deadlines(&ground).await == 0).await;
    assert_eq!(first.size().await, Ok(3));
}

#[tokio::test]
async fn no_timer_is_kept_for_what_is_gone() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    for key in ["expired", "removed", "cleared", "renewed"] {
        put(&map, key, seconds(5)).await;
        put(&map, key, seconds(6)).await;
    }
    assert_eq!(timers(&map), "4");
    map.remove("removed", 0).await.unwrap();
    put(&map, "renewed", None).await;
    assert_eq!(timers(&map), "2");
    clock.advance(Duration::from_secs(6));
    eventually(async || timers(&map) == "0").await;
    put(&map, "cleared", seconds(5)).await;
    map.clear().await.unwrap();
    assert_eq!(timers(&map), "0");
}

#[tokio::test]
async fn what_is_overdue_is_gone_before_the_first_answer() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    put(&map, "overdue", seconds(5)).await;
    put(&map, "due later", seconds(50)).await;
    put(&map, "for ever", None).await;
    drop(map);
    settle().await;
    clock.advance(Duration::from_secs(10));
    settle().await;
    let map = on(&ground).await;
    assert_eq!(reason(map.get("overdue").await), Reason::KeyNotFound);
    assert_eq!(map.size().await, Ok(2));
    clock.advance(Duration::from_secs(40));
    eventually(async || map.size().await == Ok(1)).await;
}

#[tokio::test]
async fn more_than_a_page_of_overdue_entries_is_gone_before_the_first_answer() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    for number in 0..2500 {
        put(&map, &format!("{number}"), seconds(1 + number % 2)).await;
    }
    drop(map);
    settle().await;
    clock.advance(Duration::from_secs(1));
    let map = on(&ground).await;
    assert_eq!(map.size().await, Ok(1250));
    clock.advance(Duration::from_secs(1));
    eventually(async || map.size().await == Ok(0)).await;
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_changes_no_time_to_live() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    put(&map, "a", seconds(10)).await;
    for wall in [Duration::ZERO, Duration::from_secs(9_000_000)] {
        clock.set_wall(WallTime::from_unix(wall));
        clock.advance(Duration::from_secs(4));
        settle().await;
        assert_eq!(map.size().await, Ok(1));
    }
    clock.advance(Duration::from_secs(2));
    eventually(async || map.size().await == Ok(0)).await;
}

#[tokio::test]
async fn a_wall_clock_that_was_set_back_never_lengthens_a_life_beyond_its_time_to_live() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    put(&map, "a", seconds(10)).await;
    drop(map);
    settle().await;
    clock.set_wall(WallTime::from_unix(Duration::ZERO));
    let map = on(&ground).await;
    assert_eq!(map.size().await, Ok(1));
    clock.advance(Duration::from_secs(10));
    eventually(async || map.size().await == Ok(0)).await;
}

#[tokio::test]
async fn many_entries_of_one_moment_expire_with_an_event_each() {
    let (ground, clock) = Ground::manual();
    let map = on(&ground).await;
    for number in 0..1000 {
        put(&map, &format!("{number}"), seconds(1)).await;
    }
    let mut events = map.events(&caller(1), None).await.unwrap();
    clock.advance(Duration::from_secs(1));
    let mut expired: Vec<String> = take(&mut events, 1000).await.into_iter().map(|event| event.key).collect();
    expired.sort_unstable();
    expired.dedup();
    assert_eq!(expired.len(), 1000);
    silent(&mut events).await;
}

#[tokio::test]
async fn two_runtimes_on_one_store_expire_an_entry_once_and_respect_each_others_renewals() {
    let (ground, clock) = Ground::manual();
    let (here, there) = (on(&ground).await, on(&ground).await);
    let mut events = here.events(&caller(1), None).await.unwrap();
    put(&here, "a", seconds(5)).await;
    there.put("a", "2".into(), seconds(10), 0).await.unwrap();
    take(&mut events, 2).await;
    clock.advance(Duration::from_secs(5));
    silent(&mut events).await;
    clock.advance(Duration::from_secs(5));
    assert!(matches!(next(&mut events).await.change, EntryChange::Removed { expired: true, .. }));
    silent(&mut events).await;
}

#[tokio::test]
async fn an_entry_expires_after_the_store_has_come_back() {
    let faulty = Faulty::new(store());
    let map = on(&Ground::on(Arc::clone(&faulty) as _, Env::real())).await;
    put(&map, "refused", Some(Duration::from_millis(5))).await;
    faulty.refuse(2);
    eventually(async || map.size().await == Ok(0)).await;
    put(&map, "lost", Some(Duration::from_millis(5))).await;
    faulty.lose(1);
    eventually(async || map.size().await == Ok(0) && timers(&map) == "0").await;
    // With a time to live of zero the call itself reaps; a refusal leaves it to the timer.
    let zero = Operation::Insert { key: "zero".into(), value: "1".into(), ttl: Some(Duration::ZERO) };
    map.commit(vec![zero]).await.unwrap();
    eventually(async || map.size().await == Ok(0)).await;
}

#[tokio::test]
async fn a_removal_whose_answer_is_late_forgets_no_later_time_to_live() {
    needs!(Immediate);
    let clock = ManualClock::new();
    let faulty = Faulty::new(store());
    let ground = Ground::on(Arc::clone(&faulty) as _, Env::simulated(Arc::clone(&clock), 1));
    let map = on(&ground).await;
    for call in ["remove", "clear", "put"] {
        put(&map, "a", None).await;
        faulty.hold();
        let mut late: BoxFuture<'_, _> = match call {
            "remove" => map.remove("a", 0).map(|removed| removed.map(drop)).boxed(),
            "clear" => map.clear().boxed(),
            _ => map.put("a", "2".into(), None, 0).map(|stored| stored.map(drop)).boxed(),
        };
        assert!(futures::poll!(&mut late).is_pending());
        faulty.pass();
        map.put("a", "3".into(), seconds(5), 0).await.unwrap();
        faulty.answer();
        late.await.unwrap();
        settle().await;
        assert_eq!(map.size().await, Ok(1));
        clock.advance(Duration::from_secs(5));
        eventually(async || map.size().await == Ok(0)).await;
    }
}

#[tokio::test]
async fn a_time_to_live_whose_answer_is_late_expires_nothing_that_came_after() {
    needs!(Immediate);
    let clock = ManualClock::new();
    let faulty = Faulty::new(store());
    let ground = Ground::on(Arc::clone(&faulty) as _, Env::simulated(Arc::clone(&clock), 1));
    let map = on(&ground).await;
    for ttl in [seconds(5), seconds(0)] {
        faulty.hold();
        let mut late = Box::pin(map.put("a", "1".into(), ttl, 0));
        assert!(futures::poll!(&mut late).is_pending());
        faulty.pass();
        map.put("a", "2".into(), None, 0).await.unwrap();
        faulty.answer();
        late.await.unwrap();
        clock.advance(Duration::from_secs(60));
        settle().await;
        assert_eq!(map.get("a").await.unwrap().value, "2");
        eventually(async || timers(&map) == "0").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_order_calls_take_note_in_every_time_to_live_is_kept() {
    for seed in 0..20 {
        let (ground, clock) = Ground::manual();
        let map = Arc::new(on(&ground).await);
        let tasks = (0..8).map(|task| {
            let map = Arc::clone(&map);
            let chance = Env::simulated(ManualClock::new(), 100 * seed + task);
            tokio::spawn(async move {
                for round in 0..200 {
                    let key = format!("{}", chance.random() % 3);
                    let value = Bytes::from(format!("{task} {round}"));
                    match chance.random() % 8 {
                        0 => drop(map.remove(&key, 0).await),
                        1 => map.clear().await.unwrap(),
                        2 => drop(map.put(&key, value, None, 0).await.unwrap()),
                        _ => drop(map.put(&key, value, seconds(5), 0).await.unwrap()),
                    }
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let last = Bytes::from("last");
        map.update("0", last.clone(), None, 0).await.ok();
        clock.advance(Duration::from_secs(5));
        eventually(async || deadlines(&ground).await == 0).await;
        eventually(async || timers(&map) == "0").await;
    }
}

#[tokio::test]
async fn an_entry_expires_also_if_the_store_lost_a_younger_one_of_its_key() {
    let store = Amnesiac::new();
    let map = on(&Ground::on(store.clone(), Env::real())).await;
    for _ in 0..3 {
        put(&map, "a", seconds(3600)).await;
    }
    store.forget();
    settle().await;
    eventually(async || timers(&map) == "0").await;
    put(&map, "a", Some(Duration::from_millis(5))).await;
    eventually(async || map.size().await == Ok(0)).await;
}
