// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::disallowed_methods, reason = "tests start tasks")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use atomix_env::{ManualClock, TaskFaults};
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Semaphore;

use super::*;
use atomix_store::ErrorKind;

/// A request names a place; two for the same place may not share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    place: u32,
    number: u32,
}

/// Sends a batch when the test allows it.
#[derive(Clone)]
struct Gate {
    packs: Arc<Mutex<Vec<Vec<Request>>>>,
    open: Arc<Semaphore>,
    in_flight: Arc<AtomicUsize>,
}

const PACK_MAX: usize = 8;

impl Gate {
    fn new() -> Self {
        Self { packs: Arc::default(), open: Arc::new(Semaphore::new(0)), in_flight: Arc::default() }
    }

    fn packs(&self) -> Vec<Vec<u32>> {
        let numbers = |batch: &Vec<Request>| batch.iter().map(|request| request.number).collect();
        self.packs.lock().iter().map(numbers).collect()
    }
}

impl BatchSender for Gate {
    type Request = Request;
    type Answer = u32;
    type Footprint = HashSet<u32>;

    fn join(&self, footprint: &mut HashSet<u32>, request: &Request) -> bool {
        footprint.len() < PACK_MAX && footprint.insert(request.place)
    }

    fn send_batch(&self, batch: Vec<Request>) -> BoxFuture<'_, Vec<Result<u32, Error>>> {
        self.packs.lock().push(batch.clone());
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            self.open.acquire().await.expect("it is never closed").forget();
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            let answer = |request: &Request| match request.number % 10 {
                9 => Err(Error::invalid(format!("number {}", request.number))),
                _ => Ok(request.number),
            };
            batch.iter().map(answer).collect()
        })
    }
}

fn batcher(env: &Env) -> (Batcher<Gate>, Gate) {
    let gate = Gate::new();
    (Batcher::new(gate.clone(), env.clone(), Duration::from_secs(5)), gate)
}

/// Lets all tasks do what they can.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_that_find_little_under_way_go_at_once_and_those_behind_share() {
    let (batcher, gate) = batcher(&Env::real());
    let ask = |number| {
        let batcher = batcher.clone();
        tokio::task::spawn(async move { batcher.run(Request { place: number, number }).await })
    };
    let first = ask(0);
    settle().await;
    let rest: Vec<_> = (1..6).map(ask).collect();
    settle().await;
    assert_eq!(gate.packs(), [vec![0], vec![1]], "what came meanwhile waits");
    gate.open.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap(), 0);
    settle().await;
    assert_eq!(gate.packs(), [vec![0], vec![1], vec![2, 3, 4, 5]]);
    let late = ask(6);
    gate.open.add_permits(1);
    settle().await;
    assert_eq!(gate.packs().len(), 3, "beside many nothing goes at once");
    gate.open.add_permits(2);
    assert_eq!(late.await.unwrap().unwrap(), 6);
    for (number, answer) in (1..6).zip(join_all(rest).await) {
        assert_eq!(answer.unwrap().unwrap(), number);
    }
}

#[tokio::test]
async fn requests_that_may_not_share_a_pack_go_side_by_side() {
    let (batcher, gate) = batcher(&Env::real());
    let asked: Vec<_> = (0..4)
        .map(|number| {
            let batcher = batcher.clone();
            tokio::task::spawn(async move { batcher.run(Request { place: 7, number }).await })
        })
        .collect();
    settle().await;
    assert_eq!(gate.packs(), [[0], [1], [2]], "the last one waits for company");
    gate.open.add_permits(4);
    for (number, answer) in (0..).zip(join_all(asked).await) {
        assert_eq!(answer.unwrap().unwrap(), number);
    }
    assert_eq!(gate.packs().len(), 4);
}

#[tokio::test]
async fn an_error_of_one_is_not_the_answer_of_another() {
    let (batcher, gate) = batcher(&Env::real());
    gate.open.add_permits(10);
    let answers = join_all((0..20).map(|number| batcher.run(Request { place: number, number }))).await;
    for (number, answer) in (0..).zip(answers) {
        match number % 10 {
            9 => assert_eq!(answer.unwrap_err().to_string(), format!("number {number}")),
            _ => assert_eq!(answer.unwrap(), number),
        }
    }
}

#[tokio::test]
async fn a_request_that_was_dropped_before_it_was_sent_is_never_sent() {
    let (batcher, gate) = batcher(&Env::real());
    let first = batcher.run(Request { place: 0, number: 0 });
    let second = batcher.run(Request { place: 1, number: 1 });
    let dropped = batcher.run(Request { place: 2, number: 2 });
    let kept = batcher.run(Request { place: 3, number: 3 });
    let (mut first, mut second, mut dropped, mut kept) =
        (Box::pin(first), Box::pin(second), Box::pin(dropped), Box::pin(kept));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    assert!(dropped.as_mut().now_or_never().is_none());
    assert!(kept.as_mut().now_or_never().is_none());
    settle().await;
    drop((first, second, dropped));
    gate.open.add_permits(3);
    assert_eq!(kept.await.unwrap(), 3);
    assert_eq!(gate.packs(), [[0], [1], [3]], "the first two were under way, and went on");
}

