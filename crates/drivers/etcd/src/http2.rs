// SPDX-License-Identifier: Apache-2.0
//! Calls straight on HTTP/2.
//!
//! hyper writes the head of a request, its body and its end one after the other, each with a system call that wakes the other
//! side. Here all that is there of a request goes in one.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use atomix_env::Env;
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tonic::body::Body;

use crate::error::Broken;

/// The side of a connection that makes calls. Clones share it.
#[derive(Clone)]
pub(crate) struct Calls {
    requests: SendRequest<Bytes>,
    under_way: UnderWay,
}

/// The response of a call.
#[derive(Debug)]
pub(crate) struct Answer {
    body: RecvStream,
    /// Ends the request when the response is dropped: a body that is still being sent keeps the stream open.
    _sending: Option<oneshot::Sender<()>>,
    _counted: Counted,
}

/// The keep-alive settings of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// Whether to probe also without requests in flight.
    pub(crate) while_idle: bool,
}

#[derive(Debug, Clone, Default)]
struct UnderWay(Arc<AtomicUsize>);

/// Counts a call for as long as it lives.
#[derive(Debug)]
struct Counted(UnderWay);

/// Bytes that the peer may send before they are read, on a stream and in all.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// Begins to speak on a new connection. The future that comes with the calls drives it and ends when it is gone.
pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    env: &Env,
    keep_alive: KeepAlive,
    stream: S,
) -> Result<(Calls, impl Future<Output = Result<(), h2::Error>> + use<S>), h2::Error> {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false);
    let (requests, mut connection) = builder.handshake(stream).await?;
    let pings = connection.ping_pong().expect("it is taken once");
    let calls = Calls { requests, under_way: UnderWay::default() };
    let probed = probe(env.clone(), keep_alive, pings, calls.under_way.clone());
    let driver = async move {
        tokio::select! {
            result = connection => result,
            result = probed => result,
        }
    };
    Ok((calls, driver))
}

/// Probes a connection until a probe stays without an answer.
async fn probe(
    env: Env,
    keep_alive: KeepAlive,
    mut pings: PingPong,
    under_way: UnderWay,
) -> Result<(), h2::Error> {
    loop {
        env.sleep(keep_alive.interval).await;
        if keep_alive.while_idle || under_way.0.load(Ordering::Relaxed) > 0 {
            let Ok(answered) = env.timeout(keep_alive.timeout, pings.ping(Ping::opaque())).await else {
                tracing::debug!("a probe is not answered");
                return Ok(());
            };
            answered?;
        }
    }
}

// === impl Calls ===

impl Calls {
    /// Makes a call. The error carries whether anything of it may have been sent. Cancel safe: a call that is
    /// dropped is reset.
    pub(crate) async fn call(&self, env: &Env, request: Request<Body>) -> Result<Response<Answer>, Broken> {
        let not_sent = |source| Broken { sent: false, source };
        let counted = Counted::new(&self.under_way);
        let (head, body) = request.into_parts();
        let mut requests = self.requests.clone().ready().await.map_err(not_sent)?;
        let request = Request::from_parts(head, ());
        let (answer, stream) = requests.send_request(request, false).map_err(not_sent)?;
        let (read, mut unread) = oneshot::channel();
        let mut sending = Box::pin(async move { send(body, stream, &mut unread).await });
        let going_on = poll_fn(|context| Poll::Ready(sending.as_mut().poll(context))).await.is_pending();
        let sending = going_on.then(|| {
            // The caller continues to send while it reads.
            env.detach(sending);
            read
        });
        let answer = answer.await.map_err(|source| Broken { sent: true, source })?;
        Ok(answer.map(|body| Answer { body, _sending: sending, _counted: counted }))
    }
}

/// Sends a body to its end, or until the peer refuses the rest, or the response is dropped.
async fn send(mut body: Body, mut stream: SendStream<Bytes>, unread: &mut oneshot::Receiver<()>) {
    // The last frame carries the end flag.
    let mut unsent = None;
    loop {
        let next = poll_fn(|context| {
            let next = Pin::new(&mut body).poll_frame(context);
            if next.is_pending()
                && let Some(data) = unsent.take()
                && stream.send_data(data, false).is_err()
            {
                return Poll::Ready(None);
            }
            if next.is_pending() && stream.poll_reset(context).is_ready() {
                return Poll::Ready(None);
            }
            if next.is_pending() && Pin::new(&mut *unread).poll(context).is_ready() {
                stream.send_reset(h2::Reason::CANCEL);
                return Poll::Ready(None);
            }
            next
        });
        let frame = match next.await {
            Some(Ok(frame)) => frame,
            // Half a request is none.
            Some(Err(_)) => return stream.send_reset(h2::Reason::CANCEL),
            None => break,
        };
        let Ok(data) = frame.into_data() else { continue };
        if let Some(before) = unsent.replace(data)
            && stream.send_data(before, false).is_err()
        {
            return;
        }
    }
    // A peer that refuses the rest of the body explains it in its response.
    drop(stream.send_data(unsent.unwrap_or_default(), true));
}

