// SPDX-License-Identifier: Apache-2.0
//! The queues under all locks: order, races, and a store that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::{Env, ManualClock};
use atomix_primitives::{Error, Kind, Limits, Lock, Map, Reason};
use atomix_store::{Order, Range, Read, Revision, Txn, Write};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::ground::{Amnesiac, Faulty, Ground, caller, eventually, reason, settle, soon};
use crate::stores::{forgetful_store, needs, store};

async fn on(ground: &Ground) -> Arc<Lock> {
    // As the runtime does; the faults of these tests are for what follows.
    ground.membership.join().await.unwrap();
    Arc::new(Lock::open(ground.backing(Kind::Lock)).await.unwrap())
}

fn faulty() -> (Arc<Faulty>, Ground) {
    let faulty = Faulty::new(store());
    (Arc::clone(&faulty), Ground::on(faulty, Env::real()))
}

/// Deletes the youngest stamp, as another runtime would for a runtime that it takes for dead.
async fn take_last_stamp_away(ground: &Ground) {
    let keyspace = Kind::Lock.keyspace("it");
    let range = Range::prefix("l");
    let last = Read::Scan { range, order: Order::KeyDescending, limit: 1, keys_only: true };
    let found = ground.store.read(&keyspace, vec![last]).await.unwrap();
    let key = found.reads[0].entries()[0].key.clone();
    ground.store.commit(&keyspace, Txn::new().write(Write::Delete { key })).await.unwrap();
}

/// A lock that session 1 holds, and the call of session 2 that waits for it.
async fn contended(ground: &Ground) -> (Arc<Lock>, BoxFuture<'static, Result<u64, Error>>) {
    let lock = on(ground).await;
    lock.lock(&caller(1), None).await.unwrap();
    let waiter = Arc::clone(&lock);
    let mut waiting = async move { waiter.lock(&caller(2), None).await }.boxed();
    assert!(futures::poll!(&mut waiting).is_pending());
    settle().await;
    (lock, waiting)
}

async fn places(lock: &Lock, count: usize) {
    eventually(async || lock.queue(1000).await.unwrap().len() == count).await;
}

