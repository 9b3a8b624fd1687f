// SPDX-License-Identifier: Apache-2.0
//! The state that all parts of the store share: the link, the limits, and what the store has handed out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atomix_env::{Env, Instant};
use atomix_store::{Consistency, Durability, Error, ErrorKind, Keyspace, Limits, Profile};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use crate::config::{ENVELOPE, Settings};
use crate::error::Failure;
use crate::keys::Space;
use crate::link::Link;
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

    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
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
