// SPDX-License-Identifier: Apache-2.0
//! Load on a store, and a record of what was promised about every single write.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::Env;
use atomix_store::{
    Entry, ErrorKind, Keyspace, Order, Range, Read, Revision, Store, Txn, WatchFrom, WatchItem, Write,
    Written, number,
};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    NotApplied,
    Unknown,
}

/// A store under load.
#[derive(Debug)]
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
    env: Env,
    keyspace: Keyspace,
    stop: AtomicBool,
    /// Every key is written at most once.
    puts: Mutex<HashMap<Bytes, Outcome>>,
    adds: Mutex<Vec<(Outcome, Option<i64>)>>,
    /// Answered writes so far.
    applied: AtomicUsize,
}

const WRITERS: usize = 16;
const NUMBER: &[u8] = b"number";
const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

impl Ledger {
    pub(crate) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            env: Env::real(),
            keyspace: Keyspace::new("map/load"),
            stop: AtomicBool::new(false),
            puts: Mutex::default(),
            adds: Mutex::default(),
            applied: AtomicUsize::new(0),
        })
    }

    /// Writes and follows, while `faults` goes on, and then proves that every promise was kept.
    pub(crate) async fn prove(self: Arc<Self>, faults: impl AsyncFnOnce(&Self)) {
        let begun = self.latest().await;
        let follower = tokio::task::spawn(Arc::clone(&self).follow(begun));
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::task::spawn(Arc::clone(&self).write(writer))).collect();
        self.progress(100).await;
        faults(&self).await;
        self.progress(100).await;
        self.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        let state = self.check().await;
        // Writes whose fate is unknown are done by now or never: the follower is through when it has seen this one.
        self.commit("last").await;
        let mut seen = self.env.timeout(WAIT_TIMEOUT, follower).await.expect("the watch goes on").unwrap();
        seen.remove(&Bytes::from_static(b"last"));
        assert_eq!(seen, state, "the watch has brought every change once");
    }

    /// Waits until so many more writes were answered: the store works.
    pub(crate) async fn progress(&self, writes: usize) {
        let (before, begun) = (self.applied.load(Ordering::Relaxed), self.env.now());
        while self.applied.load(Ordering::Relaxed) < before + writes {
            assert!(self.env.now().since(begun) < WAIT_TIMEOUT, "the store does not come back");
            self.env.sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn pause(&self, millis: u64) {
        self.env.sleep(Duration::from_millis(millis)).await;
    }

    async fn write(self: Arc<Self>, writer: usize) {
        let mut at = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let key = Bytes::from(format!("k/{writer}/{at}"));
            let put = Txn::new().write(Write::Put { key: key.clone(), value: "v".into() });
            let answer = self.store.commit(&self.keyspace, put).await;
            let outcome = self.outcome(&answer.map(drop));
            self.puts.lock().insert(key, outcome);
            let add = Txn::new().write(Write::Add { key: NUMBER.into(), delta: 1 });
            let answer = self.store.commit(&self.keyspace, add).await;
            let value = answer.as_ref().ok().and_then(|outcome| match outcome.writes[..] {
                [Written::Added { value }] => Some(value),
                _ => None,
            });
            let outcome = self.outcome(&answer.map(drop));
            self.adds.lock().push((outcome, value));
            at += 1;
            if outcome != Outcome::Applied {
                self.pause(5).await;
            }
        }
    }

    fn outcome(&self, answer: &Result<(), atomix_store::Error>) -> Outcome {
        match answer {
            Ok(()) => {
                self.applied.fetch_add(1, Ordering::Relaxed);
                Outcome::Applied
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => Outcome::NotApplied,
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => Outcome::Unknown,
            Err(error) => panic!("{error}"),
        }
    }

    async fn latest(&self) -> Revision {
        self.store.read(&self.keyspace, vec![]).await.unwrap().revision
    }

    async fn commit(&self, key: &'static str) {
        let txn = Txn::new().write(Write::Put { key: key.into(), value: "".into() });
        self.store.commit(&self.keyspace, txn).await.unwrap();
    }

    /// Follows everything up to the last write, and returns the state that results.
    async fn follow(self: Arc<Self>, from: Revision) -> BTreeMap<Bytes, Entry> {
        let mut watch = self.store.watch(&self.keyspace, WatchFrom::After(from)).await.unwrap();
        let (mut state, mut last) = (BTreeMap::new(), from);
        loop {
            let WatchItem::Commit(commit) = watch.next().await.unwrap().unwrap() else { continue };
            assert!(commit.revision > last, "{} after {last}", commit.revision);
            last = commit.revision;
            for change in &commit.changes {
                assert_eq!(
                    change.previous.as_ref(),
                    state.get(&change.key),
                    "a change was lost or came twice"
                );
                match &change.current {
                    Some(entry) => drop(state.insert(change.key.clone(), entry.clone())),
                    None => drop(state.remove(&change.key)),
                }
            }
            if commit.changes[0].key == "last" {
                return state;
            }
        }
    }

    /// Proves that the state is what was promised, and returns it.
    async fn check(&self) -> BTreeMap<Bytes, Entry> {
        // A write that was cut off may be applied until its member has lost its leader for good; a write through the
        // same log comes after it.
        self.pause(1500).await;
        self.commit("after").await;
        let state = self.all().await;
        let (mut applied, mut not_applied, mut unknown) = (0, 0, 0);
        for (key, outcome) in self.puts.lock().iter() {
            match outcome {
                Outcome::Applied => {
                    assert!(state.contains_key(key), "{key:?} was answered, and is lost");
                    applied += 1;
                }
                Outcome::NotApplied => {
                    assert!(!state.contains_key(key), "{key:?} was reported as not applied, and is");
                    not_applied += 1;
                }
                Outcome::Unknown => unknown += 1,
            }
        }
        let adds = self.adds.lock();
        let count = |outcome| i64::try_from(adds.iter().filter(|(its, _)| *its == outcome).count()).unwrap();
        let value = state.get(NUMBER).and_then(|entry| number(&entry.value)).unwrap();
        let (least, most) = (count(Outcome::Applied), count(Outcome::Applied) + count(Outcome::Unknown));
        assert!((least..=most).contains(&value), "{value} is not in {least} to {most}");
        let mut numbers: Vec<i64> = adds.iter().filter_map(|(_, value)| *value).collect();
        let answered = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), answered, "every addition has its own number");
        println!(
            "puts: applied={applied} not applied={not_applied} unknown={unknown}; number: {least} <= {value} <= {most}"
        );
        state
    }

    async fn all(&self) -> BTreeMap<Bytes, Entry> {
        let (mut range, mut all) = (Range::prefix(""), BTreeMap::new());
        loop {
            let scan = Read::Scan { range: range.clone(), order: Order::Key, limit: 1000, keys_only: false };
            let snapshot = self.store.read(&self.keyspace, vec![scan]).await.unwrap();
            let entries = snapshot.reads[0].entries();
            all.extend(entries.iter().map(|entry| (entry.key.clone(), entry.clone())));
            match entries.last() {
                Some(last) if snapshot.reads[0].more() => range = range.after(&last.key),
                Some(_) | None => return all,
            }
        }
    }
}
