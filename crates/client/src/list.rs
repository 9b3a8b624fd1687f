// SPDX-License-Identifier: Apache-2.0
//! Values by position.

use std::sync::Arc;

use atomix_proto::list as wire;
use bytes::Bytes;
use wire::event::Event as EventArm;
use wire::list_client::ListClient;

use crate::client::Client;
use crate::codec::{AnyCodec, Raw};
use crate::error::{Access, Error, Result};
use crate::open::{BoundCodec, OpenRequest, PrimitiveClient, Service, Typed, rpc, service};
use crate::stream::{Listing, Subscription};

static SERVICE: Service = service!("List", list, lists_client::ListsClient);

/// A sequence of values; the first has index 0. Cheap to clone.
///
/// Reads are cancel safe; a write that was begun may be applied although its call was given up.
#[derive(Debug)]
pub struct List<V = Bytes> {
    primitive: Arc<PrimitiveClient>,
    codec: AnyCodec<V>,
}

/// A value and its position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Item<V> {
    /// The position.
    pub index: u32,
    /// The value.
    pub value: V,
}

/// A change of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event<V> {
    /// A value was added at the end.
    Appended {
        /// Its position.
        index: u32,
        /// The value.
        value: V,
    },
    /// A value was inserted; those behind moved up.
    Inserted {
        /// Its position.
        index: u32,
        /// The value.
        value: V,
    },
    /// A value was replaced.
    Updated {
        /// Its position.
        index: u32,
        /// The value now.
        value: V,
        /// The value before.
        previous: V,
    },
    /// A value was removed; those behind moved down.
    Removed {
        /// Its position before.
        index: u32,
        /// The value.
        value: V,
    },
}

// === impl Client ===

impl Client {
    /// Opens a list: values by position.
    pub fn list(&self, name: impl Into<String>) -> OpenRequest<List> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| List {
            primitive,
            codec: AnyCodec::new(Raw),
        })
    }
}

impl<V: Send + 'static> Typed for List<V> {
    type With<W: Send + 'static> = List<W>;

    fn with<W: Send + 'static>(primitive: Arc<PrimitiveClient>, codec: BoundCodec<W>) -> List<W> {
        List { primitive, codec: codec.0 }
    }
}

impl<V> Clone for List<V> {
    fn clone(&self) -> Self {
        Self { primitive: Arc::clone(&self.primitive), codec: self.codec.clone() }
    }
}

impl<V: Send + 'static> List<V> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the number of values.
    pub async fn size(&self) -> Result<u32> {
        let request = wire::SizeRequest { id: self.primitive.id() };
        Ok(self.primitive.call(Access::Read, request, rpc!(ListClient.size)).await?.size)
    }

    /// Adds a value at the end.
    pub async fn append(&self, value: &V) -> Result<()> {
        let request = wire::AppendRequest { id: self.primitive.id(), value: self.encode(value)? };
        self.primitive.call(Access::Write, request, rpc!(ListClient.append)).await?;
        Ok(())
    }

    /// Inserts a value before position `index`, which may be the end.
    ///
    /// Fails with [`Kind::Invalid`](crate::Kind::Invalid) if `index` is beyond the end.
    pub async fn insert(&self, index: u32, value: &V) -> Result<()> {
        let request = wire::InsertRequest { id: self.primitive.id(), index, value: self.encode(value)? };
        self.primitive.call(Access::Write, request, rpc!(ListClient.insert)).await?;
        Ok(())
    }

    /// Returns the value at position `index`.
    ///
    /// Fails with [`Kind::Invalid`](crate::Kind::Invalid) if there is none.
    pub async fn get(&self, index: u32) -> Result<V> {
        let request = wire::GetRequest { id: self.primitive.id(), index };
        let response = self.primitive.call(Access::Read, request, rpc!(ListClient.get)).await?;
        Ok(item(&self.codec, response.item)?.value)
    }

    /// Replaces the value at position `index`.
    ///
    /// Fails with [`Kind::Invalid`](crate::Kind::Invalid) if there is none.
    pub async fn set(&self, index: u32, value: &V) -> Result<()> {
        let request = wire::SetRequest { id: self.primitive.id(), index, value: self.encode(value)? };
        self.primitive.call(Access::Write, request, rpc!(ListClient.set)).await?;
        Ok(())
    }

    /// Removes the value at position `index` and returns it.
    ///
    /// Fails with [`Kind::Invalid`](crate::Kind::Invalid) if there is none.
    pub async fn remove(&self, index: u32) -> Result<V> {
        let request = wire::RemoveRequest { id: self.primitive.id(), index };
        let response = self.primitive.call(Access::Write, request, rpc!(ListClient.remove)).await?;
        Ok(item(&self.codec, response.item)?.value)
    }

    /// Removes all values.
    pub async fn clear(&self) -> Result<()> {
        let request = wire::ClearRequest { id: self.primitive.id() };
        self.primitive.call(Access::Write, request, rpc!(ListClient.clear)).await?;
        Ok(())
    }

    /// Lists the values in their order.
    pub fn items(&self) -> Listing<Item<V>> {
        let Self { primitive, codec } = self.clone();
        Listing::new(move |watch| async move {
            let request = wire::ItemsRequest { id: primitive.id(), watch };
            let convert = move |response: wire::ItemsResponse| item(&codec, response.item);
            primitive.stream(request, rpc!(ListClient.items), convert).await
        })
    }

    /// Subscribes to the changes. When the call returns no later change is missed.
    pub async fn events(&self) -> Result<Subscription<Event<V>>> {
        self.subscribe(false).await
    }

    /// Subscribes to the changes and sends, before them, an [`Event::Appended`] for each value that exists.
    pub async fn events_with_replay(&self) -> Result<Subscription<Event<V>>> {
        self.subscribe(true).await
    }

    async fn subscribe(&self, replay: bool) -> Result<Subscription<Event<V>>> {
        let (request, codec) = (wire::EventsRequest { id: self.primitive.id(), replay }, self.codec.clone());
        self.primitive
            .acknowledged(request, rpc!(ListClient.events), move |response| event(&codec, response))
            .await
    }

    /// Ends the use of the list by this client, clones of this handle included. The content stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }

    #[allow(clippy::unnecessary_wraps, reason = "the generated field is an option")]
    fn encode(&self, value: &V) -> Result<Option<wire::Value>> {
        Ok(Some(wire::Value { value: self.codec.encode(value)? }))
    }
}

fn decode<V: 'static>(codec: &AnyCodec<V>, value: Option<wire::Value>) -> Result<V> {
    codec.decode(value.unwrap_or_default().value)
}

fn item<V: 'static>(codec: &AnyCodec<V>, item: Option<wire::Item>) -> Result<Item<V>> {
    let item = item.ok_or_else(|| Error::missing("item"))?;
    Ok(Item { index: item.index, value: decode(codec, item.value)? })
}

fn event<V: 'static>(codec: &AnyCodec<V>, response: wire::EventsResponse) -> Result<Option<Event<V>>> {
    let event = response.event.unwrap_or_default();
    let index = event.index;
    let Some(arm) = event.event else { return Ok(None) };
    Ok(Some(match arm {
        EventArm::Appended(arm) => Event::Appended { index, value: decode(codec, arm.value)? },
        EventArm::Inserted(arm) => Event::Inserted { index, value: decode(codec, arm.value)? },
        EventArm::Updated(arm) => Event::Updated {
            index,
            value: decode(codec, arm.value)?,
            previous: decode(codec, arm.prev_value)?,
        },
        EventArm::Removed(arm) => Event::Removed { index, value: decode(codec, arm.value)? },
    }))
}
