// SPDX-License-Identifier: Apache-2.0
//! The part of etcd's API that is measured: its messages, written down by hand, and its calls.

use atomix_load::{Channel, Failure, Method, Stream, frame};
use bytes::Bytes;
use prost::Message;

/// Calls of etcd over one connection.
#[derive(Debug, Clone)]
pub(crate) struct Etcd {
    channel: Channel,
    put: Method,
    range: Method,
    txn: Method,
    lock: Method,
    unlock: Method,
    campaign: Method,
    resign: Method,
    grant: Method,
    watch: Method,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    entries: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// Equal, the default of its kind, to the revision of the last change.
#[derive(Clone, PartialEq, Message)]
struct Compare {
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    #[prost(int64, tag = "6")]
    mod_revision: i64,
}

const TARGET_MOD: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

#[derive(Clone, PartialEq, Message)]
struct LockRequest {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LockResponse {
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct UnlockRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct CampaignRequest {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(int64, tag = "2")]
    lease: i64,
}

/// The leader key is a message of which nothing is read.
#[derive(Clone, PartialEq, Message)]
struct CampaignResponse {
    #[prost(bytes = "bytes", tag = "2")]
    leader: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ResignRequest {
    #[prost(bytes = "bytes", tag = "1")]
    leader: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(bytes = "bytes", repeated, tag = "11")]
    events: Vec<Bytes>,
}

// === impl Etcd ===

impl Etcd {
    /// Makes calls over `channel`.
    pub(crate) fn new(channel: Channel) -> Self {
        let method = |service, name| Method::new(&format!("/{service}/{name}"));
        Self {
            channel,
            put: method("etcdserverpb.KV", "Put"),
            range: method("etcdserverpb.KV", "Range"),
            txn: method("etcdserverpb.KV", "Txn"),
            lock: method("v3lockpb.Lock", "Lock"),
            unlock: method("v3lockpb.Lock", "Unlock"),
            campaign: method("v3electionpb.Election", "Campaign"),
            resign: method("v3electionpb.Election", "Resign"),
            grant: method("etcdserverpb.Lease", "LeaseGrant"),
            watch: method("etcdserverpb.Watch", "Watch"),
        }
    }

    /// Puts a value.
    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        self.channel.unary(&self.put, frame(&PutRequest { key, value })).await.map(drop)
    }

    /// Reads a value, linearizably.
    pub(crate) async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Failure> {
        Ok(self.entry(key).await?.map(|entry| entry.value))
    }

    /// Increments a counter that is there, as etcd has it done: read, write if the version is unchanged, else again.
    pub(crate) async fn increment(&self, key: Bytes) -> Result<(), Failure> {
        loop {
            let entry = self.entry(key.clone()).await?.unwrap_or_default();
            let number: i64 =
                std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            let value = (number + 1).to_string().into();
            let put = Some(PutRequest { key: key.clone(), value });
            let compare = Compare { target: TARGET_MOD, key: key.clone(), mod_revision: entry.mod_revision };
            let txn = TxnRequest { compare: vec![compare], success: vec![RequestOp { put }] };
            let answer: TxnResponse = decode(self.channel.unary(&self.txn, frame(&txn)).await?)?;
            if answer.succeeded {
                return Ok(());
            }
        }
    }

    /// Makes a lease and returns its number.
    pub(crate) async fn grant(&self, seconds: i64) -> Result<i64, Failure> {
        let answer = self.channel.unary(&self.grant, frame(&LeaseGrantRequest { ttl: seconds })).await?;
        Ok(decode::<LeaseGrantResponse>(answer)?.id)
    }

    /// Waits for a lock and returns the key that holds it.
    pub(crate) async fn lock(&self, name: &'static str, lease: i64) -> Result<Bytes, Failure> {
        let answer = self.channel.unary(&self.lock, frame(&LockRequest { name: name.into(), lease })).await?;
        Ok(decode::<LockResponse>(answer)?.key)
    }

    /// Gives a lock back.
    pub(crate) async fn unlock(&self, key: Bytes) -> Result<(), Failure> {
        self.channel.unary(&self.unlock, frame(&UnlockRequest { key })).await.map(drop)
    }

    /// Waits until it leads an election and returns the leader key.
    pub(crate) async fn campaign(&self, name: &'static str, lease: i64) -> Result<Bytes, Failure> {
        let request = frame(&CampaignRequest { name: name.into(), lease });
        let answer = self.channel.unary(&self.campaign, request).await?;
        Ok(decode::<CampaignResponse>(answer)?.leader)
    }

    /// Leads no more.
    pub(crate) async fn resign(&self, leader: Bytes) -> Result<(), Failure> {
        self.channel.unary(&self.resign, frame(&ResignRequest { leader })).await.map(drop)
    }

    /// Watches all keys, and waits until etcd confirms it.
    pub(crate) async fn watch(&self) -> Result<Stream, Failure> {
        // A zero byte as the end is how etcd writes "to the last key".
        let create =
            WatchCreateRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0") };
        let request = frame(&WatchRequest { create: Some(create) });
        let mut stream = self.channel.open(&self.watch, request, false).await?;
        stream.read(drop).await?;
        Ok(stream)
    }

    async fn entry(&self, key: Bytes) -> Result<Option<KeyValue>, Failure> {
        let answer = self.channel.unary(&self.range, frame(&RangeRequest { key })).await?;
        Ok(decode::<RangeResponse>(answer)?.entries.pop())
    }
}

/// Returns how many events an answer of a watch holds.
pub(crate) fn events(answer: Bytes) -> usize {
    WatchResponse::decode(answer).map_or(0, |answer| answer.events.len())
}

fn decode<M: Message + Default>(answer: Bytes) -> Result<M, Failure> {
    M::decode(answer).map_err(|error| Failure::Broken(error.to_string()))
}
