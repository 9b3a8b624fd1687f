// SPDX-License-Identifier: Apache-2.0
//! One HTTP/2 connection to one member.
//!
//! It never reconnects by itself, and it reports for every request whether any part of it may have reached
//! the member: that separates "certainly not applied" from "perhaps applied".

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atomix_env::{Env, Shutdown};
use atomix_store::Error;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::body::Body;

use crate::config::{Settings, address};
use crate::error::Broken;
use crate::http2::{self, Answer, Calls, KeepAlive};

/// A connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection {
    endpoint: Arc<str>,
    origin: http::Uri,
    env: Env,
    calls: Calls,
    /// Cancelled when the connection is gone, or was given up.
    gone: Shutdown,
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

// === impl Connection ===

impl Connection {
    /// Connects to a member, until `end`, over TLS if there are `certificates`. The member is not asked whether it works. The connection is driven by the thread
    /// that this is called on.
    pub(crate) async fn open(
        env: &Env,
        settings: &Settings,
        endpoint: &str,
        certificates: Option<Arc<ClientConfig>>,
        end: Shutdown,
    ) -> Result<Self, Error> {
        let unreachable = |error: io::Error| {
            Error::unavailable(format!("etcd cannot be reached: endpoint=`{endpoint}`")).caused_by(error)
        };
        let (host, port) = address(endpoint)?;
        let socket = TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        let mut scheme = "http";
        let mut stream: Pin<Box<dyn Socket>> = Box::pin(socket);
        if let Some(certificates) = certificates {
            scheme = "https";
            let named = settings.tls.as_ref().map(|tls| tls.server_name.clone());
            let name = named.filter(|name| !name.is_empty()).unwrap_or_else(|| host.clone());
            let name = ServerName::try_from(name).map_err(|error| {
                Error::config("store configuration is wrong: `tls.server-name`").caused_by(error)
            })?;
            let connector = TlsConnector::from(certificates);
            stream = Box::pin(connector.connect(name, stream).await.map_err(unreachable)?);
        }
        let keep_alive = KeepAlive {
            interval: settings.dial_keep_alive_time,
            timeout: settings.dial_keep_alive_timeout,
            while_idle: settings.permit_without_stream,
        };
        let (calls, driver) = http2::handshake(env, keep_alive, stream)
            .await
            .map_err(|error| unreachable(io::Error::other(error)))?;
        let gone = Shutdown::new();
        let ended = gone.clone().drop_guard();
        env.detach(async move {
            // However it ends: what waits for this connection must not wait for ever.
            let _ended = ended;
            tokio::select! {
                // Dropping the driver breaks the requests in flight.
                () = end.cancelled() => {}
                result = driver => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection to etcd broke");
                    }
                }
            }
        });
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let origin =
            format!("{scheme}://{host}:{port}").parse().map_err(|error: http::uri::InvalidUri| {
                Error::config(format!("store configuration is wrong: `endpoints`: endpoint=`{endpoint}`"))
                    .caused_by(error)
            })?;
        Ok(Self { endpoint: endpoint.into(), origin, env: env.clone(), calls, gone })
    }

    /// Returns the endpoint as it was configured.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns scheme, host and port for requests.
    pub(crate) fn origin(&self) -> http::Uri {
        self.origin.clone()
    }

    /// Marks the connection as unusable for new requests. Requests in flight continue.
    pub(crate) fn give_up(&self) {
        self.gone.cancel();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Waits until the connection is gone or given up. Cancel safe.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<Answer>;
    type Error = Broken;
    type Future = BoxFuture<'static, Result<Self::Response, Broken>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // A closed connection fails the request itself, which then knows that nothing was sent.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (env, calls) = (self.env.clone(), self.calls.clone());
        Box::pin(async move { calls.call(&env, request).await })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
