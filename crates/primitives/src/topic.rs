// SPDX-License-Identifier: Apache-2.0
//! Publish and subscribe, in one order for all.
//!
//! Behaviour: `contract/topic.md`. A message is one write of the one key, and its offset is the revision of that write.
//! Nothing else is written in the keyspace, so offsets have no gaps. What was published before a
//! subscription is not shown to it; the store keeps the last message only.

use std::time::Duration;

use atomix_env::WallTime;
use atomix_store::{Commit, Txn, Write};
use bytes::Bytes;

use crate::error::Error;
use crate::kind::Kind;
use crate::kit::backing::Backing;
use crate::kit::caller::Caller;
use crate::kit::codec::{Decoder, Encoder};
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, SINGLE};
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

/// The stored message: time (8, wall milliseconds), payload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    timestamp: u64,
    payload: Bytes,
}

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
        let record = Record { timestamp: u64::try_from(at.as_millis()).unwrap_or(u64::MAX), payload };
        let write = Write::Put { key: Key::Single.encode(), value: record.encode() };
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

// === impl Record ===

impl Record {
    fn encode(&self) -> Bytes {
        Encoder::with_capacity(8 + self.payload.len()).u64(self.timestamp).rest(&self.payload).finish()
    }

    fn decode(value: &Bytes) -> Result<Self, Error> {
        let mut record = Decoder::new("message", value);
        Ok(Self { timestamp: record.u64()?, payload: value.slice_ref(record.rest()) })
    }
}

fn message(commit: &Commit) -> Result<Option<Message>, Error> {
    let change = commit.changes.iter().find(|change| change.key == SINGLE);
    let Some(entry) = change.and_then(|change| change.current.as_ref()) else { return Ok(None) };
    let Record { timestamp, payload } = Record::decode(&entry.value)?;
    let timestamp = WallTime::from_unix(Duration::from_millis(timestamp));
    Ok(Some(Message { offset: commit.revision.0, timestamp, payload }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(timestamp in any::<u64>(), payload in any::<Vec<u8>>()) {
            let message = Record { timestamp, payload: payload.into() };
            prop_assert_eq!(Record::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let bytes = Bytes::from(bytes);
            match Record::decode(&bytes) {
                Ok(message) => prop_assert_eq!(message.encode(), bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("message")),
            }
        }
    }
}
