// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.indexedmap.v1`.

use atomix_primitives::indexedmap::{Address, Entry, EntryChange, Event};
use atomix_primitives::map::Versioned;
use atomix_primitives::{IndexedMap, Kind};
use atomix_proto::indexedmap;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::convert::ttl;
use crate::status::{status, stream_status};

services!(
    indexedmap::indexed_map_server::IndexedMapServer,
    indexedmap::indexed_maps_server::IndexedMapsServer
);

#[tonic::async_trait]
impl indexedmap::indexed_maps_server::IndexedMaps for Services {
    create_and_close!(Kind::IndexedMap, indexedmap, |config| indexedmap::Config {
        cache: Some(indexedmap::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });
}

#[tonic::async_trait]
impl indexedmap::indexed_map_server::IndexedMap for Services {
    create_and_close!(Kind::IndexedMap, indexedmap, |config| indexedmap::Config {
        cache: Some(indexedmap::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });

    async fn size(
        &self,
        request: Request<indexedmap::SizeRequest>,
    ) -> Result<Response<indexedmap::SizeResponse>, Status> {
        let (map, _) = call!(self, IndexedMap, request);
        Ok(Response::new(indexedmap::SizeResponse { size: map.size().await.map_err(status)? }))
    }

    async fn append(
        &self,
        request: Request<indexedmap::AppendRequest>,
    ) -> Result<Response<indexedmap::AppendResponse>, Status> {
        let (map, request) = call!(self, IndexedMap, request);
        let entry = map.append(&request.key, request.value, ttl(request.ttl)).await.map_err(status)?;
        Ok(Response::new(indexedmap::AppendResponse { entry: Some(message(entry)) }))
    }

    async fn update(
        &self,
        request: Request<indexedmap::UpdateRequest>,
    ) -> Result<Response<indexedmap::UpdateResponse>, Status> {
        let (map, request) = call!(self, IndexedMap, request);
        let address = Address { key: &request.key, index: request.index };
        let entry = map.update(address, request.value, ttl(request.ttl), request.prev_version).await;
        Ok(Response::new(indexedmap::UpdateResponse { entry: Some(message(entry.map_err(status)?)) }))
    }

    async fn get(
        &self,
        request: Request<indexedmap::GetRequest>,
    ) -> Result<Response<indexedmap::GetResponse>, Status> {
        let (map, request) = call!(self, IndexedMap, request);
        let entry = map.get(Address { key: &request.key, index: request.index }).await.map_err(status)?;
        Ok(Response::new(indexedmap::GetResponse { entry: Some(message(entry)) }))
    }

    async fn first_entry(
        &self,
        request: Request<indexedmap::FirstEntryRequest>,
    ) -> Result<Response<indexedmap::FirstEntryResponse>, Status> {
        let (map, _) = call!(self, IndexedMap, request);
        let entry = map.first().await.map_err(status)?;
        Ok(Response::new(indexedmap::FirstEntryResponse { entry: Some(message(entry)) }))
    }

    async fn last_entry(
        &self,
        request: Request<indexedmap::LastEntryRequest>,
    ) -> Result<Response<indexedmap::LastEntryResponse>, Status> {
        let (map, _) = call!(self, IndexedMap, request);
        let entry = map.last().await.map_err(status)?;
        Ok(Response::new(indexedmap::LastEntryResponse { entry: Some(message(entry)) }))
    }

    async fn prev_entry(
        &self,
        request: Request<indexedmap::PrevEntryRequest>,
    ) -> Result<Response<indexedmap::PrevEntryResponse>, Status> {
        let (map, request) = call!(self, IndexedMap, request);
        let entry = map.prev(request.index).await.map_err(status)?;
        Ok(Response::new(indexedmap::PrevEntryResponse { entry: Some(message(entry)) }))
    }

    async fn next_entry(
        &self,
        request: Request<indexedmap::NextEntryRequest>,
    ) -> Result<Response<indexedmap::NextEntryResponse>, Status> {
        let (map, request) = call!(self, IndexedMap, request);
        let entry = map.next(request.index).await.map_err(status)?;
        Ok(Response::new(indexedmap::NextEntryResponse { entry: Some(message(entry)) }))
    }

    async fn remove(
        &self,
        request: Request<indexedmap::RemoveRequest>,
    ) -> Result<Response<indexedmap::RemoveResponse>, Status> {
        let (map, request) = call!(self, IndexedMap, request);
        let address = Address { key: &request.key, index: request.index };
        let entry = map.remove(address, request.prev_version).await.map_err(status)?;
        Ok(Response::new(indexedmap::RemoveResponse { entry: Some(message(entry)) }))
    }

    async fn clear(
        &self,
        request: Request<indexedmap::ClearRequest>,
    ) -> Result<Response<indexedmap::ClearResponse>, Status> {
        let (map, _) = call!(self, IndexedMap, request);
        map.clear().await.map_err(status)?;
        Ok(Response::new(indexedmap::ClearResponse {}))
    }

    type EventsStream = Answers<indexedmap::EventsResponse>;

    async fn events(
        &self,
        request: Request<indexedmap::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (map, request) = stream_call!(self, IndexedMap, request);
        let only = Some(request.key.clone()).filter(|key| !key.is_empty());
        let events = map.events(&map.caller(), only).await.map_err(stream_status)?;
        let registered = indexedmap::Event { key: request.key, index: 0, event: None };
        Ok(map.stream(Some(indexedmap::EventsResponse { event: Some(registered) }), events, event))
    }

    type EntriesStream = Answers<indexedmap::EntriesResponse>;

    async fn entries(
        &self,
        request: Request<indexedmap::EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        let (map, request) = stream_call!(self, IndexedMap, request);
        let entries = map.entries(&map.caller(), request.watch).await.map_err(stream_status)?;
        Ok(map.stream(None, entries, |entry| indexedmap::EntriesResponse { entry: Some(message(entry)) }))
    }
}

fn message(entry: Entry) -> indexedmap::Entry {
    indexedmap::Entry { key: entry.key, index: entry.index, value: Some(versioned(entry.value)) }
}

fn event(event: Event) -> indexedmap::EventsResponse {
    use indexedmap::event::{Event as Arm, Inserted, Removed, Updated};
    let change = match event.change {
        EntryChange::Inserted { value } => Arm::Inserted(Inserted { value: Some(versioned(value)) }),
        EntryChange::Updated { value, previous } => {
            Arm::Updated(Updated { value: Some(versioned(value)), prev_value: Some(versioned(previous)) })
        }
        EntryChange::Removed { value, expired } => {
            Arm::Removed(Removed { value: Some(versioned(value)), expired })
        }
    };
    let event = indexedmap::Event { key: event.key, index: event.index, event: Some(change) };
    indexedmap::EventsResponse { event: Some(event) }
}

fn versioned(versioned: Versioned) -> indexedmap::VersionedValue {
    indexedmap::VersionedValue { value: versioned.value, version: versioned.version }
}
