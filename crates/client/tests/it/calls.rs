// SPDX-License-Identifier: Apache-2.0
//! The client against a server that misbehaves on command.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atomix_client::{Client, Kind, TransportFailure};
use atomix_proto::counter as c;
use atomix_proto::lock as l;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The script of the server for the next calls, and the calls that it saw.
#[derive(Default)]
struct Script {
    /// Answers for the next operations; none left means success.
    failures: Mutex<VecDeque<Status>>,
    creates: AtomicU64,
    operations: AtomicU64,
    unlocks: AtomicU64,
    closes: AtomicU64,
    /// Whether operations wait until they are given up.
    hang: Mutex<bool>,
    /// Whether unlocks do.
    stuck: Mutex<bool>,
    entered: Notify,
    /// Whether the last request had a deadline.
    deadline: Mutex<bool>,
}

#[derive(Clone)]
struct Server {
    script: Arc<Script>,
}

/// A server that can be stopped at once, together with its connections.
struct Running {
    address: SocketAddr,
    script: Arc<Script>,
    runtime: Option<Runtime>,
}

impl Server {
    async fn operation<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.script.operations.fetch_add(1, Ordering::SeqCst);
        *self.script.deadline.lock().unwrap() = request.metadata().contains_key("grpc-timeout");
        let hang = *self.script.hang.lock().unwrap();
        self.script.entered.notify_one();
        if hang {
            std::future::pending::<()>().await;
        }
        self.script.failures.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    fn create<T: Default>(&self) -> Response<T> {
        self.script.creates.fetch_add(1, Ordering::SeqCst);
        Response::new(T::default())
    }

    fn close<T: Default>(&self) -> Response<T> {
        self.script.closes.fetch_add(1, Ordering::SeqCst);
        Response::new(T::default())
    }
}

#[tonic::async_trait]
impl c::counters_server::Counters for Server {
    async fn create(&self, _: Request<c::CreateRequest>) -> Result<Response<c::CreateResponse>, Status> {
        Ok(self.create())
    }
    async fn close(&self, _: Request<c::CloseRequest>) -> Result<Response<c::CloseResponse>, Status> {
        Ok(self.close())
    }
}

#[tonic::async_trait]
impl c::counter_server::Counter for Server {
    async fn create(&self, _: Request<c::CreateRequest>) -> Result<Response<c::CreateResponse>, Status> {
        Ok(self.create())
    }
    async fn set(&self, request: Request<c::SetRequest>) -> Result<Response<c::SetResponse>, Status> {
        self.operation(&request).await?;
        Ok(Response::new(c::SetResponse { value: request.get_ref().value }))
    }
    async fn update(
        &self,
        request: Request<c::UpdateRequest>,
    ) -> Result<Response<c::UpdateResponse>, Status> {
        self.operation(&request).await?;
        Ok(Response::new(c::UpdateResponse { value: request.get_ref().update }))
    }
    async fn get(&self, request: Request<c::GetRequest>) -> Result<Response<c::GetResponse>, Status> {
        self.operation(&request).await?;
        Ok(Response::new(c::GetResponse { value: 42 }))
    }
    async fn increment(
        &self,
        request: Request<c::IncrementRequest>,
    ) -> Result<Response<c::IncrementResponse>, Status> {
        self.operation(&request).await?;
        Ok(Response::new(c::IncrementResponse { value: 1 }))
    }
    async fn decrement(
        &self,
        request: Request<c::DecrementRequest>,
    ) -> Result<Response<c::DecrementResponse>, Status> {
        self.operation(&request).await?;
        Ok(Response::new(c::DecrementResponse { value: 1 }))
    }
    async fn close(&self, _: Request<c::CloseRequest>) -> Result<Response<c::CloseResponse>, Status> {
        Ok(self.close())
    }
}

#[tonic::async_trait]
impl l::locks_server::Locks for Server {
    async fn create(&self, _: Request<l::CreateRequest>) -> Result<Response<l::CreateResponse>, Status> {
        Ok(self.create())
    }
    async fn close(&self, _: Request<l::CloseRequest>) -> Result<Response<l::CloseResponse>, Status> {
        Ok(self.close())
    }
}

