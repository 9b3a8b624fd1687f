// SPDX-License-Identifier: Apache-2.0
//! Transactions that are packed into one call are applied one after the other, each as the engine does it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atomix_engine::Engine;
use atomix_env::Env;
use atomix_remote::{added, addition};
use atomix_store::{
    Commit, Guard, Keyspace, Limits, Order, Outcome, Range, Read, Revision, Store, Txn, WatchFrom, Write,
    Written,
};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::json;

use crate::fixture::{Fixture, connect};
use crate::watch::next;

fn pick(env: &Env, sides: u64) -> u64 {
    env.random() % sides
}

fn key(env: &Env) -> Bytes {
    format!("k{}", pick(env, 6)).into()
}

fn value(env: &Env) -> Bytes {
    format!("v{}", pick(env, 3)).into()
}

fn guard(env: &Env) -> Guard {
    let key = key(env);
    match pick(env, 4) {
        0 => Guard::Absent { key },
        1 => Guard::Present { key },
        2 => Guard::ValueIs { key, value: value(env) },
        _ => Guard::ValueIsNot { key, value: value(env) },
    }
}

fn txn(env: &Env) -> Txn {
    let mut txn = Txn::new();
    if pick(env, 2) == 0 {
        txn = txn.guard(guard(env));
    }
    txn = match pick(env, 7) {
        0 => txn.write(Write::Delete { key: key(env) }),
        1 => txn.write(Write::Add { key: "n".into(), delta: 1 }),
        // Not always a number: then all of it is refused.
        2 => txn
            .write(Write::Add { key: key(env), delta: 1 })
            .write(Write::Put { key: "m".into(), value: value(env) }),
        3 => txn.write(Write::Stamp { prefix: "s/".into(), value: value(env) }),
        4 => txn.write(Write::DeleteRange { range: Range { start: key(env), end: Some("k4".into()) } }),
        _ => txn
            .write(Write::Put { key: key(env), value: value(env) })
            .write(Write::Delete { key: "n".into() }),
    };
    match pick(env, 4) {
        0 => txn.read(Read::Get { key: key(env) }),
        1 => txn.read(Read::Count { range: Range::prefix("k") }),
        2 => txn.read(Read::Scan {
            range: Range::prefix(""),
            order: Order::KeyDescending,
            limit: 4,
            keys_only: false,
        }),
        _ => txn,
    }
}

fn changed(outcome: &Outcome) -> bool {
    outcome.applied
        && outcome.writes.iter().any(|written| match written {
            Written::Put { .. } | Written::Added { .. } | Written::Stamped { .. } => true,
            Written::Deleted { previous } => previous.is_some(),
            Written::RangeDeleted { count } => *count > 0,
        })
}

/// Returns the sum as which additions of one were made, if there are any. The answer to each was a different
/// number.
fn sum(additions: Vec<(Txn, Outcome)>) -> Option<(Txn, Outcome)> {
    let value = |(_, outcome): &(Txn, Outcome)| added(outcome).unwrap().0;
    let values: BTreeSet<i64> = additions.iter().map(value).collect();
    let (count, last) = (i64::try_from(additions.len()).unwrap(), *values.last()?);
    assert_eq!(values, (last - count + 1..=last).collect());
    let (mut txn, outcome) = additions.into_iter().max_by_key(value)?;
    txn.writes = vec![Write::Add { key: "n".into(), delta: count }];
    Some((txn, outcome))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_many_callers_are_those_of_the_engine_in_the_order_of_their_revisions() {
    let fixture = Fixture::start(&[]).await;
    let store: Arc<dyn Store> = connect(fixture.fresh(json!({}))).await.unwrap();
    let (keyspace, limits) = (Keyspace::new("map/it"), Limits::default());
    let mut watch = store.watch(&keyspace, WatchFrom::After(Revision(0))).await.unwrap();
    let env = Env::real();
    let callers = (0..64).map(|_| async {
        let mut answered = Vec::new();
        for _ in 0..60 {
            let txn = txn(&env);
            // Invalid transactions change nothing; another test covers them.
            if let Ok(outcome) = store.commit(&keyspace, txn.clone()).await {
                answered.push((txn, outcome));
            }
        }
        answered
    });
    let mut by_revision: BTreeMap<Revision, Vec<(Txn, Outcome)>> = BTreeMap::new();
    for (txn, outcome) in join_all(callers).await.concat() {
        by_revision.entry(outcome.revision).or_default().push((txn, outcome));
    }
    let mut engine = Engine::new();
    for (revision, answered) in by_revision {
        let (additions, answered): (Vec<_>, Vec<_>) =
            answered.into_iter().partition(|(txn, _)| addition(txn).is_some());
        let mut answered = sum(additions).into_iter().chain(answered).collect::<Vec<_>>();
        // The one that made the revision, then those that only saw it.
        answered.sort_by_key(|(_, outcome)| !changed(outcome));
        for (at, (txn, outcome)) in answered.iter().enumerate() {
            let (expected, changes) = engine.apply(txn, &limits).unwrap();
            assert_eq!(*outcome, expected, "{txn:?}");
            assert_eq!(changes.is_empty(), at > 0 || revision == Revision(0));
            if !changes.is_empty() {
                assert_eq!(*next(&mut watch).await.unwrap(), Commit { revision, changes });
            }
        }
    }
    assert!(engine.revision() > Revision(500), "{:?}", engine.revision());
}
