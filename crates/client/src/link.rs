// SPDX-License-Identifier: Apache-2.0
//! The one HTTP/2 connection to a server, and the number that identifies it.
//!
//! The connection is the session on the server, so everything that a session owns is bound to one [`Connection`].
//! The transport reconnects on its own; a [`Connection`] does not come back.

use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use atomix_env::{Env, Shutdown};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::{DialError, Error, Kind, Result, TransportFailure};
use crate::refusal::FirstFrames;

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// The settings of connections: connect timeout and keepalive.
#[derive(Debug, Clone)]
pub(crate) struct LinkSettings {
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
}

/// The kernel keeps the path of a socket in 108 bytes with a closing zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// The connections of a link.
#[derive(Debug, Default)]
struct Connections {
    /// The newest one, which may have ended.
    newest: Option<Connection>,
    /// The number of the newest one that the server did not refuse, as far as is known, and of the one before it.
    unrefused: u64,
    unrefused_before: u64,
    /// The reason of the last refused connection.
    refusal: Option<String>,
}

type Current = Arc<Mutex<Connections>>;

/// A channel and the state of its connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) channel: Channel,
    current: Current,
}

/// The state of a link when a call began, to find out later whether any server received the call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    /// The number of the first connection that the call may have used.
    first: u64,
}

/// One life of the connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Counts the connections of this link from 1.
    pub(crate) number: u64,
    closed: Shutdown,
}

#[derive(Debug, Clone)]
struct Dialer {
    env: Env,
    target: Target,
    connect_timeout: Duration,
    current: Current,
}

