// SPDX-License-Identifier: Apache-2.0
//! What every call passes before its service: the session of its connection, the deadline, the drain, and the last
//! resort for a mistake of ours.

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use atomix_primitives::{Error, Reason};
use atomix_runtime::{CallGuard, Runtime, Session};
use atomix_transport::{Complaint, Connection, LongCall, RequestBody};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, select};
use http::Extensions;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::call::shutting_down;
use crate::directory::{Answering, Class, Directory};
use crate::status::{status, stream_status};

/// The services of one port, as the transport calls them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Front(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    directory: Directory,
    runtime: Arc<Runtime>,
    deadline_default: Duration,
    /// The log line about connections with too many long calls.
    crowded: Mutex<Complaint>,
}

/// A call on its way. What may end it early is made only when it does not answer at once.
pub(crate) struct Attended {
    call: Answering,
    /// Counts the call until it has answered.
    counted: Option<CallGuard>,
    runtime: Arc<Runtime>,
    patience: Patience,
    /// Only for calls that wait or stream.
    long: Option<Long>,
    early: Option<BoxFuture<'static, Error>>,
}

/// Counts a call that waits or streams, for its connection and for its session.
#[derive(Debug)]
struct Long {
    _of_connection: LongCall,
    _of_session: Option<CallGuard>,
}

/// A connection has as many long calls as it may.
#[derive(Debug)]
struct Crowd {
    max: u32,
}

/// The answer of a call that streams, which is counted until it ends.
#[derive(Debug)]
struct Streamed {
    body: Body,
    _long: Long,
}

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// A call that answers: its own deadline, or the default.
    Deadline(Duration),
    /// A call that waits: its own deadline if it has one, and not beyond the life of the runtime.
    Drain(Option<Duration>),
    /// A stream: it looks after the drain itself, and its client after the deadline.
    Endless,
}

// === impl Front ===

impl Front {
    pub(crate) fn new(directory: Directory, runtime: Arc<Runtime>, deadline_default: Duration) -> Self {
        let crowded = Mutex::default();
        Self(Arc::new(Desk { directory, runtime, deadline_default, crowded }))
    }
}

impl Service<http::Request<RequestBody>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Attended;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<RequestBody>) -> Attended {
        let Desk { directory, runtime, deadline_default, .. } = &*self.0;
        let attended = |call, counted, patience, long| Attended {
            call,
            counted,
            runtime: Arc::clone(runtime),
            patience,
            long,
            early: None,
        };
        let refused = |refusal: Status| {
            attended(Box::pin(ready(Ok(refusal.into_http()))), None, Patience::Endless, None)
        };
        if runtime.is_draining() {
            return refused(status(shutting_down()));
        }
        let method = directory.method(request.uri().path());
        let class = method.map_or(Class::Answers, |method| method.class);
        let patience = patience(class, &request, *deadline_default);
        let long = match patience {
            Patience::Deadline(_) => None,
            Patience::Drain(_) | Patience::Endless => match self.0.begin_long(request.extensions()) {
                Ok(long) => long,
                Err(crowd) if patience == Patience::Endless => {
                    return refused(stream_status(crowd.streams()));
                }
                Err(crowd) => return refused(status(crowd.waiters())),
            },
        };
        let counted = session(request.extensions()).map(Session::call);
        attended(directory.call(method, request), counted, patience, long)
    }
}

// === impl Desk ===

impl Desk {
    /// Counts a call that waits or streams. Fails if its connection has as many as it may: they must not take the streams
    /// that the calls need for which they wait.
    fn begin_long(&self, extensions: &Extensions) -> Result<Option<Long>, Crowd> {
        // Only in tests of services there is no connection.
        let Some(connection) = extensions.get::<Arc<Connection>>() else { return Ok(None) };
        let of_session = session(extensions).map(Session::long_call);
        if let Some(of_connection) = connection.begin_long_call() {
            return Ok(Some(Long { _of_connection: of_connection, _of_session: of_session }));
        }
        let max = connection.long_calls_max();
        if let Some(unsaid) = self.crowded.lock().due(self.runtime.env().now()) {
            tracing::warn!(
                peer = %connection.peer(),
                max,
                unsaid,
                "a connection has too many waiting calls and streams, more are refused: see \
                 `atomix inspect sessions` and limits.streams-per-connection-max"
            );
        }
        Err(Crowd { max })
    }
}

