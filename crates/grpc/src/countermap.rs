// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.countermap.v1`.

use atomix_primitives::countermap::{EntryChange, Event};
use atomix_primitives::{CounterMap, Kind};
use atomix_proto::countermap;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::convert::{duration, request_name};
use crate::handover::HandOver;
use crate::status::{status, stream_status};

services!(
    countermap::counter_map_server::CounterMapServer,
    countermap::counter_maps_server::CounterMapsServer
);

#[tonic::async_trait]
impl countermap::counter_maps_server::CounterMaps for Services {
    create_and_close!(Kind::CounterMap, countermap, |config| countermap::Config {
        cache: Some(countermap::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });
}

#[tonic::async_trait]
impl countermap::counter_map_server::CounterMap for Services {
    create_and_close!(Kind::CounterMap, countermap, |config| countermap::Config {
        cache: Some(countermap::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });

    async fn size(
        &self,
        request: Request<countermap::SizeRequest>,
    ) -> Result<Response<countermap::SizeResponse>, Status> {
        let (map, _) = call!(self, CounterMap, request);
        Ok(Response::new(countermap::SizeResponse { size: map.size().await.map_err(status)? }))
    }

    async fn set(
        &self,
        request: Request<countermap::SetRequest>,
    ) -> Result<Response<countermap::SetResponse>, Status> {
        let (map, request) = call!(self, CounterMap, request);
        let prev_value = map.set(&request.key, request.value).await.map_err(status)?;
        Ok(Response::new(countermap::SetResponse { prev_value }))
    }

    async fn insert(
        &self,
        request: Request<countermap::InsertRequest>,
    ) -> Result<Response<countermap::InsertResponse>, Status> {
        let (map, request) = call!(self, CounterMap, request);
        map.insert(&request.key, request.value).await.map_err(status)?;
        Ok(Response::new(countermap::InsertResponse {}))
    }

    async fn update(
        &self,
        request: Request<countermap::UpdateRequest>,
    ) -> Result<Response<countermap::UpdateResponse>, Status> {
        let (map, request) = call!(self, CounterMap, request);
        let prev_value = map.update(&request.key, request.value, request.prev_value).await.map_err(status)?;
        Ok(Response::new(countermap::UpdateResponse { prev_value }))
    }

    async fn increment(
        &self,
        request: Request<countermap::IncrementRequest>,
    ) -> Result<Response<countermap::IncrementResponse>, Status> {
        let once = request_name(request.metadata()).map_err(status)?;
        let (map, request) = call!(self, CounterMap, request);
        let prev_value = map.increment(&request.key, request.delta, once).await.map_err(status)?;
        Ok(Response::new(countermap::IncrementResponse { prev_value }))
    }

    async fn decrement(
        &self,
        request: Request<countermap::DecrementRequest>,
    ) -> Result<Response<countermap::DecrementResponse>, Status> {
        let once = request_name(request.metadata()).map_err(status)?;
        let (map, request) = call!(self, CounterMap, request);
        let prev_value = map.decrement(&request.key, request.delta, once).await.map_err(status)?;
        Ok(Response::new(countermap::DecrementResponse { prev_value }))
    }

    async fn get(
        &self,
        request: Request<countermap::GetRequest>,
    ) -> Result<Response<countermap::GetResponse>, Status> {
        let (map, request) = call!(self, CounterMap, request);
        Ok(Response::new(countermap::GetResponse { value: map.get(&request.key).await.map_err(status)? }))
    }

    async fn remove(
        &self,
        request: Request<countermap::RemoveRequest>,
    ) -> Result<Response<countermap::RemoveResponse>, Status> {
        let (map, request) = call!(self, CounterMap, request);
        let value = map.remove(&request.key, request.prev_value).await.map_err(status)?;
        Ok(Response::new(countermap::RemoveResponse { value }))
    }

    async fn clear(
        &self,
        request: Request<countermap::ClearRequest>,
    ) -> Result<Response<countermap::ClearResponse>, Status> {
        let (map, _) = call!(self, CounterMap, request);
        map.clear().await.map_err(status)?;
        Ok(Response::new(countermap::ClearResponse {}))
    }

    async fn lock(
        &self,
        request: Request<countermap::LockRequest>,
    ) -> Result<Response<countermap::LockResponse>, Status> {
        let handover = HandOver::begin(self.runtime.env(), &request);
        let (map, request) = call!(self, CounterMap, request);
        let caller = handover.limit(map.caller());
        let grant = map
            .lock_table()
            .acquire(&caller, &request.keys, duration(request.timeout))
            .await
            .map_err(status)?;
        Ok(handover.answer(countermap::LockResponse {}, grant))
    }

    async fn unlock(
        &self,
        request: Request<countermap::UnlockRequest>,
    ) -> Result<Response<countermap::UnlockResponse>, Status> {
        let (map, request) = call!(self, CounterMap, request);
        map.lock_table().release(&map.caller(), &request.keys).await.map_err(status)?;
        Ok(Response::new(countermap::UnlockResponse {}))
    }

    type EventsStream = Answers<countermap::EventsResponse>;

    async fn events(
        &self,
        request: Request<countermap::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (map, request) = stream_call!(self, CounterMap, request);
        let only = Some(request.key.clone()).filter(|key| !key.is_empty());
        let events = map.events(&map.caller(), only).await.map_err(stream_status)?;
        let registered = countermap::Event { key: request.key, event: None };
        Ok(map.stream(Some(countermap::EventsResponse { event: Some(registered) }), events, event))
    }

    type EntriesStream = Answers<countermap::EntriesResponse>;

    async fn entries(
        &self,
        request: Request<countermap::EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        let (map, request) = stream_call!(self, CounterMap, request);
        let entries = map.entries(&map.caller(), request.watch).await.map_err(stream_status)?;
        Ok(map.stream(None, entries, |(key, value)| countermap::EntriesResponse {
            entry: Some(countermap::Entry { key, value }),
        }))
    }
}

fn event(event: Event) -> countermap::EventsResponse {
    use countermap::event::{Event as Arm, Inserted, Removed, Updated};
    let change = match event.change {
        EntryChange::Inserted { value } => Arm::Inserted(Inserted { value }),
        EntryChange::Updated { value, previous } => Arm::Updated(Updated { value, prev_value: previous }),
        EntryChange::Removed { value } => Arm::Removed(Removed { value }),
    };
    countermap::EventsResponse { event: Some(countermap::Event { key: event.key, event: Some(change) }) }
}