#[tonic::async_trait]
impl l::lock_server::Lock for Server {
    async fn create(&self, _: Request<l::CreateRequest>) -> Result<Response<l::CreateResponse>, Status> {
        Ok(self.create())
    }
    async fn lock(&self, request: Request<l::LockRequest>) -> Result<Response<l::LockResponse>, Status> {
        self.operation(&request).await?;
        Ok(Response::new(l::LockResponse { version: self.script.operations.load(Ordering::SeqCst) }))
    }
    async fn unlock(&self, _: Request<l::UnlockRequest>) -> Result<Response<l::UnlockResponse>, Status> {
        self.script.unlocks.fetch_add(1, Ordering::SeqCst);
        let stuck = *self.script.stuck.lock().unwrap();
        if stuck {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(l::UnlockResponse {}))
    }
    async fn get_lock(&self, _: Request<l::GetLockRequest>) -> Result<Response<l::GetLockResponse>, Status> {
        Err(Status::not_found("free"))
    }
    async fn close(&self, _: Request<l::CloseRequest>) -> Result<Response<l::CloseResponse>, Status> {
        Ok(self.close())
    }
}

impl Running {
    async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Arc::default()).await
    }

    async fn start_at(address: SocketAddr, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server { script: Arc::clone(&script) };
        let listener = listener.into_std().unwrap();
        // A runtime of its own: when it ends, its connections break as those of a killed process do.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(c::counters_server::CountersServer::new(server.clone()))
                .add_service(c::counter_server::CounterServer::new(server.clone()))
                .add_service(l::locks_server::LocksServer::new(server.clone()))
                .add_service(l::lock_server::LockServer::new(server))
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { address, script, runtime: Some(runtime) }
    }

    async fn kill(mut self) -> (SocketAddr, Arc<Script>) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(|| runtime.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
        (self.address, Arc::clone(&self.script))
    }

    async fn client(&self) -> Client {
        Client::builder().endpoint(self.address.to_string()).connect().await.unwrap()
    }

    fn fail(&self, statuses: impl IntoIterator<Item = Status>) {
        self.script.failures.lock().unwrap().extend(statuses);
    }

    fn operations(&self) -> u64 {
        self.script.operations.load(Ordering::SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn eventually(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(10), "it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn unavailable_is_repeated_and_nothing_else_is() {
    let server = Running::start().await;
    let counter = server.client().await.counter("hits").open().await.unwrap();
    server.fail([Status::unavailable("a"), Status::unavailable("b")]);
    assert_eq!(counter.increment(1).await.unwrap(), 1);
    assert_eq!(server.operations(), 3);

    server.fail([Status::aborted("c")]);
    assert_eq!(counter.increment(1).await.unwrap_err().kind(), Kind::Conflict);
    server.fail([Status::unknown("d")]);
    assert_eq!(counter.increment(1).await.unwrap_err().kind(), Kind::OutcomeUnknown);
    assert_eq!(server.operations(), 5);
}

#[tokio::test]
async fn a_full_server_is_not_called_again() {
    let server = Running::start().await;
    let counter = server.client().await.counter("hits").open().await.unwrap();
    for (failed, reason) in ["STORE_FULL", "PRIMITIVES_FULL"].into_iter().enumerate() {
        let details = ErrorDetails::with_error_info(reason, "atomix", []);
        server.fail([Status::with_error_details(Code::Unavailable, "full", details)]);
        let error = counter.increment(1).await.unwrap_err();
        assert_eq!((error.kind(), error.reason()), (Kind::Unavailable, Some(reason)));
        assert_eq!(server.operations(), failed as u64 + 1);
    }
}

#[tokio::test]
async fn a_server_of_another_protocol_is_called_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            // It stays open, so that what was sent is read.
            tokio::spawn(async move { socket.read_to_end(&mut Vec::new()).await });
        }
    });
    let client = Client::builder().endpoint(address).connect_lazy().unwrap();
    let error = client.counter("hits").open().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().starts_with("server does not speak HTTP/2"), "{error}");
    assert_eq!(error.transport_failure(), Some(TransportFailure::NotHttp2));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_refuses_connections_gives_the_reason_and_a_later_one_is_served() {
    const REFUSED: u64 = 2;
    let server = Running::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (behind, full) = (server.address, Arc::new(AtomicU64::new(u64::MAX)));
    let refusals = Arc::clone(&full);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let refuse =
                refusals.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            tokio::spawn(async move {
                if refuse {
                    let why = b"too many connections: limit=5";
                    let goaway = [0, 0, 8 + u8::try_from(why.len()).unwrap(), 7, 0, 0, 0, 0, 0];
                    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                    socket.write_all(&[&goaway[..], &[0; 7], &[11], why].concat()).await.unwrap();
                    socket.shutdown().await.unwrap();
                    drop(socket.read_to_end(&mut Vec::new()).await);
                } else {
                    let mut server = tokio::net::TcpStream::connect(behind).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut socket, &mut server).await);
                }
            });
        }
    });
    let builder = || Client::builder().endpoint(address.clone());
    let error = builder().retry_budget(Duration::ZERO).connect_lazy().unwrap().counter("hits").open().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(error.message(), "the server refused the connection: too many connections: limit=5");
    assert_eq!(error.transport_failure(), Some(TransportFailure::Refused));
    full.store(REFUSED, Ordering::SeqCst);
    let counter = builder().connect_lazy().unwrap().counter("hits").open().await.unwrap();
    counter.increment(1).await.unwrap();
    assert_eq!(server.operations(), 1);
}

