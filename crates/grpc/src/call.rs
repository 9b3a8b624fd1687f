// SPDX-License-Identifier: Apache-2.0
//! The session and the primitive of a call.

use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atomix_primitives::{Caller, Error, Events, Kind, PrimitiveConfig, Reason, TypedPrimitive};
use atomix_proto::runtime::PrimitiveId;
use atomix_runtime::{CallGuard, PrimitiveHandle, Runtime, Session, shutting_down};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use http::Extensions;
use tonic::{Response, Status};

use crate::directory::Directory;
use crate::status::{status, stream_status};

/// All services: they share the runtime and have no state of their own.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(crate) runtime: Arc<Runtime>,
    /// Waiting calls and streams that one connection may have, to be shown.
    pub(crate) long_calls_max: u32,
}

/// Adds the services of a file to a port.
pub(crate) type Register = fn(&mut Directory, &Services);

/// A call on a primitive; dereferences to it.
#[derive(Debug)]
pub(crate) struct Call<'a, P> {
    runtime: &'a Runtime,
    session: Arc<Session>,
    open: Arc<PrimitiveHandle>,
    of: PhantomData<fn() -> P>,
}

/// The answer of a method that is written by hand.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<Response<T>, Status>>;

/// The stream of an answer.
pub(crate) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Counts a stream while it is open.
struct Counted<S> {
    stream: S,
    open: Arc<PrimitiveHandle>,
    _call: CallGuard,
}

/// Finds the primitive of a request and takes the request apart: `let (map, request) = call!(self, Map, request);`.
macro_rules! call {
    ($services:expr, $kind:ty, $request:expr) => {{
        let request = $request;
        let call = $services.call::<$kind>(request.extensions(), request.get_ref().id.as_ref());
        (call.await.map_err(crate::status::status)?, request.into_inner())
    }};
}

/// The same for a call that answers with a stream, whose errors have other codes.
macro_rules! stream_call {
    ($services:expr, $kind:ty, $request:expr) => {{
        let request = $request;
        let call = $services.call::<$kind>(request.extensions(), request.get_ref().id.as_ref());
        (call.await.map_err(crate::status::stream_status)?, request.into_inner())
    }};
}

/// Implements `Create` and `Close`, which every primitive has on two services with the same effect.
///
/// Written as `async_trait` would write it, because that looks at a trait before macros are expanded.
macro_rules! create_and_close {
    ($kind:expr, $package:ident, |$config:ident| $message:expr) => {
        fn create<'a, 'async_trait>(
            &'a self,
            request: tonic::Request<atomix_proto::$package::CreateRequest>,
        ) -> crate::call::Answer<'async_trait, atomix_proto::$package::CreateResponse>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async move {
                let (_, extensions, request) = request.into_parts();
                let $config = self.create_primitive(&extensions, $kind, request.id, &request.tags).await?;
                // Always set, even when empty: the clients read it without looking.
                Ok(tonic::Response::new(atomix_proto::$package::CreateResponse { config: Some($message) }))
            })
        }

        fn close<'a, 'async_trait>(
            &'a self,
            request: tonic::Request<atomix_proto::$package::CloseRequest>,
        ) -> crate::call::Answer<'async_trait, atomix_proto::$package::CloseResponse>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async move {
                let (_, extensions, request) = request.into_parts();
                self.close_primitive(&extensions, $kind, request.id).await;
                Ok(tonic::Response::new(atomix_proto::$package::CloseResponse {}))
            })
        }
    };
}

/// Registers the generated servers of a file.
macro_rules! services {
    ($($server:path),+) => {
        pub(crate) fn register(directory: &mut crate::directory::Directory, services: &crate::call::Services) {
            $({
                use $server as Server;
                // The transport has refused what is too large, with another code.
                directory.add(Server::new(services.clone()).max_decoding_message_size(usize::MAX));
            })+
        }
    };
}

pub(crate) use {call, create_and_close, services, stream_call};

// === impl Services ===

impl Services {
    /// Finds the session of a request and the primitive that it names.
    pub(crate) async fn call<P: TypedPrimitive>(
        &self,
        extensions: &Extensions,
        id: Option<&PrimitiveId>,
    ) -> Result<Call<'_, P>, Error> {
        let name = id.map_or("", |id| id.name.as_str());
        let session = session(extensions)?;
        let open = self.runtime.find_for(&session, P::KIND, name).await?;
        let open = open.ok_or_else(|| self.runtime.not_open(P::KIND, name))?;
        Ok(Call { runtime: &self.runtime, session, open, of: PhantomData })
    }

    pub(crate) async fn create_primitive(
        &self,
        extensions: &Extensions,
        kind: Kind,
        id: Option<PrimitiveId>,
        tags: &[String],
    ) -> Result<PrimitiveConfig, Status> {
        let session = session(extensions).map_err(status)?;
        self.runtime.create(&session, kind, &id.unwrap_or_default().name, tags).await.map_err(status)
    }

    pub(crate) async fn close_primitive(&self, extensions: &Extensions, kind: Kind, id: Option<PrimitiveId>) {
        // A call without a session has nothing to close.
        if let Ok(session) = session(extensions) {
            self.runtime.close(&session, kind, &id.unwrap_or_default().name).await;
        }
    }
}

// === impl Call ===

impl<P: TypedPrimitive> Call<'_, P> {
    /// Returns the caller, for calls that wait, own, or stream.
    pub(crate) fn caller(&self) -> Caller {
        self.session.caller(&self.open)
    }

    /// Answers with `first`, if any, and then with `events`, each encoded. When the runtime is about to end, so does
    /// the stream, with the one code that makes clients open it again elsewhere.
    pub(crate) fn stream<T, U>(
        self,
        first: Option<U>,
        events: Events<T>,
        encode: impl Fn(T) -> U + Send + 'static,
    ) -> Response<Answers<U>>
    where
        T: Send + 'static,
        U: Send + 'static,
    {
        let events = events.map(move |event| event.map(&encode).map_err(stream_status));
        let draining = self.runtime.draining().clone();
        let drained = draining.clone().cancelled_owned();
        // Weak: a close that waits for the calls on a primitive counts one reference for each stream.
        let open = Arc::downgrade(&self.open);
        let last = stream::once(async move {
            if draining.is_cancelled() {
                return Some(Err(stream_status(shutting_down())));
            }
            open.upgrade().is_some_and(|open| open.is_ended()).then(|| Err(stream_status(ended())))
        });
        let stream = stream::iter(first.map(Ok))
            .chain(events)
            .take_until(drained)
            .chain(last.filter_map(std::future::ready));
        self.open.stream_opened();
        let counted =
            Counted { stream: stream.boxed(), open: Arc::clone(&self.open), _call: self.session.call() };
        Response::new(counted.boxed())
    }
}

impl<P: TypedPrimitive> Deref for Call<'_, P> {
    type Target = P;

    fn deref(&self) -> &P {
        P::downcast(self.open.primitive()).expect("a primitive is registered under its kind")
    }
}

// === impl Counted ===

impl<S: Stream + Unpin> Stream for Counted<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.stream).poll_next(context)
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.open.stream_ended();
    }
}

fn session(extensions: &Extensions) -> Result<Arc<Session>, Error> {
    let none = || Error::new(Reason::Internal, "the call has no session");
    crate::call_service::session(extensions).cloned().ok_or_else(none)
}

fn ended() -> Error {
    Error::new(
        Reason::Closed,
        "the primitive was closed or deleted by an operator: create it again to use it",
    )
}
