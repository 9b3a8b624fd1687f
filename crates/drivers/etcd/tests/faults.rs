// SPDX-License-Identifier: Apache-2.0
//! Failures of etcd and of the connection to it. In every case: no acknowledged commit is lost, none is
//! applied twice, a commit that was refused is not applied, and a watch shows every change once or ends with
//! a reason.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail, and starts tasks"
)]

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, TaskFaults};
use atomix_servers::etcd::{Cluster, Etcd};
use atomix_servers::proxy::Proxy;
use atomix_store::{
    ErrorKind, Keyspace, Read, Txn, WatchFrom, WatchItem, WatchStream, Write, Written, number,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;

use cluster::ledger::Ledger;
use cluster::{connect, connect_in};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

fn keyspace() -> Keyspace {
    Keyspace::new("map/one")
}

fn put(key: impl Into<Bytes>) -> Txn {
    Txn::new().write(Write::Put { key: key.into(), value: "v".into() })
}

async fn next(watch: &mut WatchStream) -> Result<WatchItem, ErrorKind> {
    let item = Env::real().timeout(WAIT_TIMEOUT, watch.next()).await.expect("the watch sends an item");
    item.expect("the watch goes on").map_err(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_killed_and_started_again_under_load_breaks_no_promise() {
    let mut etcd = Etcd::start(&[]).await;
    let store = connect(json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    Ledger::new(store)
        .prove(async |load| {
            for _ in 0..3 {
                etcd.kill();
                load.pause(200).await;
                etcd.restart().await;
                load.progress(200).await;
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_leader_is_killed_breaks_no_promise() {
    let mut cluster = Cluster::start(3).await;
    let store = connect(json!({"endpoints": cluster.endpoints()})).await.unwrap();
    Ledger::new(store)
        .prove(async |load| {
            for _ in 0..2 {
                let leader = cluster.leader().await;
                cluster.members[leader].kill();
                load.progress(200).await;
                cluster.members[leader].restart().await;
                load.progress(200).await;
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_members_are_paused_in_turn_keeps_its_guarantees() {
    let cluster = Cluster::start(3).await;
    let config = json!({
        "endpoints": cluster.endpoints(), "request-timeout": "1s", "dial-timeout": "500ms",
        "dial-keep-alive-time": "1s", "dial-keep-alive-timeout": "1s",
    });
    let store = connect(config).await.unwrap();
    Ledger::new(store)
        .prove(async |load| {
            for member in &cluster.members {
                member.process().unwrap().pause();
                load.pause(1500).await;
                load.progress(50).await;
                member.process().unwrap().resume();
                load.progress(50).await;
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_member_that_is_paused_keeps_its_guarantees() {
    let etcd = Etcd::start(&[]).await;
    let config = json!({"endpoints": [etcd.endpoint()], "request-timeout": "500ms"});
    let store = connect(config).await.unwrap();
    Ledger::new(store)
        .prove(async |load| {
            for _ in 0..2 {
                etcd.process().unwrap().pause();
                load.pause(1500).await;
                etcd.process().unwrap().resume();
                load.progress(200).await;
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_in_the_middle_of_requests_break_no_promise() {
    let etcd = Etcd::start(&[]).await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let store = connect(json!({"endpoints": [proxy.address()]})).await.unwrap();
    Ledger::new(store)
        .prove(async |load| {
            for round in 0..40 {
                load.pause(7 + round % 13).await;
                proxy.cut();
            }
            proxy.refuse();
            load.pause(300).await;
            proxy.pass();
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_requests_are_applied_once_however_often_their_answers_are_lost() {
    let etcd = Etcd::start(&[]).await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let store = connect(json!({"endpoints": [proxy.address()]})).await.unwrap();
    let callers = (0..16).map(|caller| {
        let store = Arc::clone(&store);
        async move {
            let mut seen = Vec::new();
            for call in 0..20 {
                let add = Txn::new().write(Write::Add { key: "n".into(), delta: 1 });
                let txn = add.once(format!("{caller}/{call}"));
                seen.push(loop {
                    match store.commit(&keyspace(), txn.clone()).await {
                        Ok(outcome) => break outcome.writes[0].clone(),
                        Err(error) => {
                            let kind = error.kind();
                            let again = matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::Unavailable);
                            assert!(again, "{error}");
                        }
                    }
                    Env::real().sleep(Duration::from_millis(2)).await;
                });
            }
            seen
        }
    });
    let cutting = tokio::task::spawn(async move {
        loop {
            Env::real().sleep(Duration::from_millis(20)).await;
            proxy.cut();
        }
    });
    let seen = join_all(callers).await.concat();
    cutting.abort();
    let value = |written: &Written| match written {
        Written::Added { value } => Some(*value),
        Written::Put { .. }
        | Written::Stamped { .. }
        | Written::Deleted { .. }
        | Written::RangeDeleted { .. } => None,
    };
    let mut values: Vec<i64> = seen.iter().filter_map(value).collect();
    values.sort_unstable();
    assert_eq!(values, (1..=320).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_reported_and_comes_back() {
    let mut etcd = Etcd::start(&[]).await;
    let config = json!({"endpoints": [etcd.endpoint()]});
    let store = connect(config.clone()).await.unwrap();
    etcd.kill();
    let error = connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&etcd.endpoint()), "{error}");
    // The first may have gone out before the loss was seen.
    drop(store.commit(&keyspace(), put("a")).await);
    assert_eq!(store.commit(&keyspace(), put("b")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let read = store.read(&keyspace(), vec![]).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
    etcd.restart().await;
    store.commit(&keyspace(), put("c")).await.unwrap();
    let reads = vec![Read::Get { key: "b".into() }];
    let snapshot = store.read(&keyspace(), reads).await.unwrap();
    assert!(snapshot.reads[0].entry().is_none(), "it was reported as not applied");
}

#[tokio::test]
async fn a_check_reports_the_endpoint_and_the_state_of_the_store() {
    let etcd = Etcd::start(&[]).await;
    let store = connect(json!({"endpoints": ["127.0.0.1:1", etcd.endpoint()]})).await.unwrap();
    let health = store.check().await.unwrap();
    let fact = |name: &str| {
        let found = health.facts.iter().find(|(its, _)| *its == name);
        found.unwrap_or_else(|| panic!("{name} is missing")).1.clone()
    };
    assert_eq!(fact("endpoint"), etcd.endpoint());
    assert!(fact("version").starts_with("3."));
    assert_eq!(fact("leader"), fact("member"));
    assert!(fact("database-bytes").parse::<u64>().unwrap() > 0);
    assert!(fact("revision").parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn a_watch_whose_past_was_compacted_while_it_was_cut_off_ends_with_where_to_begin() {
    let etcd = Etcd::start(&[]).await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let cut_off = connect(json!({"endpoints": [proxy.address()]})).await.unwrap();
    let store = connect(json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    let mut watch = cut_off.watch(&keyspace(), WatchFrom::Now).await.unwrap();
    next(&mut watch).await.unwrap();
    store.commit(&keyspace(), put("a")).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchItem::Commit(_))));
    proxy.refuse();
    let mut last = 0;
    for _ in 0..20 {
        last = store.commit(&keyspace(), put("a")).await.unwrap().revision.0;
    }
    // 64 revisions of the store are one of etcd.
    etcd.compact(last / 64).await;
    proxy.pass();
    let Err(ErrorKind::Compacted { oldest }) = next(&mut watch).await else { panic!("it ends") };
    assert!(oldest.0 >= last - 64 && oldest.0 <= last, "{oldest}");
    let mut watch = cut_off.watch(&keyspace(), WatchFrom::After(oldest)).await.unwrap();
    let new = store.commit(&keyspace(), put("b")).await.unwrap().revision;
    loop {
        if let WatchItem::Commit(commit) = next(&mut watch).await.unwrap()
            && commit.revision == new
        {
            break;
        }
    }
}

#[tokio::test]
async fn a_named_addition_is_answered_again_when_its_past_was_compacted() {
    let etcd = Etcd::start(&[]).await;
    let store = connect(json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    let add = |name: &'static str| Txn::new().write(Write::Add { key: "n".into(), delta: 3 }).once(name);
    store.commit(&keyspace(), add("before")).await.unwrap();
    let first = store.commit(&keyspace(), add("name")).await.unwrap();
    let last = store.commit(&keyspace(), add("after")).await.unwrap().revision;
    etcd.compact(last.0 / 64).await;
    assert_eq!(store.commit(&keyspace(), add("name")).await.unwrap(), first);
    assert_eq!(first.writes, [Written::Added { value: 6 }]);
}

#[tokio::test]
async fn a_compaction_does_not_disturb_a_watch_that_keeps_up() {
    let etcd = Etcd::start(&[]).await;
    let store = connect(json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    let mut watch = store.watch(&keyspace(), WatchFrom::Now).await.unwrap();
    next(&mut watch).await.unwrap();
    for _ in 0..20 {
        let revision = store.commit(&keyspace(), put("a")).await.unwrap().revision;
        let Ok(WatchItem::Commit(commit)) = next(&mut watch).await else { panic!("it goes on") };
        assert_eq!(commit.revision, revision);
        etcd.compact(revision.0 / 64).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_is_brought_up_from_the_history_of_etcd() {
    let etcd = Etcd::start(&[]).await;
    let config = json!({"endpoints": [etcd.endpoint()], "history-commits-max": 16});
    let store = connect(config).await.unwrap();
    let begun = store.read(&keyspace(), vec![]).await.unwrap().revision;
    // A follower keeps the window of the keyspace at its newest end.
    let _standing = store.watch(&keyspace(), WatchFrom::Now).await.unwrap();
    let keyspace_written = keyspace();
    let writes = (0..3000).map(|at| store.commit(&keyspace_written, put(format!("k{at}"))));
    join_all(writes).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    let mut watch = store.watch(&keyspace(), WatchFrom::After(begun)).await.unwrap();
    let mut last = begun;
    for at in 0..3000 {
        let Ok(WatchItem::Commit(commit)) = next(&mut watch).await else { panic!("it goes on") };
        assert!(commit.revision > last && commit.changes.len() == 1, "{commit:?} after {last}");
        last = commit.revision;
        // In the middle of what was packed together as well as between.
        if at % 97 == 0 {
            watch = store.watch(&keyspace(), WatchFrom::After(last)).await.unwrap();
        }
    }
    let new = store.commit(&keyspace(), put("last")).await.unwrap().revision;
    let Ok(WatchItem::Commit(commit)) = next(&mut watch).await else { panic!("it goes on") };
    assert_eq!(commit.revision, new);
}

#[tokio::test]
async fn watches_of_many_keyspaces_go_on_after_a_restart_and_are_dropped_without_followers() {
    let mut etcd = Etcd::start(&[]).await;
    let config = json!({"endpoints": [etcd.endpoint()], "watch-linger": "200ms"});
    let store = connect(config).await.unwrap();
    let keyspaces: Vec<Keyspace> = (0..600).map(|at| Keyspace::new(format!("map/{at}"))).collect();
    let mut watches = join_all(keyspaces.iter().map(|keyspace| store.watch(keyspace, WatchFrom::Now))).await;
    for watch in &mut watches {
        next(watch.as_mut().unwrap()).await.unwrap();
    }
    etcd.kill();
    etcd.restart().await;
    for (keyspace, watch) in keyspaces.iter().zip(&mut watches) {
        let revision = store.commit(keyspace, put("a")).await.unwrap().revision;
        let Ok(WatchItem::Commit(commit)) = next(watch.as_mut().unwrap()).await else { panic!("it goes on") };
        assert_eq!(commit.revision, revision);
    }
    drop(watches);
    let env = Env::real();
    let begun = env.now();
    loop {
        let facts = store.check().await.unwrap().facts;
        if facts.contains(&("keyspaces-watched", "0".to_owned())) {
            break;
        }
        assert!(env.now().since(begun) < WAIT_TIMEOUT, "{facts:?}");
        env.sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_full_etcd_refuses_writes_takes_deletes_and_works_again_after_its_operator_made_room() {
    let etcd = Etcd::start(&["--quota-backend-bytes=4194304"]).await;
    let store = connect(json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    let value = Bytes::from(vec![b'v'; 256 * 1024]);
    let large = |key: String| Txn::new().write(Write::Put { key: key.into(), value: value.clone() });
    let mut written = 0;
    let full = loop {
        match store.commit(&keyspace(), large(format!("k{written}"))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "it never fills");
    };
    assert_eq!(full.kind(), ErrorKind::Full);
    let delete = |key: String| Txn::new().write(Write::Delete { key: key.into() });
    for at in 0..written {
        // Packed with writes that are refused.
        let (deleted, refused) = futures::future::join(
            store.commit(&keyspace(), delete(format!("k{at}"))),
            store.commit(&Keyspace::new("map/other"), put("small")),
        )
        .await;
        deleted.unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Full);
    }
    let latest = store.read(&keyspace(), vec![]).await.unwrap().revision;
    etcd.compact(latest.0 / 64).await;
    etcd.post("/v3/maintenance/defragment", "{}").await;
    etcd.disarm().await;
    store.commit(&keyspace(), large("again".to_owned())).await.unwrap();
}

#[tokio::test]
async fn what_etcd_could_not_take_is_refused_before_it_is_sent() {
    let etcd = Etcd::start(&[]).await;
    let store = connect(json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    let value = Bytes::from(vec![b'v'; 600 * 1024]);
    let write = |at: usize| Write::Put { key: format!("k{at}").into(), value: value.clone() };
    let large = Txn { writes: (0..3).map(write).collect(), ..Txn::default() };
    let error = store.commit(&keyspace(), large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("request-bytes-max"), "{error}");
    let read = |at: usize| Read::Get { key: format!("k{at}").into() };
    let writes = (0..100).map(|at| Write::Delete { key: format!("k{at}").into() }).collect();
    let many = Txn { writes, reads: (0..100).map(read).collect(), ..Txn::default() };
    let error = store.commit(&keyspace(), many).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("txn-ops-max"), "{error}");
    // A value that fits once fits also beside a guard about it.
    let value = Bytes::from(vec![b'v'; 1024 * 1024]);
    let guarded = |value: &Bytes| {
        Txn::new()
            .guard(atomix_store::Guard::ValueIsNot { key: "k".into(), value: value.clone() })
            .write(Write::Put { key: "k".into(), value: value.clone() })
    };
    assert!(store.commit(&keyspace(), guarded(&value)).await.unwrap().applied);
    assert!(!store.commit(&keyspace(), guarded(&value)).await.unwrap().applied);
    let other = Bytes::from(vec![b'w'; 1024 * 1024]);
    assert!(store.commit(&keyspace(), guarded(&other)).await.unwrap().applied);
}

#[tokio::test]
async fn an_answer_too_large_at_once_is_asked_for_in_parts() {
    let etcd = Etcd::start(&[]).await;
    let config = json!({"endpoints": [etcd.endpoint()], "answer-bytes-max": 1_500_000});
    let store = connect(config).await.unwrap();
    let value = Bytes::from(vec![b'v'; 400 * 1024]);
    for at in 0..8 {
        let txn = Txn::new().write(Write::Put { key: format!("k{at}").into(), value: value.clone() });
        store.commit(&keyspace(), txn).await.unwrap();
    }
    let (mut range, mut seen) = (atomix_store::Range::prefix("k"), 0);
    loop {
        let order = atomix_store::Order::Key;
        let scan = Read::Scan { range: range.clone(), order, limit: 1000, keys_only: false };
        let snapshot = store.read(&keyspace(), vec![scan]).await.unwrap();
        let entries = snapshot.reads[0].entries();
        assert!(!entries.is_empty());
        seen += entries.len();
        if !snapshot.reads[0].more() {
            break;
        }
        range = range.after(&entries.last().unwrap().key);
    }
    assert_eq!(seen, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_share_a_round_trip_are_commits_of_their_own() {
    let etcd = Etcd::start(&[]).await;
    let store = connect(json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    let mut watch = store.watch(&keyspace(), WatchFrom::Now).await.unwrap();
    next(&mut watch).await.unwrap();
    let name = |at: usize| format!("k{at}");
    let calls = (0..500).map(|at| {
        let store = &store;
        // Two keys each; every third has a name, which is a key of another one.
        let txn = Txn::new()
            .write(Write::Put { key: name(2 * at).into(), value: "v".into() })
            .write(Write::Put { key: name(2 * at + 1).into(), value: "v".into() });
        let txn = if at % 3 == 1 { txn.once(name(2 * at - 2)) } else { txn };
        async move { store.commit(&keyspace(), txn).await.unwrap().revision }
    });
    let revisions = join_all(calls).await;
    let distinct: std::collections::BTreeSet<_> = revisions.iter().collect();
    assert!(distinct.len() < revisions.len(), "some have shared a revision");
    for _ in 0..500 {
        let Ok(WatchItem::Commit(commit)) = next(&mut watch).await else { panic!("it goes on") };
        let keys: Vec<_> = commit.changes.iter().map(|change| change.key.clone()).collect();
        let [one, other] = &keys[..] else { panic!("not one transaction: {keys:?}") };
        let number = |key: &Bytes| std::str::from_utf8(&key[1..]).unwrap().parse::<usize>().unwrap();
        assert!(number(one).is_multiple_of(2) && number(other) == number(one) + 1, "{keys:?}");
        let reported = revisions[number(one) / 2];
        assert_eq!(commit.changes[0].current.as_ref().unwrap().modified, reported);
        assert!(commit.revision <= reported && commit.revision.0 + 64 > reported.0);
    }
}

#[tokio::test]
async fn two_runtimes_on_one_prefix_add_to_the_same_numbers() {
    let etcd = Etcd::start(&[]).await;
    let config = json!({"endpoints": [etcd.endpoint()]});
    let stores = [connect(config.clone()).await.unwrap(), connect(config).await.unwrap()];
    let adds = (0..400).map(|at| {
        let txn = Txn::new().write(Write::Add { key: "n".into(), delta: 1 });
        let store = Arc::clone(&stores[at % 2]);
        async move { store.commit(&keyspace(), txn).await.unwrap() }
    });
    join_all(adds).await;
    let reads = vec![Read::Get { key: "n".into() }];
    let snapshot = stores[0].read(&keyspace(), reads).await.unwrap();
    assert_eq!(number(&snapshot.reads[0].entry().unwrap().value), Some(400));
}

#[tokio::test]
async fn watches_are_closed_and_begin_again_where_they_were_after_their_task_panicked() {
    let etcd = Etcd::start(&[]).await;
    let faults = Arc::new(TaskFaults::default());
    let env = Env::real().with_faults(Arc::clone(&faults));
    let store = connect_in(env.clone(), json!({"endpoints": [etcd.endpoint()]})).await.unwrap();
    let mut watch = store.watch(&keyspace(), WatchFrom::Now).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchItem::Progress(_))));
    let first = store.commit(&keyspace(), put("a")).await.unwrap().revision;
    assert!(matches!(next(&mut watch).await, Ok(WatchItem::Commit(commit)) if commit.revision == first));
    faults.kill("etcd-watches");
    while env.restarts().is_empty() {
        env.sleep(Duration::from_millis(5)).await;
    }
    let second = store.commit(&keyspace(), put("b")).await.unwrap().revision;
    // The error makes its reader continue with another store; nothing is left out.
    match env.timeout(WAIT_TIMEOUT, watch.next()).await.unwrap() {
        None => {}
        Some(item) => assert_eq!(item.unwrap_err().kind(), ErrorKind::Closed),
    }
    let mut again = store.watch(&keyspace(), WatchFrom::After(first)).await.unwrap();
    loop {
        match next(&mut again).await.unwrap() {
            WatchItem::Commit(commit) => {
                assert_eq!(commit.revision, second);
                break;
            }
            WatchItem::Progress(revision) => assert!(revision <= first),
        }
    }
}
