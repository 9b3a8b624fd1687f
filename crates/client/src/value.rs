// SPDX-License-Identifier: Apache-2.0
//! One versioned cell.

use std::sync::Arc;
use std::time::Duration;

use atomix_proto::value as wire;
use bytes::Bytes;
use wire::event::Event as EventArm;
use wire::value_client::ValueClient;

use crate::client::Client;
use crate::codec::{AnyCodec, Raw};
use crate::error::{Access, Kind, Result};
use crate::open::{BoundCodec, OpenRequest, PrimitiveClient, Service, Typed, awaitable, rpc, service};
use crate::stream::Subscription;
use crate::versioned::{Versioned, Written, duration, previous, versioned};

static SERVICE: Service = service!("Value", value, values_client::ValuesClient);

/// A cell that is unset or keeps one value with a version and perhaps a time to live. Cheap to clone.
///
/// Reads are cancel safe; a write that was begun may be applied although its call was given up.
#[derive(Debug)]
pub struct Value<V = Bytes> {
    primitive: Arc<PrimitiveClient>,
    codec: AnyCodec<V>,
}

/// A change of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event<V> {
    /// The cell was unset and is set.
    Created {
        /// The value.
        value: Versioned<V>,
    },
    /// The value was written.
    Updated {
        /// The value now.
        value: Versioned<V>,
        /// The value before.
        previous: Option<Versioned<V>>,
    },
    /// The cell is unset.
    Deleted {
        /// The last value. Its version is that of the deletion.
        value: Versioned<V>,
        /// Whether its time to live was over.
        expired: bool,
    },
}

/// Writes the value; `.await` it for what was there before.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Set<V> {
    cell: Value<V>,
    value: Result<Bytes>,
    ttl: Option<Duration>,
}

/// Writes the value of an unset cell; `.await` it for the version.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Insert<V> {
    cell: Value<V>,
    value: Result<Bytes>,
    ttl: Option<Duration>,
}

/// Writes the value of a set cell; `.await` it for what was there before.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Update<V> {
    cell: Value<V>,
    value: Result<Bytes>,
    ttl: Option<Duration>,
    version: u64,
}

/// Unsets the cell; `.await` it for its value, if it was set.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Delete<V> {
    cell: Value<V>,
    version: u64,
}

awaitable!(Set<V> -> Written<V>);
awaitable!(Insert<V> -> u64);
awaitable!(Update<V> -> Written<V>);
awaitable!(Delete<V> -> Option<Versioned<V>>);

// === impl Client ===

impl Client {
    /// Opens a value: one versioned cell.
    pub fn value(&self, name: impl Into<String>) -> OpenRequest<Value> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| Value {
            primitive,
            codec: AnyCodec::new(Raw),
        })
    }
}

// === impl Value ===

impl<V: Send + 'static> Typed for Value<V> {
    type With<W: Send + 'static> = Value<W>;

    fn with<W: Send + 'static>(primitive: Arc<PrimitiveClient>, codec: BoundCodec<W>) -> Value<W> {
        Value { primitive, codec: codec.0 }
    }
}

impl<V> Clone for Value<V> {
    fn clone(&self) -> Self {
        Self { primitive: Arc::clone(&self.primitive), codec: self.codec.clone() }
    }
}

