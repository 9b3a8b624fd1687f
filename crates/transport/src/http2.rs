// SPDX-License-Identifier: Apache-2.0
//! One connection on HTTP/2, and the answers on its streams.
//!
//! hyper's server would drive h2 just so, but hides the number of a stream, and with it which reset means which answer:
//! see [`Receipt`].

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use atomix_env::BatchedWakeTask;
use bytes::{Buf, Bytes};
use h2::server::{Builder, Connection as H2, Handshake, SendResponse};
use h2::{Ping, PingPong, Reason, SendStream};
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use crate::answer::{Answer, Call, Charged, Tagged};
use crate::connection::{Connection, End};
use crate::limits::Limits;
use crate::receipt::Receipt;
use crate::request::{BoxError, RequestBody};
use crate::wire::Wire;

/// The number of calls that a connection polls before it yields to the others on its thread.
const POLL_BUDGET: usize = 64;

/// The largest window of HTTP/2.
const WINDOW_MAX: u32 = u32::MAX >> 1;

/// Bytes of answers, as HTTP/2 keeps them.
type Piece = Charged<Bytes>;

/// Drives one connection.
pub(crate) struct Server<S, B>
where
    S: Service<Request<RequestBody>>,
{
    state: State,
    http2: Builder,
    tagged: Tagged<S>,
    connection: Arc<Connection>,
    /// Calls that began and were not polled yet.
    ///
    /// They are polled by the task of the connection itself, once it has read all that came. Most calls on an embedded store
    /// end there and then: they need no task and no wake-up, and their answers leave together in one write. What waits
    /// becomes a task, which polls it again, so it does not matter who was to be woken in the first poll.
    begun: VecDeque<Pin<Box<Stream<S, B>>>>,
    /// The drain was ordered before HTTP/2 began.
    drains: bool,
}

/// The reason of a broken connection.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Before HTTP/2 began.
    Greeting(io::Error),
    Http2(h2::Error),
}

enum State {
    /// The protocol is not known yet.
    Greets(Wire),
    Begins(Handshake<Wire, Piece>),
    Serves {
        http2: H2<Wire, Piece>,
        /// Sends one PING at a time: to find peers that vanished, and to have answers confirmed.
        pings: PingPong,
        in_flight: bool,
    },
    /// The peer does not speak HTTP/2.
    Ended,
}

pin_project! {
    /// One call, from its request to the last frame of its answer.
    struct Stream<S, B>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        phase: Phase<S, B>,
        respond: SendResponse<Piece>,
        connection: Arc<Connection>,
    }
}

pin_project! {
    #[project = PhaseView]
    enum Phase<S, B>
    where
        S: Service<Request<RequestBody>>,
    {
        Call {
            #[pin]
            call: Call<S>,
        },
        Answer {
            #[pin]
            body: Answer<B>,
            send: SendStream<Piece>,
            // Bytes that wait for the window of the stream, and whether they are the last.
            unsent: Option<(Piece, bool)>,
            // Until the last frame was handed to HTTP/2. Refused if this is dropped before.
            receipt: Option<Receipt>,
        },
    }
}

// === impl Server ===

impl<S, B> Server<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(limits: &Limits, wire: Wire, service: S, connection: Arc<Connection>) -> Self {
        Self {
            state: State::Greets(wire),
            http2: builder(limits),
            tagged: Tagged::new(service, Arc::clone(&connection)),
            connection,
            begun: VecDeque::new(),
            drains: false,
        }
    }

    /// Sends GOAWAY, so that the peer opens no more streams.
    pub(crate) fn graceful_shutdown(&mut self) {
        match &mut self.state {
            State::Serves { http2, .. } => http2.graceful_shutdown(),
            State::Greets(_) | State::Begins(_) | State::Ended => self.drains = true,
        }
    }

    /// Reads all that came, begins its calls, and writes what can be written. Ready at the end of the connection.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if let State::Greets(wire) = &mut self.state {
            let greeted = ready!(wire.poll_greeting(context));
            if let State::Greets(wire) = std::mem::replace(&mut self.state, State::Ended) {
                greeted.map_err(Broken::Greeting)?;
                self.state = State::Begins(self.http2.handshake(wire));
            }
        }
        if let State::Begins(handshake) = &mut self.state {
            let mut http2 = ready!(Pin::new(handshake).poll(context))?;
            if self.drains {
                http2.graceful_shutdown();
            }
            let pings = http2.ping_pong().expect("it is taken once");
            self.state = State::Serves { http2, pings, in_flight: false };
        }
        let State::Serves { http2, pings, in_flight } = &mut self.state else { unreachable!("it has begun") };
        loop {
            while let Some(accepted) = match http2.poll_accept(context) {
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(accepted) => accepted,
                Poll::Pending => None,
            } {
                let (request, respond) = accepted?;
                let phase = Phase::Call { call: self.tagged.call(request) };
                let connection = Arc::clone(&self.connection);
                self.begun.push_back(Box::pin(Stream { phase, respond, connection }));
            }
            if *in_flight && let Poll::Ready(answered) = pings.poll_pong(context) {
                answered?;
                *in_flight = false;
                self.connection.traffic.pong();
            }
            // Only when the last frames of answers were written is the PING asked for that confirms them: HTTP/2 sends
            // a PING before what waits on streams.
            let wanted =
                !*in_flight && (self.connection.take_probe() || self.connection.receipts.wants_ping());
            if !wanted || pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            *in_flight = true;
            self.connection.receipts.pinged();
            self.connection.traffic.ping();
        }
    }

    /// Returns whether calls wait to be polled.
    pub(crate) fn has_begun_calls(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Polls the calls that began first, up to [`POLL_BUDGET`].
    pub(crate) fn poll_calls(&mut self) {
        let budget = self.begun.len().min(POLL_BUDGET);
        for mut call in self.begun.drain(..budget) {
            let poll = AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(Waker::noop())));
            // A call that panics ends alone, as a task would; the panic hook has logged it.
            if let Ok(Poll::Pending) = catch_unwind(poll) {
                self.connection.env.detach(BatchedWakeTask::new(call));
            }
        }
    }
}

