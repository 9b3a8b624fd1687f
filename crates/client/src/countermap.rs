// SPDX-License-Identifier: Apache-2.0
//! Numbers by key.

use std::sync::Arc;

use atomix_proto::countermap::counter_map_client::CounterMapClient;
use atomix_proto::countermap::event::Event as Arm;
use atomix_proto::countermap::{
    ClearRequest, DecrementRequest, EntriesRequest, EventsRequest, EventsResponse, GetRequest,
    IncrementRequest, InsertRequest, LockRequest, RemoveRequest, SetRequest, SizeRequest, UnlockRequest,
    UpdateRequest,
};

use crate::client::Client;
use crate::error::{Access, Error, Kind, Result};
use crate::keys::{AcquireKeys, KeyLocks};
use crate::open::{OpenRequest, PrimitiveClient, Service, rpc, service};
use crate::stream::{Changes, Listing};

static SERVICE: Service = service!("CounterMap", countermap, counter_maps_client::CounterMapsClient);

/// A map from text to signed 64-bit numbers that wrap around. Cheap to clone.
///
/// Reads are cancel safe; a write that was begun may be applied although its call was given up.
#[derive(Debug, Clone)]
pub struct CounterMap {
    primitive: Arc<PrimitiveClient>,
}

/// A key and its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The number.
    pub value: i64,
}

/// A change of a counter map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A key is new.
    Inserted {
        /// The key.
        key: String,
        /// Its number.
        value: i64,
    },
    /// A number was written.
    Updated {
        /// The key.
        key: String,
        /// Its number now.
        value: i64,
        /// Its number before.
        previous: i64,
    },
    /// A key is gone.
    Removed {
        /// The key.
        key: String,
        /// Its last number.
        value: i64,
    },
}

static LOCKS: KeyLocks = KeyLocks {
    lock: |channel, request| {
        Box::pin(async move {
            let request = crate::open::map_request(request, |keys| LockRequest {
                id: keys.id,
                keys: keys.names,
                timeout: keys.timeout,
            });
            CounterMapClient::new(channel).lock(request).await.map(|response| response.map(|_| ()))
        })
    },
    unlock: |channel, request| {
        Box::pin(async move {
            let request =
                crate::open::map_request(request, |keys| UnlockRequest { id: keys.id, keys: keys.names });
            CounterMapClient::new(channel).unlock(request).await.map(|response| response.map(|_| ()))
        })
    },
};

// === impl Client ===

impl Client {
    /// Opens a counter map: numbers by key.
    pub fn counter_map(&self, name: impl Into<String>) -> OpenRequest<CounterMap> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| CounterMap { primitive })
    }
}

impl CounterMap {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the number of keys.
    pub async fn size(&self) -> Result<u32> {
        let request = SizeRequest { id: self.primitive.id() };
        Ok(self.primitive.call(Access::Read, request, rpc!(CounterMapClient.size)).await?.size)
    }

