// SPDX-License-Identifier: Apache-2.0
//! Versioned values by key and by position.

use std::sync::Arc;
use std::time::Duration;

use atomix_proto::indexedmap as wire;
use bytes::Bytes;
use wire::event::Event as EventArm;
use wire::indexed_map_client::IndexedMapClient;

use crate::client::Client;
use crate::codec::{AnyCodec, Raw};
use crate::error::{Access, Error, Kind, Result};
use crate::open::{BoundCodec, OpenRequest, PrimitiveClient, Service, Typed, awaitable, rpc, service};
use crate::stream::{Changes, Listing};
use crate::versioned::{Versioned, duration, previous, versioned};

static SERVICE: Service = service!("IndexedMap", indexedmap, indexed_maps_client::IndexedMapsClient);

/// A map from text to values in which every entry has an index that grows with every append and is never used twice.
/// Cheap to clone.
///
/// Reads are cancel safe; a write that was begun may be applied although its call was given up.
#[derive(Debug)]
pub struct IndexedMap<V = Bytes> {
    primitive: Arc<PrimitiveClient>,
    codec: AnyCodec<V>,
}

/// A key, its position and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry<V> {
    /// The key.
    pub key: String,
    /// The position, from 1.
    pub index: u64,
    /// The value with its version.
    pub value: Versioned<V>,
}

/// Names an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    /// By its key.
    Key(String),
    /// By its index. There is no entry at index 0.
    Index(u64),
}

/// A change of an indexed map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event<V> {
    /// An entry was appended.
    Inserted {
        /// The key.
        key: String,
        /// The position.
        index: u64,
        /// The value.
        value: Versioned<V>,
    },
    /// A value was written.
    Updated {
        /// The key.
        key: String,
        /// The position.
        index: u64,
        /// The value now.
        value: Versioned<V>,
        /// The value before.
        previous: Option<Versioned<V>>,
    },
    /// An entry is gone.
    Removed {
        /// The key.
        key: String,
        /// The position.
        index: u64,
        /// The last value.
        value: Versioned<V>,
        /// Whether its time to live was over.
        expired: bool,
    },
}

/// Appends an entry with a new key; `.await` it for the entry.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Append<V> {
    map: IndexedMap<V>,
    key: String,
    value: Result<Bytes>,
    ttl: Option<Duration>,
}

/// Writes the value of an entry that exists; `.await` it for the entry.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Update<V> {
    map: IndexedMap<V>,
    at: At,
    value: Result<Bytes>,
    ttl: Option<Duration>,
    version: u64,
}

/// Removes an entry; `.await` it for what was removed, if the entry existed.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Remove<V> {
    map: IndexedMap<V>,
    at: At,
    version: u64,
}

awaitable!(Append<V> -> Entry<V>);
awaitable!(Update<V> -> Entry<V>);
awaitable!(Remove<V> -> Option<Entry<V>>);

// === impl At ===

impl At {
    fn into_parts(self) -> Result<(String, u64)> {
        match self {
            Self::Key(key) => Ok((key, 0)),
            // On the wire 0 would mean the entry with the empty key.
            Self::Index(0) => Err(Error::new(Kind::NotFound, "no entry has index 0")),
            Self::Index(index) => Ok((String::new(), index)),
        }
    }
}

impl From<&str> for At {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<String> for At {
    fn from(key: String) -> Self {
        Self::Key(key)
    }
}

impl From<u64> for At {
    fn from(index: u64) -> Self {
        Self::Index(index)
    }
}

// === impl Client ===

impl Client {
    /// Opens an indexed map: a map whose entries have positions.
    pub fn indexed_map(&self, name: impl Into<String>) -> OpenRequest<IndexedMap> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| IndexedMap {
            primitive,
            codec: AnyCodec::new(Raw),
        })
    }
}

// === impl IndexedMap ===

