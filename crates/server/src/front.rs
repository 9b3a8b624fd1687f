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
use atomix_transport::{Connection, RequestBody};
use futures::FutureExt;
use futures::future::{BoxFuture, select};
use http::Extensions;
use tonic::body::Body;
use tower::Service;

use crate::call::shutting_down;
use crate::directory::{Answering, Directory};
use crate::status::status;

/// The services of one port, as the transport calls them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Front(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    directory: Directory,
    runtime: Arc<Runtime>,
    deadline_default: Duration,
}

/// A call on its way. What may end it early is made only when it does not answer at once.
pub(crate) struct Attended {
    call: Answering,
    /// Counts the call until it has answered.
    counted: Option<CallGuard>,
    runtime: Arc<Runtime>,
    patience: Patience,
    early: Option<BoxFuture<'static, Error>>,
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
        Self(Arc::new(Desk { directory, runtime, deadline_default }))
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
        let Desk { directory, runtime, deadline_default } = &*self.0;
        let attended = |call, counted, patience| Attended {
            call,
            counted,
            runtime: Arc::clone(runtime),
            patience,
            early: None,
        };
        if runtime.is_draining() {
            let refusal = Ok(status(shutting_down()).into_http());
            return attended(Box::pin(ready(refusal)), None, Patience::Endless);
        }
        let counted = session(request.extensions()).map(Session::call);
        let patience = patience(&request, *deadline_default);
        attended(directory.call(request), counted, patience)
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
        Poll::Ready(answer)
    }
}

/// Returns the session of the connection that a request came through.
pub(crate) fn session(extensions: &Extensions) -> Option<&Arc<Session>> {
    extensions.get::<Arc<Connection>>()?.owner()
}

fn patience<B>(request: &http::Request<B>, default: Duration) -> Patience {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    let brought = request.headers().get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
    match method {
        "Events" | "Entries" | "Elements" | "Items" | "Watch" | "Subscribe" | "ServerReflectionInfo" => {
            Patience::Endless
        }
        "Lock" => Patience::Drain(brought),
        _ => Patience::Deadline(brought.unwrap_or(default)),
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
        let of = |path: &str| patience(&http::Request::builder().uri(path).body(()).unwrap(), nine);
        assert_eq!(of("/atomix.runtime.map.v1.Map/Get"), Patience::Deadline(nine));
        assert_eq!(of("/atomix.runtime.lock.v1.Lock/Lock"), Patience::Drain(None));
        assert_eq!(of("/atomix.runtime.map.v1.Map/Events"), Patience::Endless);
    }
}
