// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.set.v1`.

use atomix_primitives::set::Event;
use atomix_primitives::{Kind, Set};
use atomix_proto::set;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::convert::ttl;
use crate::status::{status, stream_status};

services!(set::set_server::SetServer, set::sets_server::SetsServer);

#[tonic::async_trait]
impl set::sets_server::Sets for Services {
    create_and_close!(Kind::Set, set, |config| set::Config {
        cache: Some(set::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });
}

#[tonic::async_trait]
impl set::set_server::Set for Services {
    create_and_close!(Kind::Set, set, |config| set::Config {
        cache: Some(set::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });

    async fn size(&self, request: Request<set::SizeRequest>) -> Result<Response<set::SizeResponse>, Status> {
        let (set, _) = call!(self, Set, request);
        Ok(Response::new(set::SizeResponse { size: set.size().await.map_err(status)? }))
    }

    async fn contains(
        &self,
        request: Request<set::ContainsRequest>,
    ) -> Result<Response<set::ContainsResponse>, Status> {
        let (set, request) = call!(self, Set, request);
        let element = request.element.unwrap_or_default();
        Ok(Response::new(set::ContainsResponse {
            contains: set.contains(&element.value).await.map_err(status)?,
        }))
    }

    async fn add(&self, request: Request<set::AddRequest>) -> Result<Response<set::AddResponse>, Status> {
        let (set, request) = call!(self, Set, request);
        let element = request.element.unwrap_or_default();
        set.add(&element.value, ttl(request.ttl)).await.map_err(status)?;
        // One field for each generation of clients.
        Ok(Response::new(set::AddResponse { element: Some(element), added: true }))
    }

    async fn remove(
        &self,
        request: Request<set::RemoveRequest>,
    ) -> Result<Response<set::RemoveResponse>, Status> {
        let (set, request) = call!(self, Set, request);
        let element = request.element.unwrap_or_default();
        set.remove(&element.value).await.map_err(status)?;
        Ok(Response::new(set::RemoveResponse { element: Some(element), removed: true }))
    }

    async fn clear(
        &self,
        request: Request<set::ClearRequest>,
    ) -> Result<Response<set::ClearResponse>, Status> {
        let (set, _) = call!(self, Set, request);
        set.clear().await.map_err(status)?;
        Ok(Response::new(set::ClearResponse {}))
    }

    type EventsStream = Answers<set::EventsResponse>;

    async fn events(
        &self,
        request: Request<set::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (set, _) = stream_call!(self, Set, request);
        let events = set.events(&set.caller()).await.map_err(stream_status)?;
        let registered = set::EventsResponse { event: Some(set::Event { event: None }) };
        Ok(set.stream(Some(registered), events, event))
    }

    type ElementsStream = Answers<set::ElementsResponse>;

    async fn elements(
        &self,
        request: Request<set::ElementsRequest>,
    ) -> Result<Response<Self::ElementsStream>, Status> {
        let (set, request) = stream_call!(self, Set, request);
        let elements = set.elements(&set.caller(), request.watch).await.map_err(stream_status)?;
        Ok(set
            .stream(None, elements, |value| set::ElementsResponse { element: Some(set::Element { value }) }))
    }
}

fn event(event: Event) -> set::EventsResponse {
    use set::event::{Added, Event as Arm, Removed};
    let arm = match event {
        Event::Added { element } => Arm::Added(Added { element: Some(set::Element { value: element }) }),
        Event::Removed { element, expired } => {
            Arm::Removed(Removed { element: Some(set::Element { value: element }), expired })
        }
    };
    set::EventsResponse { event: Some(set::Event { event: Some(arm) }) }
}
