// SPDX-License-Identifier: Apache-2.0
//! Versioned values by key.

use std::sync::Arc;
use std::time::Duration;

use atomix_proto::map as wire;
use bytes::Bytes;
use wire::commit_request::operation::Operation as RequestArm;
use wire::commit_response::result::Result as ResponseArm;
use wire::event::Event as EventArm;
use wire::map_client::MapClient;

use crate::client::Client;
use crate::codec::{AnyCodec, Raw};
use crate::error::{Access, Error, Kind, Result};
use crate::keys::{AcquireKeys, KeyLocks};
use crate::open::{BoundCodec, OpenRequest, PrimitiveClient, Service, Typed, awaitable, rpc, service};
use crate::stream::{Changes, Listing};
use crate::versioned::{Versioned, Written, duration, previous, versioned};

static SERVICE: Service = service!("Map", map, maps_client::MapsClient);

/// A map from text to values with versions and times to live. Cheap to clone.
///
/// Reads are cancel safe; a write that was begun may be applied although its call was given up.
///
/// ```no_run
/// # async fn example() -> atomix_client::Result<()> {
/// use std::time::Duration;
/// use atomix_client::{Client, map::Operation};
///
/// let client = Client::builder().connect().await?;
/// let users = client.map("users").text().open().await?;
/// let written = users.put("alice", &"admin".to_owned()).ttl(Duration::from_secs(60)).await?;
/// users.update("alice", &"guest".to_owned()).if_version(written.version).await?;
/// users.commit([Operation::put("bob", "admin".to_owned()), Operation::remove("alice")]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Map<V = Bytes> {
    primitive: Arc<PrimitiveClient>,
    codec: AnyCodec<V>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry<V> {
    /// The key.
    pub key: String,
    /// The value with its version.
    pub value: Versioned<V>,
}

/// A change of a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event<V> {
    /// A key is new.
    Inserted {
        /// The key.
        key: String,
        /// Its value.
        value: Versioned<V>,
    },
    /// A value was written.
    Updated {
        /// The key.
        key: String,
        /// Its value now.
        value: Versioned<V>,
        /// Its value before.
        previous: Option<Versioned<V>>,
    },
    /// A key is gone.
    Removed {
        /// The key.
        key: String,
        /// Its last value.
        value: Versioned<V>,
        /// Whether its time to live was over.
        expired: bool,
    },
}

/// One step of a [`Map::commit`].
#[derive(Debug, Clone)]
pub struct Operation<V> {
    verb: Verb<V>,
    key: String,
    ttl: Option<Duration>,
    version: u64,
}

#[derive(Debug, Clone)]
enum Verb<V> {
    Put(V),
    Insert(V),
    Update(V),
    Remove,
}

/// The result of one step of a [`Map::commit`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Committed<V> {
    /// Of [`Operation::put`].
    Put(Written<V>),
    /// Of [`Operation::insert`]: the version.
    Insert(u64),
    /// Of [`Operation::update`].
    Update(Written<V>),
    /// Of [`Operation::remove`]: what was removed.
    Remove(Versioned<V>),
}

/// Writes a value; `.await` it for what was there before.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Put<V> {
    map: Map<V>,
    key: String,
    value: Result<Bytes>,
    ttl: Option<Duration>,
    version: u64,
}

/// Writes the value of a new key; `.await` it for the version.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Insert<V> {
    map: Map<V>,
    key: String,
    value: Result<Bytes>,
    ttl: Option<Duration>,
}

/// Writes the value of a key that exists; `.await` it for what was there before.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Update<V> {
    map: Map<V>,
    key: String,
    value: Result<Bytes>,
    ttl: Option<Duration>,
    version: u64,
}

/// Removes a key; `.await` it for its value, if the key existed.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Remove<V> {
    map: Map<V>,
    key: String,
    version: u64,
}

awaitable!(Put<V> -> Written<V>);
awaitable!(Insert<V> -> u64);
awaitable!(Update<V> -> Written<V>);
awaitable!(Remove<V> -> Option<Versioned<V>>);

