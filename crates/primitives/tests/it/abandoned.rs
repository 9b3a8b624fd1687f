// SPDX-License-Identifier: Apache-2.0
//! Calls that are given up at any moment, and stamps that arrive when their calls are long gone: neither leaves a lock that
//! nothing holds.

use std::sync::Arc;
use std::time::Duration;

use atomix_conformance::planted::{Bug, Planted};
use atomix_env::{Clock, Env, ManualClock};
use atomix_primitives::{Error, Kind, Lock, Map, Owner, Reason};
use atomix_store::{Store, Txn, Write};

use crate::ground::{Cut, Faulty, Ground, MEMBER, caller, eventually, reason, settle, soon};
use crate::stores::store;

/// A step of a call that is dropped there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Taking a free lock.
    Take,
    /// Waiting for a lock whose holder gives it back at some time.
    Wait,
    /// Waiting until the time is over.
    TimeOut,
    /// Trying to take a lock that is taken.
    Try,
    /// Giving a lock back.
    Unlock,
    /// The end of a session that holds a lock.
    End,
}

const STEPS: [Step; 6] = [Step::Take, Step::Wait, Step::TimeOut, Step::Try, Step::Unlock, Step::End];
/// More polls than any of the calls needs.
const POLLS_MAX: usize = 200;

async fn open(ground: &Ground) -> Arc<Lock> {
    ground.membership.join().await.unwrap();
    Arc::new(Lock::open(ground.backing(Kind::Lock)).await.unwrap())
}

/// Drops the call of `step` after each number of polls, and returns if one of them left the lock without an owner.
async fn drop_everywhere(store: Arc<dyn Store>, step: Step) -> Result<(), String> {
    let ground = Ground::on(store, Env::real());
    let lock = open(&ground).await;
    for polls in 1..POLLS_MAX {
        let (holder, dropped, next) = (caller(1), caller(2), caller(3));
        let failed = |error: Error| format!("{step:?} dropped after {polls} polls: {error}");
        let soon = Some(Duration::from_millis(1));
        let held = matches!(step, Step::Wait | Step::TimeOut | Step::Try);
        if held {
            lock.lock(&holder, None).await.map_err(failed)?;
        }
        if matches!(step, Step::Unlock | Step::End) {
            lock.lock(&dropped, None).await.map_err(failed)?;
        }
        let holds = match step {
            Step::Take => Cut::after(polls, lock.lock(&dropped, None)).await.map(|it| it.is_ok()),
            Step::TimeOut => Cut::after(polls, lock.lock(&dropped, soon)).await.map(|it| it.is_ok()),
            Step::Try => {
                Cut::after(polls, lock.lock(&dropped, Some(Duration::ZERO))).await.map(|it| it.is_ok())
            }
            Step::Wait => {
                let waiting = {
                    let (lock, dropped) = (Arc::clone(&lock), dropped.clone());
                    tokio::spawn(Cut::after(polls, async move { lock.lock(&dropped, None).await }))
                };
                eventually(async || waiting.is_finished() || lock.queue(9).await.unwrap().len() == 2).await;
                lock.unlock(&holder).await.map_err(failed)?;
                waiting.await.unwrap().map(|it| it.is_ok())
            }
            Step::Unlock => Cut::after(polls, lock.unlock(&dropped)).await.map(|_| false),
            Step::End => {
                Cut::after(polls, lock.lock_table().release_all(dropped.owner)).await.map(|()| false)
            }
        };
        if held && step != Step::Wait {
            lock.unlock(&holder).await.map_err(failed)?;
        }
        if holds == Some(true) {
            lock.unlock(&dropped).await.map_err(failed)?;
        }
        match lock.lock(&next, Some(Duration::from_secs(10))).await {
            Ok(_) => lock.unlock(&next).await.map_err(failed)?,
            Err(error) => return Err(failed(error)),
        }
        if lock.lock_table().orphans_swept() > 0 {
            return Err(format!("{step:?} dropped after {polls} polls: a stamp belonged to nothing"));
        }
        if holds.is_some() {
            // The last deletions are those for which nothing has waited yet.
            let taken = lock.lock(&caller(4), Some(Duration::from_secs(10))).await;
            return match (taken, lock.lock_table().orphans_swept()) {
                (Ok(_), 0) => Ok(()),
                (Ok(_), _) => Err(format!("{step:?}: a stamp of its last round belonged to nothing")),
                (Err(error), _) => Err(format!("{step:?}, after its last round: {error}")),
            };
        }
    }
    Err(format!("{step:?} never ended"))
}

