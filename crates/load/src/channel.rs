// SPDX-License-Identifier: Apache-2.0
//! gRPC calls straight on HTTP/2.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use atomix_env::Env;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::join_all;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::failure::Failure;

/// The bytes that a peer may send before they are read: the windows of tonic's client.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// The number of calls of [`Channel::each`] in flight.
const CALLERS: usize = 64;

/// One HTTP/2 connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Channel {
    requests: SendRequest<Bytes>,
}

/// A method of a service, ready to be called.
#[derive(Debug, Clone)]
pub struct Method(Request<()>);

/// The messages of an answer that goes on. Dropping it cancels the call.
#[derive(Debug)]
pub struct Stream {
    body: RecvStream,
    unread: BytesMut,
    /// Kept open for calls whose client goes on sending.
    _request: h2::SendStream<Bytes>,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Writes a message with the prefix that gRPC wants.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a message of a benchmark is small"));
    message.encode(&mut frame).expect("there is room for it");
    frame.freeze()
}

// === impl Method ===

impl Method {
    /// Makes a method from its path, `/package.Service/Method`.
    pub fn new(path: &str) -> Self {
        let request = Request::post(format!("http://localhost{path}"))
            .version(http::Version::HTTP_2)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(());
        Self(request.expect("the path of a method is a path"))
    }
}

// === impl Channel ===

impl Channel {
    /// Connects to `http://host:port` or `unix:/path`.
    pub async fn connect(env: &Env, server: &str) -> Result<Self, Failure> {
        let unreachable =
            |cause: &dyn std::fmt::Display| Failure::Broken(format!("server=`{server}` cause=`{cause}`"));
        let socket: Box<dyn Socket> = if let Some(path) = server.strip_prefix("unix:") {
            Box::new(UnixStream::connect(path).await.map_err(|error| unreachable(&error))?)
        } else {
            let address = server.strip_prefix("http://").unwrap_or(server).trim_end_matches('/');
            let socket = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
            socket.set_nodelay(true).map_err(|error| unreachable(&error))?;
            Box::new(socket)
        };
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(|error| unreachable(&error))?;
        // Its end shows in the calls.
        env.detach(async move { drop(connection.await) });
        Ok(Self { requests })
    }

    /// Makes a call and returns the message of its answer. `message` comes from [`frame`]. Cancel safe.
    pub async fn unary(&self, method: &Method, message: Bytes) -> Result<Bytes, Failure> {
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (response, mut request) = requests.send_request(method.0.clone(), false).map_err(broken)?;
        request.send_data(message, true).map_err(broken)?;
        let (parts, mut body) = response.await.map_err(broken)?.into_parts();
        let mut answer = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(broken)?;
            body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
            answer = if answer.is_empty() { chunk } else { [answer, chunk].concat().into() };
        }
        match body.trailers().await.map_err(broken)? {
            Some(trailers) => succeeded(&trailers)?,
            None => succeeded(&parts.headers)?,
        }
        answer.advance(5.min(answer.len()));
        Ok(answer)
    }

    /// Makes `count` calls concurrently: one with each of the messages that `message` makes from 0 on.
    pub async fn each(
        &self,
        method: &Method,
        count: u64,
        message: impl Fn(u64) -> Bytes,
    ) -> Result<(), Failure> {
        let next = AtomicU64::new(0);
        let caller = async || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return Ok(());
                }
                self.unary(method, message(at)).await?;
            }
        };
        join_all((0..CALLERS).map(|_| caller())).await.into_iter().collect()
    }

    /// Makes a call whose answer is a stream, and waits until the server has begun it. Cancel safe.
    pub async fn stream(&self, method: &Method, message: Bytes) -> Result<Stream, Failure> {
        self.open(method, message, true).await
    }

    /// As [`Channel::stream`] for a call whose client could send more.
    pub async fn open(&self, method: &Method, message: Bytes, last: bool) -> Result<Stream, Failure> {
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (response, mut request) = requests.send_request(method.0.clone(), false).map_err(broken)?;
        request.send_data(message, last).map_err(broken)?;
        let (parts, body) = response.await.map_err(broken)?.into_parts();
        if parts.headers.contains_key("grpc-status") {
            succeeded(&parts.headers)?;
        }
        Ok(Stream { body, unread: BytesMut::new(), _request: request })
    }
}

// === impl Stream ===

impl Stream {
    /// Waits for messages and returns how many arrived together, 0 at the end. Cancel safe.
    pub async fn arrived(&mut self) -> Result<usize, Failure> {
        let mut arrived = 0;
        self.read(|_| arrived += 1).await?;
        Ok(arrived)
    }

    /// As [`Stream::arrived`], and shows each message to `see`.
    pub async fn read(&mut self, mut see: impl FnMut(Bytes)) -> Result<(), Failure> {
        let mut seen = false;
        while !seen {
            let Some(chunk) = self.body.data().await else {
                if let Some(trailers) = self.body.trailers().await.map_err(broken)? {
                    succeeded(&trailers)?;
                }
                return Ok(());
            };
            self.take(chunk, &mut |message| {
                seen = true;
                see(message);
            })?;
        }
        // Chunks that have arrived already cost no further wake-up.
        while let Poll::Ready(Some(chunk)) =
            self.body.poll_data(&mut Context::from_waker(futures::task::noop_waker_ref()))
        {
            self.take(chunk, &mut see)?;
        }
        Ok(())
    }

    fn take(&mut self, chunk: Result<Bytes, h2::Error>, see: &mut impl FnMut(Bytes)) -> Result<(), Failure> {
        let chunk = chunk.map_err(broken)?;
        self.body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
        self.unread.extend_from_slice(&chunk);
        while self.unread.len() >= 5 {
            let length = (&self.unread[1..5]).get_u32() as usize;
            if self.unread.len() < 5 + length {
                break;
            }
            let message = self.unread.split_to(5 + length).freeze();
            see(message.slice(5..));
        }
        Ok(())
    }
}

fn succeeded(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    match text("grpc-status") {
        b"0" => Ok(()),
        status => {
            let code = std::str::from_utf8(status).ok().and_then(|code| code.parse().ok());
            let message = String::from_utf8_lossy(text("grpc-message")).into_owned();
            Err(Failure::Status(code.unwrap_or(u16::MAX), message))
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn broken(error: h2::Error) -> Failure {
    Failure::Broken(error.to_string())
}
