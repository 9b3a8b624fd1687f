// SPDX-License-Identifier: Apache-2.0

use std::collections::HashSet;
use std::sync::Arc;

use atomix_env::Env;
use atomix_primitives::{Counter, Kind, Reason};
use atomix_store::{Txn, Write};
use bytes::Bytes;

use crate::ground::{Faulty, Ground, reason};
use crate::stores::store;

fn open() -> Counter {
    Counter::open(Ground::real().backing(Kind::Counter))
}

#[tokio::test]
async fn a_fresh_counter_is_zero() {
    assert_eq!(open().get().await, Ok(0));
}

#[tokio::test]
async fn set_answers_what_was_set() {
    let counter = open();
    for value in [1, -1, 0, i64::MAX, i64::MIN] {
        assert_eq!(counter.set(value).await, Ok(value));
        assert_eq!(counter.get().await, Ok(value));
    }
}

#[tokio::test]
async fn increments_and_decrements_answer_the_new_number() {
    let counter = open();
    for (delta, value) in [(1, 1), (1, 2), (10, 12), (-20, -8), (0, -8)] {
        assert_eq!(counter.increment(delta, None).await, Ok(value));
        assert_eq!(counter.get().await, Ok(value));
    }
    for (delta, value) in [(1, -9), (10, -19), (-20, 1), (0, 1)] {
        assert_eq!(counter.decrement(delta, None).await, Ok(value));
        assert_eq!(counter.get().await, Ok(value));
    }
}

#[tokio::test]
async fn arithmetic_wraps_around() {
    let counter = open();
    counter.set(i64::MAX).await.unwrap();
    assert_eq!(counter.increment(1, None).await, Ok(i64::MIN));
    assert_eq!(counter.decrement(1, None).await, Ok(i64::MAX));
    counter.set(-1).await.unwrap();
    assert_eq!(counter.decrement(i64::MIN, None).await, Ok(i64::MAX));
    counter.set(5).await.unwrap();
    assert_eq!(counter.decrement(i64::MIN, None).await, Ok(5i64.wrapping_sub(i64::MIN)));
}

#[tokio::test]
async fn an_update_needs_the_number_that_is_there() {
    let counter = open();
    counter.set(5).await.unwrap();
    assert_eq!(reason(counter.update(4, 9).await), Reason::ValueMismatch);
    assert_eq!(reason(counter.update(0, 9).await), Reason::ValueMismatch);
    assert_eq!(counter.get().await, Ok(5));
    assert_eq!(counter.update(5, 9).await, Ok(9));
    assert_eq!(counter.get().await, Ok(9));
}

#[tokio::test]
async fn an_update_of_zero_meets_a_fresh_counter_and_a_counter_at_zero() {
    let counter = open();
    assert_eq!(reason(counter.update(1, 3).await), Reason::ValueMismatch);
    assert_eq!(counter.update(0, 3).await, Ok(3));
    counter.set(0).await.unwrap();
    assert_eq!(counter.update(0, 4).await, Ok(4));
}

#[tokio::test]
async fn the_number_stays_when_the_counter_is_opened_again() {
    let ground = Ground::real();
    Counter::open(ground.backing(Kind::Counter)).set(10).await.unwrap();
    assert_eq!(Counter::open(ground.backing(Kind::Counter)).get().await, Ok(10));
}

#[tokio::test]
async fn a_named_increment_is_applied_once() {
    let counter = open();
    let name = Some(Bytes::from_static(b"a"));
    assert_eq!(counter.increment(5, name.clone()).await, Ok(5));
    assert_eq!(counter.increment(1, None).await, Ok(6));
    assert_eq!(counter.increment(5, name.clone()).await, Ok(5));
    assert_eq!(counter.get().await, Ok(6));
    assert_eq!(counter.decrement(2, Some(Bytes::from_static(b"b"))).await, Ok(4));
    assert_eq!(counter.decrement(2, Some(Bytes::from_static(b"b"))).await, Ok(4));
    assert_eq!(counter.get().await, Ok(4));
}

#[tokio::test]
async fn a_named_increment_whose_answer_was_lost_is_safe_to_repeat() {
    let faulty = Faulty::new(store());
    let ground = Ground::on(Arc::clone(&faulty) as _, Env::real());
    let counter = Counter::open(ground.backing(Kind::Counter));
    faulty.lose(1);
    let name = Some(Bytes::from_static(b"a"));
    assert_eq!(reason(counter.increment(1, name.clone()).await), Reason::OutcomeUnknown);
    assert_eq!(counter.increment(1, name).await, Ok(1));
    assert_eq!(counter.get().await, Ok(1));
}

#[tokio::test]
async fn a_request_name_out_of_bounds_is_refused() {
    let counter = open();
    for name in [Bytes::new(), Bytes::from(vec![b'a'; 65])] {
        assert_eq!(reason(counter.increment(1, Some(name)).await), Reason::Invalid);
    }
    assert_eq!(counter.get().await, Ok(0));
}

#[tokio::test]
async fn what_is_no_number_is_reported_as_damage() {
    let ground = Ground::real();
    let counter = Counter::open(ground.backing(Kind::Counter));
    let write = Write::Put { key: "v".into(), value: "text".into() };
    ground.store.commit(&Kind::Counter.keyspace("it"), Txn::new().write(write)).await.unwrap();
    assert_eq!(reason(counter.get().await), Reason::StoreCorrupt);
    assert_eq!(reason(counter.update(1, 2).await), Reason::StoreCorrupt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_are_exact() {
    let counter = Arc::new(open());
    let tasks = (0..64).map(|_| {
        let counter = Arc::clone(&counter);
        tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..100 {
                seen.push(counter.increment(1, None).await.unwrap());
            }
            seen
        })
    });
    let mut seen = HashSet::new();
    for task in tasks.collect::<Vec<_>>() {
        let values = task.await.unwrap();
        assert!(values.is_sorted(), "one caller sees its own increments grow");
        seen.extend(values);
    }
    assert_eq!(seen.len(), 6400, "no two callers were given the same number");
    assert_eq!(counter.get().await, Ok(6400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_updates_from_one_number_one_succeeds() {
    let counter = Arc::new(open());
    for round in 0..50 {
        let tasks = (0..8).map(|_| {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move { counter.update(round, round + 1).await })
        });
        let mut succeeded = 0;
        for task in tasks.collect::<Vec<_>>() {
            match task.await.unwrap() {
                Ok(value) => {
                    assert_eq!(value, round + 1);
                    succeeded += 1;
                }
                Err(error) => assert_eq!(error.reason(), Reason::ValueMismatch),
            }
        }
        assert_eq!(succeeded, 1);
    }
}
