// SPDX-License-Identifier: Apache-2.0
//! Sets of text by key.

use std::sync::Arc;

use atomix_proto::multimap as wire;
use wire::event::Event as EventArm;
use wire::multi_map_client::MultiMapClient;

use crate::client::Client;
use crate::error::{Access, Error, Kind, Result};
use crate::open::{OpenRequest, PrimitiveClient, Service, rpc, service};
use crate::stream::{Changes, Listing};

static SERVICE: Service = service!("MultiMap", multimap, multi_maps_client::MultiMapsClient);

/// A map from text to sets of text. A key without values does not exist. Cheap to clone.
///
/// Reads are cancel safe; a write that was begun may be applied although its call was given up.
#[derive(Debug, Clone)]
pub struct MultiMap {
    primitive: Arc<PrimitiveClient>,
}

/// A key and its values, in no particular order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its values, each once.
    pub values: Vec<String>,
}

/// A change of a multimap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A key has a new value.
    Added {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A key lost a value.
    Removed {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

// === impl Client ===

impl Client {
    /// Opens a multimap: sets of text by key.
    pub fn multimap(&self, name: impl Into<String>) -> OpenRequest<MultiMap> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| MultiMap { primitive })
    }
}

impl MultiMap {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Returns the number of keys.
    pub async fn size(&self) -> Result<u32> {
        let request = wire::SizeRequest { id: self.primitive.id() };
        Ok(self.primitive.call(Access::Read, request, rpc!(MultiMapClient.size)).await?.size)
    }

    /// Returns the values of `key`, none if it does not exist.
    pub async fn get(&self, key: impl Into<String>) -> Result<Vec<String>> {
        let request = wire::GetRequest { id: self.primitive.id(), key: key.into() };
        Ok(self.primitive.call(Access::Read, request, rpc!(MultiMapClient.get)).await?.values)
    }

    /// Returns whether `key` has `value`.
    pub async fn contains(&self, key: impl Into<String>, value: impl Into<String>) -> Result<bool> {
        let request = wire::ContainsRequest { id: self.primitive.id(), key: key.into(), value: value.into() };
        Ok(self.primitive.call(Access::Read, request, rpc!(MultiMapClient.contains)).await?.result)
    }

    /// Adds `value` to `key` and returns whether it is new.
    pub async fn put(&self, key: impl Into<String>, value: impl Into<String>) -> Result<bool> {
        let request = wire::PutRequest { id: self.primitive.id(), key: key.into(), value: value.into() };
        match self.primitive.call(Access::Write, request, rpc!(MultiMapClient.put)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds `values` to `key` and returns whether one of them is new.
    pub async fn put_all<T: Into<String>>(
        &self,
        key: impl Into<String>,
        values: impl IntoIterator<Item = T>,
    ) -> Result<bool> {
        let request = wire::PutAllRequest { id: self.primitive.id(), key: key.into(), values: texts(values) };
        Ok(self.primitive.call(Access::Write, request, rpc!(MultiMapClient.put_all)).await?.updated)
    }

    /// Adds the values of several keys and returns whether one of them is new.
    pub async fn put_entries(&self, entries: impl IntoIterator<Item = Entry>) -> Result<bool> {
        let request = wire::PutEntriesRequest { id: self.primitive.id(), entries: wire_entries(entries) };
        Ok(self.primitive.call(Access::Write, request, rpc!(MultiMapClient.put_entries)).await?.updated)
    }

    /// Gives `key` exactly these values and returns the ones before. No values remove the key.
    pub async fn replace<T: Into<String>>(
        &self,
        key: impl Into<String>,
        values: impl IntoIterator<Item = T>,
    ) -> Result<Vec<String>> {
        let request =
            wire::ReplaceRequest { id: self.primitive.id(), key: key.into(), values: texts(values) };
        Ok(self.primitive.call(Access::Write, request, rpc!(MultiMapClient.replace)).await?.prev_values)
    }

    /// Removes `value` from `key` and returns whether it was there.
    ///
    /// The empty value stands for all values, unless the key has an empty value.
    pub async fn remove(&self, key: impl Into<String>, value: impl Into<String>) -> Result<bool> {
        let request = wire::RemoveRequest { id: self.primitive.id(), key: key.into(), value: value.into() };
        match self.primitive.call(Access::Write, request, rpc!(MultiMapClient.remove)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes `values` from `key` and returns whether one of them was there.
    pub async fn remove_all<T: Into<String>>(
        &self,
        key: impl Into<String>,
        values: impl IntoIterator<Item = T>,
    ) -> Result<bool> {
        let request =
            wire::RemoveAllRequest { id: self.primitive.id(), key: key.into(), values: texts(values) };
        match self.primitive.call(Access::Write, request, rpc!(MultiMapClient.remove_all)).await {
            Ok(response) => Ok(response.updated),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes values of several keys and returns whether one of them was there.
    pub async fn remove_entries(&self, entries: impl IntoIterator<Item = Entry>) -> Result<bool> {
        let request = wire::RemoveEntriesRequest { id: self.primitive.id(), entries: wire_entries(entries) };
        Ok(self.primitive.call(Access::Write, request, rpc!(MultiMapClient.remove_entries)).await?.updated)
    }

    /// Removes all keys.
    pub async fn clear(&self) -> Result<()> {
        let request = wire::ClearRequest { id: self.primitive.id() };
        self.primitive.call(Access::Write, request, rpc!(MultiMapClient.clear)).await?;
        Ok(())
    }

    /// Lists the keys with their values, in no particular order. With [`Listing::watch`] a changed key is sent with
    /// the values that it has then; none mean that the key is gone.
    pub fn entries(&self) -> Listing<Entry> {
        let primitive = Arc::clone(&self.primitive);
        Listing::new(move |watch| async move {
            let request = wire::EntriesRequest { id: primitive.id(), watch };
            primitive
                .stream(request, rpc!(MultiMapClient.entries), |response| {
                    let entry = response.entry.ok_or_else(|| Error::missing("entry"))?;
                    Ok(Entry { key: entry.key, values: entry.values })
                })
                .await
        })
    }

    /// Subscribes to the changes.
    pub fn events(&self) -> Changes<Event> {
        let primitive = Arc::clone(&self.primitive);
        Changes::new(move |key| async move {
            let request = wire::EventsRequest { id: primitive.id(), key };
            primitive.acknowledged(request, rpc!(MultiMapClient.events), |response| Ok(event(response))).await
        })
    }

    /// Ends the use of the multimap by this client, clones of this handle included. The content stays.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

fn texts<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(Into::into).collect()
}

fn wire_entries(entries: impl IntoIterator<Item = Entry>) -> Vec<wire::Entry> {
    entries.into_iter().map(|entry| wire::Entry { key: entry.key, values: entry.values }).collect()
}

fn event(response: wire::EventsResponse) -> Option<Event> {
    let event = response.event.unwrap_or_default();
    let key = event.key;
    event.event.map(|arm| match arm {
        EventArm::Added(arm) => Event::Added { key, value: arm.value },
        EventArm::Removed(arm) => Event::Removed { key, value: arm.value },
    })
}
