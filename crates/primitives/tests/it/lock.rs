// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::time::Duration;

use atomix_primitives::{Caller, Kind, Lock, Reason};

use crate::ground::{Ground, caller, eventually, reason, settle, soon};
use crate::stores::needs;

async fn open() -> Arc<Lock> {
    on(&Ground::real()).await
}

async fn on(ground: &Ground) -> Arc<Lock> {
    Arc::new(Lock::open(ground.backing(Kind::Lock)).await.unwrap())
}

fn wait(lock: &Arc<Lock>, caller: &Caller) -> tokio::task::JoinHandle<Result<u64, atomix_primitives::Error>> {
    let (lock, caller) = (Arc::clone(lock), caller.clone());
    tokio::spawn(async move { lock.lock(&caller, None).await })
}

async fn places(lock: &Lock, count: usize) {
    eventually(async || lock.queue(100).await.unwrap().len() == count).await;
}

#[tokio::test]
async fn a_free_lock_is_granted_with_a_token() {
    let lock = open().await;
    assert_eq!(reason(lock.token().await), Reason::LockFree);
    let token = lock.lock(&caller(1), None).await.unwrap();
    assert_ne!(token, 0);
    assert_eq!(lock.token().await, Ok(token));
    lock.unlock(&caller(1)).await.unwrap();
    assert_eq!(reason(lock.token().await), Reason::LockFree);
}

#[tokio::test]
async fn tokens_grow() {
    let lock = open().await;
    let mut last = 0;
    for session in 0..20 {
        let caller = caller(session % 3);
        let token = lock.lock(&caller, None).await.unwrap();
        assert!(token > last);
        last = token;
        lock.unlock(&caller).await.unwrap();
    }
}

#[tokio::test]
async fn only_the_holder_unlocks() {
    let lock = open().await;
    assert_eq!(reason(lock.unlock(&caller(1)).await), Reason::LockNotHeld);
    let token = lock.lock(&caller(1), None).await.unwrap();
    assert_eq!(reason(lock.unlock(&caller(2)).await), Reason::LockNotHeld);
    assert_eq!(lock.token().await, Ok(token));
}

#[tokio::test]
async fn another_call_of_the_same_session_unlocks() {
    let lock = open().await;
    lock.lock(&caller(1), None).await.unwrap();
    lock.unlock(&caller(1)).await.unwrap();
}

#[tokio::test]
async fn a_session_that_waits_holds_nothing_that_it_could_unlock() {
    let lock = open().await;
    lock.lock(&caller(1), None).await.unwrap();
    let waiting = wait(&lock, &caller(2));
    places(&lock, 2).await;
    assert_eq!(reason(lock.unlock(&caller(2)).await), Reason::LockNotHeld);
    lock.unlock(&caller(1)).await.unwrap();
    soon(waiting).await.unwrap().unwrap();
    lock.unlock(&caller(2)).await.unwrap();
}

#[tokio::test]
async fn a_lock_is_not_re_entrant() {
    let (ground, clock) = Ground::manual();
    let lock = on(&ground).await;
    let one = caller(1);
    let token = lock.lock(&one, None).await.unwrap();
    assert_eq!(reason(lock.lock(&one, Some(Duration::ZERO)).await), Reason::LockTimeout);
    let again = tokio::spawn({
        let (lock, one) = (Arc::clone(&lock), one.clone());
        async move { lock.lock(&one, Some(Duration::from_secs(1))).await }
    });
    places(&lock, 2).await;
    settle().await;
    clock.advance(Duration::from_secs(1));
    assert_eq!(reason(soon(again).await.unwrap()), Reason::LockTimeout);
    assert_eq!(lock.token().await, Ok(token));
}

