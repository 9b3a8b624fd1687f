// SPDX-License-Identifier: Apache-2.0
//! Publish and subscribe, in one order for all.
//!
//! Behaviour: `contract/topic.md`. A message is one write of the one key, and its offset is the revision of that write.
//! Nothing else is written in the keyspace, so offsets have no gaps. What was published before a
//! subscription is not shown to it; the store keeps the last message only.

use std::time::Duration;

use atomix_env::WallTime;
use atomix_store::{Commit, Txn, Write};
use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;
use crate::kind::Kind;
use crate::kit::backing::Backing;
use crate::kit::caller::Caller;
use crate::kit::follow::Events;
use crate::kit::{follow, keys};
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A topic.
#[derive(Debug)]
pub struct Topic {
    backing: Backing,
}

/// A message that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The place in the order of the topic: from one, without gaps, never repeated.
    pub offset: u64,
    /// When it was published, by the wall clock of the publishing runtime, in milliseconds.
    pub timestamp: WallTime,
    /// The content.
    pub payload: Bytes,
}

/// Bytes of the timestamp before the payload.
const TIMESTAMP: usize = 8;

// === impl Topic ===

impl Topic {
    /// Opens the topic.
    pub fn open(backing: Backing) -> Self {
        Self { backing }
    }

    /// Publishes `payload`: it has its place in the order when this returns, whether there are subscribers or not. A payload
    /// above the limit of values is [`crate::Reason::Invalid`]. A call that is dropped before it is ready has
    /// published or not.
    pub async fn publish(&self, payload: Bytes) -> Result<(), Error> {
        self.backing.check_value(&payload)?;
        let at = self.backing.env().wall().since_unix();
        let mut value = BytesMut::with_capacity(TIMESTAMP + payload.len());
        value.put_u64(u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        value.put_slice(&payload);
        let write = Write::Put { key: Bytes::from_static(keys::SINGLE), value: value.freeze() };
        self.backing.commit(Txn::new().write(write)).await.map(drop)
    }

    /// Follows the messages that are published from now on: the watch is registered when this returns.
    pub async fn subscribe(&self, caller: &Caller) -> Result<Events<Message>, Error> {
        let messages = |commit: &Commit| Ok(message(commit)?.into_iter().collect());
        follow::changes(&self.backing, caller, messages).await
    }
}

impl Primitive for Topic {}

impl TypedPrimitive for Topic {
    const KIND: Kind = Kind::Topic;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Ok(Self::open(backing))
    }
}

fn message(commit: &Commit) -> Result<Option<Message>, Error> {
    let change = commit.changes.iter().find(|change| change.key == keys::SINGLE);
    let Some(entry) = change.and_then(|change| change.current.as_ref()) else { return Ok(None) };
    let millis = entry.value.first_chunk::<TIMESTAMP>().ok_or_else(|| Error::damaged("message"))?;
    let timestamp = WallTime::from_unix(Duration::from_millis(u64::from_be_bytes(*millis)));
    Ok(Some(Message { offset: commit.revision.0, timestamp, payload: entry.value.slice(TIMESTAMP..) }))
}
