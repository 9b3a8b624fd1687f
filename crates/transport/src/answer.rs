// SPDX-License-Identifier: Apache-2.0
//! The layer around each call: its connection, the count of calls, and the bound of unread answers.

use std::error::Error as StdError;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use futures::future::BoxFuture;
use h2::RecvStream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::Service;

use crate::budget::{Place, ROOM_TIMEOUT};
use crate::connection::Connection;
use crate::pool::CALL_BYTES;
use crate::request::{BoxError, RequestBody, no_memory};

/// Hands the requests of one connection to the service, which is always ready: what bounds calls is in here.
#[derive(Debug)]
pub(crate) struct Tagged<S> {
    service: S,
    connection: Arc<Connection>,
}

/// The answer to a request that is refused here.
#[derive(Debug, Clone, Copy)]
enum Refused {
    /// It is no call.
    Method,
    /// The buffers of all connections are full.
    Memory,
}

/// Counts a call as running for as long as it lives.
#[derive(Debug)]
struct Running(Arc<Connection>);

pin_project! {
    /// A call that waits for its answer.
    pub(crate) struct Call<S> where S: Service<Request<RequestBody>> {
        // Absent for a request that is refused here.
        #[pin]
        answer: Option<S::Future>,
        refusal: Refused,
        running: Option<Running>,
    }
}

pin_project! {
    /// The body of an answer, made no faster than the peer reads.
    pub(crate) struct Answer<B> {
        #[pin]
        body: Option<B>,
        gate: Gate,
    }
}

/// Waits for the budget of the connection.
struct Gate {
    running: Running,
    place: Place,
    /// In the queue of all connections.
    shared: Place,
    /// Made only when the gate is closed.
    timer: Option<BoxFuture<'static, ()>>,
}

/// Bytes of an answer that count against the budget of their connection until HTTP/2 has written or dropped them.
#[derive(Debug)]
pub(crate) struct Charged<D> {
    bytes: D,
    charge: usize,
    connection: Arc<Connection>,
}

/// The error of an answer that waited too long for its reader.
#[derive(Debug)]
struct Unread(h2::Error);

// === impl Tagged ===

impl<S> Tagged<S> {
    pub(crate) fn new(service: S, connection: Arc<Connection>) -> Self {
        Self { service, connection }
    }
}

impl<S, B> Tagged<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
{
    pub(crate) fn call(&self, request: Request<RecvStream>) -> Call<S> {
        // Before the call itself counts.
        let open = self.connection.usage.is_open();
        let running = Some(Running::new(&self.connection));
        // No service of ours is a proxy, and HTTP/2 would take an answer to this for a tunnel.
        if request.method() == Method::CONNECT {
            return Call { answer: None, refusal: Refused::Method, running };
        }
        if !open {
            self.connection.usage.refuse();
            return Call { answer: None, refusal: Refused::Memory, running };
        }
        let mut request = request.map(|body| RequestBody::new(body, &self.connection));
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let answer = Some(self.service.clone().call(request));
        Call { answer, refusal: Refused::Method, running }
    }
}

// === impl Call ===

impl<S, B> Future for Call<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
{
    type Output = Result<Response<Answer<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match this.answer.as_pin_mut() {
            Some(answer) => Some(ready!(answer.poll(context))?),
            None => None,
        };
        let running = this.running.take().expect("a future is not polled after its end");
        let gate = Gate { running, place: Place::default(), shared: Place::default(), timer: None };
        Poll::Ready(Ok(if let Some(answer) = answer {
            answer.map(|body| Answer { body: Some(body), gate })
        } else {
            let mut refusal = Response::new(Answer { body: None, gate });
            match this.refusal {
                Refused::Method => *refusal.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
                Refused::Memory => refuse(refusal.headers_mut()),
            }
            refusal
        }))
    }
}

/// Makes an answer of gRPC that refuses a call.
fn refuse(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if no_memory().add_header(headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from_static("14"));
    }
}

// === impl Answer ===

