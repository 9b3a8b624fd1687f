// SPDX-License-Identifier: Apache-2.0
//! Publish and subscribe.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atomix_proto::topic as wire;
use bytes::Bytes;
use wire::topic_client::TopicClient;

use crate::client::Client;
use crate::codec::{AnyCodec, Raw};
use crate::error::{Access, Result};
use crate::open::{BoundCodec, OpenRequest, PrimitiveClient, Service, Typed, rpc, service};
use crate::stream::Subscription;

static SERVICE: Service = service!("Topic", topic, topics_client::TopicsClient);

/// A topic: messages for the current subscribers. Cheap to clone.
#[derive(Debug)]
pub struct Topic<V = Bytes> {
    primitive: Arc<PrimitiveClient>,
    codec: AnyCodec<V>,
}

/// A published message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message<V> {
    /// The position in the topic. A gap between two messages shows that some were published while this
    /// subscription was not open.
    pub offset: u64,
    /// When the server got it, by its clock.
    pub published: SystemTime,
    /// The payload.
    pub payload: V,
}

// === impl Client ===

impl Client {
    /// Opens a topic: publish and subscribe.
    pub fn topic(&self, name: impl Into<String>) -> OpenRequest<Topic> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| Topic {
            primitive,
            codec: AnyCodec::new(Raw),
        })
    }
}

impl<V: Send + 'static> Typed for Topic<V> {
    type With<W: Send + 'static> = Topic<W>;

    fn with<W: Send + 'static>(primitive: Arc<PrimitiveClient>, codec: BoundCodec<W>) -> Topic<W> {
        Topic { primitive, codec: codec.0 }
    }
}

impl<V> Clone for Topic<V> {
    fn clone(&self) -> Self {
        Self { primitive: Arc::clone(&self.primitive), codec: self.codec.clone() }
    }
}

impl<V: Send + 'static> Topic<V> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Publishes a message. It is ordered when the call returns, not yet delivered. A call that is given up may be
    /// applied.
    pub async fn publish(&self, payload: &V) -> Result<()> {
        let request = wire::PublishRequest { id: self.primitive.id(), payload: self.codec.encode(payload)? };
        self.primitive.call(Access::Write, request, rpc!(TopicClient.publish)).await?;
        Ok(())
    }

    /// Subscribes to what is published from now on. When the call returns no later message is missed.
    ///
    /// The subscription ends with [`Kind::DataLoss`](crate::Kind::DataLoss) if it is read too slowly.
    pub async fn subscribe(&self) -> Result<Subscription<Message<V>>> {
        let (request, codec) = (wire::SubscribeRequest { id: self.primitive.id() }, self.codec.clone());
        let convert = move |response: wire::SubscribeResponse| {
            Ok(Message {
                offset: response.offset,
                published: system_time(response.timestamp),
                payload: codec.decode(response.payload)?,
            })
        };
        self.primitive.stream(request, rpc!(TopicClient.subscribe), convert).await
    }

    /// Ends the use of the topic by this client, clones of this handle and subscriptions included.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

/// Reads a timestamp. What is before 1970 or absent becomes 1970.
pub(crate) fn system_time(timestamp: Option<prost_types::Timestamp>) -> SystemTime {
    let timestamp = timestamp.unwrap_or_default();
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let nanos = u32::try_from(timestamp.nanos).unwrap_or(0).min(999_999_999);
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)).unwrap_or(UNIX_EPOCH)
}