#[tokio::test]
async fn a_request_that_has_waited_too_long_is_given_up_unsent() {
    let clock = ManualClock::new();
    let (batcher, gate) = batcher(&Env::simulated(Arc::clone(&clock), 1));
    let ask = |number| {
        let batcher = batcher.clone();
        tokio::task::spawn(async move { batcher.run(Request { place: number, number }).await })
    };
    let in_flight = [ask(0), ask(1)];
    settle().await;
    let late = ask(2);
    settle().await;
    clock.advance(Duration::from_secs(6));
    gate.open.add_permits(2);
    for answer in join_all(in_flight).await {
        answer.unwrap().unwrap();
    }
    assert_eq!(late.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(gate.packs(), [[0], [1]]);
}

#[tokio::test]
async fn too_many_requests_are_refused_and_the_rest_are_answered() {
    let (batcher, gate) = batcher(&Env::real());
    let all = IN_FLIGHT_MAX + WAITING_MAX + 1;
    let asked: Vec<_> = (0..=all)
        .map(|_| Box::pin(batcher.run(Request { place: 7, number: 0 })))
        .map(|mut asked| (asked.as_mut().now_or_never(), asked))
        .collect();
    let refused = asked.iter().filter(|(answer, _)| answer.is_some()).count();
    assert_eq!(refused, 1);
    gate.open.add_permits(all);
    for (answer, asked) in asked {
        match answer {
            Some(answer) => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable),
            None => assert_eq!(asked.await.unwrap(), 0),
        }
    }
    assert!(gate.packs().iter().all(|batch| batch.len() == 1));
}

#[tokio::test]
async fn in_every_interleaving_each_request_is_sent_once_with_nobody_of_its_place() {
    for seed in 0..200 {
        let env = Env::simulated(ManualClock::new(), seed);
        let (batcher, gate) = batcher(&env);
        let roll = |sides: u64| env.random() % sides;
        let mut asked = Vec::new();
        for number in 0..60 {
            let request = Request { place: u32::try_from(roll(6)).unwrap(), number: number * 10 };
            let batcher = batcher.clone();
            asked.push(tokio::task::spawn(async move { batcher.run(request).await }));
            for _ in 0..roll(4) {
                tokio::task::yield_now().await;
            }
            if roll(3) == 0 {
                gate.open.add_permits(1);
            }
        }
        gate.open.add_permits(60);
        for (number, answer) in (0..).zip(join_all(asked).await) {
            assert_eq!(answer.unwrap().unwrap(), number * 10, "seed {seed}");
        }
        let packs = gate.packs.lock().clone();
        let mut sent: Vec<u32> = packs.iter().flatten().map(|request| request.number).collect();
        sent.sort_unstable();
        assert_eq!(sent, (0..60).map(|number| number * 10).collect::<Vec<_>>(), "seed {seed}");
        for batch in packs {
            let places: HashSet<u32> = batch.iter().map(|request| request.place).collect();
            assert!(places.len() == batch.len() && batch.len() <= PACK_MAX, "seed {seed}: {batch:?}");
        }
        settle().await;
        assert_eq!(batcher.shared.state.lock().in_flight, 0, "seed {seed}: nothing is left under way");
    }
}

#[tokio::test]
async fn a_pack_that_panics_is_lost_alone() {
    let (clock, faults) = (ManualClock::new(), Arc::new(TaskFaults::default()));
    let env = Env::simulated(Arc::clone(&clock), 1).with_faults(Arc::clone(&faults));
    let (batcher, gate) = batcher(&env);
    let run = |number| {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.run(Request { place: number, number }).await })
    };
    let lost: Vec<_> = (1..3).map(run).collect();
    settle().await;
    // More than a few are in flight: this one waits for them.
    let deferred = run(3);
    settle().await;
    faults.kill("batcher");
    settle().await;
    faults.kill("batcher");
    settle().await;
    for lost in lost {
        assert_eq!(lost.await.unwrap().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    }
    clock.advance(Duration::from_secs(1));
    gate.open.add_permits(9);
    assert_eq!(deferred.await.unwrap().unwrap(), 3);
    settle().await;
    assert_eq!(run(4).await.unwrap().unwrap(), 4);
    let state = batcher.shared.state.lock();
    assert_eq!((state.in_flight, state.requests), (0, 0));
}