#[tokio::test]
async fn a_timeout_of_zero_is_answered_at_once_and_leaves_nothing() {
    let (ground, _clock) = Ground::manual();
    let lock = on(&ground).await;
    lock.lock(&caller(1), Some(Duration::ZERO)).await.unwrap();
    // The clock stands still, so a call that waited would never end.
    assert_eq!(reason(soon(lock.lock(&caller(2), Some(Duration::ZERO))).await), Reason::LockTimeout);
    assert_eq!(lock.queue(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_timeout_ends_the_wait_and_leaves_nothing() {
    let (ground, clock) = Ground::manual();
    let lock = on(&ground).await;
    lock.lock(&caller(1), None).await.unwrap();
    let waiting = tokio::spawn({
        let lock = Arc::clone(&lock);
        async move { lock.lock(&caller(2), Some(Duration::from_secs(3))).await }
    });
    places(&lock, 2).await;
    settle().await;
    clock.advance(Duration::from_millis(2999));
    settle().await;
    assert!(!waiting.is_finished());
    clock.advance(Duration::from_millis(1));
    assert_eq!(reason(soon(waiting).await.unwrap()), Reason::LockTimeout);
    assert_eq!(lock.queue(10).await.unwrap().len(), 1);
    lock.unlock(&caller(1)).await.unwrap();
    assert_eq!(reason(lock.token().await), Reason::LockFree);
}

#[tokio::test]
async fn a_timeout_in_real_time_is_hardly_late() {
    let lock = open().await;
    lock.lock(&caller(1), None).await.unwrap();
    let begin = std::time::Instant::now();
    let refused = lock.lock(&caller(2), Some(Duration::from_millis(50))).await;
    let waited = begin.elapsed();
    assert_eq!(reason(refused), Reason::LockTimeout);
    assert!(waited >= Duration::from_millis(50), "{waited:?}");
    assert!(waited < Duration::from_millis(150), "{waited:?}");
}

#[tokio::test]
async fn a_grant_before_the_timeout_is_kept() {
    let (ground, clock) = Ground::manual();
    let lock = on(&ground).await;
    lock.lock(&caller(1), None).await.unwrap();
    let waiting = tokio::spawn({
        let lock = Arc::clone(&lock);
        async move { lock.lock(&caller(2), Some(Duration::from_secs(3))).await }
    });
    places(&lock, 2).await;
    settle().await;
    lock.unlock(&caller(1)).await.unwrap();
    let token = soon(waiting).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(10));
    settle().await;
    assert_eq!(lock.token().await, Ok(token));
}

#[tokio::test]
async fn the_queue_shows_who_holds_and_who_waits_since_when() {
    let (ground, clock) = Ground::manual();
    let lock = on(&ground).await;
    let begin = ground.env.wall();
    let token = lock.lock(&caller(1), None).await.unwrap();
    clock.advance(Duration::from_secs(5));
    let waiting = wait(&lock, &caller(2));
    places(&lock, 2).await;
    let queue = lock.queue(10).await.unwrap();
    assert_eq!((queue[0].owner, queue[0].token, queue[0].since), (caller(1).owner, token, begin));
    assert_eq!(queue[1].owner, caller(2).owner);
    assert_eq!(queue[1].since.since_unix(), begin.since_unix() + Duration::from_secs(5));
    assert_eq!(lock.queue(1).await.unwrap().len(), 1);
    waiting.abort();
    places(&lock, 1).await;
}

#[tokio::test]
async fn the_end_of_the_holding_session_hands_the_lock_over() {
    let lock = open().await;
    let one = caller(1);
    let first = lock.lock(&one, None).await.unwrap();
    let waiting = wait(&lock, &caller(2));
    places(&lock, 2).await;
    one.closed.cancel();
    lock.lock_table().release_all(one.owner).await;
    let second = soon(waiting).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(lock.token().await, Ok(second));
}

#[tokio::test]
async fn the_end_of_a_waiting_session_ends_its_calls() {
    let lock = open().await;
    let token = lock.lock(&caller(1), None).await.unwrap();
    let two = caller(2);
    let waiting = [wait(&lock, &two), wait(&lock, &two)];
    places(&lock, 3).await;
    two.closed.cancel();
    lock.lock_table().release_all(two.owner).await;
    for waiting in waiting {
        assert_eq!(reason(soon(waiting).await.unwrap()), Reason::Closed);
    }
    places(&lock, 1).await;
    assert_eq!(lock.token().await, Ok(token));
}

#[tokio::test]
async fn the_end_of_a_former_holder_leaves_the_holder_alone() {
    let lock = open().await;
    let one = caller(1);
    lock.lock(&one, None).await.unwrap();
    lock.unlock(&one).await.unwrap();
    let token = lock.lock(&caller(2), None).await.unwrap();
    let waiting = wait(&lock, &caller(3));
    places(&lock, 2).await;
    one.closed.cancel();
    lock.lock_table().release_all(one.owner).await;
    settle().await;
    assert_eq!(lock.token().await, Ok(token));
    assert!(!waiting.is_finished());
}

#[tokio::test]
async fn a_session_that_has_ended_gets_nothing() {
    let lock = open().await;
    let one = caller(1);
    one.closed.cancel();
    assert_eq!(reason(lock.lock(&one, None).await), Reason::Closed);
    places(&lock, 0).await;
}

#[tokio::test]
async fn a_lock_is_one_for_all_runtimes_of_a_store() {
    let ground = Ground::real();
    let (here, there) = (on(&ground).await, on(&ground).await);
    let first = here.lock(&caller(1), None).await.unwrap();
    assert_eq!(there.token().await, Ok(first));
    assert_eq!(reason(there.unlock(&caller(2)).await), Reason::LockNotHeld);
    let waiting = wait(&there, &caller(2));
    places(&here, 2).await;
    here.unlock(&caller(1)).await.unwrap();
    let second = soon(waiting).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(here.token().await, Ok(second));
}

#[tokio::test]
async fn a_waiting_call_ends_when_its_store_is_disconnected() {
    needs!(Immediate);
    let ground = Ground::real();
    let lock = Lock::open(ground.backing(Kind::Lock)).await.unwrap();
    lock.lock(&caller(1), None).await.unwrap();
    let waiter = caller(2);
    let mut waiting = std::pin::pin!(lock.lock(&waiter, None));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    settle().await;
    ground.store.close(Duration::ZERO).await;
    assert_eq!(reason(soon(waiting).await), Reason::StoreClosed);
}
