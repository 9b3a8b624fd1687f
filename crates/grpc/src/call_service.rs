// SPDX-License-Identifier: Apache-2.0
//! The service in front of all services: it finds the session of the connection, applies the deadline, ends calls on
//! drain, limits waiting calls and streams, and answers `INTERNAL` when a call panics.

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use atomix_primitives::{Error, Reason, fenced};
use atomix_runtime::{CallGuard, Runtime, Session, shutting_down};
use atomix_transport::{Connection, LongCall, RateLimitedLog, RequestBody};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, select};
use http::Extensions;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::call_class::CallClass;
use crate::directory::{Answering, Directory};
use crate::guard::fences;
use crate::status::{status, stream_status};

/// The services of one port, as the transport calls them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CallService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: Directory,
    runtime: Arc<Runtime>,
    deadline_default: Duration,
    /// The log about connections with too many long calls.
    long_calls_log: Mutex<RateLimitedLog>,
}

/// A call in flight. `interrupt` is made only when the call does not answer in its first poll.
pub(crate) struct CallFuture {
    call: Answering,
    /// Counts the call until it has answered.
    counted: Option<CallGuard>,
    runtime: Arc<Runtime>,
    timeout: CallTimeout,
    /// Only for calls that wait or stream.
    long: Option<Long>,
    interrupt: Option<BoxFuture<'static, Error>>,
}

/// The count of a call that waits or streams, for its connection and for its session.
#[derive(Debug)]
struct Long {
    _of_connection: LongCall,
    _of_session: Option<CallGuard>,
}

/// The refusal of a long call on a connection that has the maximum of them.
#[derive(Debug)]
struct TooManyLongCalls {
    max: u32,
}

/// The body of an answer that streams; the call is counted until it ends.
#[derive(Debug)]
struct StreamBody {
    body: Body,
    _long: Long,
}

/// The limit of the time that a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallTimeout {
    /// A call that answers: its own deadline, or the default.
    Deadline(Duration),
    /// A call that waits: its own deadline if it has one, and the drain of the runtime.
    Drain(Option<Duration>),
    /// A stream: it watches the drain itself, and its client the deadline.
    Endless,
}

// === impl CallService ===

impl CallService {
    pub(crate) fn new(directory: Directory, runtime: Arc<Runtime>, deadline_default: Duration) -> Self {
        let long_calls_log = Mutex::default();
        Self(Arc::new(Inner { directory, runtime, deadline_default, long_calls_log }))
    }
}

impl Service<http::Request<RequestBody>> for CallService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = CallFuture;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<RequestBody>) -> CallFuture {
        let Inner { directory, runtime, deadline_default, .. } = &*self.0;
        let future = |call, counted, timeout, long| CallFuture {
            call,
            counted,
            runtime: Arc::clone(runtime),
            timeout,
            long,
            interrupt: None,
        };
        let refused = |refusal: Status| {
            future(Box::pin(ready(Ok(refusal.into_http()))), None, CallTimeout::Endless, None)
        };
        if runtime.is_draining() {
            return refused(status(shutting_down()));
        }
        let fences = match fences(request.headers()) {
            Ok(fences) => fences,
            Err(wrong) => return refused(status(wrong)),
        };
        let method = directory.method(request.uri().path());
        let class = method.map_or(CallClass::Unary, |method| method.class);
        let timeout = call_timeout(class, &request, *deadline_default);
        let long = match timeout {
            CallTimeout::Deadline(_) => None,
            CallTimeout::Drain(_) | CallTimeout::Endless => match self.0.begin_long(request.extensions()) {
                Ok(long) => long,
                Err(excess) if timeout == CallTimeout::Endless => {
                    return refused(stream_status(excess.streams()));
                }
                Err(excess) => return refused(status(excess.waiters())),
            },
        };
        let counted = session(request.extensions()).map(Session::call);
        let call = directory.call(method, request);
        let call = match fences {
            None => call,
            Some(fences) => Box::pin(fenced(fences, call)),
        };
        future(call, counted, timeout, long)
    }
}

// === impl Inner ===