    /// Returns the number of `key`, if the key exists.
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<i64>> {
        let request = GetRequest { id: self.primitive.id(), key: key.into() };
        match self.primitive.call(Access::Read, request, rpc!(CounterMapClient.get)).await {
            Ok(response) => Ok(Some(response.value)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the number of `key` and returns the one before, 0 if the key is new.
    pub async fn set(&self, key: impl Into<String>, value: i64) -> Result<i64> {
        let request = SetRequest { id: self.primitive.id(), key: key.into(), value };
        Ok(self.primitive.call(Access::Write, request, rpc!(CounterMapClient.set)).await?.prev_value)
    }

    /// Sets the number of a key that must be new.
    ///
    /// Fails with [`Kind::AlreadyExists`] if it is not.
    pub async fn insert(&self, key: impl Into<String>, value: i64) -> Result<()> {
        let request = InsertRequest { id: self.primitive.id(), key: key.into(), value };
        self.primitive.call(Access::Write, request, rpc!(CounterMapClient.insert)).await?;
        Ok(())
    }

    /// Sets the number of `key` to `update` if it is `check`.
    ///
    /// Fails with [`Kind::Conflict`] if it is another number, [`Kind::NotFound`] if the key does not exist.
    pub async fn update(&self, key: impl Into<String>, check: i64, update: i64) -> Result<()> {
        let request =
            UpdateRequest { id: self.primitive.id(), key: key.into(), value: update, prev_value: check };
        self.primitive.call(Access::Write, request, rpc!(CounterMapClient.update)).await?;
        Ok(())
    }

    /// Adds `delta` to the number of `key`, which begins with 0, and returns the new number.
    ///
    /// Fails with [`Kind::Invalid`] if `delta` is 0: on the wire that would mean 1.
    pub async fn increment(&self, key: impl Into<String>, delta: i64) -> Result<i64> {
        let request = IncrementRequest { id: self.primitive.id(), key: key.into(), delta: not_zero(delta)? };
        let response = self.primitive.call(Access::Write, request, rpc!(CounterMapClient.increment)).await?;
        Ok(response.prev_value.wrapping_add(delta))
    }

    /// Subtracts `delta` from the number of `key`, which begins with 0, and returns the new number.
    ///
    /// Fails with [`Kind::Invalid`] if `delta` is 0: on the wire that would mean 1.
    pub async fn decrement(&self, key: impl Into<String>, delta: i64) -> Result<i64> {
        let request = DecrementRequest { id: self.primitive.id(), key: key.into(), delta: not_zero(delta)? };
        let response = self.primitive.call(Access::Write, request, rpc!(CounterMapClient.decrement)).await?;
        Ok(response.prev_value.wrapping_sub(delta))
    }

    /// Removes `key` and returns its number, if the key exists.
    pub async fn remove(&self, key: impl Into<String>) -> Result<Option<i64>> {
        self.remove_checked(key.into(), 0).await
    }

    /// Removes `key` if its number is `check`, and returns whether the key existed.
    ///
    /// Fails with [`Kind::Conflict`] if it is another number, with [`Kind::Invalid`] if `check` is 0: on the wire
    /// that would mean no check.
    pub async fn remove_if(&self, key: impl Into<String>, check: i64) -> Result<bool> {
        Ok(self.remove_checked(key.into(), not_zero(check)?).await?.is_some())
    }

    async fn remove_checked(&self, key: String, prev_value: i64) -> Result<Option<i64>> {
        let request = RemoveRequest { id: self.primitive.id(), key, prev_value };
        match self.primitive.call(Access::Write, request, rpc!(CounterMapClient.remove)).await {
            Ok(response) => Ok(Some(response.value)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes all keys.
    pub async fn clear(&self) -> Result<()> {
        let request = ClearRequest { id: self.primitive.id() };
        self.primitive.call(Access::Write, request, rpc!(CounterMapClient.clear)).await?;
        Ok(())
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
    pub fn entries(&self) -> Listing<Entry> {
        let primitive = Arc::clone(&self.primitive);
        Listing::new(move |watch| async move {
            let request = EntriesRequest { id: primitive.id(), watch };
            primitive
                .stream(request, rpc!(CounterMapClient.entries), |response| {
                    let entry = response.entry.ok_or_else(|| Error::missing("entry"))?;
                    Ok(Entry { key: entry.key, value: entry.value })
                })
                .await
        })
    }

    /// Subscribes to the changes.
    pub fn events(&self) -> Changes<Event> {
        let primitive = Arc::clone(&self.primitive);
        Changes::new(move |key| async move {
            let request = EventsRequest { id: primitive.id(), key };
            primitive
                .acknowledged(request, rpc!(CounterMapClient.events), |response| Ok(event(response)))
                .await
        })
    }

    /// Ends the use of the counter map by this client, clones of this handle included. The content stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

fn not_zero(number: i64) -> Result<i64> {
    if number == 0 {
        return Err(Error::new(
            Kind::Invalid,
            "0 has another meaning on the wire of a counter map, use get or remove",
        ));
    }
    Ok(number)
}

fn event(response: EventsResponse) -> Option<Event> {
    let event = response.event.unwrap_or_default();
    let key = event.key;
    event.event.map(|arm| match arm {
        Arm::Inserted(arm) => Event::Inserted { key, value: arm.value },
        Arm::Updated(arm) => Event::Updated { key, value: arm.value, previous: arm.prev_value },
        Arm::Removed(arm) => Event::Removed { key, value: arm.value },
    })
}
