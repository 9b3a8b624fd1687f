// SPDX-License-Identifier: Apache-2.0
//! Servers that are killed, stopped, or cut off under load: what was answered is there, what was refused is not, and
//! nothing is there twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_env::Env;
use atomix_servers::proxy::{Half, Proxy};
use atomix_servers::{START_TIMEOUT, eventually};
use atomix_store::{
    Consistency, Durability, ErrorKind, Keyspace, Order, Range, Read, Store, Txn, Write, number,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;

use crate::fixture::{Fixture, connect};

/// The answers to the requests of each caller.
#[derive(Debug, Default)]
struct Answers {
    by_request: Mutex<HashMap<Bytes, Option<ErrorKind>>>,
}

impl Answers {
    /// Waits until there are so many `more` outcomes of a kind.
    async fn grow(&self, what: &str, more: usize, kind: impl Fn(&Option<ErrorKind>) -> bool) {
        let count = || self.by_request.lock().values().filter(|error| kind(error)).count();
        let target = count() + more;
        eventually(START_TIMEOUT, what, || count() >= target).await;
    }
}

fn keyspace() -> Keyspace {
    Keyspace::new("topic/it")
}

/// A request that shows each time it is applied: a stamp with its name, and one more on a counter.
fn request(name: &Bytes) -> Txn {
    Txn::new()
        .write(Write::Stamp { prefix: "s/".into(), value: name.clone() })
        .write(Write::Add { key: "n".into(), delta: 1 })
}

/// Sends requests, one after the other, until `stop`.
async fn load(store: &Arc<dyn Store>, answers: &Answers, caller: usize, stop: &AtomicBool) {
    for at in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let name = Bytes::from(format!("{caller}-{at}"));
        let result = store.commit(&keyspace(), request(&name)).await;
        if result.is_err() {
            Env::real().sleep(Duration::from_millis(1)).await;
        }
        answers.by_request.lock().insert(name, result.err().map(|error| error.kind()));
    }
}

/// Waits until the store answers again.
async fn recovered(store: &Arc<dyn Store>) {
    let env = Env::real();
    for _ in 0..1000 {
        if store.read(&keyspace(), vec![]).await.is_ok() {
            return;
        }
        env.sleep(Duration::from_millis(20)).await;
    }
    panic!("the store does not come back");
}

