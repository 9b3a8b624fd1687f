// SPDX-License-Identifier: Apache-2.0
//! The store: reads, commits and watches of keyspaces that live in etcd.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atomix_env::{Env, Instant};
use atomix_remote::Batcher;
use atomix_store::{
    Consistency, Durability, Error, ErrorKind, Health, Keyspace, Limits, Outcome, Profile, Range, Read,
    Reconfigured, Snapshot, Store, StoreConfig, Txn, WatchFrom, WatchStream,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::commit::Commits;
use crate::config::{ENVELOPE, Settings};
use crate::error::Failure;
use crate::keys::{Space, Span};
use crate::link::Link;
use crate::plan;
use crate::senders::{ReadRequest, ReadSender};
use crate::watch::{Hub, Part};
use crate::wire::kv_client::KvClient;
use crate::wire::lease_client::LeaseClient;
use crate::wire::{LeaseGrantRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse};

/// The minimum time for which named requests are remembered.
const NAMES_KEPT: Duration = Duration::from_mins(5);
/// The time in which new named requests share a lease. Short, because etcd expires all keys of a lease
/// together.
const LEASE_SHARED: Duration = Duration::from_secs(10);
/// The text of etcd for a lease that has ended.
const LEASE_GONE: &str = "requested lease not found";
/// Named requests that a keyspace remembers, about: they are counted now and then. Each takes about 250 bytes of etcd.
const NAMES_MAX: usize = 1 << 17;
/// The time for which a count above the limit is trusted.
const NAMES_COUNTED: Duration = Duration::from_secs(5);

/// Keeps keyspaces in an etcd cluster.
pub struct EtcdStore {
    core: Arc<Core>,
    reads: Batcher<ReadSender>,
    commits: Commits,
    hub: Hub,
    /// The running calls, so that [`Store::close`] can wait for them.
    running: TaskTracker,
}

/// State that all parts of the store share.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) settings: Settings,
    pub(crate) link: Link,
    profile: Profile,
    /// Makes the stamp keys of this store unique among all stores.
    nonce: u64,
    stamps: AtomicU64,
    /// The lease of new named requests, and since when.
    lease: tokio::sync::Mutex<Option<(Instant, i64)>>,
    /// The keyspaces that remember as many named requests as they may, and when they were counted.
    names_full: Mutex<HashMap<Bytes, Instant>>,
}

// === impl EtcdStore ===

impl EtcdStore {
    /// Connects to the cluster and makes sure that it answers.
    pub async fn connect(settings: Settings, env: Env) -> Result<Self, Error> {
        let core = Arc::new(Core::new(settings, env));
        core.link.connection().await?;
        let timeout = core.settings.request_timeout;
        Ok(Self {
            reads: Batcher::new(ReadSender::new(Arc::clone(&core)), core.env.clone(), timeout),
            commits: Commits::new(Arc::clone(&core)),
            hub: Hub::new(Arc::clone(&core)),
            running: TaskTracker::new(),
            core,
        })
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.running.is_closed() { Err(Error::closed()) } else { Ok(()) }
    }

    async fn follow(&self, part: Part, from: WatchFrom) -> Result<WatchStream, Error> {
        self.check_open()?;
        let _running = self.running.token();
        let latest = self.answer(&part.space, Vec::new()).await?.revision;
        self.hub.watch(&part, from, latest)
    }

    async fn answer(&self, space: &Space, reads: Vec<Read>) -> Result<Snapshot, Error> {
        self.core.limits().check_reads(&reads)?;
        let asked = plan::questions(space, &reads, plan::PAGE);
        let mut ops: Vec<RangeRequest> = asked.iter().flatten().cloned().collect();
        if ops.is_empty() {
            // One range at least: its answer carries the revision.
            ops.push(RangeRequest { count_only: true, ..plan::get(space.together_key()) });
        }
        let (revision, answers) = self.reads.run(ReadRequest(ops)).await?;
        let mut answers = answers.into_iter();
        let reads = reads
            .iter()
            .zip(asked)
            .map(|(read, asked)| {
                let answer = asked.and_then(|_| answers.next());
                plan::found_or_nothing(space, read, self.core.limits(), answer)
            })
            .collect();
        Ok(Snapshot { revision, reads })
    }