impl Inner {
    /// Counts a call that waits or streams. Fails if its connection has the maximum of them: they must leave streams for
    /// the calls that end their wait.
    fn begin_long(&self, extensions: &Extensions) -> Result<Option<Long>, TooManyLongCalls> {
        // Tests of services have no connection.
        let Some(connection) = extensions.get::<Arc<Connection>>() else { return Ok(None) };
        let of_session = session(extensions).map(Session::long_call);
        if let Some(of_connection) = connection.begin_long_call() {
            return Ok(Some(Long { _of_connection: of_connection, _of_session: of_session }));
        }
        let max = connection.long_calls_max();
        if let Some(suppressed) = self.long_calls_log.lock().due(self.runtime.env().now()) {
            tracing::warn!(
                peer = %connection.peer(),
                max,
                suppressed,
                "a connection has too many waiting calls and streams, more are refused: see \
                 `atomix inspect sessions` and limits.streams-per-connection-max"
            );
        }
        Err(TooManyLongCalls { max })
    }
}

// === impl TooManyLongCalls ===

impl TooManyLongCalls {
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

// === impl CallFuture ===

impl CallFuture {
    /// Waits for the deadline or the drain that ends the call before its answer.
    fn interrupt(&self) -> BoxFuture<'static, Error> {
        let over = |after: Duration| {
            let error = move || {
                Error::new(Reason::DeadlineExceeded, format!("the call took too long: after=`{after:?}`"))
            };
            self.runtime.env().sleep(after).map(move |()| error()).boxed()
        };
        let drained = || self.runtime.draining().clone().cancelled_owned().map(|()| shutting_down()).boxed();
        match self.timeout {
            CallTimeout::Deadline(after) => over(after),
            CallTimeout::Drain(Some(after)) => {
                select(over(after), drained()).map(|either| either.factor_first().0).boxed()
            }
            CallTimeout::Drain(None) => drained(),
            CallTimeout::Endless => pending().boxed(),
        }
    }
}

impl Future for CallFuture {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let answer = match catch_unwind(AssertUnwindSafe(|| this.call.as_mut().poll(context))) {
            Ok(Poll::Ready(answer)) => answer,
            Ok(Poll::Pending) => {
                if this.interrupt.is_none() {
                    this.interrupt = Some(this.interrupt());
                }
                let interrupt = this.interrupt.as_mut().expect("it was just made");
                Ok(status(ready!(interrupt.as_mut().poll(context))).into_http())
            }
            Err(_) => {
                tracing::error!("a call panicked: report it with the log lines above");
                Ok(status(Error::new(Reason::Internal, "the call failed by a defect of the runtime"))
                    .into_http())
            }
        };
        this.counted = None;
        Poll::Ready(match this.long.take() {
            Some(long) if this.timeout == CallTimeout::Endless => {
                answer.map(|answer| answer.map(|body| Body::new(StreamBody { body, _long: long })))
            }
            _ => answer,
        })
    }
}

// === impl StreamBody ===

impl http_body::Body for StreamBody {
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

fn call_timeout<B>(class: CallClass, request: &http::Request<B>, default: Duration) -> CallTimeout {
    let from_client = || {
        let timeout = request.headers().get("grpc-timeout");
        timeout.and_then(|value| grpc_timeout(value.to_str().ok()?))
    };
    match class {
        CallClass::Unary => CallTimeout::Deadline(from_client().unwrap_or(default)),
        CallClass::Waiting => CallTimeout::Drain(from_client()),
        CallClass::Streaming => CallTimeout::Endless,
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
        let with_timeout = http::Request::builder().header("grpc-timeout", "2S").body(()).unwrap();
        let two = Duration::from_secs(2);
        assert_eq!(call_timeout(CallClass::Unary, &bare, nine), CallTimeout::Deadline(nine));
        assert_eq!(call_timeout(CallClass::Unary, &with_timeout, nine), CallTimeout::Deadline(two));
        assert_eq!(call_timeout(CallClass::Waiting, &bare, nine), CallTimeout::Drain(None));
        assert_eq!(call_timeout(CallClass::Waiting, &with_timeout, nine), CallTimeout::Drain(Some(two)));
        assert_eq!(call_timeout(CallClass::Streaming, &with_timeout, nine), CallTimeout::Endless);
    }
}