/// Compares the answers with the content. Returns how many requests were answered, refused, and lost.
async fn settle(store: &Arc<dyn Store>, answers: &Answers) -> (usize, usize, usize) {
    let mut applied: HashMap<Bytes, usize> = HashMap::new();
    let mut range = Range::prefix("s/");
    loop {
        let read = Read::Scan { range: range.clone(), order: Order::Created, limit: 1000, keys_only: false };
        let snapshot = store.read(&keyspace(), vec![read]).await.unwrap();
        for entry in snapshot.reads[0].entries() {
            *applied.entry(entry.value.clone()).or_default() += 1;
            range = range.after(&entry.key);
        }
        if !snapshot.reads[0].more() {
            break;
        }
    }
    let (mut answered, mut refused, mut lost) = (0, 0, 0);
    let by_request = answers.by_request.lock().clone();
    for (name, outcome) in &by_request {
        let times = applied.get(name).copied().unwrap_or(0);
        match outcome {
            None => {
                answered += 1;
                assert_eq!(times, 1, "{name:?} was answered");
            }
            Some(ErrorKind::Unavailable) => {
                refused += 1;
                assert_eq!(times, 0, "{name:?} was refused");
            }
            Some(ErrorKind::OutcomeUnknown) => {
                lost += 1;
                assert!(times <= 1, "{name:?} was applied {times} times");
            }
            Some(other) => panic!("{name:?}: {other:?}"),
        }
    }
    assert!(applied.keys().all(|name| by_request.contains_key(name)), "nothing was invented");
    let sum = store.read(&keyspace(), vec![Read::Get { key: "n".into() }]).await.unwrap();
    let counted = sum.reads[0].entry().and_then(|entry| number(&entry.value)).unwrap_or(0);
    assert_eq!(usize::try_from(counted).unwrap(), applied.len(), "no request was applied by half");
    (answered, refused, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_killed_server_and_nothing_is_applied_twice() {
    let mut fixture = Fixture::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    assert_eq!(store.profile().durability, Durability::Disk);
    assert_eq!(store.profile().consistency, Consistency::Linearizable);
    let (answers, stop) = (Arc::new(Answers::default()), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let (store, answers, stop) = (Arc::clone(&store), Arc::clone(&answers), Arc::clone(&stop));
            tokio::task::spawn(async move { load(&store, &answers, caller, &stop).await })
        })
        .collect();
    let failed = |error: &Option<ErrorKind>| error.is_some();
    for _ in 0..4 {
        answers.grow("requests are answered", 50, Option::is_none).await;
        fixture.redis.kill();
        answers.grow("requests fail", 20, failed).await;
        fixture.redis.restart().await;
        recovered(&store).await;
    }
    answers.grow("requests are answered", 50, Option::is_none).await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    let (answered, refused, _) = settle(&store, &answers).await;
    assert!(answered > 100 && refused > 0, "{answered} answered, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_leaves_outcomes_unknown_and_then_refuses() {
    let fixture = Fixture::start(&[]).await;
    let timeouts = json!({ "response-timeout": "300ms", "connect-timeout": "300ms" });
    let store = connect(fixture.fresh(timeouts)).await.unwrap();
    let answers = Answers::default();
    let ask = async |name: &'static str| {
        let result = store.commit(&keyspace(), request(&name.into())).await;
        let kind = result.err().map(|error| error.kind());
        answers.by_request.lock().insert(name.into(), kind);
        kind
    };
    assert_eq!(ask("before").await, None);
    fixture.redis.pause();
    assert_eq!(ask("stopped").await, Some(ErrorKind::OutcomeUnknown));
    assert_eq!(ask("still stopped").await, Some(ErrorKind::Unavailable));
    let read = store.read(&keyspace(), vec![]).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
    fixture.redis.resume();
    recovered(&store).await;
    assert_eq!(ask("after").await, None);
    settle(&store, &answers).await;
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_request_or_an_answer_leaves_the_outcome_unknown() {
    let fixture = Fixture::start(&[]).await;
    let proxy = Proxy::start(fixture.redis.address()).await;
    let store = connect(fixture.fresh(json!({ "address": proxy.address() }))).await.unwrap();
    let answers = Answers::default();
    for cut in [1, 20, 200] {
        for answer in [false, true] {
            let name = Bytes::from(format!("{cut} {answer}"));
            if answer {
                proxy.cut_after(Half::Answers, cut.min(10));
            } else {
                proxy.cut_after(Half::Requests, cut);
            }
            let result = store.commit(&keyspace(), request(&name)).await;
            let kind = result.err().map(|error| error.kind());
            assert_eq!(kind, Some(ErrorKind::OutcomeUnknown), "{name:?}");
            answers.by_request.lock().insert(name.clone(), kind);
            proxy.pass();
            recovered(&store).await;
            let once = store.read(&keyspace(), vec![Read::Count { range: Range::prefix("s/") }]).await;
            assert!(once.is_ok());
        }
    }
    let (_, _, lost) = settle(&store, &answers).await;
    assert_eq!(lost, 6);
    let count = store.read(&keyspace(), vec![Read::Count { range: Range::prefix("s/") }]).await;
    assert_eq!(count.unwrap().reads[0].count(), 3, "applied where only the answer was cut");
}

#[tokio::test]
async fn a_named_request_whose_answer_was_lost_can_be_asked_again() {
    let fixture = Fixture::start(&[]).await;
    let proxy = Proxy::start(fixture.redis.address()).await;
    let store = connect(fixture.fresh(json!({ "address": proxy.address() }))).await.unwrap();
    let txn = || Txn::new().write(Write::Add { key: "n".into(), delta: 1 }).once("request");
    proxy.cut_after(Half::Answers, 5);
    let lost = store.commit(&keyspace(), txn()).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::OutcomeUnknown);
    proxy.pass();
    recovered(&store).await;
    let outcome = store.commit(&keyspace(), txn()).await.unwrap();
    assert_eq!(outcome.writes, [atomix_store::Written::Added { value: 1 }]);
}

#[tokio::test]
async fn a_server_that_is_not_there_refuses_and_is_used_once_it_is() {
    let mut fixture = Fixture::start(&[]).await;
    fixture.redis.kill();
    let error = connect(fixture.fresh(json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    fixture.redis.restart().await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    fixture.redis.kill();
    let refused = loop {
        // The first one may still find the connection of before.
        let error = store.commit(&keyspace(), request(&"x".into())).await.unwrap_err();
        if error.kind() != ErrorKind::OutcomeUnknown {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    fixture.redis.restart().await;
    let env = Env::real();
    let begin = env.now();
    recovered(&store).await;
    assert!(env.now() - begin < Duration::from_secs(2), "{:?}", env.now() - begin);
}

#[tokio::test]
async fn closing_waits_for_calls_that_run_and_no_longer_than_its_grace() {
    let fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    fixture.redis.pause();
    let running = {
        let store = Arc::clone(&store);
        tokio::task::spawn(async move { store.commit(&keyspace(), request(&"x".into())).await })
    };
    let env = Env::real();
    env.sleep(Duration::from_millis(50)).await;
    let begin = env.now();
    store.close(Duration::from_millis(200)).await;
    assert!(env.now() - begin < Duration::from_secs(2));
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "it was sent");
    fixture.redis.resume();
}