impl<V: Send + 'static> Typed for IndexedMap<V> {
    type With<W: Send + 'static> = IndexedMap<W>;

    fn with<W: Send + 'static>(primitive: Arc<PrimitiveClient>, codec: BoundCodec<W>) -> IndexedMap<W> {
        IndexedMap { primitive, codec: codec.0 }
    }
}

impl<V> Clone for IndexedMap<V> {
    fn clone(&self) -> Self {
        Self { primitive: Arc::clone(&self.primitive), codec: self.codec.clone() }
    }
}

impl<V: Send + 'static> IndexedMap<V> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the number of entries.
    pub async fn size(&self) -> Result<u32> {
        let request = wire::SizeRequest { id: self.primitive.id() };
        Ok(self.primitive.call(Access::Read, request, rpc!(IndexedMapClient.size)).await?.size)
    }

    /// Appends an entry.
    ///
    /// Fails with [`Kind::AlreadyExists`] if the key exists.
    pub fn append(&self, key: impl Into<String>, value: &V) -> Append<V> {
        Append { map: self.clone(), key: key.into(), value: self.codec.encode(value), ttl: None }
    }

    /// Writes the value of an entry, which keeps its index. Writing the same bytes again does nothing.
    ///
    /// Fails with [`Kind::NotFound`] if there is no such entry.
    pub fn update(&self, at: impl Into<At>, value: &V) -> Update<V> {
        Update { map: self.clone(), at: at.into(), value: self.codec.encode(value), ttl: None, version: 0 }
    }

    /// Returns an entry, if it exists.
    pub async fn get(&self, at: impl Into<At>) -> Result<Option<Entry<V>>> {
        let Some((key, index)) = found(at.into().into_parts())? else { return Ok(None) };
        let request = wire::GetRequest { id: self.primitive.id(), key, index };
        let response = self.primitive.call(Access::Read, request, rpc!(IndexedMapClient.get)).await;
        found(response)?.map(|response| self.entry(response.entry)).transpose()
    }

    /// Returns the entry with the lowest index, if the map is not empty.
    pub async fn first(&self) -> Result<Option<Entry<V>>> {
        let request = wire::FirstEntryRequest { id: self.primitive.id() };
        let response = self.primitive.call(Access::Read, request, rpc!(IndexedMapClient.first_entry)).await;
        found(response)?.map(|response| self.entry(response.entry)).transpose()
    }

    /// Returns the entry with the highest index, if the map is not empty.
    pub async fn last(&self) -> Result<Option<Entry<V>>> {
        let request = wire::LastEntryRequest { id: self.primitive.id() };
        let response = self.primitive.call(Access::Read, request, rpc!(IndexedMapClient.last_entry)).await;
        found(response)?.map(|response| self.entry(response.entry)).transpose()
    }

    /// Returns the entry before `index`, if there is one. At `index` there need not be an entry.
    pub async fn previous(&self, index: u64) -> Result<Option<Entry<V>>> {
        let request = wire::PrevEntryRequest { id: self.primitive.id(), index };
        let response = self.primitive.call(Access::Read, request, rpc!(IndexedMapClient.prev_entry)).await;
        found(response)?.map(|response| self.entry(response.entry)).transpose()
    }

    /// Returns the entry behind `index`, if there is one. At `index` there need not be an entry.
    pub async fn next(&self, index: u64) -> Result<Option<Entry<V>>> {
        let request = wire::NextEntryRequest { id: self.primitive.id(), index };
        let response = self.primitive.call(Access::Read, request, rpc!(IndexedMapClient.next_entry)).await;
        found(response)?.map(|response| self.entry(response.entry)).transpose()
    }

    /// Removes an entry.
    pub fn remove(&self, at: impl Into<At>) -> Remove<V> {
        Remove { map: self.clone(), at: at.into(), version: 0 }
    }

    /// Removes all entries. Their indexes are not used again.
    pub async fn clear(&self) -> Result<()> {
        let request = wire::ClearRequest { id: self.primitive.id() };
        self.primitive.call(Access::Write, request, rpc!(IndexedMapClient.clear)).await?;
        Ok(())
    }

    /// Lists the entries in the order of their indexes.
    pub fn entries(&self) -> Listing<Entry<V>> {
        let map = self.clone();
        Listing::new(move |watch| async move {
            let primitive = Arc::clone(&map.primitive);
            let request = wire::EntriesRequest { id: primitive.id(), watch };
            let convert = move |response: wire::EntriesResponse| map.entry(response.entry);
            primitive.stream(request, rpc!(IndexedMapClient.entries), convert).await
        })
    }

    /// Subscribes to the changes.
    pub fn events(&self) -> Changes<Event<V>> {
        let Self { primitive, codec } = self.clone();
        Changes::new(move |key| async move {
            let request = wire::EventsRequest { id: primitive.id(), key };
            let convert = move |response| event(&codec, response);
            primitive.acknowledged(request, rpc!(IndexedMapClient.events), convert).await
        })
    }

    /// Ends the use of the map by this client, clones of this handle included. The content stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }

    fn entry(&self, entry: Option<wire::Entry>) -> Result<Entry<V>> {
        let entry = entry.ok_or_else(|| Error::missing("entry"))?;
        Ok(Entry { key: entry.key, index: entry.index, value: versioned(&self.codec, entry.value)? })
    }
}

