// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atomix_primitives::set::Event;
use atomix_primitives::{Kind, Limits, Reason, Set};

use crate::ground::{Ground, all, caller, eventually, next, reason, silent, take};

async fn open() -> Set {
    Set::open(Ground::real().backing(Kind::Set)).await.unwrap()
}

fn added(element: &str) -> Event {
    Event::Added { element: element.to_owned() }
}

fn removed(element: &str, expired: bool) -> Event {
    Event::Removed { element: element.to_owned(), expired }
}

#[tokio::test]
async fn an_element_is_added_once() {
    let set = open().await;
    assert_eq!(set.contains("a").await, Ok(false));
    set.add("a", None).await.unwrap();
    assert_eq!(set.contains("a").await, Ok(true));
    assert_eq!(reason(set.add("a", None).await), Reason::KeyExists);
    assert_eq!(set.size().await, Ok(1));
}

#[tokio::test]
async fn a_removed_element_is_gone() {
    let set = open().await;
    assert_eq!(reason(set.remove("a").await), Reason::KeyNotFound);
    set.add("a", None).await.unwrap();
    set.remove("a").await.unwrap();
    assert_eq!(set.contains("a").await, Ok(false));
    assert_eq!(reason(set.remove("a").await), Reason::KeyNotFound);
    set.add("a", None).await.unwrap();
}

#[tokio::test]
async fn the_empty_text_is_an_element() {
    let set = open().await;
    set.add("", None).await.unwrap();
    assert_eq!((set.contains("").await, set.size().await), (Ok(true), Ok(1)));
    set.remove("").await.unwrap();
    assert_eq!(set.size().await, Ok(0));
}

#[tokio::test]
async fn clear_removes_all_elements_with_an_event_each() {
    let set = open().await;
    for element in ["a", "b", "c"] {
        set.add(element, None).await.unwrap();
    }
    let mut events = set.events(&caller(1)).await.unwrap();
    set.clear().await.unwrap();
    assert_eq!(set.size().await, Ok(0));
    let seen = take(&mut events, 3).await;
    for element in ["a", "b", "c"] {
        assert!(seen.contains(&removed(element, false)));
    }
    silent(&mut events).await;
}

#[tokio::test]
async fn an_element_beyond_the_limit_is_refused() {
    let ground = Ground::real().limited(Limits { key_bytes_max: 4, ..Limits::default() });
    let set = Set::open(ground.backing(Kind::Set)).await.unwrap();
    set.add("four", None).await.unwrap();
    assert_eq!(reason(set.add("five5", None).await), Reason::Invalid);
    assert_eq!(reason(set.remove("five5").await), Reason::Invalid);
    assert_eq!(reason(set.contains("five5").await), Reason::Invalid);
}

#[tokio::test]
async fn only_changes_are_events() {
    let set = open().await;
    let mut events = set.events(&caller(1)).await.unwrap();
    set.add("a", None).await.unwrap();
    set.add("a", None).await.unwrap_err();
    set.remove("b").await.unwrap_err();
    set.remove("a").await.unwrap();
    assert_eq!(take(&mut events, 2).await, [added("a"), removed("a", false)]);
    silent(&mut events).await;
}

#[tokio::test]
async fn an_element_expires_with_an_event() {
    let (ground, clock) = Ground::manual();
    let set = Set::open(ground.backing(Kind::Set)).await.unwrap();
    let mut events = set.events(&caller(1)).await.unwrap();
    set.add("a", Some(Duration::from_secs(5))).await.unwrap();
    set.add("b", None).await.unwrap();
    assert_eq!(take(&mut events, 2).await, [added("a"), added("b")]);
    clock.advance(Duration::from_secs(4));
    silent(&mut events).await;
    clock.advance(Duration::from_secs(1));
    assert_eq!(next(&mut events).await, removed("a", true));
    assert_eq!((set.contains("a").await, set.contains("b").await), (Ok(false), Ok(true)));
    set.add("a", None).await.unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!(next(&mut events).await, added("a"));
    silent(&mut events).await;
}

#[tokio::test]
async fn adding_an_element_again_keeps_its_time_to_live() {
    let (ground, clock) = Ground::manual();
    let set = Set::open(ground.backing(Kind::Set)).await.unwrap();
    set.add("a", Some(Duration::from_secs(5))).await.unwrap();
    for ttl in [None, Some(Duration::ZERO), Some(Duration::from_secs(60))] {
        assert_eq!(reason(set.add("a", ttl).await), Reason::KeyExists);
    }
    assert_eq!(set.contains("a").await, Ok(true));
    clock.advance(Duration::from_secs(5));
    eventually(async || set.size().await == Ok(0)).await;
}

#[tokio::test]
async fn a_time_to_live_of_zero_expires_at_once() {
    let set = open().await;
    let mut events = set.events(&caller(1)).await.unwrap();
    set.add("a", Some(Duration::ZERO)).await.unwrap();
    assert_eq!(set.contains("a").await, Ok(false));
    assert_eq!(take(&mut events, 2).await, [added("a"), removed("a", true)]);
}

#[tokio::test]
async fn a_listing_shows_every_element_and_ends() {
    let set = open().await;
    let expected: BTreeSet<String> = (0..3000).map(|number| format!("{number}")).collect();
    for element in &expected {
        set.add(element, None).await.unwrap();
    }
    let listed = all(set.elements(&caller(1), false).await.unwrap()).await;
    assert_eq!(listed.len(), expected.len());
    assert_eq!(BTreeSet::from_iter(listed), expected);
}

#[tokio::test]
async fn a_watching_listing_shows_added_and_removed_elements_alike() {
    let (ground, clock) = Ground::manual();
    let set = Set::open(ground.backing(Kind::Set)).await.unwrap();
    set.add("a", None).await.unwrap();
    let mut elements = set.elements(&caller(1), true).await.unwrap();
    assert_eq!(next(&mut elements).await, "a");
    set.add("b", Some(Duration::from_secs(1))).await.unwrap();
    assert_eq!(next(&mut elements).await, "b");
    set.remove("a").await.unwrap();
    assert_eq!(next(&mut elements).await, "a");
    clock.advance(Duration::from_secs(1));
    assert_eq!(next(&mut elements).await, "b");
    silent(&mut elements).await;
}

#[tokio::test]
async fn streams_end_when_the_caller_closes() {
    let set = open().await;
    set.add("a", None).await.unwrap();
    let caller = caller(1);
    let events = set.events(&caller).await.unwrap();
    let elements = set.elements(&caller, true).await.unwrap();
    caller.closed.cancel();
    assert_eq!(all(events).await, []);
    assert!(all(elements).await.len() <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_additions_of_one_element_one_succeeds() {
    let set = Arc::new(open().await);
    for round in 0..50 {
        let element = format!("{round}");
        let tasks = (0..8).map(|_| {
            let (set, element) = (Arc::clone(&set), element.clone());
            tokio::spawn(async move { set.add(&element, None).await.is_ok() })
        });
        let mut succeeded = 0;
        for task in tasks.collect::<Vec<_>>() {
            succeeded += usize::from(task.await.unwrap());
        }
        assert_eq!(succeeded, 1);
    }
    assert_eq!(set.size().await, Ok(50));
}