#[tokio::test]
async fn a_spent_budget_gives_the_last_error() {
    let server = Running::start().await;
    let client = Client::builder()
        .endpoint(server.address.to_string())
        .retry_budget(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let counter = client.counter("hits").open().await.unwrap();
    server.fail((0..100).map(|_| Status::unavailable("store not connected")));
    let started = Instant::now();
    let error = counter.get().await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Unavailable, "store not connected"));
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!((2..=6).contains(&server.operations()), "{}", server.operations());
}

#[tokio::test]
async fn a_write_whose_connection_breaks_has_an_unknown_outcome() {
    let server = Running::start().await;
    let counter = server.client().await.counter("hits").open().await.unwrap();
    *server.script.hang.lock().unwrap() = true;
    let call = tokio::spawn(async move { counter.increment(1).await });
    server.script.entered.notified().await;
    server.kill().await;
    assert_eq!(call.await.unwrap().unwrap_err().kind(), Kind::OutcomeUnknown);
}

#[tokio::test]
async fn a_read_survives_a_restart_and_the_primitive_is_opened_again() {
    let server = Running::start().await;
    let counter = server.client().await.counter("hits").open().await.unwrap();
    *server.script.hang.lock().unwrap() = true;
    let call = tokio::spawn({
        let counter = counter.clone();
        async move { counter.get().await }
    });
    server.script.entered.notified().await;
    let (address, script) = server.kill().await;
    *script.hang.lock().unwrap() = false;
    let server = Running::start_at(address, script).await;
    assert_eq!(call.await.unwrap().unwrap(), 42);
    assert_eq!(server.script.creates.load(Ordering::SeqCst), 2);
    assert_eq!(counter.get().await.unwrap(), 42);
    assert_eq!(server.script.creates.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_slow_call_is_a_timeout_and_the_server_knows_the_deadline() {
    let server = Running::start().await;
    let client = Client::builder()
        .endpoint(server.address.to_string())
        .call_timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    let counter = client.counter("hits").open().await.unwrap();
    *server.script.hang.lock().unwrap() = true;
    let started = Instant::now();
    assert_eq!(counter.get().await.unwrap_err().kind(), Kind::Timeout);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(*server.script.deadline.lock().unwrap());
}

#[tokio::test]
async fn a_dropped_guard_releases_the_lock() {
    let server = Running::start().await;
    let lock = server.client().await.lock("l").open().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    assert!(!*server.script.deadline.lock().unwrap(), "a waiting call has no deadline of the transport");
    assert!(guard.token() > 0);
    // Another caller of the same client does not even ask the server.
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert_eq!(server.operations(), 1);
    drop(guard);
    eventually(|| server.script.unlocks.load(Ordering::SeqCst) == 1).await;
    lock.acquire().await.unwrap().release().await.unwrap();
    assert_eq!(server.script.unlocks.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_acquisition_that_is_given_up_keeps_nothing() {
    let server = Running::start().await;
    let lock = server.client().await.lock("l").open().await.unwrap();
    *server.script.hang.lock().unwrap() = true;
    let waiting = tokio::time::timeout(Duration::from_millis(100), lock.acquire().into_future()).await;
    assert!(waiting.is_err());
    eventually(|| server.script.unlocks.load(Ordering::SeqCst) == 1).await;
    *server.script.hang.lock().unwrap() = false;
    lock.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn no_caller_gets_the_permit_while_an_unlock_is_in_flight() {
    let server = Running::start().await;
    let client = Client::builder().endpoint(server.address.to_string());
    let client = client.call_timeout(Duration::from_millis(200)).connect().await.unwrap();
    let lock = client.lock("l").open().await.unwrap();
    let set = |what: &Mutex<bool>, to| *what.lock().unwrap() = to;

    // A call that was given up, and whose unlock is not answered.
    set(&server.script.hang, true);
    set(&server.script.stuck, true);
    let error = lock.acquire().timeout(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    set(&server.script.hang, false);
    eventually(|| server.script.unlocks.load(Ordering::SeqCst) >= 2).await;
    assert!(lock.try_acquire().await.unwrap().is_none());
    set(&server.script.stuck, false);
    let guard = lock.acquire().await.unwrap();

    // A release that is not answered.
    set(&server.script.stuck, true);
    assert_eq!(guard.release().await.unwrap_err().kind(), Kind::Timeout);
    assert!(lock.try_acquire().await.unwrap().is_none());
    set(&server.script.stuck, false);
    lock.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_guard_is_lost_with_its_connection() {
    let server = Running::start().await;
    let lock = server.client().await.lock("l").open().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), guard.lost()).await.is_err());
    let (address, script) = server.kill().await;
    tokio::time::timeout(Duration::from_secs(5), guard.lost()).await.unwrap();

    let server = Running::start_at(address, script).await;
    let unlocks = server.script.unlocks.load(Ordering::SeqCst);
    assert_eq!(guard.release().await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(server.script.unlocks.load(Ordering::SeqCst), unlocks);
    lock.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_wait_inside_the_client_has_the_same_limit() {
    let server = Running::start().await;
    let lock = server.client().await.lock("l").open().await.unwrap();
    let guard = lock.acquire().await.unwrap();
    let error = lock.acquire().timeout(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_closed_handle_returns_an_error() {
    let server = Running::start().await;
    let counter = server.client().await.counter("hits").open().await.unwrap();
    counter.close().await.unwrap();
    counter.close().await.unwrap();
    assert_eq!(server.script.closes.load(Ordering::SeqCst), 1);
    assert_eq!(counter.get().await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_lazy_client_waits_for_a_server_that_starts_later() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::builder().endpoint(address.to_string()).connect_lazy().unwrap();
    let opening = tokio::spawn(client.counter("hits").open());
    tokio::time::sleep(Duration::from_millis(150)).await;
    let server = Running::start_at(address, Arc::default()).await;
    assert_eq!(opening.await.unwrap().unwrap().get().await.unwrap(), 42);
    drop(server);
}

#[tokio::test]
async fn a_client_speaks_through_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = Server { script: Arc::default() };
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let task = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(c::counters_server::CountersServer::new(server.clone()))
            .add_service(c::counter_server::CounterServer::new(server))
            .serve_with_incoming(incoming),
    );
    let client = Client::builder().endpoint(format!("unix:{}", path.display())).connect().await.unwrap();
    assert_eq!(client.counter("hits").open().await.unwrap().get().await.unwrap(), 42);
    task.abort();
}