impl<V: Send + 'static> Value<V> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the value, if it is set.
    pub async fn get(&self) -> Result<Option<Versioned<V>>> {
        let request = wire::GetRequest { id: self.primitive.id() };
        match self.primitive.call(Access::Read, request, rpc!(ValueClient.get)).await {
            Ok(response) => versioned(&self.codec, response.value).map(Some),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the value. Every write makes a new version.
    pub fn set(&self, value: &V) -> Set<V> {
        Set { cell: self.clone(), value: self.codec.encode(value), ttl: None }
    }

    /// Writes the value of a cell that must be unset.
    ///
    /// Fails with [`Kind::AlreadyExists`] if it is not.
    pub fn insert(&self, value: &V) -> Insert<V> {
        Insert { cell: self.clone(), value: self.codec.encode(value), ttl: None }
    }

    /// Writes the value of a cell that must be set.
    ///
    /// Fails with [`Kind::NotFound`] if it is not.
    pub fn update(&self, value: &V) -> Update<V> {
        Update { cell: self.clone(), value: self.codec.encode(value), ttl: None, version: 0 }
    }

    /// Unsets the cell.
    pub fn delete(&self) -> Delete<V> {
        Delete { cell: self.clone(), version: 0 }
    }

    /// Subscribes to the value: first the current one if it is set, then every later one. A deletion sends the
    /// deleted value and looks like a write; use [`Value::events`] to distinguish them.
    pub async fn watch(&self) -> Result<Subscription<Versioned<V>>> {
        let (request, codec) = (wire::WatchRequest { id: self.primitive.id() }, self.codec.clone());
        let convert = move |response: wire::WatchResponse| versioned(&codec, response.value);
        self.primitive.stream(request, rpc!(ValueClient.watch), convert).await
    }

    /// Subscribes to the changes. When the call returns no later change is missed.
    pub async fn events(&self) -> Result<Subscription<Event<V>>> {
        let (request, codec) = (wire::EventsRequest { id: self.primitive.id() }, self.codec.clone());
        self.primitive
            .acknowledged(request, rpc!(ValueClient.events), move |response| event(&codec, response))
            .await
    }

    /// Ends the use of the value by this client, clones of this handle included. The value stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

fn event<V: 'static>(codec: &AnyCodec<V>, response: wire::EventsResponse) -> Result<Option<Event<V>>> {
    let Some(arm) = response.event.unwrap_or_default().event else { return Ok(None) };
    Ok(Some(match arm {
        EventArm::Created(arm) => Event::Created { value: versioned(codec, arm.value)? },
        EventArm::Updated(arm) => {
            Event::Updated { value: versioned(codec, arm.value)?, previous: previous(codec, arm.prev_value)? }
        }
        EventArm::Deleted(arm) => {
            Event::Deleted { value: versioned(codec, arm.value)?, expired: arm.expired }
        }
    }))
}

// === impl Set, Insert, Update, Delete ===

impl<V: Send + 'static> Set<V> {
    /// Unsets the cell after this time. Default: it stays set, also if an earlier write set a time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn send(self) -> Result<Written<V>> {
        let Self { cell, value, ttl } = self;
        let request = wire::SetRequest { id: cell.primitive.id(), value: value?, ttl: ttl.map(duration) };
        let response = cell.primitive.call(Access::Write, request, rpc!(ValueClient.set)).await?;
        Ok(Written { version: response.version, previous: previous(&cell.codec, response.prev_value)? })
    }
}

impl<V: Send + 'static> Insert<V> {
    /// Unsets the cell after this time. Default: it stays set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn send(self) -> Result<u64> {
        let Self { cell, value, ttl } = self;
        let request = wire::InsertRequest { id: cell.primitive.id(), value: value?, ttl: ttl.map(duration) };
        Ok(cell.primitive.call(Access::Write, request, rpc!(ValueClient.insert)).await?.version)
    }
}

impl<V: Send + 'static> Update<V> {
    /// Unsets the cell after this time. Default: it stays set, also if an earlier write set a time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Writes only if the value is at this version.
    ///
    /// Fails with [`Kind::Conflict`] if it is not. Version 0 means no condition.
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    async fn send(self) -> Result<Written<V>> {
        let Self { cell, value, ttl, version } = self;
        let (id, ttl) = (cell.primitive.id(), ttl.map(duration));
        let request = wire::UpdateRequest { id, value: value?, ttl, prev_version: version };
        let response = cell.primitive.call(Access::Write, request, rpc!(ValueClient.update)).await?;
        Ok(Written { version: response.version, previous: previous(&cell.codec, response.prev_value)? })
    }
}

impl<V: Send + 'static> Delete<V> {
    /// Unsets the cell only if the value is at this version.
    ///
    /// Fails with [`Kind::Conflict`] if it is at another. Version 0 means no condition.
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    async fn send(self) -> Result<Option<Versioned<V>>> {
        let Self { cell, version } = self;
        let request = wire::DeleteRequest { id: cell.primitive.id(), prev_version: version };
        match cell.primitive.call(Access::Write, request, rpc!(ValueClient.delete)).await {
            Ok(response) => versioned(&cell.codec, response.value).map(Some),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