    async fn health(&self) -> Result<Health, Error> {
        let connection = self.core.link.connection().await?;
        let status = self.core.link.status(&connection).await?;
        let space = Space::new(&self.core.settings.prefix, &Keyspace::new("check"));
        let latest = self.answer(&space, Vec::new()).await?;
        let mut facts = vec![
            ("endpoint", connection.endpoint().to_owned()),
            ("version", status.version),
            ("leader", format!("{:x}", status.leader)),
            ("member", format!("{:x}", status.header.unwrap_or_default().member_id)),
            ("database-bytes", status.db_size.to_string()),
            ("revision", latest.revision.to_string()),
            ("keyspaces-watched", self.hub.watched().to_string()),
        ];
        if !status.errors.is_empty() {
            facts.push(("alarms", status.errors.join(", ")));
        }
        Ok(Health { facts })
    }
}

impl Store for EtcdStore {
    fn profile(&self) -> &Profile {
        &self.core.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            self.answer(&self.core.space(keyspace), reads).await
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            self.commits.commit(keyspace, txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(self.follow(Part::all(self.core.space(keyspace)), from))
    }

    fn watch_range<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        range: Range,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        let space = self.core.space(keyspace);
        match space.entries(&range) {
            Some(span) => Box::pin(self.follow(Part { space, span }, from)),
            None => Box::pin(ready(Err(Error::invalid("a watch of a range without keys")))),
        }
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            let space = self.core.space(keyspace);
            // All that an empty keyspace costs here. Usually it was never written.
            let together = RangeRequest { count_only: true, ..plan::get(space.together_key()) };
            if self.core.range(together).await?.count == 0 {
                return Ok(());
            }
            let entries = space.entries(&Range::prefix("")).ok_or_else(|| plan::unexpected("range"))?;
            let request = TxnRequest {
                compare: vec![plan::compare_none(entries)],
                success: vec![plan::delete(Span { start: space.together_key(), end: Bytes::new() }, false)],
                ..TxnRequest::default()
            };
            self.core.txn(request, usize::MAX).await.map(drop).map_err(Failure::of_write)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            self.health().await
        })
    }

    fn reconfigure<'a>(&'a self, config: &'a StoreConfig) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        // Every difference affects the connection.
        let reconfigured = self.check_open().and_then(|()| Settings::read(config)).and_then(|settings| {
            if settings.prefix != self.core.settings.prefix {
                return Err(Error::location_change("`prefix`"));
            }
            let same = settings == self.core.settings;
            Ok(if same { Reconfigured::InPlace } else { Reconfigured::Connect })
        });
        Box::pin(std::future::ready(reconfigured))
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.running.close();
        Box::pin(async move {
            // Calls that are not finished then are cut off and answered as lost.
            let _done_in_time = self.core.env.timeout(grace, self.running.wait()).await;
            self.core.link.close();
            self.hub.close();
        })
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.core.link.close();
        self.hub.close();
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("link", &self.core.link)
            .field("commits", &self.commits)
            .field("reads", &self.reads)
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

// === impl Core ===

