// SPDX-License-Identifier: Apache-2.0
//! The client: one connection, and the rules by which calls are made and repeated.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Backoff, Env, Instant};
use tokio::runtime::Handle;
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::error::{Access, Error, Kind, Result};
use crate::fence;
use crate::link::{Link, LinkSettings, Target};
use crate::local_locks::LocalLockQueue;

/// A client of one runtime. Cheap to clone; clones share the connection.
///
/// All calls of a client go over **one HTTP/2 connection, and that connection is the session** on the server: it owns
/// the locks and candidacies that the client got. When the connection breaks, the server releases them immediately. The
/// client connects again with the next call, but what it held is lost: [`lock::Guard::lost`](crate::lock::Guard::lost)
/// and [`election::Candidacy`](crate::election::Candidacy) report that. Two owners in one process are two clients.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    env: Env,
    runtime: Handle,
    settings: Settings,
    link: Link,
    control: Link,
    local_locks: LocalLockQueue,
}

#[derive(Debug, Clone)]
struct Settings {
    call_timeout: Duration,
    retry_budget: Duration,
}

/// Settings of a [`Client`]. Made by [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct Builder {
    env: Option<Env>,
    endpoint: String,
    control: String,
    settings: Settings,
    link: LinkSettings,
}

/// Paces the repetition of one call.
#[derive(Debug)]
pub(crate) struct Retry<'a> {
    client: &'a Client,
    started: Instant,
    backoff: Backoff,
}

/// The time limit of one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// The call timeout of the client, which the server learns too.
    Call,
    /// The call timeout of the client until the stream is open, then none.
    Open,
    /// This time beyond the call timeout, or none: a call that waits on purpose. The server has its own limit.
    Wait(Option<Duration>),
}

// === impl Builder ===

impl Builder {
    /// Sets where the primitives are served: `http://host:port` or `unix:/path`.
    /// Default: `http://127.0.0.1:5678`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = endpoint.into();
        self
    }

    /// Sets where [`Client::control`] and [`Client::inspect`] are served. Default: `http://127.0.0.1:5679`.
    pub fn control(mut self, endpoint: impl Into<String>) -> Self {
        self.control = endpoint.into();
        self
    }

    /// Sets how long one attempt of a call may take. It is also sent to the server. Calls that wait on purpose, for a
    /// lock or on a stream, are not limited by it. Default: 10 seconds.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.settings.call_timeout = timeout;
        self
    }

    /// Sets for how long a call is repeated while the answer is [`Kind::Unavailable`], which means that it was
    /// certainly not applied. The pauses begin with 50 ms, double up to 2 seconds and vary by a fifth. Zero: every
    /// call is tried once. Not repeated are calls that are refused because the store or the table of primitives is full
    /// (`STORE_FULL`, `PRIMITIVES_FULL`), and those to something that does not speak HTTP/2. Default: 10 seconds.
    pub fn retry_budget(mut self, budget: Duration) -> Self {
        self.settings.retry_budget = budget;
        self
    }

    /// Sets how long a connection attempt may take. Default: 5 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.link.connect_timeout = timeout;
        self
    }

    /// Sets how a dead connection is found: a ping after each `interval` (default: 10 seconds), which has to be
    /// answered within `timeout` (default: 5 seconds). The holder of a lock learns of its loss after their sum at
    /// the latest.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.link.keepalive_interval = interval;
        self.link.keepalive_timeout = timeout;
        self
    }

    /// Sets the source of time and chance. Default: the real world.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Makes a client that connects with its first call.
    ///
    /// Fails with [`Kind::Invalid`] if an endpoint cannot be used, and outside of a tokio runtime.
    pub fn connect_lazy(self) -> Result<Client> {
        let env = self.env.clone().unwrap_or_else(Env::real);
        let runtime = runtime()?;
        let link = Link::lazy(&env, Target::parse(&self.endpoint, PRIMITIVES_PORT)?, &self.link)?;
        self.finish(env, runtime, link)
    }

    /// Makes a client that is connected. Tries once. Cancel safe.
    ///
    /// Fails with [`Kind::Unavailable`] if the server cannot be reached, and as [`Builder::connect_lazy`].
    pub async fn connect(self) -> Result<Client> {
        let env = self.env.clone().unwrap_or_else(Env::real);
        let runtime = runtime()?;
        let link = Link::connect(&env, Target::parse(&self.endpoint, PRIMITIVES_PORT)?, &self.link).await?;
        self.finish(env, runtime, link)
    }

    fn finish(self, env: Env, runtime: Handle, link: Link) -> Result<Client> {
        let control = Link::lazy(&env, Target::parse(&self.control, CONTROL_PORT)?, &self.link)?;
        let shared = Shared {
            env,
            runtime,
            settings: self.settings,
            link,
            control,
            local_locks: LocalLockQueue::default(),
        };
        Ok(Client { shared: Arc::new(shared) })
    }
}