impl<B> Body for Answer<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Charged<B::Data>;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let Some(body) = this.body.as_pin_mut() else {
            return Poll::Ready(None);
        };
        ready!(this.gate.poll_pass(context))?;
        let frame = ready!(body.poll_frame(context));
        let connection = &this.gate.running.0;
        Poll::Ready(
            frame.map(|frame| {
                Ok(frame.map_err(Into::into)?.map_data(|bytes| Charged::new(bytes, connection)))
            }),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

// === impl Gate ===

impl Gate {
    fn poll_pass(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let connection = &self.running.0;
        if connection.budget.poll_pass(&mut self.place, context).is_pending() {
            // The others of the queue must not wait for this reader.
            connection.usage.leave(&mut self.shared);
        } else if connection.usage.poll_open(&mut self.shared, context).is_ready() {
            self.timer = None;
            return Poll::Ready(Ok(()));
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(connection.env.sleep(ROOM_TIMEOUT)));
        ready!(timer.as_mut().poll(context));
        connection.budget.leave(&mut self.place);
        connection.usage.leave(&mut self.shared);
        Poll::Ready(Err(Box::new(Unread(h2::Reason::ENHANCE_YOUR_CALM.into()))))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.running.0.budget.leave(&mut self.place);
        self.running.0.usage.leave(&mut self.shared);
    }
}

// === impl Running ===

impl Running {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.traffic.call_began();
        connection.usage.take(CALL_BYTES);
        Self(Arc::clone(connection))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.traffic.call_ended();
        self.0.usage.give(CALL_BYTES);
    }
}

// === impl Charged ===

impl<D: Buf> Charged<D> {
    pub(crate) fn new(bytes: D, connection: &Arc<Connection>) -> Self {
        let charge = bytes.remaining();
        connection.budget.take(charge);
        connection.usage.take(charge);
        Self { bytes, charge, connection: Arc::clone(connection) }
    }
}

impl<D> Drop for Charged<D> {
    fn drop(&mut self) {
        self.connection.budget.give(self.charge);
        self.connection.usage.give(self.charge);
    }
}

impl<D: Buf> Buf for Charged<D> {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }
}

// === impl Unread ===

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answers were not read, read them faster or ask for less: after=`{ROOM_TIMEOUT:?}`")
    }
}

impl StdError for Unread {
    /// HTTP/2 looks here for the code that it sends to the peer.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Peer;
    use crate::limits::Limits;
    use crate::pool::Pool;
    use atomix_env::{Env, ManualClock};
    use bytes::Bytes;
    use futures::FutureExt;
    use std::convert::Infallible;
    use std::time::Duration;

    /// Ten bytes at a time, without end; counts how many it had to make.
    struct Endless(usize);

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"0123456789")))))
        }
    }

    type Next = Option<Result<Frame<Charged<Bytes>>, BoxError>>;

    fn next(answer: &mut Answer<Endless>) -> Option<Next> {
        std::future::poll_fn(|context| Pin::new(&mut *answer).poll_frame(context)).now_or_never()
    }

    fn answers(clock: &Arc<ManualClock>) -> [Answer<Endless>; 2] {
        let limits = Limits { connection_send_bytes_max: 15, ..Limits::default() };
        let env = Env::simulated(Arc::clone(clock), 1);
        let connection =
            Arc::new(Connection::new(1, Peer::Unix { pid: None, uid: 0 }, env, &limits, &Pool::new(1 << 20)));
        [0, 1].map(|_| {
            let gate = Gate {
                running: Running::new(&connection),
                place: Place::default(),
                shared: Place::default(),
                timer: None,
            };
            Answer { body: Some(Endless(0)), gate }
        })
    }

    #[test]
    fn an_answer_is_not_made_before_there_is_room_for_it() {
        let [mut one, mut other] = answers(&ManualClock::new());
        let first = next(&mut one).unwrap().unwrap().unwrap();
        let second = next(&mut other).unwrap().unwrap().unwrap();
        assert!(next(&mut one).is_none() && next(&mut other).is_none());
        assert_eq!(one.body.as_ref().map(|body| body.0), Some(1));
        drop(first);
        assert!(next(&mut other).is_none(), "the other came first");
        let third = next(&mut one).unwrap();
        assert!(next(&mut other).is_none());
        drop((second, third));
        assert!(next(&mut other).is_some());
    }

    #[test]
    fn an_answer_that_waits_too_long_ends_with_a_code_that_grpc_knows() {
        let clock = ManualClock::new();
        let [mut one, mut other] = answers(&clock);
        let _held = (next(&mut one), next(&mut one));
        assert!(next(&mut other).is_none());
        clock.advance(Duration::from_secs(29));
        assert!(next(&mut other).is_none());
        clock.advance(Duration::from_secs(1));
        let error = next(&mut other).unwrap().unwrap().unwrap_err();
        let code = error.source().and_then(|source| source.downcast_ref()).and_then(h2::Error::reason);
        assert_eq!(code, Some(h2::Reason::ENHANCE_YOUR_CALM));
    }

    #[test]
    fn a_call_runs_until_its_answer_is_dropped() {
        let [one, other] = answers(&ManualClock::new());
        let connection = Arc::clone(&one.gate.running.0);
        assert_eq!(connection.calls(), 2);
        drop((one, other));
        assert!(connection.is_quiet());
        assert_eq!(connection.traffic.calls_total(), 2);
    }
}