/// Turns the error of an absent entry into `None`.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(response) => Ok(Some(response)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn event<V: 'static>(codec: &AnyCodec<V>, response: wire::EventsResponse) -> Result<Option<Event<V>>> {
    let event = response.event.unwrap_or_default();
    let (key, index) = (event.key, event.index);
    let Some(arm) = event.event else { return Ok(None) };
    Ok(Some(match arm {
        EventArm::Inserted(arm) => Event::Inserted { key, index, value: versioned(codec, arm.value)? },
        EventArm::Updated(arm) => Event::Updated {
            key,
            index,
            value: versioned(codec, arm.value)?,
            previous: previous(codec, arm.prev_value)?,
        },
        EventArm::Removed(arm) => {
            Event::Removed { key, index, value: versioned(codec, arm.value)?, expired: arm.expired }
        }
    }))
}

// === impl Append, Update, Remove ===

impl<V: Send + 'static> Append<V> {
    /// Removes the entry after this time. Default: it stays.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn send(self) -> Result<Entry<V>> {
        let Self { map, key, value, ttl } = self;
        let request =
            wire::AppendRequest { id: map.primitive.id(), key, value: value?, ttl: ttl.map(duration) };
        map.entry(map.primitive.call(Access::Write, request, rpc!(IndexedMapClient.append)).await?.entry)
    }
}

impl<V: Send + 'static> Update<V> {
    /// Removes the entry after this time. Default: it stays, also if an earlier write set a time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Writes only if the entry is at this version.
    ///
    /// Fails with [`Kind::Conflict`] if it is not. Version 0 means no condition.
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    async fn send(self) -> Result<Entry<V>> {
        let Self { map, at, value, ttl, version } = self;
        let (key, index) = at.into_parts()?;
        let (id, ttl) = (map.primitive.id(), ttl.map(duration));
        let request = wire::UpdateRequest { id, key, index, value: value?, ttl, prev_version: version };
        map.entry(map.primitive.call(Access::Write, request, rpc!(IndexedMapClient.update)).await?.entry)
    }
}

impl<V: Send + 'static> Remove<V> {
    /// Removes the entry only if it is at this version.
    ///
    /// Fails with [`Kind::Conflict`] if it is at another. Version 0 means no condition.
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    async fn send(self) -> Result<Option<Entry<V>>> {
        let Self { map, at, version } = self;
        let Some((key, index)) = found(at.into_parts())? else { return Ok(None) };
        let request = wire::RemoveRequest { id: map.primitive.id(), key, index, prev_version: version };
        let response = map.primitive.call(Access::Write, request, rpc!(IndexedMapClient.remove)).await;
        found(response)?.map(|response| map.entry(response.entry)).transpose()
    }
}