// === impl Broken ===

impl Broken {
    /// Returns whether the socket broke or the peer closed, rather than this side.
    pub(crate) fn has_left(&self) -> bool {
        match self {
            Self::Greeting(error) => error.kind() != io::ErrorKind::InvalidData,
            Self::Http2(error) => error.is_io() || (error.is_go_away() && error.is_remote()),
        }
    }
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

// === impl Stream ===

impl<S, B> Stream<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Goes on until the last frame of the answer is handed to HTTP/2. An error means that the stream is no more.
    fn poll_answer(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let mut this = self.project();
        loop {
            let next = match this.phase.as_mut().project() {
                PhaseView::Call { call } => {
                    let response = match call.poll(context) {
                        Poll::Ready(Ok(response)) => response,
                        Poll::Ready(Err(error)) => {
                            this.respond.send_reset(reason_of(&*error.into()));
                            return Poll::Ready(Ok(()));
                        }
                        Poll::Pending => {
                            // The peer gives up while the call runs.
                            let reason = ready!(this.respond.poll_reset(context))?;
                            return Poll::Ready(Err(reason.into()));
                        }
                    };
                    let (mut head, body) = response.into_parts();
                    let receipt = head.extensions.remove::<Receipt>();
                    let head = Response::from_parts(head, ());
                    if body.is_end_stream() {
                        return Poll::Ready(this.connection.last_frame(
                            this.respond.stream_id(),
                            receipt,
                            || this.respond.send_response(head, true).map(drop),
                        ));
                    }
                    let send = this.respond.send_response(head, false)?;
                    Phase::Answer { body, send, unsent: None, receipt }
                }
                PhaseView::Answer { body, send, unsent, receipt } => {
                    return poll_send(body, send, unsent, receipt, this.connection, context);
                }
            };
            this.phase.set(next);
        }
    }
}

impl<S, B> Future for Stream<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let id = self.connection.id();
        self.poll_answer(context).map(|sent| {
            if let Err(error) = sent {
                tracing::debug!(connection = id, ?error, "a stream ended before its answer");
            }
        })
    }
}

/// Sends a body as fast as the windows open.
fn poll_send<B>(
    mut body: Pin<&mut Answer<B>>,
    send: &mut SendStream<Piece>,
    unsent: &mut Option<(Piece, bool)>,
    receipt: &mut Option<Receipt>,
    connection: &Arc<Connection>,
    context: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    loop {
        // Wakes this up when the peer gives up while there is nothing to send or no window.
        if let Poll::Ready(reason) = send.poll_reset(context)? {
            return Poll::Ready(Err(reason.into()));
        }
        let (piece, last) = if unsent.is_some() {
            while send.capacity() == 0 {
                match ready!(send.poll_capacity(context)) {
                    Some(granted) => drop(granted?),
                    None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
                }
            }
            let Some(waited) = unsent.take() else { continue };
            waited
        } else {
            // The window is asked for only when there is something to send: what is reserved for a stream without bytes
            // is missing to the others.
            match ready!(body.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        let last = body.is_end_stream();
                        if piece.has_remaining() {
                            // HTTP/2 raises this to the whole length once it has the bytes.
                            send.reserve_capacity(1);
                            *unsent = Some((piece, last));
                            continue;
                        }
                        (piece, last)
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        send.reserve_capacity(0);
                        let stream = send.stream_id();
                        return Poll::Ready(
                            connection.last_frame(stream, receipt.take(), || send.send_trailers(trailers)),
                        );
                    }
                },
                Some(Err(error)) => {
                    tracing::debug!(connection = connection.id(), %error, "an answer broke off");
                    send.send_reset(reason_of(&*error));
                    return Poll::Ready(Ok(()));
                }
                None => (Charged::new(Bytes::new(), connection), true),
            }
        };
        if last {
            let stream = send.stream_id();
            let handed = connection.last_frame(stream, receipt.take(), || send.send_data(piece, true));
            return Poll::Ready(handed);
        }
        send.send_data(piece, false)?;
    }
}

// === impl Connection ===

impl Connection {
    /// Hands the last frame of an answer to HTTP/2, with the receipt of the answer.
    fn last_frame(
        &self,
        stream: h2::StreamId,
        receipt: Option<Receipt>,
        send: impl FnOnce() -> Result<(), h2::Error>,
    ) -> Result<(), h2::Error> {
        let Some(receipt) = receipt else { return send() };
        let stream = stream.as_u32();
        // Before the frame: it may be written, and its stream reset, by another thread at once.
        if self.receipts.expect(stream, receipt).is_err() {
            self.end(End::Lost);
        }
        let handed = send();
        if handed.is_err() {
            self.receipts.refused(stream);
        }
        handed
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_local_error_reset_streams(Some(limits.local_reset_streams_max))
        .max_pending_accept_reset_streams(limits.pending_reset_streams_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .initial_window_size(limits.stream_window.min(WINDOW_MAX))
        .initial_connection_window_size(limits.connection_window.min(WINDOW_MAX))
        .max_send_buffer_size(limits.stream_send_bytes_max.min(WINDOW_MAX as usize));
    builder
}

/// Returns the code of the HTTP/2 error.
fn reason_of(error: &(dyn StdError + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
