// SPDX-License-Identifier: Apache-2.0
//! Primitives that are closed by their last user while others work on them, and created again.

use std::sync::Arc;
use std::time::Duration;

use atomix_primitives::{Counter, Election, Kind, Lock, Map, Reason};
use atomix_store::Durability;
use futures::StreamExt;

use crate::ground::{World, reason, settle, soon};

const NOW: Option<Duration> = Some(Duration::ZERO);

/// A store that goes with its process, so that nothing is recalled after a Close.
fn world() -> World {
    World::new(Durability::Process, false)
}

#[tokio::test]
async fn what_a_session_took_in_a_lock_that_was_created_again_is_given_back_when_it_ends() {
    let node = world().start().await;
    let (a, b) = (node.client(), node.client());
    b.create::<Lock>("l").await;
    let lock = a.call::<Lock>("l").await.unwrap();
    lock.lock(&lock.caller(), None).await.unwrap();
    lock.unlock(&lock.caller()).await.unwrap();
    b.close(Kind::Lock, "l").await;
    let again = b.create::<Lock>("l").await;
    let lock = a.call::<Lock>("l").await.unwrap();
    lock.lock(&lock.caller(), None).await.unwrap();
    a.end();
    settle().await;
    assert_eq!(reason(again.token().await), Reason::LockFree);
}

#[tokio::test]
async fn who_creates_what_it_used_before_it_was_forgotten_is_its_user_and_only_that_long() {
    let node = world().start().await;
    let (a, b) = (node.client(), node.client());
    b.create::<Lock>("l").await;
    let lock = a.call::<Lock>("l").await.unwrap();
    lock.lock(&lock.caller(), None).await.unwrap();
    b.close(Kind::Lock, "l").await;
    let again = a.create::<Lock>("l").await;
    assert_eq!((again.open.users(), a.session.primitives()), (1, 1));
    a.end();
    assert_eq!(again.open.users(), 0);
    b.create::<Lock>("l").await;
    b.close(Kind::Lock, "l").await;
    assert!(b.call::<Lock>("l").await.is_none());
}

#[tokio::test]
async fn a_forgotten_primitive_is_gone_although_a_session_that_never_created_it_lives() {
    let node = world().start().await;
    let (a, b) = (node.client(), node.client());
    let map = b.create::<Map>("m").await;
    let forgotten = Arc::downgrade(&map.open);
    let non_user = a.call::<Map>("m").await.unwrap();
    let mut events = non_user.events(&non_user.caller(), None).await.unwrap();
    non_user.put("a", "1".into(), None, 0).await.unwrap();
    soon(events.next()).await.unwrap().unwrap();
    drop((map, non_user));
    b.close(Kind::Map, "m").await;
    assert!(soon(events.next()).await.is_none(), "the stream ends as it does for who closes");
    settle().await;
    assert_eq!(forgotten.strong_count(), 0);
    assert!(a.session.holdings(node.runtime.env(), Duration::from_secs(1), 10).await.is_empty());
}

#[tokio::test]
async fn the_last_close_gives_back_what_others_own_and_ends_their_waiting() {
    let node = world().start().await;
    let (a, b, c) = (node.client(), node.client(), node.client());
    let locks = b.create::<Lock>("l").await;
    let election = b.create::<Election>("e").await;
    let held = a.call::<Lock>("l").await.unwrap();
    held.lock(&held.caller(), None).await.unwrap();
    let waits = c.call::<Lock>("l").await.unwrap();
    let waiting = tokio::spawn(async move { waits.lock(&waits.caller(), None).await });
    let candidate = a.call::<Election>("e").await.unwrap();
    candidate.enter(&candidate.caller(), "a").await.unwrap();
    settle().await;
    b.close(Kind::Lock, "l").await;
    b.close(Kind::Election, "e").await;
    assert_eq!(reason(soon(waiting).await.unwrap()), Reason::Closed);
    settle().await;
    assert_eq!(reason(locks.token().await), Reason::LockFree);
    assert_eq!(election.term().await.unwrap().leader, "");
}

#[tokio::test]
async fn a_close_while_others_use_it_disturbs_no_guest() {
    let node = world().start().await;
    let (a, b, c) = (node.client(), node.client(), node.client());
    b.create::<Lock>("l").await;
    c.create::<Lock>("l").await;
    let held = a.call::<Lock>("l").await.unwrap();
    let token = held.lock(&held.caller(), None).await.unwrap();
    b.close(Kind::Lock, "l").await;
    assert_eq!(held.token().await, Ok(token));
    // Nor does a Close by the guest itself disturb the user; its name works on.
    a.close(Kind::Lock, "l").await;
    let lock = a.call::<Lock>("l").await.unwrap();
    assert!(lock.lock(&lock.caller(), NOW).await.unwrap() > token);
}

#[tokio::test]
async fn a_call_that_found_the_old_one_takes_nothing() {
    let node = world().start().await;
    let (a, b) = (node.client(), node.client());
    let old = b.create::<Lock>("l").await.open;
    // Found, but not begun, when the name is closed and created again; the caller has begun with the new one as well.
    let late = a.call::<Lock>("l").await.unwrap();
    let begun = late.caller();
    b.close(Kind::Lock, "l").await;
    let again = b.create::<Lock>("l").await;
    assert!(!Arc::ptr_eq(&old, &again.open));
    let new = a.call::<Lock>("l").await.unwrap();
    let token = new.lock(&new.caller(), None).await.unwrap();
    assert_eq!(reason(soon(late.lock(&begun, None)).await), Reason::Closed);
    assert_eq!(reason(soon(late.lock(&late.caller(), None)).await), Reason::Closed);
    settle().await;
    assert_eq!(again.token().await, Ok(token), "what it holds in the new one stays held");
    assert_eq!(again.queue(10).await.unwrap().len(), 1);
    a.end();
    settle().await;
    assert_eq!(reason(again.token().await), Reason::LockFree);
}

#[tokio::test]
async fn what_is_closed_and_created_by_many_at_once_is_neither_left_over_nor_lost() {
    let node = world().start().await;
    let work = (0..8).map(|at| {
        let (user, non_user) = (node.client(), node.client());
        tokio::spawn(async move {
            for round in 0..50 {
                let counter = user.create::<Counter>("c").await;
                counter.increment(1, None).await.unwrap();
                if let Some(lock) = non_user.call::<Lock>("l").await {
                    // Free, held by another, or closed.
                    drop(lock.lock(&lock.caller(), NOW).await);
                }
                let lock = user.create::<Lock>("l").await;
                drop(lock.lock(&lock.caller(), NOW).await);
                if (at + round) % 3 != 0 {
                    user.close(Kind::Lock, "l").await;
                }
                user.close(Kind::Counter, "c").await;
            }
            user.close(Kind::Lock, "l").await;
            non_user.end();
            user.end();
        })
    });
    for done in work.collect::<Vec<_>>() {
        soon(done).await.unwrap();
    }
    settle().await;
    assert!(node.runtime.primitives(None, 10, |_| true).is_empty());
    let client = node.client();
    let lock = client.create::<Lock>("l").await;
    assert_eq!(reason(lock.token().await), Reason::LockFree);
    assert_eq!(client.create::<Counter>("c").await.get().await, Ok(400));
}
