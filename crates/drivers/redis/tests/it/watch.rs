// SPDX-License-Identifier: Apache-2.0
//! Watches are complete or end with a reason, whatever happens to the connection, the stream, or the data.

use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, TaskFaults};
use atomix_servers::proxy::Proxy;
use atomix_store::{
    Commit, ErrorKind, Keyspace, Revision, Store, Txn, WatchFrom, WatchItem, WatchStream, Write,
};
use futures::StreamExt;
use serde_json::json;

use crate::fixture::{Fixture, connect, connect_in};

fn keyspace() -> Keyspace {
    Keyspace::new("map/it")
}

pub(crate) async fn put(store: &Arc<dyn Store>, value: usize) -> Revision {
    let txn = Txn::new().write(Write::Put { key: "k".into(), value: value.to_string().into() });
    store.commit(&keyspace(), txn).await.unwrap().revision
}

pub(crate) async fn watch(store: &Arc<dyn Store>) -> WatchStream {
    let mut watch = store.watch(&keyspace(), WatchFrom::Now).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(_)))));
    watch
}

/// The next commit of a watch, or how it ends. Must come soon.
pub(crate) async fn next(watch: &mut WatchStream) -> Result<Arc<Commit>, ErrorKind> {
    let item =
        Env::real().timeout(Duration::from_secs(30), watch.next()).await.expect("the watch sends an item");
    match item.expect("it has not ended") {
        Ok(WatchItem::Commit(commit)) => Ok(commit),
        Ok(WatchItem::Progress(_)) => panic!("a second greeting"),
        Err(error) => Err(error.kind()),
    }
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_after_its_connection_was_lost() {
    let fixture = Fixture::start(&[]).await;
    let proxy = Proxy::start(fixture.redis.address()).await;
    let direct = fixture.fresh(json!({}));
    let mut proxied = direct.clone();
    proxied.insert("address".to_owned(), proxy.address().into());
    let (writer, reader) = (connect(direct).await.unwrap(), connect(proxied).await.unwrap());
    let mut watch = watch(&reader).await;
    let mut last = 0;
    for round in 0..5 {
        for _ in 0..20 {
            put(&writer, last).await;
            last += 1;
        }
        proxy.refuse();
        for _ in 0..20 {
            put(&writer, last).await;
            last += 1;
        }
        proxy.pass();
        for _ in 0..round {
            put(&writer, last).await;
            last += 1;
        }
    }
    for at in 0..last {
        let commit = next(&mut watch).await.unwrap();
        assert_eq!(commit.revision, Revision(at as u64 + 1));
        let value = &commit.changes[0].current.as_ref().unwrap().value;
        assert_eq!(*value, at.to_string(), "once, in order, whole");
    }
}

#[tokio::test]
async fn a_watch_whose_stream_was_trimmed_while_it_was_away_ends_with_compacted() {
    let fixture = Fixture::start(&[]).await;
    let proxy = Proxy::start(fixture.redis.address()).await;
    let direct = fixture.fresh(json!({ "history-commits-max": 8 }));
    let mut proxied = direct.clone();
    proxied.insert("address".to_owned(), proxy.address().into());
    let (writer, reader) = (connect(direct).await.unwrap(), connect(proxied).await.unwrap());
    put(&writer, 0).await;
    let mut watch = watch(&reader).await;
    proxy.refuse();
    let mut last = Revision(0);
    for value in 0..500 {
        last = put(&writer, value).await;
    }
    proxy.pass();
    let Err(ErrorKind::Compacted { oldest }) = next(&mut watch).await else { panic!("it skips") };
    assert!(oldest <= last);
    let mut again = reader.watch(&keyspace(), WatchFrom::After(oldest)).await.unwrap();
    let next_revision = put(&writer, 0).await;
    assert_eq!(next(&mut again).await.unwrap().revision, next_revision);
}

#[tokio::test]
async fn history_is_bounded_by_bytes_and_what_is_left_can_be_followed() {
    let fixture = Fixture::start(&[]).await;
    let config = fixture.fresh(json!({ "history-bytes-max": 64 * 1024 }));
    let prefix = config["key-prefix"].as_str().unwrap().to_owned();
    let store = connect(config).await.unwrap();
    for _ in 0..300 {
        let txn = Txn::new().write(Write::Put { key: "k".into(), value: vec![b'v'; 1024].into() });
        store.commit(&keyspace(), txn).await.unwrap();
    }
    let stream = format!("{prefix}{{map/it}}s");
    let entries: u64 = fixture.redis.ask(&["XLEN", &stream]).parse().unwrap();
    assert!((10..40).contains(&entries), "{entries} entries of two thousand bytes");
    let Err(error) = store.watch(&keyspace(), WatchFrom::After(Revision(1))).await else {
        panic!("it is gone")
    };
    let ErrorKind::Compacted { oldest } = error.kind() else { panic!("{error}") };
    let mut watch = store.watch(&keyspace(), WatchFrom::After(oldest)).await.unwrap();
    for revision in oldest.0 + 1..=300 {
        assert_eq!(next(&mut watch).await.unwrap().revision, Revision(revision));
    }
}

#[tokio::test]
async fn a_watch_ends_when_everything_was_flushed_and_something_is_written_again() {
    let fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    for value in 0..5 {
        put(&store, value).await;
    }
    let mut watch = watch(&store).await;
    fixture.redis.ask(&["FLUSHALL"]);
    put(&store, 0).await;
    assert!(matches!(next(&mut watch).await, Err(ErrorKind::Compacted { .. })));
}

#[tokio::test]
async fn a_watch_ends_when_everything_was_flushed_though_nothing_is_written() {
    let fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    put(&store, 0).await;
    let mut watch = watch(&store).await;
    fixture.redis.ask(&["FLUSHALL"]);
    assert_eq!(next(&mut watch).await.unwrap_err(), ErrorKind::Compacted { oldest: Revision(0) });
}

#[tokio::test]
async fn a_watch_from_a_revision_of_another_process_ends_as_compacted() {
    let fixture = Fixture::start(&[]).await;
    let config = fixture.fresh(json!({}));
    let old = connect(config.clone()).await.unwrap();
    put(&old, 0).await;
    let seen = put(&old, 1).await;
    fixture.redis.ask(&["FLUSHALL"]);
    let new = connect(config).await.unwrap();
    let taken = put(&new, 2).await;
    let error = new.watch(&keyspace(), WatchFrom::After(seen)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Compacted { oldest: taken });
}

#[tokio::test]
async fn a_watch_ends_when_other_commits_have_taken_the_numbers_of_those_it_has_seen() {
    let fixture = Fixture::start(&[]).await;
    let proxy = Proxy::start(fixture.redis.address()).await;
    let direct = fixture.fresh(json!({}));
    let mut proxied = direct.clone();
    proxied.insert("address".to_owned(), proxy.address().into());
    let (writer, reader) = (connect(direct).await.unwrap(), connect(proxied).await.unwrap());
    for value in 0..5 {
        put(&writer, value).await;
    }
    let mut watch = watch(&reader).await;
    proxy.refuse();
    fixture.redis.ask(&["FLUSHALL"]);
    for value in 0..9 {
        put(&writer, value).await;
    }
    proxy.pass();
    assert_eq!(next(&mut watch).await.unwrap_err(), ErrorKind::Compacted { oldest: Revision(9) });
}

#[tokio::test]
async fn a_watch_ends_when_the_server_has_lost_its_data_by_a_restart() {
    let mut fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    put(&store, 0).await;
    let mut watch = watch(&store).await;
    fixture.redis.kill();
    fixture.redis.restart().await;
    assert!(matches!(next(&mut watch).await, Err(ErrorKind::Compacted { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_see_every_commit_while_the_connections_are_cut_again_and_again() {
    let fixture = Fixture::start(&[]).await;
    let proxy = Proxy::start(fixture.redis.address()).await;
    let direct = fixture.fresh(json!({}));
    let mut proxied = direct.clone();
    proxied.insert("address".to_owned(), proxy.address().into());
    let (writer, reader) = (connect(direct).await.unwrap(), connect(proxied).await.unwrap());
    let mut watch = watch(&reader).await;
    let write = async {
        for value in 0..3000 {
            put(&writer, value).await;
        }
    };
    let cut = async {
        for _ in 0..10 {
            Env::real().sleep(Duration::from_millis(50)).await;
            proxy.refuse();
            proxy.pass();
        }
    };
    let read = async {
        for revision in 1..=3000 {
            assert_eq!(next(&mut watch).await.unwrap().revision, Revision(revision));
        }
    };
    futures::join!(write, cut, read);
}

#[tokio::test]
async fn databases_of_one_server_know_nothing_of_each_other() {
    let fixture = Fixture::start(&[]).await;
    let zero = fixture.fresh(json!({}));
    let mut one = zero.clone();
    one.insert("DB".to_owned(), 1.into());
    let (zero, one) = (connect(zero).await.unwrap(), connect(one).await.unwrap());
    let mut watch = watch(&one).await;
    put(&zero, 7).await;
    let revision = put(&one, 8).await;
    assert_eq!(revision, Revision(1));
    let commit = next(&mut watch).await.unwrap();
    assert_eq!(commit.changes[0].current.as_ref().unwrap().value, "8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_begin_at_the_same_time_all_begin() {
    let fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({}))).await.unwrap();
    let begin = (0..64).map(|at| {
        let store = Arc::clone(&store);
        tokio::task::spawn(async move {
            let from = if at % 2 == 0 { WatchFrom::Now } else { WatchFrom::After(Revision(0)) };
            store.watch(&keyspace(), from).await.unwrap()
        })
    });
    let watches = futures::future::join_all(begin.collect::<Vec<_>>()).await;
    put(&store, 0).await;
    for (at, watch) in watches.into_iter().enumerate() {
        let mut watch = watch.unwrap();
        if at % 2 == 0 {
            assert_eq!(watch.next().await.unwrap().unwrap(), WatchItem::Progress(Revision(0)));
        }
        assert_eq!(next(&mut watch).await.unwrap().revision, Revision(1));
    }
}

#[tokio::test]
async fn watches_and_waits_for_replicas_go_on_after_their_tasks_panicked() {
    let fixture = Fixture::start(&[]).await;
    let faults = Arc::new(TaskFaults::default());
    let env = Env::real().with_faults(Arc::clone(&faults));
    let proxy = Proxy::start(fixture.redis.address()).await;
    let direct = fixture.fresh(json!({}));
    let mut proxied = direct.clone();
    proxied.insert("address".to_owned(), proxy.address().into());
    let (writer, reader) =
        (connect(direct.clone()).await.unwrap(), connect_in(env.clone(), proxied).await.unwrap());
    let mut watch = watch(&reader).await;
    let first = put(&writer, 1).await;
    assert_eq!(next(&mut watch).await.unwrap().revision, first);
    faults.kill("redis-watches");
    // Only the task that panicked brings the watch back after this.
    proxy.cut();
    let second = put(&writer, 2).await;
    assert_eq!(next(&mut watch).await.unwrap().revision, second);
    assert!(env.restarts().contains(&("redis-watches", 1)), "{:?}", env.restarts());

    let mut replicated = direct;
    replicated.insert("wait-replicas".to_owned(), 1.into());
    replicated.insert("wait-timeout".to_owned(), "100ms".into());
    faults.kill("redis-replicas");
    // No replica is there, so connecting is refused; the test checks that each attempt gets that error.
    for _ in 0..2 {
        assert!(connect_in(env.clone(), replicated.clone()).await.is_err());
    }
}
