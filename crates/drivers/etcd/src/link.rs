// SPDX-License-Identifier: Apache-2.0
//! The way to the cluster: to one member at a time, whichever answers, with a token if there is a user.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use atomix_env::{Env, Instant, PerWorker, Shutdown};
use atomix_store::{Error, ErrorKind};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_rustls::rustls::ClientConfig;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};

use crate::config::Settings;
use crate::connection::Connection;
use crate::error::Failure;
use crate::tls;
use crate::wire::auth_client::AuthClient;
use crate::wire::maintenance_client::MaintenanceClient;
use crate::wire::{AuthenticateRequest, StatusRequest, StatusResponse};

/// Carries requests to the cluster.
pub(crate) struct Link {
    env: Env,
    settings: Settings,
    current: Mutex<Option<Arc<Way>>>,
    token: Mutex<Token>,
    /// Held while a connection is made. Counts the attempts, so that waiting callers share the result.
    dialing: tokio::sync::Mutex<Option<Error>>,
    attempts: AtomicU64,
    /// The endpoint that is tried next.
    next: AtomicUsize,
    renewing: tokio::sync::Mutex<()>,
    closed: Shutdown,
}

/// The connections to one member.
#[derive(Debug)]
struct Way {
    /// Carries the watches, which also show whether it still works.
    shared: Connection,
    /// For the threads that serve clients.
    own: PerWorker<Own>,
}

/// A connection of a thread.
#[derive(Debug, Clone)]
struct Own {
    connection: Connection,
    /// When it was used last. Nothing shows whether one still works on which nothing has happened for long: it is not used
    /// again.
    used: Arc<Mutex<Instant>>,
}

/// Connections of threads at most. Beyond, several threads have one in common.
const OWN_MAX: usize = 16;

#[derive(Debug, Clone, Default)]
struct Token {
    value: Option<MetadataValue<Ascii>>,
    generation: u64,
}

// === impl Link ===

impl Link {
    pub(crate) fn new(env: Env, settings: Settings) -> Self {
        Self {
            env,
            settings,
            current: Mutex::default(),
            token: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            renewing: tokio::sync::Mutex::default(),
            closed: Shutdown::new(),
        }
    }

