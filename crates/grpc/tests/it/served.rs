// SPDX-License-Identifier: Apache-2.0
//! A server in this process on free ports, and clients that record the methods which answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use atomix_config::{Config, DriverId, JsonObject, LaterRoute, Listen, Rule, StoreId};
use atomix_driver_memory::MemoryDriver;
use atomix_env::{Env, Shutdown};
use atomix_grpc::{Server, Settings};
use atomix_proto::runtime::PrimitiveId;
use atomix_runtime::{Routes, Runtime};
use atomix_store::Driver;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint, Error};
use tower::Service;

/// The paths of methods.
pub(crate) type Paths = Arc<Mutex<BTreeSet<String>>>;

/// A server over one store, `store`, to which every primitive is routed.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) shutdown: Shutdown,
    /// The methods that answered without an error.
    pub(crate) answered: Paths,
    listen: String,
    control: String,
    server: JoinHandle<()>,
}

/// A connection that records the methods which answer without an error.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    channel: Channel,
    answered: Paths,
}

// === impl Served ===

impl Served {
    /// Starts a server over the memory driver.
    pub(crate) async fn start() -> Self {
        Self::start_with(Config::default(), Arc::new(MemoryDriver)).await
    }

    /// Starts a server with these settings over this driver.
    pub(crate) async fn start_with(config: Config, driver: Arc<dyn Driver>) -> Self {
        let (name, version) = (driver.name().to_owned(), String::new());
        let served = Self::start_bare(config, driver).await;
        served.runtime.connect(store("store"), DriverId { name, version }, JsonObject::new()).await.unwrap();
        served.route(&["store"]);
        served
    }

    /// Starts a server without stores and routes.
    pub(crate) async fn start_bare(config: Config, driver: Arc<dyn Driver>) -> Self {
        let anywhere = || vec![Listen::tcp("127.0.0.1", 0)];
        let config = Config { listen: anywhere(), control: anywhere(), ..config };
        let runtime = Runtime::new(atomix_runtime::Settings::new(&config, Env::real(), vec![driver]));
        let server = Server::new(Arc::clone(&runtime), Settings::new(&config, None));
        let bound = server.bind().await.unwrap();
        let (listen, control) = (bound.listen().remove(0), bound.control().remove(0));
        let shutdown = Shutdown::new();
        let server = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                bound.run(shutdown).await;
            }
        });
        Self { runtime, shutdown, answered: Paths::default(), listen, control, server }
    }

    /// Routes every primitive to the first of these stores.
    pub(crate) fn route(&self, stores: &[&str]) {
        let route = |name: &&str| LaterRoute { store: store(name), rules: vec![Rule::default()] };
        self.runtime.program(Routes::Later(stores.iter().map(route).collect())).unwrap();
    }

    /// Opens a connection to the primitives: a session of its own.
    pub(crate) async fn primitives(&self) -> Recorder {
        self.connect(&self.listen, |endpoint| endpoint).await
    }

    /// Opens a connection to the primitives that takes few bytes of an answer which is not read.
    pub(crate) async fn narrow(&self) -> Recorder {
        let narrow = |endpoint: Endpoint| {
            endpoint.initial_stream_window_size(1024).initial_connection_window_size(65_535)
        };
        self.connect(&self.listen, narrow).await
    }

    /// Opens a connection to the control services.
    pub(crate) async fn control(&self) -> Recorder {
        self.connect(&self.control, |endpoint| endpoint).await
    }

    async fn connect(&self, address: &str, set: impl FnOnce(Endpoint) -> Endpoint) -> Recorder {
        let endpoint = set(Endpoint::from_shared(format!("http://{address}")).unwrap());
        Recorder { channel: endpoint.connect().await.unwrap(), answered: Arc::clone(&self.answered) }
    }

    /// Ends the server in order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.server.await.unwrap();
    }
}

// === impl Recorder ===

impl Service<http::Request<Body>> for Recorder {
    type Response = http::Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let (answer, answered) = (self.channel.call(request), Arc::clone(&self.answered));
        Box::pin(async move {
            let answer = answer.await?;
            // An error has its status in the headers: no message comes before it.
            if !answer.headers().contains_key("grpc-status") {
                answered.lock().insert(path);
            }
            Ok(answer)
        })
    }
}

pub(crate) fn store(name: &str) -> StoreId {
    StoreId { namespace: String::new(), name: name.to_owned() }
}

/// Returns the name of a primitive as requests have it.
pub(crate) fn id(name: &str) -> Option<PrimitiveId> {
    Some(PrimitiveId { name: name.to_owned() })
}

/// Makes the two clients of the primitive `p` on one connection, and checks that both create and close it.
macro_rules! opened {
    ($served:expr, $package:ident, $single:ident::$Single:ident, $plural:ident::$Plural:ident) => {{
        let connection = $served.primitives().await;
        let mut one = atomix_proto::$package::$single::$Single::new(connection.clone());
        let mut all = atomix_proto::$package::$plural::$Plural::new(connection);
        let create = || atomix_proto::$package::CreateRequest {
            id: crate::served::id("p"),
            tags: vec!["tag".to_owned()],
        };
        let close = || atomix_proto::$package::CloseRequest { id: crate::served::id("p") };
        let created = all.create(create()).await.unwrap().into_inner();
        assert!(created.config.is_some(), "old clients read it without looking");
        all.close(close()).await.unwrap();
        assert_eq!(one.create(create()).await.unwrap().into_inner(), created);
        one.close(close()).await.unwrap();
        one.create(create()).await.unwrap();
        one
    }};
}

pub(crate) use opened;

/// Returns the next message of a stream.
pub(crate) async fn next<T>(stream: &mut tonic::Streaming<T>) -> T {
    stream.message().await.expect("the stream goes on").expect("the stream has not ended")
}

/// Returns the messages of a stream that ends by itself.
pub(crate) async fn all<T>(mut stream: tonic::Streaming<T>) -> Vec<T> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.expect("the stream ends without an error") {
        messages.push(message);
    }
    messages
}