static LOCKS: KeyLocks = KeyLocks {
    lock: |channel, request| {
        Box::pin(async move {
            let request = crate::open::map_request(request, |keys| wire::LockRequest {
                id: keys.id,
                keys: keys.names,
                timeout: keys.timeout,
            });
            MapClient::new(channel).lock(request).await.map(|response| response.map(|_| ()))
        })
    },
    unlock: |channel, request| {
        Box::pin(async move {
            let request = crate::open::map_request(request, |keys| wire::UnlockRequest {
                id: keys.id,
                keys: keys.names,
            });
            MapClient::new(channel).unlock(request).await.map(|response| response.map(|_| ()))
        })
    },
};

// === impl Client ===

impl Client {
    /// Opens a map: values by key.
    pub fn map(&self, name: impl Into<String>) -> OpenRequest<Map> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| Map {
            primitive,
            codec: AnyCodec::new(Raw),
        })
    }
}

// === impl Map ===

impl<V: Send + 'static> Typed for Map<V> {
    type With<W: Send + 'static> = Map<W>;

    fn with<W: Send + 'static>(primitive: Arc<PrimitiveClient>, codec: BoundCodec<W>) -> Map<W> {
        Map { primitive, codec: codec.0 }
    }
}

impl<V> Clone for Map<V> {
    fn clone(&self) -> Self {
        Self { primitive: Arc::clone(&self.primitive), codec: self.codec.clone() }
    }
}

impl<V: Send + 'static> Map<V> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the number of keys.
    pub async fn size(&self) -> Result<u32> {
        let request = wire::SizeRequest { id: self.primitive.id() };
        Ok(self.primitive.call(Access::Read, request, rpc!(MapClient.size)).await?.size)
    }

    /// Returns the value of `key`, if the key exists.
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<Versioned<V>>> {
        let request = wire::GetRequest { id: self.primitive.id(), key: key.into() };
        match self.primitive.call(Access::Read, request, rpc!(MapClient.get)).await {
            Ok(response) => versioned(&self.codec, response.value).map(Some),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a value. Writing the same bytes again keeps the version.
    pub fn put(&self, key: impl Into<String>, value: &V) -> Put<V> {
        Put { map: self.clone(), key: key.into(), value: self.codec.encode(value), ttl: None, version: 0 }
    }

    /// Writes the value of a key that must be new.
    ///
    /// Fails with [`Kind::AlreadyExists`] if it is not.
    pub fn insert(&self, key: impl Into<String>, value: &V) -> Insert<V> {
        Insert { map: self.clone(), key: key.into(), value: self.codec.encode(value), ttl: None }
    }

    /// Writes the value of a key that must exist.
    ///
    /// Fails with [`Kind::NotFound`] if it does not.
    pub fn update(&self, key: impl Into<String>, value: &V) -> Update<V> {
        Update { map: self.clone(), key: key.into(), value: self.codec.encode(value), ttl: None, version: 0 }
    }

    /// Removes a key.
    pub fn remove(&self, key: impl Into<String>) -> Remove<V> {
        Remove { map: self.clone(), key: key.into(), version: 0 }
    }

    /// Removes all keys.
    pub async fn clear(&self) -> Result<()> {
        let request = wire::ClearRequest { id: self.primitive.id() };
        self.primitive.call(Access::Write, request, rpc!(MapClient.clear)).await?;
        Ok(())
    }

    /// Does all operations or none, and returns what each of them did, in their order.
    ///
    /// Every operation is judged by the state before the commit; the first that fails decides the error. Fails with
    /// [`Kind::Conflict`] if a key occurs twice.
    pub async fn commit(
        &self,
        operations: impl IntoIterator<Item = Operation<V>>,
    ) -> Result<Vec<Committed<V>>> {
        let operations: Vec<_> =
            operations.into_iter().map(|operation| operation.wire(&self.codec)).collect::<Result<_>>()?;
        let request = wire::CommitRequest { id: self.primitive.id(), operations };
        let response = self.primitive.call(Access::Write, request, rpc!(MapClient.commit)).await?;
        response.results.into_iter().map(|result| self.committed(result)).collect()
    }

    fn committed(&self, result: wire::commit_response::Result) -> Result<Committed<V>> {
        let written = |version, wire| Ok(Written { version, previous: previous(&self.codec, wire)? });
        match result.result.ok_or_else(|| Error::missing("result"))? {
            ResponseArm::Put(put) => written(put.version, put.prev_value).map(Committed::Put),
            ResponseArm::Insert(insert) => Ok(Committed::Insert(insert.version)),
            ResponseArm::Update(update) => written(update.version, update.prev_value).map(Committed::Update),
            ResponseArm::Remove(remove) => versioned(&self.codec, remove.value).map(Committed::Remove),
        }
    }

    /// Locks keys, all or none, for this client. The locks are advisory: writes do not ask for them.
    pub fn lock<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>) -> AcquireKeys {
        AcquireKeys::new(&self.primitive, &LOCKS, keys)
    }

    /// Unlocks keys that this client holds without a guard. Guards do it by themselves.
    ///
    /// Fails with [`Kind::Conflict`] if this session does not hold one of them.
    pub async fn unlock<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>) -> Result<()> {
        LOCKS.unlock_keys(&self.primitive, keys.into_iter().map(Into::into).collect()).await
    }

    /// Lists the entries, in no particular order.
    pub fn entries(&self) -> Listing<Entry<V>> {
        let Self { primitive, codec } = self.clone();
        Listing::new(move |watch| async move {
            let request = wire::EntriesRequest { id: primitive.id(), watch };
            primitive
                .stream(request, rpc!(MapClient.entries), move |response| {
                    let entry = response.entry.ok_or_else(|| Error::missing("entry"))?;
                    Ok(Entry { key: entry.key, value: versioned(&codec, entry.value)? })
                })
                .await
        })
    }

    /// Subscribes to the changes.
    pub fn events(&self) -> Changes<Event<V>> {
        let Self { primitive, codec } = self.clone();
        Changes::new(move |key| async move {
            let request = wire::EventsRequest { id: primitive.id(), key };
            let convert = move |response| event(&codec, response);
            primitive.acknowledged(request, rpc!(MapClient.events), convert).await
        })
    }

    /// Ends the use of the map by this client, clones of this handle included. The content stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

