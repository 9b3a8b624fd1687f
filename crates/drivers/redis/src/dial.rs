// SPDX-License-Identifier: Apache-2.0
//! Makes connections: TCP or a socket, TLS over it, and the greeting.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, Shutdown, Task};
use atomix_store::{Error, Secret};
use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::Settings;
use crate::error::{Asked, translate};
use crate::tls;

/// Makes connections according to the settings.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) env: Env,
    pub(crate) settings: Arc<Settings>,
    tls: Option<TlsConnector>,
}

/// One connection, shared by all callers. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    connection: MultiplexedConnection,
    driver: Task,
    env: Env,
    timeout: Duration,
    /// Set when the connection has ended or must not be used any more.
    pub(crate) broken: Shutdown,
}

/// The reason why a call has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server answered with an error, or the connection ended with one.
    Said(RedisError),
    /// The time for an answer is over.
    Silent,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Requests that may wait for the connection. Bounds what piles up while the kernel takes no more bytes.
const PIPELINE: usize = 1024;

// === impl Dialer ===

impl Dialer {
    pub(crate) async fn new(env: Env, settings: Arc<Settings>) -> Result<Self, Error> {
        let tls = if settings.tls { Some(tls::connector(&env, &settings).await?) } else { None };
        Ok(Self { env, settings, tls })
    }

    /// Connects to a server that keeps data. `pushes` receives the push messages of the server.
    pub(crate) async fn server(
        &self,
        address: &str,
        pushes: Option<Arc<dyn AsyncPushSender>>,
        broken: Shutdown,
    ) -> Result<Wire, Error> {
        let settings = &self.settings;
        let info = RedisConnectionInfo::default().set_db(i64::from(settings.database));
        let info = credentials(info, settings.username.as_deref(), settings.password.as_ref());
        self.dial(address, info, pushes, broken).await
    }

    /// Connects to a server that leads, as far as that can be known.
    pub(crate) async fn master(&self, address: &str, broken: Shutdown) -> Result<Wire, Error> {
        let wire = self.server(address, None, broken).await?;
        if let Some(master) = &self.settings.sentinel_master {
            // A master that was deposed may not know it yet when sentinels already do, and the other way round.
            let role = wire.call(&redis::cmd("ROLE")).await;
            let role = role.map_err(|failure| failure.translate(Asked::Read))?;
            let leads = matches!(&role, Value::Array(facts)
                if matches!(facts.first(), Some(Value::BulkString(role)) if role == b"master"));
            if !leads {
                let message =
                    format!("the server is no master yet: sentinel-master=`{master}` address=`{address}`");
                return Err(Error::unavailable(message));
            }
        }
        Ok(wire)
    }

    /// Connects to a sentinel.
    pub(crate) async fn sentinel(&self, address: &str) -> Result<Wire, Error> {
        let settings = &self.settings;
        let info = RedisConnectionInfo::default();
        let info =
            credentials(info, settings.sentinel_username.as_deref(), settings.sentinel_password.as_ref());
        self.dial(address, info, None, Shutdown::new()).await
    }

    async fn dial(
        &self,
        address: &str,
        info: RedisConnectionInfo,
        pushes: Option<Arc<dyn AsyncPushSender>>,
        broken: Shutdown,
    ) -> Result<Wire, Error> {
        let info = info.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            // Time is ours: the environment has the clock.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE);
        if let Some(pushes) = pushes {
            config = config.set_push_sender(move |push| pushes.send(push));
        }
        let connect = async {
            let stream = self.stream(address).await.map_err(|error| {
                Error::unavailable(format!("cannot connect to redis: address=`{address}`")).caused_by(error)
            })?;
            // No call was sent yet, so nothing was applied.
            MultiplexedConnection::new_with_config(&info, stream, config)
                .await
                .map_err(|error| translate(error, Asked::Read))
        };
        let timeout = self.settings.connect_timeout;
        let Ok(connected) = self.env.timeout(timeout, connect).await else {
            let message = format!("redis does not answer: address=`{address}` waited=`{timeout:?}`");
            return Err(Error::unavailable(message));
        };
        let (connection, driver) = connected?;
        let ended = broken.clone().drop_guard();
        let driver = self.env.spawn(async move {
            // However it ends: what waits for this connection must not wait for ever.
            let _ended = ended;
            driver.await;
        });
        let (env, timeout) = (self.env.clone(), self.settings.response_timeout);
        Ok(Wire { connection, driver, env, timeout, broken })
    }

    async fn stream(&self, address: &str) -> std::io::Result<Box<dyn Io>> {
        if address.contains('/') {
            return Ok(Box::new(UnixStream::connect(address).await?));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = self.settings.tls_server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
        Ok(Box::new(tls.connect(name, stream).await?))
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn credentials(
    info: RedisConnectionInfo,
    username: Option<&str>,
    password: Option<&Secret>,
) -> RedisConnectionInfo {
    let info = match username {
        Some(username) => info.set_username(username),
        None => info,
    };
    match password {
        Some(password) => info.set_password(password.expose_secret()),
        None => info,
    }
}

// === impl Wire ===

impl Wire {
    /// Asks and waits for the answer. A call that is dropped may have been sent.
    pub(crate) async fn call(&self, cmd: &Cmd) -> Result<Value, Failure> {
        let mut connection = self.connection.clone();
        let answer = self.in_time(self.timeout, connection.send_packed_command(cmd)).await?;
        answer.extract_error().map_err(Failure::Said)
    }

    /// Asks several things at once and waits for all answers, for `longer` than for others.
    pub(crate) async fn call_all(
        &self,
        pipeline: &Pipeline,
        longer: Duration,
    ) -> Result<Vec<Value>, Failure> {
        let mut connection = self.connection.clone();
        let count = pipeline.len();
        let answers = connection.send_packed_commands(pipeline, 0, count);
        let answers = self.in_time(self.timeout + longer, answers).await?;
        answers.into_iter().map(|answer| answer.extract_error().map_err(Failure::Said)).collect()
    }

    async fn in_time<T>(
        &self,
        timeout: Duration,
        answer: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Failure> {
        match self.env.timeout(timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.code().is_none() {
                    // Not the server: the connection.
                    self.broken.cancel();
                }
                Err(Failure::Said(error))
            }
            Err(_) => {
                // Later answers would come as late. A new connection shows at once whether the server is there.
                self.broken.cancel();
                Err(Failure::Silent)
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.broken.cancel();
        self.driver.abort();
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn translate(self, asked: Asked) -> Error {
        match self {
            Self::Said(error) => translate(error, asked),
            Self::Silent => crate::error::unanswered(asked),
        }
    }
}
