// SPDX-License-Identifier: Apache-2.0
//! The accept loop, and the life of a connection.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::{Env, Instant, Shutdown};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Either, select};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tower::Service;

use super::body::{Answer, Budget, Request};
use super::connection::{Connection, Observer, Peer};
use super::frames::Policy;
use super::limits::Limits;
use super::listener::Listener;
use super::socket::{Socket, Watched};

/// Accepts and drives connections. All listeners of a transport share its limits. Cheap to clone.
#[derive(Debug)]
pub struct Transport<O> {
    shared: Arc<Shared<O>>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still working when the grace was over.
    pub cut: usize,
}

#[derive(Debug)]
struct Shared<O> {
    limits: Limits,
    observer: O,
    env: Env,
    open: AtomicUsize,
    per_address: Mutex<HashMap<IpAddr, usize>>,
    changed: Notify,
}

/// A connection's place among those that are allowed; tells everybody when it is dropped.
struct Place<O: Observer> {
    shared: Arc<Shared<O>>,
    connection: Arc<Connection>,
}

/// Runs the streams of a connection.
#[derive(Clone)]
struct Tasks(Env);

/// Pause after an accept that failed, as it does when file handles run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

// === impl Transport ===

impl<O: Observer> Transport<O> {
    /// Makes a transport.
    pub fn new(limits: Limits, observer: O, env: Env) -> Self {
        let (open, per_address, changed) = (AtomicUsize::new(0), Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { limits, observer, env, open, per_address, changed }) }
    }

    /// Answers what comes over `listeners` with `service` until `shutdown`; then takes no more connections and tells
    /// those that are there to go (GOAWAY). Does not wait for them: see [`Transport::drained`].
    pub async fn serve<S, B>(&self, listeners: Vec<Listener>, service: S, shutdown: Shutdown)
    where
        S: Service<http::Request<Request<Incoming>>, Response = http::Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let accept = |listener| {
            let (shared, service, shutdown) = (Arc::clone(&self.shared), service.clone(), shutdown.clone());
            async move { shared.accept(listener, service, shutdown).await }
        };
        futures::future::join_all(listeners.into_iter().map(accept)).await;
    }

    /// Waits until all connections have ended, or closes the rest after `grace`. Cancel safe.
    pub async fn drained(&self, grace: Duration) -> Drained {
        let shared = &self.shared;
        let empty = async {
            loop {
                let changed = shared.changed.notified();
                if shared.open.load(Ordering::Acquire) == 0 {
                    return;
                }
                changed.await;
            }
        };
        match shared.env.timeout(grace, empty).await {
            Ok(()) => Drained { cut: 0 },
            Err(_) => Drained { cut: shared.open.load(Ordering::Acquire) },
        }
    }
}

impl<O> Clone for Transport<O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

// === impl Shared ===

