// SPDX-License-Identifier: Apache-2.0
//! Keyspaces that hold nothing are given back, without a visible effect.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail, and races in threads of its own"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atomix_driver_memory::{MemoryDriver, MemoryStore, Settings};
use atomix_env::{Clock, Env, ManualClock, WallTime};
use atomix_store::{
    Context, Driver, JsonObject, Keyspace, Outcome, Read, Revision, Store, Txn, WatchFrom, WatchItem, Write,
    Written,
};
use futures::{FutureExt, StreamExt};

/// More than are kept without a look.
const MANY: usize = 5000;
const THREADS: usize = 4;
const ROUNDS: usize = 5_000;

fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("memory answers at once")
}

fn put() -> Txn {
    Txn::new().write(Write::Put { key: "k".into(), value: "v".into() })
}

fn delete() -> Txn {
    Txn::new().write(Write::Delete { key: "k".into() })
}

fn add() -> Txn {
    Txn::new().write(Write::Add { key: "k".into(), delta: 1 })
}

fn commit(store: &MemoryStore, keyspace: &str, txn: Txn) -> Outcome {
    now(store.commit(&Keyspace::new(keyspace.to_owned()), txn)).unwrap()
}

fn fact(store: &MemoryStore, name: &str) -> usize {
    let facts = now(store.check()).unwrap().facts;
    facts.into_iter().find(|(fact, _)| *fact == name).unwrap().1.parse().unwrap()
}

#[test]
fn the_stamps_of_a_store_are_beyond_those_of_the_store_before_it() {
    let clock = ManualClock::new();
    let context = Context { env: Env::simulated(Arc::clone(&clock), 1), store: "test".to_owned() };
    let stamp = || Txn::new().write(Write::Stamp { prefix: "l".into(), value: "owner".into() });
    let keyspace = Keyspace::new("lock/a");
    let mut last = Revision(0);
    for _ in 0..2 {
        clock.advance(Duration::from_millis(1));
        clock.set_wall(WallTime::from_unix(clock.wall().since_unix() + Duration::from_millis(1)));
        let store = now(MemoryDriver.connect(JsonObject::new(), context.clone())).unwrap();
        for _ in 0..500 {
            let revision = now(store.commit(&keyspace, stamp())).unwrap().revision;
            assert!(revision > last, "{revision:?} after {last:?}");
            last = revision;
        }
    }
}

#[test]
fn empty_keyspaces_are_given_back_and_no_revision_comes_twice() {
    let store = MemoryStore::new(Settings::default());
    let kept = commit(&store, "kept", put()).revision;
    let named = commit(&store, "named", delete().once("name"));
    let watched = Keyspace::new("watched");
    let mut watch = now(store.watch(&watched, WatchFrom::Now)).unwrap();
    assert!(matches!(now(watch.next()), Some(Ok(WatchItem::Progress(_)))));
    let first = commit(&store, "0", put()).revision;
    for at in 0..MANY {
        commit(&store, &at.to_string(), put());
        commit(&store, &at.to_string(), delete());
    }
    assert!(fact(&store, "keyspaces") < 2 * 1024, "{}", fact(&store, "keyspaces"));
    assert!(fact(&store, "bytes") < 3 << 20, "{}", fact(&store, "bytes"));
    // A keyspace that holds or remembers something, or is watched, is unchanged.
    let get = vec![Read::Get { key: "k".into() }];
    let there = now(store.read(&Keyspace::new("kept"), get.clone())).unwrap();
    assert_eq!((there.revision, there.reads[0].entry().is_some()), (kept, true));
    assert_eq!(commit(&store, "named", delete().once("name")), named);
    let seen = commit(&store, "watched", put()).revision;
    let Some(Ok(WatchItem::Commit(shown))) = now(watch.next()) else { panic!("it is shown") };
    assert_eq!(shown.revision, seen);
    // A keyspace that was given back continues beyond its last revision, also for readers.
    let before = now(store.read(&Keyspace::new("0"), get)).unwrap().revision;
    assert!(before > first);
    assert!(commit(&store, "0", put()).revision > before);
}

/// Adds and takes away on keyspaces that others use as well, and on ever new ones. Returns what it took away.
fn work(thread: usize, store: &MemoryStore) -> i64 {
    let (mut sum, mut last) = (0, HashMap::<String, Revision>::new());
    for round in 0..ROUNDS {
        let shared = format!("shared/{}", round % 7);
        let added = commit(store, &shared, add()).revision;
        let deleted = commit(store, &shared, delete());
        if let Written::Deleted { previous: Some(entry) } = &deleted.writes[0] {
            sum += atomix_store::number(&entry.value).unwrap();
        }
        assert!(last.insert(shared.clone(), deleted.revision).is_none_or(|last| last < added));
        let fresh = format!("{thread}/{round}");
        commit(store, &fresh, put());
        commit(store, &fresh, delete());
        now(store.reclaim(&Keyspace::new(shared))).unwrap();
    }
    sum
}

#[test]
fn a_small_store_holds_any_number_of_names_one_after_the_other() {
    let store = MemoryStore::new(Settings { bytes_max: 64 << 10, ..Settings::default() });
    for at in 0..MANY {
        commit(&store, &at.to_string(), put());
        commit(&store, &at.to_string(), delete());
    }
    assert!(fact(&store, "bytes") <= 64 << 10);
    // Those that are given back by name cost nothing.
    let before = fact(&store, "keyspaces");
    for at in 0..MANY {
        let name = format!("again/{at}");
        commit(&store, &name, put());
        commit(&store, &name, delete());
        now(store.reclaim(&Keyspace::new(name))).unwrap();
    }
    assert!(fact(&store, "keyspaces") <= before);
}

#[test]
fn nothing_is_lost_while_keyspaces_are_given_back() {
    let store = Arc::new(MemoryStore::new(Settings::default()));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || work(thread, &store))
        })
        .collect();
    let taken: i64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(taken, i64::try_from(THREADS * ROUNDS).unwrap(), "each addition was taken away once");
    assert!(fact(&store, "keyspaces") <= 2 * 1024);
}