// === impl Answer ===

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let broken = |source| Broken { sent: true, source };
        if let Some(data) = std::task::ready!(self.body.poll_data(context)) {
            let data = data.and_then(|data| {
                self.body.flow_control().release_capacity(data.len())?;
                Ok(Frame::data(data))
            });
            return Poll::Ready(Some(data.map_err(broken)));
        }
        let trailers = std::task::ready!(self.body.poll_trailers(context));
        Poll::Ready(trailers.map_err(broken).transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

// === impl Counted ===

impl Counted {
    fn new(under_way: &UnderWay) -> Self {
        under_way.0.fetch_add(1, Ordering::Relaxed);
        Self(under_way.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::StreamExt;
    use tokio::io::{DuplexStream, ReadBuf, duplex};

    use super::*;

    const PATIENT: KeepAlive =
        KeepAlive { interval: Duration::from_hours(1), timeout: Duration::from_hours(1), while_idle: false };

    /// Counts how often something is written.
    struct Counting(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    fn request() -> Request<Body> {
        let body = http_body_util::Full::new(Bytes::from_static(b"what is asked"));
        Request::post("http://localhost/a.B/C").body(Body::new(body)).unwrap()
    }

    /// Answers every request with its body.
    async fn serve(env: Env, stream: DuplexStream) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            env.detach(async move {
                let mut body = request.into_body();
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                while let Some(data) = body.data().await {
                    answer.send_data(data.unwrap(), false).unwrap();
                }
                answer.send_data(Bytes::new(), true).unwrap();
            });
        }
    }

    #[tokio::test]
    async fn a_request_is_one_write() {
        let (env, writes) = (Env::real(), Arc::default());
        let (near, far) = duplex(1 << 16);
        let stream = Counting(near, Arc::clone(&writes));
        let (calls, driver) = handshake(&env, PATIENT, stream).await.unwrap();
        env.detach(async move { driver.await.unwrap() });
        env.detach(serve(env.clone(), far));
        let mut fewest = usize::MAX;
        // The first ones stand beside the greetings of both sides.
        for _ in 0..3 {
            let before = writes.load(Ordering::Relaxed);
            let mut answer = calls.call(&env, request()).await.unwrap().into_body();
            fewest = fewest.min(writes.load(Ordering::Relaxed) - before);
            let frame = poll_fn(|context| Pin::new(&mut answer).poll_frame(context)).await;
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "what is asked");
        }
        assert_eq!(fewest, 1);
    }

    #[tokio::test]
    async fn a_request_that_goes_on_ends_when_nobody_reads_its_answer() {
        let (near, far) = duplex(1 << 16);
        let env = Env::real();
        let (calls, driver) = handshake(&env, PATIENT, near).await.unwrap();
        env.detach(async move { driver.await.unwrap() });
        let (tell, told) = oneshot::channel();
        env.detach(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let _answer = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            let end = async {
                loop {
                    match body.data().await {
                        Some(Ok(_)) => {}
                        end => break tell.send(end.map(|end| end.unwrap_err().reason())).unwrap(),
                    }
                }
            };
            futures::join!(end, connection.accept());
        });
        let parts = futures::stream::iter([Ok::<_, tonic::Status>(Frame::data(Bytes::from_static(b"ask")))]);
        let body = http_body_util::StreamBody::new(parts.chain(futures::stream::pending()));
        let request = Request::post("http://localhost/a.B/C").body(Body::new(body)).unwrap();
        drop(calls.call(&env, request).await.unwrap());
        assert_eq!(told.await.unwrap(), Some(Some(h2::Reason::CANCEL)));
    }

    #[tokio::test]
    async fn a_connection_that_answers_no_probe_ends() {
        let (near, _far) = duplex(1 << 16);
        let short = Duration::from_millis(10);
        let keep_alive = KeepAlive { interval: short, timeout: short, while_idle: true };
        let (calls, driver) = handshake(&Env::real(), keep_alive, near).await.unwrap();
        driver.await.unwrap();
        let error = calls.call(&Env::real(), request()).await.unwrap_err();
        assert!(!error.sent, "there is no connection any more");
    }

    #[tokio::test]
    async fn a_request_that_may_have_gone_out_is_told_from_one_that_has_not() {
        let (near, far) = duplex(1 << 16);
        let env = Env::real();
        let (calls, driver) = handshake(&env, PATIENT, near).await.unwrap();
        let reads_and_goes = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            drop(connection.accept().await.unwrap().unwrap());
        };
        let (broken, (), _ended) = futures::join!(calls.call(&env, request()), reads_and_goes, driver);
        assert!(broken.unwrap_err().sent);
        assert!(!calls.call(&env, request()).await.unwrap_err().sent);
    }
}
