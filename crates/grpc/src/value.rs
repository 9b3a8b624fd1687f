// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.value.v1`.

use atomix_primitives::value::{Event, Stored, Versioned};
use atomix_primitives::{Kind, Value};
use atomix_proto::value;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::convert::ttl;
use crate::status::{status, stream_status};

services!(value::value_server::ValueServer, value::values_server::ValuesServer);

#[tonic::async_trait]
impl value::values_server::Values for Services {
    create_and_close!(Kind::Value, value, |config| value::Config {
        cache: Some(value::CacheConfig { enabled: config.cache_enabled }),
    });
}

#[tonic::async_trait]
impl value::value_server::Value for Services {
    create_and_close!(Kind::Value, value, |config| value::Config {
        cache: Some(value::CacheConfig { enabled: config.cache_enabled }),
    });

    async fn set(&self, request: Request<value::SetRequest>) -> Result<Response<value::SetResponse>, Status> {
        let (value, request) = call!(self, Value, request);
        let Stored { version, previous } =
            value.set(request.value, ttl(request.ttl)).await.map_err(status)?;
        Ok(Response::new(value::SetResponse { version, prev_value: previous.map(versioned) }))
    }

    async fn insert(
        &self,
        request: Request<value::InsertRequest>,
    ) -> Result<Response<value::InsertResponse>, Status> {
        let (value, request) = call!(self, Value, request);
        let stored = value.insert(request.value, ttl(request.ttl)).await.map_err(status)?;
        Ok(Response::new(value::InsertResponse { version: stored.version }))
    }

    async fn update(
        &self,
        request: Request<value::UpdateRequest>,
    ) -> Result<Response<value::UpdateResponse>, Status> {
        let (value, request) = call!(self, Value, request);
        let stored = value.update(request.value, ttl(request.ttl), request.prev_version).await;
        let Stored { version, previous } = stored.map_err(status)?;
        Ok(Response::new(value::UpdateResponse { version, prev_value: previous.map(versioned) }))
    }

    async fn get(&self, request: Request<value::GetRequest>) -> Result<Response<value::GetResponse>, Status> {
        let (value, _) = call!(self, Value, request);
        let found = value.get().await.map_err(status)?;
        Ok(Response::new(value::GetResponse { value: Some(versioned(found)) }))
    }

    async fn delete(
        &self,
        request: Request<value::DeleteRequest>,
    ) -> Result<Response<value::DeleteResponse>, Status> {
        let (value, request) = call!(self, Value, request);
        let deleted = value.delete(request.prev_version).await.map_err(status)?;
        Ok(Response::new(value::DeleteResponse { value: Some(versioned(deleted)) }))
    }

    type WatchStream = Answers<value::WatchResponse>;

    async fn watch(
        &self,
        request: Request<value::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (value, _) = stream_call!(self, Value, request);
        let values = value.watch(&value.caller()).await.map_err(stream_status)?;
        Ok(value.stream(None, values, |shown| value::WatchResponse { value: Some(versioned(shown)) }))
    }

    type EventsStream = Answers<value::EventsResponse>;

    async fn events(
        &self,
        request: Request<value::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (value, _) = stream_call!(self, Value, request);
        let events = value.events(&value.caller()).await.map_err(stream_status)?;
        let registered = value::EventsResponse { event: Some(value::Event { event: None }) };
        Ok(value.stream(Some(registered), events, event))
    }
}

fn event(event: Event) -> value::EventsResponse {
    use value::event::{Created, Deleted, Event as Arm, Updated};
    let arm = match event {
        Event::Created { value } => Arm::Created(Created { value: Some(versioned(value)) }),
        Event::Updated { value, previous } => {
            Arm::Updated(Updated { value: Some(versioned(value)), prev_value: Some(versioned(previous)) })
        }
        Event::Deleted { value, expired } => Arm::Deleted(Deleted { value: Some(versioned(value)), expired }),
    };
    value::EventsResponse { event: Some(value::Event { event: Some(arm) }) }
}

fn versioned(versioned: Versioned) -> value::VersionedValue {
    value::VersionedValue { value: versioned.value, version: versioned.version }
}
