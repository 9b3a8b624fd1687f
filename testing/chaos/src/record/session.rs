// SPDX-License-Identifier: Apache-2.0
//! A client with one connection, which is its session, and the primitives that it uses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_client::{
    Client, Counter, CounterMap, Election, IndexedMap, List, Lock, Map, MultiMap, Result, Set, Topic, Value,
};
use tokio::task::JoinHandle;

use super::log::{Log, open};
use super::{Kind, Options};

/// A session. It is over when this is dropped.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u32,
    log: Arc<Log>,
    client: Client,
    opened: BTreeSet<(Kind, u64)>,
    /// Whether the connection has ended.
    gone: Arc<AtomicBool>,
    listener: JoinHandle<()>,
    /// When the last two calls began that were answered: the connection was there after that.
    answered: [u64; 2],
    /// When the session may have ended on the server, if a call has failed without an answer.
    broken: Option<u64>,
    pub(super) maps: BTreeMap<u64, Map<String>>,
    pub(super) values: BTreeMap<u64, Value<String>>,
    pub(super) counters: BTreeMap<u64, Counter>,
    pub(super) locks: BTreeMap<u64, Lock>,
    pub(super) key_locks: BTreeMap<u64, Map<String>>,
    pub(super) sets: BTreeMap<u64, Set>,
    pub(super) lists: BTreeMap<u64, List<String>>,
    pub(super) indexed_maps: BTreeMap<u64, IndexedMap<String>>,
    pub(super) counter_maps: BTreeMap<u64, CounterMap>,
    pub(super) multimaps: BTreeMap<u64, MultiMap>,
    pub(super) elections: BTreeMap<u64, Election>,
    pub(super) topics: BTreeMap<u64, Topic<String>>,
}

/// Connects to an endpoint. Every call is tried once.
pub(super) async fn connect(endpoint: &str, options: &Options) -> Result<Client> {
    Client::builder()
        .endpoint(endpoint)
        .retry_budget(Duration::ZERO)
        .call_timeout(options.call_timeout)
        .connect_timeout(options.call_timeout)
        .keepalive(Duration::from_secs(1), Duration::from_secs(2))
        .connect()
        .await
}

/// Names a primitive.
pub(super) fn name(options: &Options, kind: Kind, number: u64) -> String {
    format!("{}-{kind:?}-{number}", options.prefix)
}

// === impl Session ===

impl Session {
    /// Begins a session.
    pub(super) async fn begin(log: &Arc<Log>, endpoint: &str) -> Result<Self> {
        let options = &log.options;
        let client = connect(endpoint, options).await?;
        let gone = Arc::new(AtomicBool::new(false));
        let listener = tokio::spawn({
            let (client, gone) = (client.clone(), Arc::clone(&gone));
            async move {
                client.disconnected().await;
                gone.store(true, Ordering::Relaxed);
            }
        });
        let now = log.now();
        Ok(Self {
            id: log.session(),
            log: Arc::clone(log),
            client,
            opened: BTreeSet::new(),
            gone,
            listener,
            answered: [now; 2],
            broken: None,
            maps: BTreeMap::new(),
            values: BTreeMap::new(),
            counters: BTreeMap::new(),
            locks: BTreeMap::new(),
            key_locks: BTreeMap::new(),
            sets: BTreeMap::new(),
            lists: BTreeMap::new(),
            indexed_maps: BTreeMap::new(),
            counter_maps: BTreeMap::new(),
            multimaps: BTreeMap::new(),
            elections: BTreeMap::new(),
            topics: BTreeMap::new(),
        })
    }

    /// Opens a primitive unless that is done.
    pub(super) async fn open(&mut self, kind: Kind, number: u64) -> Result<()> {
        if self.opened.contains(&(kind, number)) {
            return Ok(());
        }
        let client = self.client.clone();
        let (name, tags) = (name(&self.log.options, kind, number), self.log.options.tag.clone());
        match kind {
            Kind::Map => self.maps.insert(number, client.map(name).tags(tags).text().open().await?).is_some(),
            Kind::Value => {
                self.values.insert(number, client.value(name).tags(tags).text().open().await?).is_some()
            }
            Kind::Counter => {
                self.counters.insert(number, client.counter(name).tags(tags).open().await?).is_some()
            }
            Kind::Lock => self.locks.insert(number, client.lock(name).tags(tags).open().await?).is_some(),
            Kind::KeyLock => {
                self.key_locks.insert(number, client.map(name).tags(tags).text().open().await?).is_some()
            }
            Kind::Set => self.sets.insert(number, client.set(name).tags(tags).open().await?).is_some(),
            Kind::List => {
                self.lists.insert(number, client.list(name).tags(tags).text().open().await?).is_some()
            }
            Kind::IndexedMap => {
                let map = client.indexed_map(name).tags(tags).text().open().await?;
                self.indexed_maps.insert(number, map).is_some()
            }
            Kind::CounterMap => {
                self.counter_maps.insert(number, client.counter_map(name).tags(tags).open().await?).is_some()
            }
            Kind::MultiMap => {
                self.multimaps.insert(number, client.multimap(name).tags(tags).open().await?).is_some()
            }
            Kind::Election => {
                self.elections.insert(number, client.election(name).tags(tags).open().await?).is_some()
            }
            Kind::Topic => {
                self.topics.insert(number, client.topic(name).tags(tags).text().open().await?).is_some()
            }
        };
        self.opened.insert((kind, number));
        Ok(())
    }

    /// Remembers that a call was answered that began then.
    pub(super) fn answered(&mut self, began: u64) {
        self.answered = [self.answered[1], began];
    }

    /// Remembers that the connection broke. The client makes a new one by itself, which is another session.
    pub(super) fn broke(&mut self) {
        self.broken.get_or_insert(self.answered[0]);
    }

    /// Returns whether the connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.broken.is_some() || self.gone.load(Ordering::Relaxed)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.listener.abort();
        // The last answer may have come over a connection that the client made anew by itself.
        let now = if self.is_gone() { self.answered[0] } else { self.log.now() };
        let end = self.broken.unwrap_or(now).min(now);
        open(&self.log.ends).insert(self.id, end);
    }
}
