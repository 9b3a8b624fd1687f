// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.list.v1`.

use atomix_primitives::list::{Event, Item, ItemChange};
use atomix_primitives::{Kind, List};
use atomix_proto::list;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::status::{status, stream_status};

services!(list::list_server::ListServer, list::lists_server::ListsServer);

#[tonic::async_trait]
impl list::lists_server::Lists for Services {
    create_and_close!(Kind::List, list, |config| list::Config {
        cache: Some(list::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });
}

#[tonic::async_trait]
impl list::list_server::List for Services {
    create_and_close!(Kind::List, list, |config| list::Config {
        cache: Some(list::CacheConfig { enabled: config.cache_enabled, size: config.cache_size }),
    });

    async fn size(
        &self,
        request: Request<list::SizeRequest>,
    ) -> Result<Response<list::SizeResponse>, Status> {
        let (list, _) = call!(self, List, request);
        Ok(Response::new(list::SizeResponse { size: list.size().await.map_err(status)? }))
    }

    async fn append(
        &self,
        request: Request<list::AppendRequest>,
    ) -> Result<Response<list::AppendResponse>, Status> {
        let (list, request) = call!(self, List, request);
        list.append(bytes(request.value)).await.map_err(status)?;
        Ok(Response::new(list::AppendResponse {}))
    }

    async fn insert(
        &self,
        request: Request<list::InsertRequest>,
    ) -> Result<Response<list::InsertResponse>, Status> {
        let (list, request) = call!(self, List, request);
        let item = list.insert(request.index, bytes(request.value)).await.map_err(status)?;
        Ok(Response::new(list::InsertResponse { item: Some(message(item)) }))
    }

    async fn get(&self, request: Request<list::GetRequest>) -> Result<Response<list::GetResponse>, Status> {
        let (list, request) = call!(self, List, request);
        let item = list.get(request.index).await.map_err(status)?;
        Ok(Response::new(list::GetResponse { item: Some(message(item)) }))
    }

    async fn set(&self, request: Request<list::SetRequest>) -> Result<Response<list::SetResponse>, Status> {
        let (list, request) = call!(self, List, request);
        let item = list.set(request.index, bytes(request.value)).await.map_err(status)?;
        Ok(Response::new(list::SetResponse { item: Some(message(item)) }))
    }

    async fn remove(
        &self,
        request: Request<list::RemoveRequest>,
    ) -> Result<Response<list::RemoveResponse>, Status> {
        let (list, request) = call!(self, List, request);
        let item = list.remove(request.index).await.map_err(status)?;
        Ok(Response::new(list::RemoveResponse { item: Some(message(item)) }))
    }

    async fn clear(
        &self,
        request: Request<list::ClearRequest>,
    ) -> Result<Response<list::ClearResponse>, Status> {
        let (list, _) = call!(self, List, request);
        list.clear().await.map_err(status)?;
        Ok(Response::new(list::ClearResponse {}))
    }

    type EventsStream = Answers<list::EventsResponse>;

    async fn events(
        &self,
        request: Request<list::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (list, request) = stream_call!(self, List, request);
        let events = list.events(&list.caller(), request.replay).await.map_err(stream_status)?;
        let registered = list::EventsResponse { event: Some(list::Event { index: 0, event: None }) };
        Ok(list.stream(Some(registered), events, event))
    }

    type ItemsStream = Answers<list::ItemsResponse>;

    async fn items(
        &self,
        request: Request<list::ItemsRequest>,
    ) -> Result<Response<Self::ItemsStream>, Status> {
        let (list, request) = stream_call!(self, List, request);
        let items = list.items(&list.caller(), request.watch).await.map_err(stream_status)?;
        Ok(list.stream(None, items, |item| list::ItemsResponse { item: Some(message(item)) }))
    }
}

fn event(event: Event) -> list::EventsResponse {
    use list::event::{Appended, Event as Arm, Inserted, Removed, Updated};
    let change = match event.change {
        ItemChange::Appended { value } => Arm::Appended(Appended { value: Some(wrapped(value)) }),
        ItemChange::Inserted { value } => Arm::Inserted(Inserted { value: Some(wrapped(value)) }),
        ItemChange::Updated { value, previous } => {
            Arm::Updated(Updated { value: Some(wrapped(value)), prev_value: Some(wrapped(previous)) })
        }
        ItemChange::Removed { value } => Arm::Removed(Removed { value: Some(wrapped(value)) }),
    };
    list::EventsResponse { event: Some(list::Event { index: event.index, event: Some(change) }) }
}

fn message(item: Item) -> list::Item {
    list::Item { index: item.index, value: Some(wrapped(item.value)) }
}

fn wrapped(value: Bytes) -> list::Value {
    list::Value { value }
}

fn bytes(value: Option<list::Value>) -> Bytes {
    value.unwrap_or_default().value
}
