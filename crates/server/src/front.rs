// SPDX-License-Identifier: Apache-2.0
//! What every call passes before its service: the session of its connection, the deadline, the drain, and the last
//! resort for a mistake of ours.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atomix_primitives::{Error, Reason};
use atomix_runtime::{Runtime, Session};
use atomix_transport::Connection;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::Body as HttpBody;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use crate::call::shutting_down;
use crate::status::status;

/// The services of one port, as the transport calls them.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    pub(crate) routes: Routes,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) deadline_default: Duration,
}

/// Ends a call that takes too long. The timer is made only when the call does not answer at once.
struct Deadline<F> {
    call: F,
    runtime: Arc<Runtime>,
    after: Duration,
    timer: Option<BoxFuture<'static, ()>>,
}

/// How long a call may take.
#[derive(Debug, PartialEq, Eq)]
enum Patience {
    /// A call that answers: its own deadline, or the default.
    Deadline(Duration),
    /// A call that waits: its own deadline if it has one, and not beyond the life of the runtime.
    Drain(Option<Duration>),
    /// A stream: it looks after the drain itself, and its client after the deadline.
    Endless,
}

/// Longer than any process lives.
const FOREVER: Duration = Duration::from_hours(24 * 365);

// === impl Front ===

impl<B> Service<http::Request<B>> for Front
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        if self.runtime.is_draining() {
            return refuse(shutting_down());
        }
        let connection = request.extensions().get::<Arc<Connection>>();
        let session = connection.and_then(|connection| connection.owner::<Arc<Session>>()).cloned();
        let call = session.as_ref().map(Session::call);
        if let Some(session) = session {
            request.extensions_mut().insert(session);
        }
        let patience = patience(&request, self.deadline_default);
        let routed = self.routes.call(request);
        let guarded = AssertUnwindSafe(routed).catch_unwind().map(|outcome| {
            outcome.unwrap_or_else(|_| {
                tracing::error!("a call panicked: please report it with what the log says above");
                Ok(status(Error::new(Reason::Internal, "the call failed by a mistake of the runtime"))
                    .into_http())
            })
        });
        let answered = async move {
            let answer = guarded.await;
            drop(call);
            answer
        };
        let runtime = Arc::clone(&self.runtime);
        match patience {
            Patience::Deadline(after) => {
                Box::pin(Deadline { call: Box::pin(answered), runtime, after, timer: None })
            }
            Patience::Drain(after) => Box::pin(async move {
                let draining = runtime.draining().clone();
                let call = Box::pin(answered);
                let after = after.unwrap_or(FOREVER);
                tokio::select! {
                    biased;
                    answer = (Deadline { call, runtime, after, timer: None }) => answer,
                    () = draining.cancelled() => Ok(status(shutting_down()).into_http()),
                }
            }),
            Patience::Endless => Box::pin(answered),
        }
    }
}

// === impl Deadline ===

impl<F> Future for Deadline<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let Poll::Ready(answer) = Pin::new(&mut this.call).poll(context) {
            return Poll::Ready(answer);
        }
        let timer = this.timer.get_or_insert_with(|| this.runtime.env().sleep(this.after).boxed());
        timer.as_mut().poll(context).map(|()| {
            let error = Error::new(
                Reason::DeadlineExceeded,
                format!("the call took too long: after=`{:?}`", this.after),
            );
            Ok(status(error).into_http())
        })
    }
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
fn grpc_timeout(text: &str) -> Option<Duration> {
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

fn refuse(error: Error) -> BoxFuture<'static, Result<http::Response<Body>, Infallible>> {
    Box::pin(std::future::ready(Ok(status(error).into_http())))
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
