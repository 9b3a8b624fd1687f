// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.multimap.v1`.

use atomix_primitives::multimap::{Event, PairChange};
use atomix_primitives::{Kind, MultiMap};
use atomix_proto::multimap;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::status::{status, stream_status};

services!(multimap::multi_map_server::MultiMapServer, multimap::multi_maps_server::MultiMapsServer);

#[tonic::async_trait]
impl multimap::multi_maps_server::MultiMaps for Services {
    create_and_close!(Kind::MultiMap, multimap, |config| multimap::Config {
        cache: Some(multimap::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });
}

#[tonic::async_trait]
impl multimap::multi_map_server::MultiMap for Services {
    create_and_close!(Kind::MultiMap, multimap, |config| multimap::Config {
        cache: Some(multimap::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });

    async fn size(
        &self,
        request: Request<multimap::SizeRequest>,
    ) -> Result<Response<multimap::SizeResponse>, Status> {
        let (map, _) = call!(self, MultiMap, request);
        Ok(Response::new(multimap::SizeResponse { size: map.size().await.map_err(status)? }))
    }

    async fn put(
        &self,
        request: Request<multimap::PutRequest>,
    ) -> Result<Response<multimap::PutResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        map.put(&request.key, request.value).await.map_err(status)?;
        Ok(Response::new(multimap::PutResponse {}))
    }

    async fn put_all(
        &self,
        request: Request<multimap::PutAllRequest>,
    ) -> Result<Response<multimap::PutAllResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        let updated = map.put_all(&request.key, request.values).await.map_err(status)?;
        Ok(Response::new(multimap::PutAllResponse { updated }))
    }

    async fn put_entries(
        &self,
        request: Request<multimap::PutEntriesRequest>,
    ) -> Result<Response<multimap::PutEntriesResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        let updated = map.put_entries(pairs(request.entries)).await.map_err(status)?;
        Ok(Response::new(multimap::PutEntriesResponse { updated }))
    }

    async fn replace(
        &self,
        request: Request<multimap::ReplaceRequest>,
    ) -> Result<Response<multimap::ReplaceResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        let prev_values = map.replace(&request.key, request.values).await.map_err(status)?;
        Ok(Response::new(multimap::ReplaceResponse { prev_values }))
    }

    async fn contains(
        &self,
        request: Request<multimap::ContainsRequest>,
    ) -> Result<Response<multimap::ContainsResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        let result = map.contains(&request.key, &request.value).await.map_err(status)?;
        Ok(Response::new(multimap::ContainsResponse { result }))
    }

    async fn get(
        &self,
        request: Request<multimap::GetRequest>,
    ) -> Result<Response<multimap::GetResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        Ok(Response::new(multimap::GetResponse { values: map.get(&request.key).await.map_err(status)? }))
    }

    async fn remove(
        &self,
        request: Request<multimap::RemoveRequest>,
    ) -> Result<Response<multimap::RemoveResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        let values = map.remove(&request.key, &request.value).await.map_err(status)?;
        Ok(Response::new(multimap::RemoveResponse { values }))
    }

    async fn remove_all(
        &self,
        request: Request<multimap::RemoveAllRequest>,
    ) -> Result<Response<multimap::RemoveAllResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        let updated = map.remove_all(&request.key, &request.values).await.map_err(status)?;
        Ok(Response::new(multimap::RemoveAllResponse { updated }))
    }

    async fn remove_entries(
        &self,
        request: Request<multimap::RemoveEntriesRequest>,
    ) -> Result<Response<multimap::RemoveEntriesResponse>, Status> {
        let (map, request) = call!(self, MultiMap, request);
        let updated = map.remove_entries(pairs(request.entries)).await.map_err(status)?;
        Ok(Response::new(multimap::RemoveEntriesResponse { updated }))
    }

    async fn clear(
        &self,
        request: Request<multimap::ClearRequest>,
    ) -> Result<Response<multimap::ClearResponse>, Status> {
        let (map, _) = call!(self, MultiMap, request);
        map.clear().await.map_err(status)?;
        Ok(Response::new(multimap::ClearResponse {}))
    }

    type EventsStream = Answers<multimap::EventsResponse>;

    async fn events(
        &self,
        request: Request<multimap::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (map, request) = stream_call!(self, MultiMap, request);
        let only = Some(request.key.clone()).filter(|key| !key.is_empty());
        let events = map.events(&map.caller(), only).await.map_err(stream_status)?;
        let registered = multimap::Event { key: request.key, event: None };
        Ok(map.stream(Some(multimap::EventsResponse { event: Some(registered) }), events, event))
    }

    type EntriesStream = Answers<multimap::EntriesResponse>;

    async fn entries(
        &self,
        request: Request<multimap::EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        let (map, request) = stream_call!(self, MultiMap, request);
        let entries = map.entries(&map.caller(), request.watch).await.map_err(stream_status)?;
        Ok(map.stream(None, entries, |(key, values)| multimap::EntriesResponse {
            entry: Some(multimap::Entry { key, values }),
        }))
    }
}

fn pairs(entries: Vec<multimap::Entry>) -> Vec<(String, Vec<String>)> {
    entries.into_iter().map(|entry| (entry.key, entry.values)).collect()
}

fn event(event: Event) -> multimap::EventsResponse {
    use multimap::event::{Added, Event as Arm, Removed};
    let change = match event.change {
        PairChange::Added { value } => Arm::Added(Added { value }),
        PairChange::Removed { value } => Arm::Removed(Removed { value }),
    };
    multimap::EventsResponse { event: Some(multimap::Event { key: event.key, event: Some(change) }) }
}