#[tokio::test]
async fn a_call_that_is_dropped_at_any_of_its_steps_leaves_the_lock_to_others() {
    for step in STEPS {
        drop_everywhere(Faulty::distant(store()), step).await.unwrap();
    }
}

#[tokio::test]
async fn a_deletion_that_is_lost_is_found_by_dropping_calls_everywhere() {
    for step in [Step::TimeOut, Step::End] {
        let planted: Arc<dyn Store> = Arc::new(Planted::new(store(), Bug::LostDelete));
        let planted: Arc<dyn Store> = Faulty::distant(planted);
        let mut found = false;
        // Every fifth deletion is lost. Of a call that is done after two polls there are only four in a round.
        for _ in 0..20 {
            found = found || drop_everywhere(Arc::clone(&planted), step).await.is_err();
        }
        assert!(found, "{step:?}");
    }
}

#[tokio::test]
async fn calls_for_several_keys_that_are_dropped_at_any_step_leave_them_to_others() {
    let ground = Ground::on(Faulty::distant(store()), Env::real());
    ground.membership.join().await.unwrap();
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    let keys = ["a", "b", "c"].map(str::to_owned);
    for polls in 1..POLLS_MAX {
        map.lock_table().acquire(&caller(1), &keys[1..2], None).await.unwrap();
        let two = caller(2);
        let call = map.lock_table().acquire(&two, &keys, Some(Duration::from_millis(1)));
        let ended = Cut::after(polls, call).await.is_some();
        map.lock_table().release(&caller(1), &keys[1..2]).await.unwrap();
        soon(map.lock_table().acquire(&caller(3), &keys, None)).await.unwrap();
        map.lock_table().release(&caller(3), &keys).await.unwrap();
        if ended {
            assert_eq!(map.lock_table().orphans_swept(), 0);
            return;
        }
    }
    panic!("the call never ended");
}

/// A lock whose last stamp is on its way to the store while its call ended with an unknown outcome.
async fn late() -> (Arc<Faulty>, Arc<ManualClock>, Ground, Arc<Lock>) {
    let (faulty, clock) = (Faulty::new(store()), ManualClock::new());
    let ground = Ground::on(Arc::clone(&faulty) as _, Env::simulated(Arc::clone(&clock), 1));
    let lock = open(&ground).await;
    faulty.delay();
    faulty.lose(1);
    assert_eq!(reason(lock.lock(&caller(1), None).await), Reason::OutcomeUnknown);
    faulty.pass();
    (faulty, clock, ground, lock)
}

/// Lets time pass until the answer is yes, and returns how much.
async fn after(clock: &ManualClock, mut question: impl AsyncFnMut() -> bool) -> Duration {
    let begin = clock.now();
    soon(async {
        while !question().await {
            clock.advance(Duration::from_secs(1));
            settle().await;
        }
    })
    .await;
    clock.now().since(begin)
}

#[tokio::test]
async fn a_stamp_that_arrives_minutes_late_is_deleted_within_as_much_time_again() {
    let (faulty, clock, _ground, lock) = late().await;
    for _ in 0..40 {
        clock.advance(Duration::from_secs(1));
        settle().await;
    }
    faulty.answer();
    eventually(async || lock.queue(9).await.unwrap().len() == 1).await;
    let found = after(&clock, async || lock.queue(9).await.unwrap().is_empty()).await;
    assert!(found <= Duration::from_secs(64), "{found:?}");
    assert_eq!(lock.lock_table().orphans_swept(), 1);
    lock.lock(&caller(2), Some(Duration::ZERO)).await.unwrap();
}

#[tokio::test]
async fn a_call_that_waits_behind_a_late_stamp_gets_its_turn_soon() {
    let (faulty, clock, _ground, lock) = late().await;
    for _ in 0..40 {
        clock.advance(Duration::from_secs(1));
        settle().await;
    }
    lock.lock(&caller(2), None).await.unwrap();
    let waiting = {
        let lock = Arc::clone(&lock);
        tokio::spawn(async move { lock.lock(&caller(3), None).await })
    };
    eventually(async || lock.queue(9).await.unwrap().len() == 2).await;
    // The queues are followed by now: the late stamp is seen when it comes.
    settle().await;
    faulty.answer();
    eventually(async || lock.queue(9).await.unwrap().len() == 3).await;
    settle().await;
    lock.unlock(&caller(2)).await.unwrap();
    soon(waiting).await.unwrap().unwrap();
    let found = after(&clock, async || lock.queue(9).await.unwrap().len() == 1).await;
    assert!(found <= Duration::from_secs(3), "{found:?}");
}

