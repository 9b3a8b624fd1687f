// SPDX-License-Identifier: Apache-2.0
//! The cases, each named after the fact that it proves.

mod life;
mod reads;
mod watches;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use atomix_env::Env;
use atomix_store::{
    Commit, Entry, Error, ErrorKind, Found, JsonObject, Keyspace, Order, Outcome, Range, Read, Revision,
    Snapshot, Store, Txn, WatchFrom, WatchItem, WatchStream, Write,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;

use crate::{Configured, Subject};

/// A fact about stores.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) prove: fn(Arc<dyn Store>, JsonObject) -> BoxFuture<'static, ()>,
}

/// The kind of store that a case is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Needs {
    Nothing,
    /// One that forgets: this many commits.
    Forgetful(usize),
    /// One that fills up: this many bytes.
    Small(usize),
}

/// Lists cases: `cases! { name; name, Forgetful(8); … }`.
macro_rules! cases {
    ($($name:ident $(: $needs:expr)?;)+) => {
        pub(crate) fn cases() -> Vec<crate::cases::Case> {
            vec![$(crate::cases::Case {
                name: stringify!($name),
                needs: { let needs = crate::cases::Needs::Nothing; $(let needs = { let _ = needs; $needs };)? needs },
                prove: |store, config| Box::pin($name(crate::cases::Fixture::new(store, config))),
            },)+]
        }
    };
}

pub(crate) use cases;

pub(crate) fn all() -> Vec<Case> {
    [writes::cases(), reads::cases(), watches::cases(), life::cases()].into_iter().flatten().collect()
}

// === impl Case ===

impl Case {
    pub(crate) fn applies(&self, subject: &dyn Subject) -> bool {
        match self.needs {
            Needs::Nothing => true,
            Needs::Forgetful(commits) => subject.open_forgetful(commits).is_some(),
            Needs::Small(bytes) => subject.open_small(bytes).is_some(),
        }
    }

    pub(crate) async fn open(&self, subject: &dyn Subject) -> Result<Configured, Error> {
        let none = || Error::new(ErrorKind::Unsupported, "the subject has no such store");
        let store = match self.needs {
            Needs::Nothing => return subject.open_configured().await,
            Needs::Forgetful(commits) => subject.open_forgetful(commits).ok_or_else(none)?.await?,
            Needs::Small(bytes) => subject.open_small(bytes).ok_or_else(none)?.await?,
        };
        Ok((store, JsonObject::new()))
    }
}

/// A store and one of its keyspaces.
#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    /// The configuration of the store; empty for stores that forget or fill up.
    pub(crate) config: JsonObject,
    pub(crate) keyspace: Keyspace,
    pub(crate) env: Env,
}

/// Generous limit for an answer or an event that must come.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

// === impl Fixture ===

impl Fixture {
    pub(crate) fn new(store: Arc<dyn Store>, config: JsonObject) -> Self {
        Self { store, config, keyspace: Keyspace::new("map/one"), env: Env::real() }
    }

    pub(crate) fn beside(&self) -> Self {
        Self { keyspace: Keyspace::new("map/other"), ..self.clone() }
    }

    pub(crate) async fn try_commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.store.commit(&self.keyspace, txn).await
    }

    pub(crate) async fn commit(&self, txn: Txn) -> Outcome {
        self.try_commit(txn).await.expect("the transaction is valid")
    }

    pub(crate) async fn refused(&self, txn: Txn) -> ErrorKind {
        self.try_commit(txn).await.expect_err("the transaction is not valid").kind()
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Outcome {
        self.commit(Txn::new().write(put(key, value))).await
    }

    pub(crate) async fn reclaim(&self) {
        self.store.reclaim(&self.keyspace).await.expect("the keyspace may be given back");
    }

    pub(crate) async fn read(&self, reads: Vec<Read>) -> Snapshot {
        self.store.read(&self.keyspace, reads).await.expect("the read is valid")
    }

    pub(crate) async fn find(&self, read: Read) -> Found {
        self.read(vec![read]).await.reads.remove(0)
    }

    pub(crate) async fn get(&self, key: &str) -> Option<Entry> {
        self.find(get(key)).await.entry().cloned()
    }

    pub(crate) async fn value(&self, key: &str) -> Option<Bytes> {
        self.get(key).await.map(|entry| entry.value)
    }

    pub(crate) async fn all(&self) -> Vec<Entry> {
        self.find(scan("", Order::Key, usize::MAX)).await.entries().to_vec()
    }

    pub(crate) async fn watch(&self, from: WatchFrom) -> WatchStream {
        self.store.watch(&self.keyspace, from).await.expect("the watch can begin")
    }

    pub(crate) async fn item(&self, watch: &mut WatchStream) -> Result<WatchItem, Error> {
        let item = self.env.timeout(WAIT_TIMEOUT, watch.next()).await.expect("the watch sends an item");
        item.expect("the watch goes on")
    }

    /// The next commit of a watch.
    pub(crate) async fn next(&self, watch: &mut WatchStream) -> Arc<Commit> {
        loop {
            if let WatchItem::Commit(commit) = self.item(watch).await.expect("the watch is complete") {
                return commit;
            }
        }
    }

    /// Returns the error with which a watch ends.
    pub(crate) async fn end(&self, watch: &mut WatchStream) -> ErrorKind {
        loop {
            if let Err(error) = self.item(watch).await {
                assert!(watch.next().await.is_none(), "nothing follows an end");
                return error.kind();
            }
        }
    }
}

pub(crate) fn put(key: &str, value: &str) -> Write {
    Write::Put { key: bytes(key), value: bytes(value) }
}

pub(crate) fn add(key: &str, delta: i64) -> Write {
    Write::Add { key: bytes(key), delta }
}

pub(crate) fn stamp(prefix: &str, value: &str) -> Write {
    Write::Stamp { prefix: bytes(prefix), value: bytes(value) }
}

pub(crate) fn delete(key: &str) -> Write {
    Write::Delete { key: bytes(key) }
}

pub(crate) fn delete_range(prefix: &str) -> Write {
    Write::DeleteRange { range: Range::prefix(bytes(prefix)) }
}

pub(crate) fn get(key: &str) -> Read {
    Read::Get { key: bytes(key) }
}

pub(crate) fn scan(prefix: &str, order: Order, limit: usize) -> Read {
    Read::Scan { range: Range::prefix(bytes(prefix)), order, limit, keys_only: false }
}

pub(crate) fn count(prefix: &str) -> Read {
    Read::Count { range: Range::prefix(bytes(prefix)) }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn keys(entries: &[Entry]) -> Vec<&[u8]> {
    entries.iter().map(|entry| entry.key.as_ref()).collect()
}

pub(crate) fn after(revision: Revision) -> WatchFrom {
    WatchFrom::After(revision)
}
