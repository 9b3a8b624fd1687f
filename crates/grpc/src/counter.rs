// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.counter.v1`.

use atomix_primitives::{Counter, Kind};
use atomix_proto::counter;
use tonic::{Request, Response, Status};

use crate::call::{Services, call, create_and_close, services};
use crate::convert::request_name;
use crate::status::status;

services!(counter::counter_server::CounterServer, counter::counters_server::CountersServer);

#[tonic::async_trait]
impl counter::counters_server::Counters for Services {
    create_and_close!(Kind::Counter, counter, |config| counter::Config {
        cache: Some(counter::CacheConfig { enabled: config.cache_enabled }),
    });
}

#[tonic::async_trait]
impl counter::counter_server::Counter for Services {
    create_and_close!(Kind::Counter, counter, |config| counter::Config {
        cache: Some(counter::CacheConfig { enabled: config.cache_enabled }),
    });

    async fn set(
        &self,
        request: Request<counter::SetRequest>,
    ) -> Result<Response<counter::SetResponse>, Status> {
        let (counter, request) = call!(self, Counter, request);
        let value = counter.set(request.value).await.map_err(status)?;
        Ok(Response::new(counter::SetResponse { value }))
    }

    async fn update(
        &self,
        request: Request<counter::UpdateRequest>,
    ) -> Result<Response<counter::UpdateResponse>, Status> {
        let (counter, request) = call!(self, Counter, request);
        let value = counter.update(request.check, request.update).await.map_err(status)?;
        Ok(Response::new(counter::UpdateResponse { value }))
    }

    async fn get(
        &self,
        request: Request<counter::GetRequest>,
    ) -> Result<Response<counter::GetResponse>, Status> {
        let (counter, _) = call!(self, Counter, request);
        Ok(Response::new(counter::GetResponse { value: counter.get().await.map_err(status)? }))
    }

    async fn increment(
        &self,
        request: Request<counter::IncrementRequest>,
    ) -> Result<Response<counter::IncrementResponse>, Status> {
        let once = request_name(request.metadata()).map_err(status)?;
        let (counter, request) = call!(self, Counter, request);
        let value = counter.increment(request.delta, once).await.map_err(status)?;
        Ok(Response::new(counter::IncrementResponse { value }))
    }

    async fn decrement(
        &self,
        request: Request<counter::DecrementRequest>,
    ) -> Result<Response<counter::DecrementResponse>, Status> {
        let once = request_name(request.metadata()).map_err(status)?;
        let (counter, request) = call!(self, Counter, request);
        let value = counter.decrement(request.delta, once).await.map_err(status)?;
        Ok(Response::new(counter::DecrementResponse { value }))
    }
}
