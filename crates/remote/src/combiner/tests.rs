// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::disallowed_methods, reason = "tests start tasks")]

use std::time::Duration;

use atomix_env::{ManualClock, TaskFaults};
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Semaphore;

use super::*;

/// One number that is added to when that is let.
#[derive(Clone)]
struct Number {
    state: Arc<Mutex<State>>,
    open: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    value: i64,
    revision: u64,
    sums: Vec<i64>,
    fail_next: Option<ErrorKind>,
}

impl Number {
    fn new(value: i64) -> Self {
        let state = State { value, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), open: Arc::new(Semaphore::new(0)) }
    }
}

impl Adder for Number {
    fn add<'a>(
        &'a self,
        _: &'a Keyspace,
        _: &'a Bytes,
        delta: i64,
    ) -> BoxFuture<'a, Result<(i64, Revision), Error>> {
        Box::pin(async move {
            self.open.acquire().await.expect("it is never closed").forget();
            let mut state = self.state.lock();
            state.sums.push(delta);
            if let Some(kind) = state.fail_next.take() {
                return Err(Error::new(kind, "told"));
            }
            state.value = state.value.wrapping_add(delta);
            state.revision += 1;
            Ok((state.value, Revision(state.revision)))
        })
    }
}

fn combiner(value: i64) -> (Combiner<Number>, Number) {
    let number = Number::new(value);
    (Combiner::new(number.clone(), Env::real()), number)
}

async fn add(combiner: &Combiner<Number>, delta: i64) -> Result<(i64, u64), Error> {
    let outcome = combiner.add(&Keyspace::new("k"), &Bytes::from_static(b"n"), delta).await?;
    let Written::Added { value } = outcome.writes[0] else { panic!("{outcome:?}") };
    Ok((value, outcome.revision.0))
}

fn ask(combiner: &Combiner<Number>, delta: i64) -> tokio::task::JoinHandle<Result<(i64, u64), Error>> {
    let combiner = combiner.clone();
    tokio::task::spawn(async move { add(&combiner, delta).await })
}

async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn additions_that_wait_are_one_sum_and_each_sees_its_own_number() {
    let (combiner, number) = combiner(100);
    let first = ask(&combiner, 1);
    settle().await;
    let rest: Vec<_> = [10, -3, 0].map(|delta| ask(&combiner, delta)).into();
    settle().await;
    number.open.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap(), (101, 1));
    let rest: Vec<_> = join_all(rest).await.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert_eq!(rest, [(111, 2), (108, 2), (108, 2)]);
    assert_eq!(number.state.lock().sums, [1, 7]);
}

#[tokio::test]
async fn sums_wrap_around_as_single_additions_do() {
    let (combiner, number) = combiner(i64::MAX);
    let first = ask(&combiner, 0);
    settle().await;
    let rest: Vec<_> = [i64::MAX, i64::MAX, 5].map(|delta| ask(&combiner, delta)).into();
    settle().await;
    number.open.add_permits(2);
    first.await.unwrap().unwrap();
    let mut expected = i64::MAX;
    for (answer, delta) in join_all(rest).await.into_iter().zip([i64::MAX, i64::MAX, 5]) {
        expected = expected.wrapping_add(delta);
        assert_eq!(answer.unwrap().unwrap().0, expected);
    }
}

#[tokio::test]
async fn an_error_is_told_to_those_in_the_sum_and_to_nobody_else() {
    let (combiner, number) = combiner(0);
    number.state.lock().fail_next = Some(ErrorKind::OutcomeUnknown);
    let first = ask(&combiner, 1);
    settle().await;
    let rest: Vec<_> = [2, 3].map(|delta| ask(&combiner, delta)).into();
    settle().await;
    number.open.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let rest: Vec<_> = join_all(rest).await.into_iter().map(|answer| answer.unwrap().unwrap().0).collect();
    assert_eq!(rest, [2, 5]);
    number.state.lock().fail_next = Some(ErrorKind::Invalid);
    number.open.add_permits(2);
    assert_eq!(add(&combiner, 1).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(add(&combiner, 1).await.unwrap().0, 6, "the number is not stuck");
}

#[tokio::test]
async fn an_addition_that_was_dropped_while_it_waited_is_not_added() {
    let (combiner, number) = combiner(0);
    let first = ask(&combiner, 1);
    settle().await;
    let mut dropped = Box::pin(add(&combiner, 1000));
    assert!(dropped.as_mut().now_or_never().is_none());
    drop(dropped);
    let last = ask(&combiner, 5);
    settle().await;
    number.open.add_permits(2);
    first.await.unwrap().unwrap();
    assert_eq!(last.await.unwrap().unwrap().0, 6);
}

#[tokio::test]
async fn in_every_interleaving_answers_are_those_of_additions_one_by_one() {
    for seed in 0..200 {
        let env = Env::simulated(ManualClock::new(), seed);
        let (combiner, number) = combiner(0);
        let mut asked = Vec::new();
        for _ in 0..50 {
            asked.push(ask(&combiner, 1));
            for _ in 0..env.random() % 4 {
                tokio::task::yield_now().await;
            }
            if env.random().is_multiple_of(3) {
                number.open.add_permits(1);
            }
        }
        number.open.add_permits(50);
        let mut seen: Vec<i64> =
            join_all(asked).await.into_iter().map(|answer| answer.unwrap().unwrap().0).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=50).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(number.state.lock().value, 50, "seed {seed}");
        settle().await;
        assert!(combiner.shared.numbers.lock().is_empty(), "seed {seed}: nothing is left under way");
    }
}

#[tokio::test]
async fn a_sum_that_panics_is_lost_alone() {
    let (clock, faults) = (ManualClock::new(), Arc::new(TaskFaults::default()));
    let env = Env::simulated(Arc::clone(&clock), 1).with_faults(Arc::clone(&faults));
    let number = Number::new(0);
    let combiner = Combiner::new(number.clone(), env);
    let add = |delta| {
        let combiner = combiner.clone();
        tokio::spawn(async move { combiner.add(&Keyspace::new("k"), &Bytes::from_static(b"n"), delta).await })
    };
    let lost = add(1);
    settle().await;
    let behind = add(2);
    settle().await;
    faults.kill("combiner");
    settle().await;
    assert_eq!(lost.await.unwrap().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    clock.advance(Duration::from_secs(1));
    number.open.add_permits(9);
    assert_eq!(behind.await.unwrap().unwrap().writes, [Written::Added { value: 2 }]);
    settle().await;
    assert!(combiner.shared.numbers.lock().is_empty());
}