/// The first and the longest pause before a call is repeated.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(50);
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The port of the primitives unless an endpoint names another.
const PRIMITIVES_PORT: u16 = 5678;
/// The port of the control services unless an endpoint names another.
const CONTROL_PORT: u16 = 5679;

fn runtime() -> Result<Handle> {
    Handle::try_current()
        .map_err(|_| Error::new(Kind::Invalid, "no tokio runtime here, connect inside of one"))
}

// === impl Client ===

impl Client {
    /// Returns a builder with the defaults.
    pub fn builder() -> Builder {
        Builder {
            env: None,
            endpoint: format!("http://127.0.0.1:{PRIMITIVES_PORT}"),
            control: format!("http://127.0.0.1:{CONTROL_PORT}"),
            settings: Settings {
                call_timeout: Duration::from_secs(10),
                retry_budget: Duration::from_secs(10),
            },
            link: LinkSettings {
                connect_timeout: Duration::from_secs(5),
                keepalive_interval: Duration::from_secs(10),
                keepalive_timeout: Duration::from_secs(5),
            },
        }
    }

    /// Asks the health service of the server whether `service` serves. The empty one is the process, `store:NAMESPACE/NAME`
    /// a store (`store:/memory`), and each gRPC service has its own name. Cancel safe.
    ///
    /// Fails with [`Kind::NotFound`] if there is no such service.
    pub async fn health(&self, service: impl Into<String>) -> Result<bool> {
        let request = HealthCheckRequest { service: service.into() };
        let check = |channel, request| async move { HealthClient::new(channel).check(request).await };
        let answer = self.attempt(self.link(), Access::Read, Limit::Call, request, &check).await?;
        Ok(answer.status() == ServingStatus::Serving)
    }

    /// Waits until the connection that is in use now has ended, and with it the session; returns at once if there is
    /// none. Cancel safe.
    pub async fn disconnected(&self) {
        if let Some(connection) = self.shared.link.connection() {
            connection.closed().await;
        }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.shared.env
    }

    /// Returns the runtime for work that goes on after a guard was dropped, perhaps outside of any runtime.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    pub(crate) fn link(&self) -> &Link {
        &self.shared.link
    }

    pub(crate) fn control_link(&self) -> &Link {
        &self.shared.control
    }

    pub(crate) fn local_locks(&self) -> &LocalLockQueue {
        &self.shared.local_locks
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.shared.settings.call_timeout
    }

    pub(crate) fn retry(&self) -> Retry<'_> {
        Retry { client: self, started: self.env().now(), backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX) }
    }

    /// Makes a control call, repeated as long as the budget lasts.
    pub(crate) async fn control_call<Req, Res, F, Fut>(
        &self,
        access: Access,
        request: Req,
        method: F,
    ) -> Result<Res>
    where
        Req: Clone,
        F: Fn(Channel, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = std::result::Result<tonic::Response<Res>, Status>>,
    {
        let mut retry = self.retry();
        loop {
            match self.attempt(self.control_link(), access, Limit::Call, request.clone(), &method).await {
                Ok(response) => return Ok(response),
                Err(error) => retry.pause_after(error).await?,
            }
        }
    }

    /// Makes a call once.
    pub(crate) async fn attempt<Req, Res, F, Fut>(
        &self,
        link: &Link,
        access: Access,
        limit: Limit,
        request: Req,
        method: &F,
    ) -> Result<Res>
    where
        F: Fn(Channel, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = std::result::Result<tonic::Response<Res>, Status>>,
    {
        let mut request = tonic::Request::new(request);
        if access == Access::Write {
            fence::present(request.metadata_mut());
        }
        let timeout = match limit {
            Limit::Call => {
                request.set_timeout(self.call_timeout());
                Some(self.call_timeout())
            }
            Limit::Open => Some(self.call_timeout()),
            Limit::Wait(time) => time.map(|time| time.saturating_add(self.call_timeout())),
        };
        let begun = link.begin();
        let call = method(link.channel.clone(), request);
        let answer = match timeout {
            None => call.await,
            Some(timeout) => {
                let answer = self.env().timeout(timeout, call).await;
                answer.map_err(|_| {
                    Error::new(Kind::Timeout, format!("no answer in time: timeout=`{timeout:?}`"))
                })?
            }
        };
        answer.map(tonic::Response::into_inner).map_err(|status| {
            // A status with a source comes from the transport.
            match status.source().and_then(|_| link.refusal_since(begun)) {
                Some(reason) => Error::refused(&reason, status),
                None => Error::from_status(status, access),
            }
        })
    }
}

// === impl Retry ===

impl Retry<'_> {
    /// Waits before the next attempt; returns `error` if there must not be one.
    pub(crate) async fn pause_after(&mut self, error: Error) -> Result<()> {
        if !error.is_retryable() || !error.may_pass() {
            return Err(error);
        }
        let env = self.client.env();
        let pause = self.backoff.next_at_least(error.retry_after().unwrap_or_default(), env);
        if env.now().since(self.started) + pause > self.client.shared.settings.retry_budget {
            return Err(error);
        }
        env.sleep(pause).await;
        Ok(())
    }
}
