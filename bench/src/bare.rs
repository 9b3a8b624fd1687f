// SPDX-License-Identifier: Apache-2.0
//! The least that a server can be: generated services and nothing else. It answers the calls that are measured with
//! messages of the same size, out of nothing or with one command to a store for each.

use std::pin::Pin;
use std::sync::Arc;

use atomix_proto::counter::counter_server::{Counter, CounterServer};
use atomix_proto::map::map_server::{Map, MapServer};
use atomix_proto::{counter, map};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use redis::aio::MultiplexedConnection;
use tokio::sync::broadcast;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::etcd::Etcd;

/// The services. Clones share watchers.
#[derive(Debug, Clone)]
pub(crate) struct Bare {
    behind: Behind,
    events: broadcast::Sender<map::EventsResponse>,
    value: Bytes,
}

/// The store behind a server.
#[derive(Debug, Clone)]
pub(crate) enum Behind {
    /// Nothing: answers are ready.
    Nothing,
    /// A Redis.
    Redis(MultiplexedConnection),
    /// An etcd.
    Etcd(Arc<Etcd>),
}

/// Events that a watcher may lag behind before it misses some.
const EVENTS_WAITING: usize = 4096;

// === impl Bare ===

impl Bare {
    /// Makes the services.
    pub(crate) fn new(behind: Behind) -> Self {
        let (events, _) = broadcast::channel(EVENTS_WAITING);
        Self { behind, events, value: vec![b'v'; 100].into() }
    }

    /// The same services with something else behind.
    #[must_use]
    pub(crate) fn with(self, behind: Behind) -> Self {
        Self { behind, ..self }
    }

    /// Returns the services as tonic serves them.
    pub(crate) fn routes(&self) -> Routes {
        Routes::new(CounterServer::new(self.clone())).add_service(MapServer::new(self.clone()))
    }
}

/// Implements a service that refuses what is not measured. It makes the whole of it, because `async_trait` looks at a trait
/// before macros are expanded.
macro_rules! service {
    (
        impl $service:ident { $($measured:tt)* }
        $package:ident refuses: $($method:ident $request:ident $response:ident,)+
    ) => {
        #[tonic::async_trait]
        impl $service for Bare {
            $($measured)*

            $(
                async fn $method(
                    &self,
                    _request: Request<$package::$request>,
                ) -> Result<Response<$package::$response>, Status> {
                    Err(Status::unimplemented("not measured"))
                }
            )+
        }
    };
}

service! {
    impl Counter {
        async fn create(
            &self,
            _request: Request<counter::CreateRequest>,
        ) -> Result<Response<counter::CreateResponse>, Status> {
            Ok(Response::new(counter::CreateResponse::default()))
        }

        async fn increment(
            &self,
            request: Request<counter::IncrementRequest>,
        ) -> Result<Response<counter::IncrementResponse>, Status> {
            let request = request.into_inner();
            let name = request.id.unwrap_or_default().name;
            let value = match &self.behind {
                Behind::Nothing => 1_000_000,
                Behind::Redis(redis) => {
                    let mut command = redis::cmd("INCRBY");
                    command.arg(name).arg(request.delta);
                    command.query_async(&mut redis.clone()).await.map_err(internal)?
                }
                Behind::Etcd(etcd) => {
                    etcd.increment(name.into()).await.map_err(internal)?;
                    1_000_000
                }
            };
            Ok(Response::new(counter::IncrementResponse { value }))
        }
    }

    counter refuses:
        set SetRequest SetResponse,
        update UpdateRequest UpdateResponse,
        get GetRequest GetResponse,
        decrement DecrementRequest DecrementResponse,
        close CloseRequest CloseResponse,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

service! {
    impl Map {
        type EventsStream = Answers<map::EventsResponse>;
        type EntriesStream = Answers<map::EntriesResponse>;

        async fn create(
            &self,
            _request: Request<map::CreateRequest>,
        ) -> Result<Response<map::CreateResponse>, Status> {
            Ok(Response::new(map::CreateResponse::default()))
        }

        async fn put(&self, request: Request<map::PutRequest>) -> Result<Response<map::PutResponse>, Status> {
            let map::PutRequest { key, value, .. } = request.into_inner();
            match &self.behind {
                Behind::Nothing if self.events.receiver_count() > 0 => {
                    let value = Some(map::VersionedValue { value, version: 1_000_000 });
                    let prev_value = value.clone();
                    let updated = map::event::Updated { value, prev_value };
                    let event = map::Event { key, event: Some(map::event::Event::Updated(updated)) };
                    self.events.send(map::EventsResponse { event: Some(event) }).ok();
                }
                Behind::Nothing => {}
                Behind::Redis(redis) => {
                    let mut command = redis::cmd("SET");
                    command.arg(key).arg(&value[..]);
                    command.query_async::<()>(&mut redis.clone()).await.map_err(internal)?;
                }
                Behind::Etcd(etcd) => etcd.put(key.into(), value).await.map_err(internal)?,
            }
            let prev_value = Some(map::VersionedValue { value: self.value.clone(), version: 1_000_000 });
            Ok(Response::new(map::PutResponse { version: 1_000_001, prev_value }))
        }

        async fn get(&self, request: Request<map::GetRequest>) -> Result<Response<map::GetResponse>, Status> {
            let key = request.into_inner().key;
            let value = match &self.behind {
                Behind::Nothing => self.value.clone(),
                Behind::Redis(redis) => {
                    let mut command = redis::cmd("GET");
                    command.arg(key);
                    let value: Vec<u8> = command.query_async(&mut redis.clone()).await.map_err(internal)?;
                    value.into()
                }
                Behind::Etcd(etcd) => etcd.get(key.into()).await.map_err(internal)?.unwrap_or_default(),
            };
            Ok(Response::new(map::GetResponse { value: Some(map::VersionedValue { value, version: 1_000_000 }) }))
        }

        async fn events(
            &self,
            _request: Request<map::EventsRequest>,
        ) -> Result<Response<Self::EventsStream>, Status> {
            let begun = futures::stream::iter([map::EventsResponse::default()]);
            let events = futures::stream::unfold(self.events.subscribe(), async |mut events| {
                loop {
                    match events.recv().await {
                        Ok(event) => return Some((event, events)),
                        // To tell a watcher that it missed events is what a real server has to add.
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            });
            Ok(Response::new(Box::pin(begun.chain(events).map(Ok))))
        }

        async fn entries(
            &self,
            _request: Request<map::EntriesRequest>,
        ) -> Result<Response<Self::EntriesStream>, Status> {
            Err(Status::unimplemented("not measured"))
        }
    }

    map refuses:
        size SizeRequest SizeResponse,
        insert InsertRequest InsertResponse,
        update UpdateRequest UpdateResponse,
        remove RemoveRequest RemoveResponse,
        clear ClearRequest ClearResponse,
        lock LockRequest LockResponse,
        unlock UnlockRequest UnlockResponse,
        commit CommitRequest CommitResponse,
        close CloseRequest CloseResponse,
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