// === impl Crowd ===

impl Crowd {
    fn waiters(&self) -> Error {
        Error::new(Reason::WaitersFull, self.message())
    }

    fn streams(&self) -> Error {
        Error::new(Reason::StreamsFull, self.message())
    }

    fn message(&self) -> String {
        format!(
            "too many calls wait or stream on one connection: use several connections or raise \
             limits.streams-per-connection-max: max=`{}`",
            self.max
        )
    }
}

// === impl Attended ===

impl Attended {
    /// Waits for what ends the call before it has answered.
    fn early(&self) -> BoxFuture<'static, Error> {
        let over = |after: Duration| {
            let error = move || {
                Error::new(Reason::DeadlineExceeded, format!("the call took too long: after=`{after:?}`"))
            };
            self.runtime.env().sleep(after).map(move |()| error()).boxed()
        };
        let drained = || self.runtime.draining().clone().cancelled_owned().map(|()| shutting_down()).boxed();
        match self.patience {
            Patience::Deadline(after) => over(after),
            Patience::Drain(Some(after)) => {
                select(over(after), drained()).map(|either| either.factor_first().0).boxed()
            }
            Patience::Drain(None) => drained(),
            Patience::Endless => pending().boxed(),
        }
    }
}

impl Future for Attended {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let answer = match catch_unwind(AssertUnwindSafe(|| this.call.as_mut().poll(context))) {
            Ok(Poll::Ready(answer)) => answer,
            Ok(Poll::Pending) => {
                if this.early.is_none() {
                    this.early = Some(this.early());
                }
                let early = this.early.as_mut().expect("it was just made");
                Ok(status(ready!(early.as_mut().poll(context))).into_http())
            }
            Err(_) => {
                tracing::error!("a call panicked: please report it with what the log says above");
                Ok(status(Error::new(Reason::Internal, "the call failed by a mistake of the runtime"))
                    .into_http())
            }
        };
        this.counted = None;
        Poll::Ready(match this.long.take() {
            Some(long) if this.patience == Patience::Endless => {
                answer.map(|answer| answer.map(|body| Body::new(Streamed { body, _long: long })))
            }
            _ => answer,
        })
    }
}

// === impl Streamed ===

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns the session of the connection that a request came through.
pub(crate) fn session(extensions: &Extensions) -> Option<&Arc<Session>> {
    extensions.get::<Arc<Connection>>()?.owner()
}

fn patience<B>(class: Class, request: &http::Request<B>, default: Duration) -> Patience {
    let brought = || {
        let timeout = request.headers().get("grpc-timeout");
        timeout.and_then(|value| grpc_timeout(value.to_str().ok()?))
    };
    match class {
        Class::Answers => Patience::Deadline(brought().unwrap_or(default)),
        Class::Waits => Patience::Drain(brought()),
        Class::Streams => Patience::Endless,
    }
}

/// Reads the header `grpc-timeout`: up to eight digits and a unit, as the gRPC protocol over HTTP/2 defines it.
pub(crate) fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(grpc_timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_hours(99_999_999)));
        for wrong in ["", "S", "1", "1x", "-1S", "123456789S", "1é"] {
            assert_eq!(grpc_timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_waiting_calls_and_streams_have_no_default_deadline() {
        let nine = Duration::from_secs(9);
        let bare = http::Request::builder().body(()).unwrap();
        let brings = http::Request::builder().header("grpc-timeout", "2S").body(()).unwrap();
        let two = Duration::from_secs(2);
        assert_eq!(patience(Class::Answers, &bare, nine), Patience::Deadline(nine));
        assert_eq!(patience(Class::Answers, &brings, nine), Patience::Deadline(two));
        assert_eq!(patience(Class::Waits, &bare, nine), Patience::Drain(None));
        assert_eq!(patience(Class::Waits, &brings, nine), Patience::Drain(Some(two)));
        assert_eq!(patience(Class::Streams, &brings, nine), Patience::Endless);
    }
}
