// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.map.v1`.

use atomix_primitives::map::{Done, EntryChange, Event, Operation, Stored, Versioned};
use atomix_primitives::{Error, Kind, Map};
use atomix_proto::map;
use map::commit_request::operation;
use map::commit_response::{self, result};
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::convert::{duration, ttl};
use crate::handover::HandOver;
use crate::status::{status, stream_status};

services!(map::map_server::MapServer, map::maps_server::MapsServer);

#[tonic::async_trait]
impl map::maps_server::Maps for Services {
    create_and_close!(Kind::Map, map, |config| map::Config {
        cache: Some(map::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });
}

#[tonic::async_trait]
impl map::map_server::Map for Services {
    create_and_close!(Kind::Map, map, |config| map::Config {
        cache: Some(map::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });

    async fn size(&self, request: Request<map::SizeRequest>) -> Result<Response<map::SizeResponse>, Status> {
        let (map, _) = call!(self, Map, request);
        Ok(Response::new(map::SizeResponse { size: map.size().await.map_err(status)? }))
    }

    async fn put(&self, request: Request<map::PutRequest>) -> Result<Response<map::PutResponse>, Status> {
        let (map, request) = call!(self, Map, request);
        let stored = map.put(&request.key, request.value, ttl(request.ttl), request.prev_version).await;
        let Stored { version, previous } = stored.map_err(status)?;
        Ok(Response::new(map::PutResponse { version, prev_value: previous.map(versioned) }))
    }

    async fn insert(
        &self,
        request: Request<map::InsertRequest>,
    ) -> Result<Response<map::InsertResponse>, Status> {
        let (map, request) = call!(self, Map, request);
        let stored = map.insert(&request.key, request.value, ttl(request.ttl)).await.map_err(status)?;
        Ok(Response::new(map::InsertResponse { version: stored.version }))
    }

    async fn update(
        &self,
        request: Request<map::UpdateRequest>,
    ) -> Result<Response<map::UpdateResponse>, Status> {
        let (map, request) = call!(self, Map, request);
        let stored = map.update(&request.key, request.value, ttl(request.ttl), request.prev_version).await;
        let Stored { version, previous } = stored.map_err(status)?;
        Ok(Response::new(map::UpdateResponse { version, prev_value: previous.map(versioned) }))
    }

    async fn get(&self, request: Request<map::GetRequest>) -> Result<Response<map::GetResponse>, Status> {
        let (map, request) = call!(self, Map, request);
        let value = map.get(&request.key).await.map_err(status)?;
        Ok(Response::new(map::GetResponse { value: Some(versioned(value)) }))
    }

    async fn remove(
        &self,
        request: Request<map::RemoveRequest>,
    ) -> Result<Response<map::RemoveResponse>, Status> {
        let (map, request) = call!(self, Map, request);
        let removed = map.remove(&request.key, request.prev_version).await.map_err(status)?;
        Ok(Response::new(map::RemoveResponse { value: Some(versioned(removed)) }))
    }

    async fn clear(
        &self,
        request: Request<map::ClearRequest>,
    ) -> Result<Response<map::ClearResponse>, Status> {
        let (map, _) = call!(self, Map, request);
        map.clear().await.map_err(status)?;
        Ok(Response::new(map::ClearResponse {}))
    }

    async fn commit(
        &self,
        request: Request<map::CommitRequest>,
    ) -> Result<Response<map::CommitResponse>, Status> {
        let (map, request) = call!(self, Map, request);
        let operations: Result<Vec<_>, _> = request.operations.into_iter().map(decode).collect();
        let operations = operations.map_err(status)?;
        let arms: Vec<Arm> = operations.iter().map(arm).collect();
        let done = map.commit(operations).await.map_err(status)?;
        let results = arms.into_iter().zip(done).map(|(arm, done)| encode(arm, done)).collect();
        Ok(Response::new(map::CommitResponse { results }))
    }

    async fn lock(&self, request: Request<map::LockRequest>) -> Result<Response<map::LockResponse>, Status> {
        let handover = HandOver::begin(self.runtime.env(), &request);
        let (map, request) = call!(self, Map, request);
        let caller = handover.limit(map.caller());
        let grant = map
            .lock_table()
            .acquire(&caller, &request.keys, duration(request.timeout))
            .await
            .map_err(status)?;
        Ok(handover.answer(map::LockResponse {}, grant))
    }

    async fn unlock(
        &self,
        request: Request<map::UnlockRequest>,
    ) -> Result<Response<map::UnlockResponse>, Status> {
        let (map, request) = call!(self, Map, request);
        map.lock_table().release(&map.caller(), &request.keys).await.map_err(status)?;
        Ok(Response::new(map::UnlockResponse {}))
    }

    type EventsStream = Answers<map::EventsResponse>;

    async fn events(
        &self,
        request: Request<map::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (map, request) = stream_call!(self, Map, request);
        let only = Some(request.key.clone()).filter(|key| !key.is_empty());
        let events = map.events(&map.caller(), only).await.map_err(stream_status)?;
        let registered = map::Event { key: request.key, event: None };
        Ok(map.stream(Some(map::EventsResponse { event: Some(registered) }), events, event))
    }

    type EntriesStream = Answers<map::EntriesResponse>;

    async fn entries(
        &self,
        request: Request<map::EntriesRequest>,
    ) -> Result<Response<Self::EntriesStream>, Status> {
        let (map, request) = stream_call!(self, Map, request);
        let entries = map.entries(&map.caller(), request.watch).await.map_err(stream_status)?;
        Ok(map.stream(None, entries, |(key, value)| map::EntriesResponse {
            entry: Some(map::Entry { key, value: Some(versioned(value)) }),
        }))
    }
}

/// The arm of an operation, because a result must have the same.
#[derive(Clone, Copy)]
enum Arm {
    Put,
    Insert,
    Update,
    Remove,
}

fn arm(operation: &Operation) -> Arm {
    match operation {
        Operation::Put { .. } => Arm::Put,
        Operation::Insert { .. } => Arm::Insert,
        Operation::Update { .. } => Arm::Update,
        Operation::Remove { .. } => Arm::Remove,
    }
}

fn decode(message: map::commit_request::Operation) -> Result<Operation, Error> {
    let missing = || Error::invalid("transaction operation is not set: field=`operation`");
    Ok(match message.operation.ok_or_else(missing)? {
        operation::Operation::Put(put) => Operation::Put {
            key: put.key,
            value: put.value,
            ttl: ttl(put.ttl),
            prev_version: put.prev_version,
        },
        operation::Operation::Insert(insert) => {
            Operation::Insert { key: insert.key, value: insert.value, ttl: ttl(insert.ttl) }
        }
        operation::Operation::Update(update) => Operation::Update {
            key: update.key,
            value: update.value,
            ttl: ttl(update.ttl),
            prev_version: update.prev_version,
        },
        operation::Operation::Remove(remove) => {
            Operation::Remove { key: remove.key, prev_version: remove.prev_version }
        }
    })
}

fn encode(arm: Arm, done: Done) -> commit_response::Result {
    let (version, prev_value) = match done {
        Done::Stored(stored) => (stored.version, stored.previous.map(versioned)),
        Done::Removed(removed) => (0, Some(versioned(removed))),
    };
    let result = match arm {
        Arm::Put => result::Result::Put(commit_response::Put { version, prev_value }),
        Arm::Insert => result::Result::Insert(commit_response::Insert { version }),
        Arm::Update => result::Result::Update(commit_response::Update { version, prev_value }),
        Arm::Remove => result::Result::Remove(commit_response::Remove { value: prev_value }),
    };
    commit_response::Result { result: Some(result) }
}

fn event(event: Event) -> map::EventsResponse {
    let change = match event.change {
        EntryChange::Inserted { value } => {
            map::event::Event::Inserted(map::event::Inserted { value: Some(versioned(value)) })
        }
        EntryChange::Updated { value, previous } => map::event::Event::Updated(map::event::Updated {
            value: Some(versioned(value)),
            prev_value: Some(versioned(previous)),
        }),
        EntryChange::Removed { value, expired } => {
            map::event::Event::Removed(map::event::Removed { value: Some(versioned(value)), expired })
        }
    };
    map::EventsResponse { event: Some(map::Event { key: event.key, event: Some(change) }) }
}

fn versioned(versioned: Versioned) -> map::VersionedValue {
    map::VersionedValue { value: versioned.value, version: versioned.version }
}