/// A socket that reports its drop, which follows as soon as the connection has ended.
struct Tracked {
    socket: Box<dyn Socket>,
    closed: Shutdown,
    number: u64,
    first: FirstFrames,
    current: Current,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

// === impl Target ===

impl Target {
    /// Reads `http://host:port`, `host:port` or `unix:/path`.
    pub(crate) fn parse(text: &str, default_port: u16) -> Result<Self> {
        let invalid = |why: &str| {
            // Without the user and the password that the text may have.
            let (shown, hidden) = match text.rsplit_once('@') {
                Some((_, host)) if !text.starts_with("unix:") => (host, "(hidden)@"),
                Some(_) | None => (text, ""),
            };
            Err(Error::new(
                Kind::Invalid,
                format!("{why}, write `http://host:port` or `unix:/path`: endpoint=`{hidden}{shown}`"),
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                invalid("endpoint without a path")
            } else if path.len() > UNIX_PATH_BYTES_MAX {
                let message = format!(
                    "path of a socket is too long, choose a shorter one: bytes=`{}` bytes-max=`{UNIX_PATH_BYTES_MAX}` \
                     endpoint=`{text}`",
                    path.len()
                );
                Err(Error::new(Kind::Invalid, message))
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let address = match text.split_once("://") {
            Some(("http", address)) => address.trim_end_matches('/'),
            Some(("https", _)) => return invalid("endpoint with TLS is not supported"),
            Some(_) => return invalid("endpoint with an unknown scheme"),
            None => text,
        };
        let Ok(uri) = Uri::try_from(format!("http://{address}/")) else {
            return invalid("endpoint is not an address");
        };
        if address.contains('@') {
            return invalid("endpoint with credentials is not supported");
        }
        match (uri.host(), uri.path()) {
            (Some(host), "/") if !host.is_empty() => Ok(Self::Tcp {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: uri.port_u16().unwrap_or(default_port),
            }),
            _ => invalid("endpoint is not an address"),
        }
    }

    /// Returns the URI that the transport puts into requests.
    fn origin(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("http://[{host}]:{port}"),
            Self::Tcp { host, port } => format!("http://{host}:{port}"),
            // A socket has no host name, but HTTP wants one.
            Self::Unix(_) => "http://localhost".to_owned(),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str(&self.origin()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Link ===

impl Link {
    /// Makes a link that connects with its first call. Needs a tokio runtime.
    pub(crate) fn lazy(env: &Env, target: Target, settings: &LinkSettings) -> Result<Self> {
        let (endpoint, dialer, current) = Self::prepare(env, target, settings)?;
        let channel =
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| dialer.clone().dial()));
        Ok(Self { channel, current })
    }

    /// Makes a link that is connected. Cancel safe.
    pub(crate) async fn connect(env: &Env, target: Target, settings: &LinkSettings) -> Result<Self> {
        let (endpoint, dialer, current) = Self::prepare(env, target, settings)?;
        let connector = tower::service_fn(move |_: Uri| dialer.clone().dial());
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            Error::from_status(tonic::Status::from_error(Box::new(error)), crate::error::Access::Read)
        })?;
        Ok(Self { channel, current })
    }

    fn prepare(env: &Env, target: Target, settings: &LinkSettings) -> Result<(Endpoint, Dialer, Current)> {
        let endpoint = Endpoint::from_shared(target.origin())
            .map_err(|error| {
                Error::new(Kind::Invalid, format!("endpoint is not an address: cause=`{error}`"))
            })?
            .http2_keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout)
            // A holder of a lock makes no calls, and must detect a dead connection all the same.
            .keep_alive_while_idle(true)
            .user_agent(concat!("atomix-rust/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        let current = Current::default();
        let dialer = Dialer {
            env: env.clone(),
            target,
            connect_timeout: settings.connect_timeout,
            current: Arc::clone(&current),
        };
        Ok((endpoint, dialer, current))
    }

    /// Returns the connection if there is one that lives.
    pub(crate) fn connection(&self) -> Option<Connection> {
        lock(&self.current).newest.clone().filter(|connection| !connection.is_closed())
    }

    /// Notes that a call begins.
    pub(crate) fn begin(&self) -> Begun {
        let current = lock(&self.current);
        let first = match &current.newest {
            None => 1,
            Some(newest) => newest.number + u64::from(newest.is_closed()),
        };
        Begun { first }
    }

    /// Returns why the server refused every connection that a failed call may have used, if it did: then the call was
    /// certainly not applied.
    pub(crate) fn refusal_since(&self, begun: Begun) -> Option<String> {
        let current = lock(&self.current);
        let newest = current.newest.as_ref()?.number;
        let all_refused = newest >= begun.first && current.unrefused < begun.first;
        all_refused.then(|| current.refusal.clone()).flatten()
    }
}

// === impl Connections ===

impl Connections {
    /// Adds a connection and returns its number.
    fn add(&mut self, closed: Shutdown) -> u64 {
        let number = self.newest.as_ref().map_or(1, |connection| connection.number + 1);
        self.newest = Some(Connection { number, closed });
        self.unrefused_before = std::mem::replace(&mut self.unrefused, number);
        number
    }

    fn refuse(&mut self, number: u64, reason: String) {
        if self.unrefused == number {
            self.unrefused = self.unrefused_before;
        }
        self.refusal = Some(reason);
    }
}

fn lock(current: &Current) -> MutexGuard<'_, Connections> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Connection ===

impl Connection {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until the connection has ended. Cancel safe.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

// === impl Dialer ===

impl Dialer {
    async fn dial(self) -> std::result::Result<TokioIo<Tracked>, DialError> {
        let failed = |cause: &dyn std::fmt::Display| DialError {
            failure: TransportFailure::Unreachable,
            message: format!("server not reachable: endpoint=`{}` cause=`{cause}`", self.target),
        };
        let socket = match self.env.timeout(self.connect_timeout, self.open()).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err(self.denied(&error).unwrap_or_else(|| failed(&error))),
            Err(elapsed) => return Err(failed(&elapsed)),
        };
        let closed = Shutdown::new();
        let number = lock(&self.current).add(closed.clone());
        let first = FirstFrames::default();
        Ok(TokioIo::new(Tracked { socket, closed, number, first, current: self.current }))
    }

    /// Makes the error for a socket whose rights do not let this user connect, if that is the cause.
    fn denied(&self, error: &io::Error) -> Option<DialError> {
        let Target::Unix(path) = &self.target else { return None };
        if error.kind() != io::ErrorKind::PermissionDenied {
            return None;
        }
        let socket = match std::fs::metadata(path) {
            Ok(file) => {
                format!("mode=`{:04o}` uid=`{}` gid=`{}`", file.mode() & 0o7777, file.uid(), file.gid())
            }
            Err(error) => format!("cause=`{error}`"),
        };
        let message = format!(
            "permission denied on the socket: set `sockets.mode` or `sockets.group` of the server, or the rights of the \
             folder: endpoint=`{}` {socket}",
            self.target
        );
        Some(DialError { failure: TransportFailure::SocketDenied, message })
    }

    async fn open(&self) -> io::Result<Box<dyn Socket>> {
        match &self.target {
            Target::Tcp { host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port)).await?;
                // Requests are small and each waits for its answer.
                socket.set_nodelay(true)?;
                Ok(Box::new(socket))
            }
            Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

// === impl Tracked ===

impl Drop for Tracked {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.socket).poll_read(context, buffer));
        if let Some(reason) = this.first.refusal(&buffer.filled()[before..]) {
            lock(&this.current).refuse(this.number, reason);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Target {
        Target::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn endpoints_have_three_forms() {
        assert_eq!(Target::parse("http://127.0.0.1:1", 5678).unwrap(), tcp("127.0.0.1", 1));
        assert_eq!(Target::parse("http://[::1]:7/", 5678).unwrap(), tcp("::1", 7));
        assert_eq!(Target::parse("localhost", 5678).unwrap(), tcp("localhost", 5678));
        assert_eq!(Target::parse("unix:/run/a", 0).unwrap(), Target::Unix("/run/a".into()));
        assert_eq!(Target::parse("unix:///run/a", 0).unwrap(), Target::Unix("/run/a".into()));
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_refused() {
        for text in ["", "unix:", "https://a:1", "ftp://a", "http://a/b", "http://:1", "a b"] {
            assert_eq!(Target::parse(text, 1).unwrap_err().kind(), Kind::Invalid, "{text}");
        }
        let error = Target::parse(&format!("unix:/{}", "x".repeat(107)), 1).unwrap_err();
        assert!(error.message().contains("bytes=`108` bytes-max=`107`"), "{error}");
        for text in ["http://u:hunter2@a:1", "https://u:hunter2@a:1", "u:hunter2@a", "ftp://hunter2@a"] {
            let message = Target::parse(text, 1).unwrap_err().to_string();
            assert!(!message.contains("hunter2") && message.contains("endpoint=`(hidden)@a"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_call_was_refused_only_if_every_connection_that_it_may_have_used_was() {
        let current = Current::default();
        let link = Link { channel: Channel::from_static("http://127.0.0.1:1").connect_lazy(), current };
        let begun = link.begin();
        assert_eq!(link.refusal_since(begun), None, "nothing was dialled");
        let closed = Shutdown::new();
        let number = lock(&link.current).add(closed.clone());
        let second = link.begin();
        lock(&link.current).refuse(number, "full".to_owned());
        closed.cancel();
        assert_eq!(
            [begun, second].map(|begun| link.refusal_since(begun)),
            [0; 2].map(|_| Some("full".into()))
        );
        let third = link.begin();
        assert_eq!(link.refusal_since(third), None, "only an earlier connection was refused");
        let served = Shutdown::new();
        lock(&link.current).add(served.clone());
        assert_eq!(link.refusal_since(third), None);
        served.cancel();
        let fourth = link.begin();
        let number = lock(&link.current).add(Shutdown::new());
        lock(&link.current).refuse(number, "full again".to_owned());
        assert_eq!(link.refusal_since(third), None, "the connection before may have carried the call");
        assert_eq!(link.refusal_since(fourth), Some("full again".to_owned()));
    }

    #[tokio::test]
    async fn an_unreachable_server_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let settings = LinkSettings {
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(1),
        };
        let target = Target::parse(&address.to_string(), 0).unwrap();
        let error = Link::connect(&Env::real(), target, &settings).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!(error.transport_failure(), Some(TransportFailure::Unreachable));
        assert!(
            error.message().starts_with(&format!("server not reachable: endpoint=`http://{address}`")),
            "{error}"
        );
    }
}