fn event<V: 'static>(codec: &AnyCodec<V>, response: wire::EventsResponse) -> Result<Option<Event<V>>> {
    let event = response.event.unwrap_or_default();
    let key = event.key;
    let Some(arm) = event.event else { return Ok(None) };
    Ok(Some(match arm {
        EventArm::Inserted(arm) => Event::Inserted { key, value: versioned(codec, arm.value)? },
        EventArm::Updated(arm) => Event::Updated {
            key,
            value: versioned(codec, arm.value)?,
            previous: previous(codec, arm.prev_value)?,
        },
        EventArm::Removed(arm) => {
            Event::Removed { key, value: versioned(codec, arm.value)?, expired: arm.expired }
        }
    }))
}

// === impl Put, Insert, Update, Remove ===

impl<V: Send + 'static> Put<V> {
    /// Removes the entry after this time. Default: it stays, also if an earlier write set a time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Writes only if the key exists at this version.
    ///
    /// Fails with [`Kind::Conflict`] if it does not. Version 0 means no condition.
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    async fn send(self) -> Result<Written<V>> {
        let Self { map, key, value, ttl, version } = self;
        let (id, ttl) = (map.primitive.id(), ttl.map(duration));
        let request = wire::PutRequest { id, key, value: value?, ttl, prev_version: version };
        let response = map.primitive.call(Access::Write, request, rpc!(MapClient.put)).await?;
        Ok(Written { version: response.version, previous: previous(&map.codec, response.prev_value)? })
    }
}

impl<V: Send + 'static> Insert<V> {
    /// Removes the entry after this time. Default: it stays.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    async fn send(self) -> Result<u64> {
        let Self { map, key, value, ttl } = self;
        let request =
            wire::InsertRequest { id: map.primitive.id(), key, value: value?, ttl: ttl.map(duration) };
        Ok(map.primitive.call(Access::Write, request, rpc!(MapClient.insert)).await?.version)
    }
}