impl Core {
    pub(crate) fn new(settings: Settings, env: Env) -> Self {
        // Reserves operations for the driver: levels of nesting, and the key that remembers the name.
        let operations = settings.txn_ops_max - 8;
        let limits = Limits {
            key_bytes_max: 4096.max(settings.request_bytes_max / 24),
            value_bytes_max: settings.request_bytes_max - settings.request_bytes_max / 8,
            guards_max: operations,
            writes_max: operations,
            reads_max: operations,
            once_max: NAMES_MAX,
            ..Limits::default()
        };
        let profile = Profile {
            consistency: Consistency::Linearizable,
            durability: Durability::Quorum,
            shared: true,
            limits,
        };
        Self {
            link: Link::new(env.clone(), settings.clone()),
            nonce: env.random(),
            env,
            settings,
            profile,
            stamps: AtomicU64::new(0),
            lease: tokio::sync::Mutex::default(),
            names_full: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.profile.limits
    }

    pub(crate) fn space(&self, keyspace: &Keyspace) -> Space {
        Space::new(&self.settings.prefix, keyspace)
    }

    /// Chooses the key of a stamp: a zero, so that stamps come before what else may have the prefix; what no other store
    /// has; what this store has not used. Their order is that of their revisions and not of their keys.
    pub(crate) fn stamp(&self, prefix: &Bytes) -> Bytes {
        let mut key = BytesMut::with_capacity(prefix.len() + 16);
        key.put_slice(prefix);
        key.put_u64(self.nonce >> 8);
        key.put_u64(self.stamps.fetch_add(1, Ordering::Relaxed));
        key.freeze()
    }

    /// Sends one transaction. `answer_max` bounds the bytes of its answer.
    pub(crate) async fn txn(&self, request: TxnRequest, answer_max: usize) -> Result<TxnResponse, Failure> {
        let call = self.link.call(request, move |connection, request| {
            Box::pin(async move {
                let origin = connection.origin();
                let client = KvClient::with_origin(connection, origin);
                client.max_decoding_message_size(answer_max).txn(request).await
            })
        });
        call.await
    }

    /// Reads one range, outside of any batch.
    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let answer_max = self.settings.answer_bytes_max;
        let response = self.link.call(request, move |connection, request| {
            Box::pin(async move {
                let origin = connection.origin();
                let client = KvClient::with_origin(connection, origin);
                client.max_decoding_message_size(answer_max).range(request).await
            })
        });
        response.await.map_err(Failure::of_read)
    }

    /// Returns the lease with which what is written now is forgotten, after [`NAMES_KEPT`] at least.
    pub(crate) async fn lease(&self) -> Result<i64, Error> {
        let mut lease = self.lease.lock().await;
        let now = self.env.now();
        if let Some((since, id)) = *lease
            && now.since(since) < LEASE_SHARED
        {
            return Ok(id);
        }
        let ttl = (NAMES_KEPT + 2 * LEASE_SHARED).as_secs();
        let request = LeaseGrantRequest { ttl: i64::try_from(ttl).expect("it is small"), id: 0 };
        let response = self.link.call(request, move |connection, request| {
            Box::pin(async move {
                let origin = connection.origin();
                LeaseClient::with_origin(connection, origin).lease_grant(request).await
            })
        });
        // The request itself was not sent, also if the lease was granted.
        let id = response.await.map_err(Failure::of_read)?.id;
        *lease = Some((now, id));
        Ok(id)
    }

    /// Turns the error of an expired lease into one after which the request may be repeated: this process was
    /// stopped, so that the lease was older than its clock shows. Nothing was applied.
    pub(crate) fn without_lease(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Internal || !error.to_string().contains(LEASE_GONE) {
            return error;
        }
        if let Ok(mut lease) = self.lease.try_lock() {
            *lease = None;
        }
        Error::unavailable("the request came too late to be remembered: try again").caused_by(error)
    }

    /// Returns whether a keyspace remembers as many named requests as it may.
    pub(crate) fn names_are_full(&self, space: &Space) -> bool {
        let mut full = self.names_full.lock();
        let Some(since) = full.get(space.base()) else { return false };
        if self.env.now().since(*since) < NAMES_COUNTED {
            return true;
        }
        // The next one is taken, and may count again.
        full.remove(space.base());
        false
    }

    pub(crate) fn set_names_full(&self, space: &Space) {
        self.names_full.lock().insert(space.base().clone(), self.env.now());
    }

    /// Refuses what etcd would refuse because of its size.
    pub(crate) fn check_size(&self, bytes: usize, operations: usize) -> Result<(), Error> {
        let max = self.settings.request_bytes_max;
        if bytes + ENVELOPE > max {
            return Err(Error::invalid(format!(
                "a transaction is too large for etcd: bytes=`{}` request-bytes-max=`{max}`",
                bytes + ENVELOPE
            )));
        }
        let max = self.settings.txn_ops_max;
        if operations > max {
            return Err(Error::invalid(format!(
                "a transaction has too many operations for etcd: operations=`{operations}` txn-ops-max=`{max}`"
            )));
        }
        Ok(())
    }
}