#[tokio::test]
async fn waiters_are_served_in_the_order_of_arrival() {
    let ground = Ground::real();
    // The waiters are of two runtimes.
    let locks = [on(&ground).await, on(&ground).await];
    locks[0].lock(&caller(0), None).await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for session in 1..=64u64 {
        let lock = Arc::clone(&locks[usize::from(session % 2 == 0)]);
        let (waiting, served) = (Arc::clone(&lock), Arc::clone(&served));
        tasks.push(tokio::spawn(async move {
            let caller = caller(session);
            let token = waiting.lock(&caller, None).await.unwrap();
            served.lock().push((session, token));
            waiting.unlock(&caller).await.unwrap();
        }));
        places(&lock, tasks.len() + 1).await;
    }
    locks[0].unlock(&caller(0)).await.unwrap();
    for task in tasks {
        soon(task).await.unwrap();
    }
    let served = served.lock();
    assert!(served.iter().map(|(session, _)| *session).eq(1..=64), "{served:?}");
    assert!(served.is_sorted_by(|one, next| one.1 < next.1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_contenders_one_holds_and_tokens_grow() {
    let ground = Ground::real();
    let locks = [on(&ground).await, on(&ground).await, on(&ground).await];
    let (inside, last, grants) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = (0..64u64).map(|session| {
        let lock = Arc::clone(&locks[usize::try_from(session % 3).unwrap()]);
        let (inside, last, grants) = (Arc::clone(&inside), Arc::clone(&last), Arc::clone(&grants));
        tokio::spawn(async move {
            let caller = caller(session);
            for _ in 0..20 {
                let token = lock.lock(&caller, None).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "no other caller is inside");
                assert!(last.swap(token, Ordering::SeqCst) < token);
                tokio::task::yield_now().await;
                grants.fetch_add(1, Ordering::SeqCst);
                inside.fetch_sub(1, Ordering::SeqCst);
                lock.unlock(&caller).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        soon(task).await.unwrap();
    }
    assert_eq!(grants.load(Ordering::SeqCst), 64 * 20);
    places(&locks[0], 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_are_dropped_at_any_moment_leave_no_stamp() {
    let ground = Ground::real();
    let lock = on(&ground).await;
    let tasks = (0..16u64).map(|session| {
        let lock = Arc::clone(&lock);
        let chance = Env::simulated(ManualClock::new(), session);
        tokio::spawn(async move {
            let caller = caller(session);
            for _ in 0..30 {
                let timeout = Duration::from_micros(chance.random() % 2000);
                // Half of the calls are dropped, half of them time out by themselves.
                let granted = if chance.random().is_multiple_of(2) {
                    tokio::time::timeout(timeout, lock.lock(&caller, None)).await.is_ok_and(|it| it.is_ok())
                } else {
                    lock.lock(&caller, Some(timeout)).await.is_ok()
                };
                if granted {
                    tokio::task::yield_now().await;
                    lock.unlock(&caller).await.unwrap();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        soon(task).await.unwrap();
    }
    places(&lock, 0).await;
    soon(lock.lock(&caller(99), None)).await.unwrap();
}

#[tokio::test]
async fn a_session_gives_back_more_locks_than_a_transaction_has_room_for() {
    let ground = Ground::real();
    ground.membership.join().await.unwrap();
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    let one = caller(1);
    let names: Vec<String> = (0..300).map(|at| format!("k{at}")).collect();
    for name in &names {
        map.lock_table().acquire(&one, std::slice::from_ref(name), None).await.unwrap();
    }
    soon(map.lock_table().release_all(one.owner)).await;
    assert!(map.lock_table().list(10).await.unwrap().is_empty());
    soon(map.lock_table().acquire(&caller(2), &names[..3], None)).await.unwrap();
}

#[tokio::test]
async fn a_waiting_call_that_is_dropped_leaves_the_queue_and_the_next_is_served() {
    needs!(Immediate);
    let lock = on(&Ground::real()).await;
    lock.lock(&caller(1), None).await.unwrap();
    let mut dropped = Box::pin(async { lock.lock(&caller(2), None).await });
    assert!(futures::poll!(&mut dropped).is_pending());
    let three = caller(3);
    let mut kept = Box::pin(lock.lock(&three, None));
    assert!(futures::poll!(&mut kept).is_pending());
    places(&lock, 3).await;
    drop(dropped);
    places(&lock, 2).await;
    lock.unlock(&caller(1)).await.unwrap();
    soon(kept).await.unwrap();
}

#[tokio::test]
async fn a_grant_that_nobody_takes_any_more_is_given_back() {
    needs!(Immediate);
    let lock = on(&Ground::real()).await;
    lock.lock(&caller(1), None).await.unwrap();
    let two = caller(2);
    let mut dropped = Box::pin(lock.lock(&two, None));
    assert!(futures::poll!(&mut dropped).is_pending());
    settle().await;
    lock.unlock(&caller(1)).await.unwrap();
    // The grant is sent now, but the call is never polled again.
    settle().await;
    drop(dropped);
    places(&lock, 0).await;
}

#[tokio::test]
async fn a_call_that_is_dropped_before_the_store_has_answered_leaves_no_stamp() {
    needs!(Immediate);
    let (faulty, ground) = faulty();
    let lock = on(&ground).await;
    faulty.hold();
    let one = caller(1);
    let mut dropped = Box::pin(lock.lock(&one, None));
    assert!(futures::poll!(&mut dropped).is_pending());
    assert_eq!(lock.queue(10).await.unwrap().len(), 1, "the store has the stamp");
    drop(dropped);
    faulty.answer();
    places(&lock, 0).await;
}

#[tokio::test]
async fn a_call_that_is_dropped_on_its_way_to_the_store_leaves_no_stamp_when_it_arrives() {
    let (faulty, ground) = faulty();
    let lock = on(&ground).await;
    faulty.delay();
    let call = {
        let lock = Arc::clone(&lock);
        tokio::spawn(async move { lock.lock(&caller(1), None).await })
    };
    settle().await;
    call.abort();
    settle().await;
    assert_eq!(lock.queue(10).await, Ok(Vec::new()), "it has not arrived");
    faulty.answer();
    let keyspace = Kind::Lock.keyspace("it");
    eventually(async || ground.store.read(&keyspace, Vec::new()).await.unwrap().revision >= Revision(2))
        .await;
    places(&lock, 0).await;
    soon(lock.lock(&caller(2), None)).await.unwrap();
}

#[tokio::test]
async fn a_stamp_whose_answer_was_lost_is_removed() {
    let (faulty, ground) = faulty();
    let lock = on(&ground).await;
    faulty.lose(1);
    assert_eq!(reason(lock.lock(&caller(1), None).await), Reason::OutcomeUnknown);
    places(&lock, 0).await;
    soon(lock.lock(&caller(2), None)).await.unwrap();
}

#[tokio::test]
async fn a_session_that_ends_while_the_store_answers_gets_nothing() {
    needs!(Immediate);
    let (faulty, ground) = faulty();
    let lock = on(&ground).await;
    faulty.hold();
    let one = caller(1);
    let mut call = Box::pin(lock.lock(&one, None));
    assert!(futures::poll!(&mut call).is_pending());
    one.closed.cancel();
    lock.lock_table().release_all(one.owner).await;
    faulty.answer();
    assert_eq!(reason(soon(call).await), Reason::Closed);
    places(&lock, 0).await;
}

#[tokio::test]
async fn locks_of_a_session_are_given_back_however_often_the_store_refuses() {
    let (faulty, ground) = faulty();
    let lock = on(&ground).await;
    lock.lock(&caller(1), None).await.unwrap();
    faulty.refuse(3);
    soon(lock.lock_table().release_all(caller(1).owner)).await;
    assert_eq!(lock.queue(10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_refused_call_says_so_and_leaves_nothing() {
    let (faulty, ground) = faulty();
    let lock = on(&ground).await;
    faulty.refuse(1);
    assert_eq!(reason(lock.lock(&caller(1), None).await), Reason::StoreUnavailable);
    assert_eq!(lock.queue(10).await, Ok(Vec::new()));
    lock.lock(&caller(1), None).await.unwrap();
    faulty.refuse(1);
    assert_eq!(reason(lock.unlock(&caller(1)).await), Reason::StoreUnavailable);
    assert_eq!(lock.queue(10).await.unwrap().len(), 1);
    lock.unlock(&caller(1)).await.unwrap();
}

#[tokio::test]
async fn waiters_are_served_also_when_the_history_is_short() {
    needs!(History);
    let ground = Ground::on(forgetful_store(1), Env::real());
    let map = Arc::new(Map::open(ground.backing(Kind::Map)).await.unwrap());
    let key = ["a".to_owned()];
    map.lock_table().acquire(&caller(0), &key, None).await.unwrap();
    let tasks = (1..=8u64).map(|session| {
        let (map, key) = (Arc::clone(&map), key.clone());
        tokio::spawn(async move {
            let caller = caller(session);
            map.lock_table().acquire(&caller, &key, None).await.unwrap();
            // Many commits without a pause make every follower fall behind.
            for number in 0..20 {
                map.put("b", format!("{session} {number}").into(), None, 0).await.unwrap();
            }
            map.lock_table().release(&caller, &key).await.unwrap();
        })
    });
    let tasks: Vec<_> = tasks.collect();
    settle().await;
    map.lock_table().release(&caller(0), &key).await.unwrap();
    for task in tasks {
        soon(task).await.unwrap();
    }
}

#[tokio::test]
async fn too_many_waiting_calls_are_refused() {
    needs!(Immediate);
    let ground = Ground::real().limited(Limits { waiters_max: 2, ..Limits::default() });
    let lock = on(&ground).await;
    lock.lock(&caller(0), None).await.unwrap();
    let callers = [caller(1), caller(2)];
    let mut waiting: Vec<_> = callers.iter().map(|caller| Box::pin(lock.lock(caller, None))).collect();
    for call in &mut waiting {
        assert!(futures::poll!(call).is_pending());
    }
    assert_eq!(reason(lock.lock(&caller(3), None).await), Reason::WaitersFull);
    assert_eq!(lock.queue(10).await.unwrap().len(), 3);
    waiting.pop();
    places(&lock, 2).await;
    assert_eq!(
        reason(lock.lock(&caller(3), Some(Duration::from_millis(1))).await),
        Reason::LockTimeout,
        "there is room again"
    );
}

#[tokio::test]
async fn too_many_keys_and_too_long_keys_are_refused() {
    let limits = Limits { batch_max: 2, key_bytes_max: 4, ..Limits::default() };
    let ground = Ground::real().limited(limits);
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    let three = ["a", "b", "c"].map(str::to_owned);
    let long = ["five5".to_owned()];
    for keys in [&three[..], &long[..]] {
        assert_eq!(reason(map.lock_table().acquire(&caller(1), keys, None).await), Reason::Invalid);
        assert_eq!(reason(map.lock_table().release(&caller(1), keys).await), Reason::Invalid);
    }
    assert_eq!(map.lock_table().list(10).await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_for_several_keys_never_wait_for_each_other_in_a_circle() {
    const KEYS: u64 = 6;
    let ground = Ground::real();
    let mut maps = Vec::new();
    for _ in 0..2 {
        maps.push(Arc::new(Map::open(ground.backing(Kind::Map)).await.unwrap()));
    }
    let inside: Arc<Vec<AtomicUsize>> = Arc::new((0..KEYS).map(|_| AtomicUsize::new(0)).collect());
    let tasks = (0..64u64).map(|session| {
        let (map, inside) = (Arc::clone(&maps[usize::try_from(session % 2).unwrap()]), Arc::clone(&inside));
        let chance = Env::simulated(ManualClock::new(), session);
        tokio::spawn(async move {
            let caller = caller(session);
            for _ in 0..10 {
                // Named in any order, some of them twice.
                let keys: Vec<String> = (0..3).map(|_| format!("{}", chance.random() % KEYS)).collect();
                let mut held: Vec<usize> = keys.iter().map(|key| key.parse().unwrap()).collect();
                held.sort_unstable();
                held.dedup();
                map.lock_table().acquire(&caller, &keys, None).await.unwrap();
                for key in &held {
                    assert_eq!(inside[*key].fetch_add(1, Ordering::SeqCst), 0, "no other caller has the key");
                }
                tokio::task::yield_now().await;
                for key in &held {
                    inside[*key].fetch_sub(1, Ordering::SeqCst);
                }
                map.lock_table().release(&caller, &keys).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        soon(task).await.unwrap();
    }
    assert_eq!(maps[0].lock_table().list(100).await, Ok(Vec::new()));
}

#[tokio::test]
async fn keys_that_begin_alike_are_locked_apart() {
    let map = Map::open(Ground::real().backing(Kind::Map)).await.unwrap();
    for (session, key) in ["", "a", "aa", "a\0", "\u{1}"].into_iter().enumerate() {
        let caller = caller(session as u64);
        map.lock_table().acquire(&caller, &[key.to_owned()], Some(Duration::ZERO)).await.unwrap();
    }
    let keys: Vec<String> =
        map.lock_table().list(10).await.unwrap().into_iter().map(|lock| lock.key).collect();
    assert_eq!(keys.len(), 5);
    for (session, key) in ["", "a", "aa", "a\0", "\u{1}"].into_iter().enumerate() {
        map.lock_table().release(&caller(session as u64), &[key.to_owned()]).await.unwrap();
    }
    assert_eq!(map.lock_table().list(10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_call_that_waits_for_several_keys_gets_them_when_the_last_is_free() {
    let map = Arc::new(Map::open(Ground::real().backing(Kind::Map)).await.unwrap());
    let [a, b] = ["a", "b"].map(str::to_owned);
    map.lock_table().acquire(&caller(1), std::slice::from_ref(&a), None).await.unwrap();
    map.lock_table().acquire(&caller(2), std::slice::from_ref(&b), None).await.unwrap();
    let both = [a.clone(), b.clone()];
    let waiting = tokio::spawn({
        let (map, both) = (Arc::clone(&map), both.clone());
        async move { map.lock_table().acquire(&caller(3), &both, None).await }
    });
    eventually(async || map.lock_table().list(10).await.unwrap().iter().all(|lock| lock.queue.len() == 2))
        .await;
    map.lock_table().release(&caller(1), &[a]).await.unwrap();
    settle().await;
    assert!(!waiting.is_finished());
    map.lock_table().release(&caller(2), &[b]).await.unwrap();
    soon(waiting).await.unwrap().unwrap();
    map.lock_table().release(&caller(3), &both).await.unwrap();
}

#[tokio::test]
async fn a_stamp_that_was_taken_away_ends_the_call() {
    needs!(Immediate);
    let ground = Ground::real();
    let (here, there) = (on(&ground).await, on(&ground).await);
    let _held = here.lock(&caller(1), None).await.unwrap();
    let two = caller(2);
    let mut waiting = Box::pin(here.lock(&two, None));
    assert!(futures::poll!(&mut waiting).is_pending());
    settle().await;
    take_last_stamp_away(&ground).await;
    assert_eq!(reason(soon(waiting).await), Reason::Closed);
    assert_eq!(there.queue(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stamp_that_was_taken_away_unseen_ends_the_call() {
    needs!(History);
    needs!(Immediate);
    let ground = Ground::on(forgetful_store(1), Env::real());
    let (lock, waiting) = contended(&ground).await;
    take_last_stamp_away(&ground).await;
    // No pause up to here, so the runtime has to read the queues anew without having seen the deletion.
    let keyspace = Kind::Lock.keyspace("it");
    for _ in 0..3 {
        let write = Write::Put { key: "z".into(), value: "1".into() };
        ground.store.commit(&keyspace, Txn::new().write(write)).await.unwrap();
    }
    assert_eq!(reason(soon(waiting).await), Reason::Closed);
    assert_eq!(lock.queue(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_second_unlock_does_not_unlock_what_the_session_has_yet_to_be_granted() {
    needs!(Immediate);
    let lock = on(&Ground::real()).await;
    let one = caller(1);
    lock.lock(&one, None).await.unwrap();
    let mut waiting = Box::pin(lock.lock(&one, None));
    assert!(futures::poll!(&mut waiting).is_pending());
    settle().await;
    // No pause between the two: the waiting call is first, but has not been resolved.
    lock.unlock(&one).await.unwrap();
    assert_eq!(reason(lock.unlock(&one).await), Reason::LockNotHeld);
    let token = soon(waiting).await.unwrap();
    assert_eq!(lock.token().await, Ok(token));
    lock.unlock(&one).await.unwrap();
}

#[tokio::test]
async fn what_is_given_back_is_had_by_the_next_one_before_any_watch_has_told() {
    needs!(Immediate);
    let (faulty, ground) = faulty();
    let (lock, mut waiting) = contended(&ground).await;
    let reads = faulty.reads();
    // No pause between the two, so that the task that follows the queues does not run.
    lock.unlock(&caller(1)).await.unwrap();
    assert!(futures::poll!(&mut waiting).is_ready());
    lock.unlock(&caller(2)).await.unwrap();
    assert_eq!(faulty.reads(), reads, "a release after a grant needs no read");
}

#[tokio::test]
async fn who_comes_when_the_last_one_has_gone_unseen_is_granted() {
    needs!(Immediate);
    let ground = Ground::real();
    let (lock, waiting) = contended(&ground).await;
    let elsewhere = on(&ground).await;
    lock.unlock(&caller(1)).await.unwrap();
    soon(waiting).await.unwrap();
    // No pause before the next call, so that the task that follows the queues still shows the second one.
    elsewhere.unlock(&caller(2)).await.unwrap();
    soon(lock.lock(&caller(3), None)).await.unwrap();
}

#[tokio::test]
async fn a_holder_that_lost_its_place_unseen_holds_and_gives_back_anew() {
    let ground = Ground::real();
    let lock = on(&ground).await;
    let one = caller(1);
    lock.lock(&one, None).await.unwrap();
    take_last_stamp_away(&ground).await;
    assert_eq!(reason(lock.unlock(&one).await), Reason::LockNotHeld);
    // The second place is behind the one that is not known to be gone, in this runtime's books.
    lock.lock(&one, None).await.unwrap();
    take_last_stamp_away(&ground).await;
    lock.lock(&one, None).await.unwrap();
    lock.unlock(&one).await.unwrap();
    assert_eq!(reason(lock.unlock(&one).await), Reason::LockNotHeld);
    assert_eq!(lock.queue(10).await.unwrap(), []);
}

#[tokio::test]
async fn a_lock_that_the_store_lost_is_not_given_back_for_its_next_holder() {
    let store = Amnesiac::new();
    let ground = Ground::on(store.clone(), Env::real());
    let (one, other) = (on(&ground).await, on(&ground).await);
    let (a, b) = (caller(1), caller(2));
    let token = one.lock(&a, None).await.unwrap();
    store.forget();
    assert_eq!(other.lock(&b, None).await, Ok(token), "the store counts anew");
    assert_eq!(reason(one.unlock(&a).await), Reason::LockNotHeld);
    one.lock_table().release_all(a.owner).await;
    let queue = other.queue(10).await.unwrap();
    assert_eq!(queue.iter().map(|place| place.owner).collect::<Vec<_>>(), [b.owner]);
    other.unlock(&b).await.unwrap();
}