    /// Calls the cluster and waits for the answer.
    ///
    /// A request is sent once. It goes out again only if it certainly did not leave this process, or if etcd refused its
    /// token, which it does before it applies anything.
    pub(crate) async fn call<M, R>(
        &self,
        message: M,
        send: impl Fn(Connection, Request<M>) -> BoxFuture<'static, Result<Response<R>, Status>>,
    ) -> Result<R, Failure>
    where
        M: Clone,
    {
        let mut renewed = false;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let way = self.way().await.map_err(Failure::NotSent)?;
            let connection = self.near(&way);
            let (request, generation) = self.request(message.clone());
            let answer = self.env.timeout(self.settings.request_timeout, send(connection.clone(), request));
            let failure = match answer.await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Failure::new(status),
                Err(_) => Failure::Lost(format!(
                    "no answer in time: endpoint=`{}` request-timeout=`{:?}`",
                    connection.endpoint(),
                    self.settings.request_timeout
                )),
            };
            match &failure {
                Failure::NotSent(_) => connection.give_up(),
                failure if failure.wants_another_member() => {
                    self.leave(&connection);
                    self.leave(&way.shared);
                }
                Failure::Lost(_) | Failure::Answered(_) => {}
            }
            if failure.wants_token() && !renewed {
                renewed = true;
                self.renew(&connection, generation).await.map_err(Failure::NotSent)?;
                continue;
            }
            if !matches!(failure, Failure::NotSent(_)) || attempts > self.settings.endpoints.len() {
                return Err(failure);
            }
        }
    }

    /// Returns the connection in use, or makes one.
    pub(crate) async fn connection(&self) -> Result<Connection, Error> {
        Ok(self.way().await?.shared.clone())
    }

    async fn way(&self) -> Result<Arc<Way>, Error> {
        if self.closed.is_cancelled() {
            return Err(Error::closed());
        }
        if let Some(way) = self.in_use() {
            return Ok(way);
        }
        let before = self.attempts.load(Ordering::Acquire);
        let mut dialing = self.dialing.lock().await;
        if let Some(way) = self.in_use() {
            return Ok(way);
        }
        if self.attempts.load(Ordering::Acquire) != before
            && let Some(error) = dialing.as_ref()
        {
            return Err(error.clone());
        }
        let dialed = tokio::select! {
            dialed = self.dial() => dialed,
            () = self.closed.cancelled() => Err(Error::closed()),
        };
        self.attempts.fetch_add(1, Ordering::Release);
        match dialed {
            Ok(shared) => {
                *dialing = None;
                let way = Arc::new(Way { shared, own: PerWorker::new(OWN_MAX) });
                *self.current.lock() = Some(Arc::clone(&way));
                Ok(way)
            }
            Err(error) => {
                *dialing = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Does not use `connection` any more: another member may do better.
    pub(crate) fn leave(&self, connection: &Connection) {
        // A single member that works badly works no better over another connection.
        if self.settings.endpoints.len() > 1 {
            connection.give_up();
        }
    }

    /// Makes a request that carries the token and asks for a member that knows a leader.
    pub(crate) fn request<M>(&self, message: M) -> (Request<M>, u64) {
        let token = self.token.lock().clone();
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(value) = token.value {
            request.metadata_mut().insert("token", value);
        }
        (request, token.generation)
    }

    /// Gets a new token unless that was done since `generation`.
    pub(crate) async fn renew(&self, connection: &Connection, generation: u64) -> Result<(), Error> {
        let _renewing = self.renewing.lock().await;
        if self.settings.username.is_empty() || self.token.lock().generation != generation {
            return Ok(());
        }
        self.authenticate(connection).await
    }

    /// Returns the generation of the token in use.
    pub(crate) fn generation(&self) -> u64 {
        self.token.lock().generation
    }

    /// Asks the member behind a connection how it is.
    pub(crate) async fn status(&self, connection: &Connection) -> Result<StatusResponse, Error> {
        let mut client = MaintenanceClient::with_origin(connection.clone(), connection.origin());
        let status = client.status(StatusRequest {});
        match self.env.timeout(self.settings.dial_timeout, status).await {
            Ok(Ok(status)) => Ok(status.into_inner()),
            Ok(Err(status)) => Err(Failure::new(status).of_read()),
            Err(_) => Err(Error::unavailable(format!(
                "a member does not answer: endpoint=`{}` dial-timeout=`{:?}`",
                connection.endpoint(),
                self.settings.dial_timeout
            ))),
        }
    }

    /// Refuses all further requests and breaks those in flight.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Waits for [`Link::close`]. Cancel safe.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn in_use(&self) -> Option<Arc<Way>> {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|way| way.shared.is_gone()) {
            *current = None;
        }
        current.clone()
    }

    /// Returns the connection of this thread if it has one that works, else the one that all share.
    fn near(&self, way: &Way) -> Connection {
        let now = self.env.now();
        let usable = |own: &Own| {
            let used = std::mem::replace(&mut *own.used.lock(), now);
            !own.connection.is_gone() && now.since(used) < self.settings.dial_keep_alive_time
        };
        let make = || {
            let (env, settings) = (self.env.clone(), self.settings.clone());
            let (shared, closed) = (way.shared.clone(), self.closed.clone());
            async move {
                let certificates = certificates(&env, &settings)
                    .await
                    .inspect_err(|error| tracing::debug!(%error, "no connection of its own for a thread"))
                    .ok()?;
                let opened = Connection::open(&env, &settings, shared.endpoint(), certificates, closed);
                let opened = env.timeout(settings.dial_timeout, opened).await.ok()?;
                let opened = opened
                    .inspect_err(|error| tracing::debug!(%error, "no connection of its own for a thread"));
                Some(Own { connection: opened.ok()?, used: Arc::new(Mutex::new(env.now())) })
            }
        };
        let own = way.own.get(&self.env, usable, make);
        own.map_or_else(|| way.shared.clone(), |own| own.connection)
    }

    /// Tries every member once, beginning after the one that was used last.
    async fn dial(&self) -> Result<Connection, Error> {
        let endpoints = &self.settings.endpoints;
        let certificates = certificates(&self.env, &self.settings).await?;
        let mut last = None;
        for _ in 0..endpoints.len() {
            let endpoint = &endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
            match self.dial_member(endpoint, certificates.clone()).await {
                Ok(connection) => return Ok(connection),
                // No other member has other credentials or another configuration.
                Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Config) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(endpoint, %error, "a member of etcd cannot be used");
                    last = Some(error);
                }
            }
        }
        let error =
            Error::unavailable(format!("no member of etcd can be used: members=`{}`", endpoints.len()));
        Err(match last {
            Some(last) => error.caused_by(last),
            None => error,
        })
    }

    /// Connects to a member and makes sure that it answers, knows a leader, and knows us.
    async fn dial_member(
        &self,
        endpoint: &str,
        certificates: Option<Arc<ClientConfig>>,
    ) -> Result<Connection, Error> {
        let closed = self.closed.clone();
        let opened = Connection::open(&self.env, &self.settings, endpoint, certificates, closed);
        let connection = match self.env.timeout(self.settings.dial_timeout, opened).await {
            Ok(opened) => opened?,
            Err(_) => {
                return Err(Error::unavailable(format!(
                    "etcd cannot be reached in time: endpoint=`{endpoint}` dial-timeout=`{:?}`",
                    self.settings.dial_timeout
                )));
            }
        };
        if self.status(&connection).await?.leader == 0 {
            return Err(Error::unavailable(format!("the member knows no leader: endpoint=`{endpoint}`")));
        }
        if !self.settings.username.is_empty() && self.token.lock().value.is_none() {
            self.authenticate(&connection).await?;
        }
        Ok(connection)
    }

    async fn authenticate(&self, connection: &Connection) -> Result<(), Error> {
        let mut client = AuthClient::with_origin(connection.clone(), connection.origin());
        let request = AuthenticateRequest {
            name: self.settings.username.clone(),
            password: self.settings.password.expose_secret().to_owned(),
        };
        let value =
            match self.env.timeout(self.settings.request_timeout, client.authenticate(request)).await {
                Ok(Ok(response)) => {
                    let token = response.into_inner().token;
                    Some(token.parse().map_err(|_| {
                        Error::new(ErrorKind::Internal, "etcd returned an invalid auth token")
                    })?)
                }
                // As etcd's own client: a password is ignored if etcd does not require one.
                Ok(Err(status)) if status.message() == "etcdserver: authentication is not enabled" => None,
                Ok(Err(status)) => return Err(Failure::new(status).of_read()),
                Err(_) => return Err(Error::unavailable("etcd authentication timed out")),
            };
        let mut token = self.token.lock();
        *token = Token { value, generation: token.generation + 1 };
        Ok(())
    }
}

/// Reads the certificates of the settings, if there are any.
async fn certificates(env: &Env, settings: &Settings) -> Result<Option<Arc<ClientConfig>>, Error> {
    match &settings.tls {
        Some(tls) => tls::load(env, tls).await.map(Some),
        None => Ok(None),
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("connection", &*self.current.lock())
            .field("closed", &self.closed.is_cancelled())
            .finish_non_exhaustive()
    }
}