#[tokio::test]
async fn a_stamp_that_nothing_here_owns_is_deleted_when_it_is_in_the_way() {
    let clock = ManualClock::new();
    let ground = Ground::on(store(), Env::simulated(Arc::clone(&clock), 1));
    let lock = open(&ground).await;
    let orphan = Owner { member: MEMBER, session: 5 };
    let mut value = [orphan.member.to_be_bytes(), orphan.session.to_be_bytes()].concat();
    value.extend([0; 16]);
    let stamp = Write::Stamp { prefix: vec![b'l', 0, 0, 0, 0].into(), value: value.into() };
    ground.store.commit(&Kind::Lock.keyspace("it"), Txn::new().write(stamp)).await.unwrap();
    assert_eq!(reason(lock.lock(&caller(1), Some(Duration::ZERO)).await), Reason::LockTimeout);
    let found = after(&clock, async || lock.queue(9).await.unwrap().is_empty()).await;
    assert!(found <= Duration::from_secs(3), "{found:?}");
    assert_eq!(lock.lock_table().orphans_swept(), 1);
}

#[tokio::test]
async fn stamps_that_another_opening_of_the_primitive_owns_are_no_orphans() {
    let (_faulty, clock, ground, lock) = late().await;
    let other = open(&ground).await;
    let token = other.lock(&caller(2), None).await.unwrap();
    let waiting = {
        let lock = Arc::clone(&lock);
        tokio::spawn(async move { lock.lock(&caller(3), None).await })
    };
    eventually(async || lock.queue(9).await.unwrap().len() == 2).await;
    for _ in 0..100 {
        clock.advance(Duration::from_secs(1));
        settle().await;
    }
    assert_eq!(other.token().await, Ok(token));
    assert_eq!(lock.lock_table().orphans_swept() + other.lock_table().orphans_swept(), 0);
    other.unlock(&caller(2)).await.unwrap();
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_revoked_grant_is_given_back_and_a_later_one_of_the_same_session_is_not() {
    let lock = open(&Ground::real()).await;
    let one = caller(1);
    let first = lock.grant(&one, None).await.unwrap();
    lock.unlock(&one).await.unwrap();
    let second = lock.grant(&one, None).await.unwrap();
    first.revoke();
    settle().await;
    assert_eq!(lock.token().await, Ok(second.token()));
    second.revoke();
    soon(lock.lock(&caller(2), None)).await.unwrap();
    assert_eq!(reason(lock.unlock(&one).await), Reason::LockNotHeld);
}

#[tokio::test]
async fn nothing_is_granted_after_the_deadline_of_the_caller() {
    let (ground, clock) = Ground::manual();
    let lock = open(&ground).await;
    let mut late = caller(1);
    late.deadline = Some(clock.now());
    assert_eq!(reason(lock.lock(&late, None).await), Reason::LockTimeout, "it is free, but it is too late");
    assert_eq!(lock.queue(9).await, Ok(Vec::new()));
    late.deadline = Some(clock.now() + Duration::from_secs(1));
    lock.lock(&caller(2), None).await.unwrap();
    let waiting = {
        let lock = Arc::clone(&lock);
        tokio::spawn(async move { lock.lock(&late, None).await })
    };
    eventually(async || lock.queue(9).await.unwrap().len() == 2).await;
    settle().await;
    clock.advance(Duration::from_secs(1));
    assert_eq!(reason(soon(waiting).await.unwrap()), Reason::LockTimeout);
    assert_eq!(lock.queue(9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_operator_frees_what_an_owner_left_that_is_not_here_any_more() {
    let ground = Ground::real();
    ground.membership.join().await.unwrap();
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    let keys = ["a", "b"].map(str::to_owned);
    map.lock_table().acquire(&caller(1), &keys, None).await.unwrap();
    assert_eq!(map.lock_table().remove_owner(caller(2).owner).await, Ok(0));
    assert_eq!(map.lock_table().remove_owner(caller(1).owner).await, Ok(2));
    map.lock_table().acquire(&caller(2), &keys, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(map.lock_table().holders(), [caller(2).owner; 2]);
}