impl<O: Observer> Shared<O> {
    async fn accept<S, B>(self: Arc<Self>, listener: Listener, service: S, shutdown: Shutdown)
    where
        S: Service<http::Request<Request<Incoming>>, Response = http::Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut logged: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let Some(place) = self.admit(peer) else { continue };
                    let task = Arc::clone(&self).drive(socket, place, service.clone(), shutdown.clone());
                    self.env.detach(task);
                }
                Err(error) => {
                    let now = self.env.now();
                    if logged.is_none_or(|logged| now.since(logged) >= ACCEPT_LOG_INTERVAL) {
                        tracing::warn!(%error, "a connection cannot be accepted");
                        logged = Some(now);
                    }
                    self.env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a connection its place; `None` if there are too many.
    fn admit(self: &Arc<Self>, peer: Peer) -> Option<Place<O>> {
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.limits.connections_max {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        if let Peer::Tcp(address) = peer {
            let mut per_address = self.per_address.lock();
            let count = per_address.entry(address.ip()).or_default();
            if *count >= self.limits.connections_per_peer_max {
                self.open.fetch_sub(1, Ordering::AcqRel);
                return None;
            }
            *count += 1;
        }
        let connection = Arc::new(Connection::new(peer, self.env.now()));
        self.observer.opened(&connection);
        Some(Place { shared: Arc::clone(self), connection })
    }

    async fn drive<S, B>(self: Arc<Self>, socket: Socket, place: Place<O>, service: S, shutdown: Shutdown)
    where
        S: Service<http::Request<Request<Incoming>>, Response = http::Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (limits, env) = (&self.limits, &self.env);
        let connection = Arc::clone(&place.connection);
        let greeted = Arc::new(AtomicBool::new(false));
        let policy = Policy { pings_per_second_max: limits.pings_per_second_max };
        let io = TokioIo::new(Watched::new(socket, policy, env.clone(), Arc::clone(&greeted)));
        let sends = Budget::new(limits.connection_send_bytes_max, env.clone());
        let receives = Budget::new(limits.connection_receive_bytes_max, env.clone());
        let answer = {
            let (connection, env) = (Arc::clone(&connection), env.clone());
            service_fn(move |request: http::Request<Incoming>| {
                let stream = connection.stream(&env);
                let mut request = request.map(|body| Request::new(body, receives.clone()));
                request.extensions_mut().insert(Arc::clone(&connection));
                let (answer, sends) = (service.clone().call(request), sends.clone());
                answer.map(|answer| answer.map(|answer| answer.map(|body| Answer::new(body, sends, stream))))
            })
        };
        let serving = http2::Builder::new(Tasks(env.clone()))
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection_max)
            .max_local_error_reset_streams(limits.local_reset_streams_max)
            .max_pending_accept_reset_streams(limits.pending_reset_streams_max)
            .max_header_list_size(limits.header_list_bytes_max)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_send_buf_size(limits.stream_send_bytes_max)
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout)
            .serve_connection(io, answer);
        let mut serving = std::pin::pin!(serving);
        let end = std::pin::pin!(self.end(&connection, &greeted));
        let leave = std::pin::pin!(async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = end => {}
            }
        });
        let closing = std::pin::pin!(connection.closing.cancelled());
        // Drops the connection, and with it everything that runs on it, when it is closed from outside.
        let driven = async {
            if let Either::Right(((), _)) = select(serving.as_mut(), leave).await {
                if !greeted.load(Ordering::Relaxed) {
                    return;
                }
                serving.as_mut().graceful_shutdown();
                if let Err(error) = serving.await {
                    tracing::debug!(%error, peer = %connection.peer(), "connection broke while it drained");
                }
            }
        };
        select(std::pin::pin!(driven), closing).await;
        drop(place);
    }

    /// Waits until the connection has no reason to stay: it never began to speak, or was idle for too long.
    async fn end(&self, connection: &Arc<Connection>, greeted: &AtomicBool) {
        self.env.sleep(self.limits.preface_timeout).await;
        if !greeted.load(Ordering::Relaxed) {
            return;
        }
        loop {
            self.env.sleep(self.limits.idle_timeout / 4).await;
            let quiet = connection.quiet_since().map(|since| self.env.now().since(since));
            if quiet.is_some_and(|quiet| quiet >= self.limits.idle_timeout)
                && self.observer.may_close(connection)
            {
                return;
            }
        }
    }
}

// === impl Place ===

impl<O: Observer> Drop for Place<O> {
    fn drop(&mut self) {
        self.shared.observer.closed(&self.connection);
        if let Peer::Tcp(address) = self.connection.peer() {
            let mut per_address = self.shared.per_address.lock();
            if let Some(count) = per_address.get_mut(&address.ip()) {
                *count -= 1;
                if *count == 0 {
                    per_address.remove(&address.ip());
                }
            }
        }
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        self.shared.changed.notify_waiters();
    }
}

// === impl Tasks ===

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.detach(future.map(drop));
    }
}