impl<V: Send + 'static> Update<V> {
    /// Removes the entry after this time. Default: it stays, also if an earlier write set a time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Writes only if the key is at this version.
    ///
    /// Fails with [`Kind::Conflict`] if it is not. Version 0 means no condition.
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    async fn send(self) -> Result<Written<V>> {
        let Self { map, key, value, ttl, version } = self;
        let (id, ttl) = (map.primitive.id(), ttl.map(duration));
        let request = wire::UpdateRequest { id, key, value: value?, ttl, prev_version: version };
        let response = map.primitive.call(Access::Write, request, rpc!(MapClient.update)).await?;
        Ok(Written { version: response.version, previous: previous(&map.codec, response.prev_value)? })
    }
}

impl<V: Send + 'static> Remove<V> {
    /// Removes the key only if it is at this version.
    ///
    /// Fails with [`Kind::Conflict`] if it is at another. Version 0 means no condition.
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    async fn send(self) -> Result<Option<Versioned<V>>> {
        let Self { map, key, version } = self;
        let request = wire::RemoveRequest { id: map.primitive.id(), key, prev_version: version };
        match map.primitive.call(Access::Write, request, rpc!(MapClient.remove)).await {
            Ok(response) => versioned(&map.codec, response.value).map(Some),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

// === impl Operation ===

impl<V: 'static> Operation<V> {
    /// Writes a value.
    pub fn put(key: impl Into<String>, value: V) -> Self {
        Self::new(Verb::Put(value), key)
    }

    /// Writes the value of a key that must be new.
    pub fn insert(key: impl Into<String>, value: V) -> Self {
        Self::new(Verb::Insert(value), key)
    }

    /// Writes the value of a key that must exist.
    pub fn update(key: impl Into<String>, value: V) -> Self {
        Self::new(Verb::Update(value), key)
    }

    /// Removes a key that must exist.
    pub fn remove(key: impl Into<String>) -> Self {
        Self::new(Verb::Remove, key)
    }

    fn new(verb: Verb<V>, key: impl Into<String>) -> Self {
        Self { verb, key: key.into(), ttl: None, version: 0 }
    }

    /// Removes the entry after this time. Has no meaning for [`Operation::remove`].
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Makes the commit fail unless the key is at this version; 0 means no condition. Has no meaning for
    /// [`Operation::insert`].
    #[must_use]
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    fn wire(self, codec: &AnyCodec<V>) -> Result<wire::commit_request::Operation> {
        use wire::commit_request::{Insert, Put, Remove, Update};
        let Self { verb, key, ttl, version: prev_version } = self;
        let ttl = ttl.map(duration);
        let arm = match verb {
            Verb::Put(value) => RequestArm::Put(Put { key, value: codec.encode(&value)?, ttl, prev_version }),
            Verb::Insert(value) => RequestArm::Insert(Insert { key, value: codec.encode(&value)?, ttl }),
            Verb::Update(value) => {
                RequestArm::Update(Update { key, value: codec.encode(&value)?, ttl, prev_version })
            }
            Verb::Remove => RequestArm::Remove(Remove { key, prev_version }),
        };
        Ok(wire::commit_request::Operation { operation: Some(arm) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Text;

    #[test]
    fn an_acknowledgement_is_no_event() {
        let codec = AnyCodec::new(Text);
        let response = wire::EventsResponse { event: Some(wire::Event { key: "k".into(), event: None }) };
        assert_eq!(event(&codec, response).unwrap(), None);
    }

    #[test]
    fn an_operation_keeps_its_conditions() {
        let operation = Operation::put("k", "v".to_owned()).ttl(Duration::from_secs(2)).if_version(7);
        let Some(RequestArm::Put(put)) = operation.wire(&AnyCodec::new(Text)).unwrap().operation else {
            panic!()
        };
        assert_eq!((put.key.as_str(), put.prev_version, put.ttl.unwrap().seconds), ("k", 7, 2));
    }
}
