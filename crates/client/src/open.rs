// SPDX-License-Identifier: Apache-2.0
//! Opening of primitives, and the client that all of them share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use atomix_proto::runtime::PrimitiveId;
use futures::future::BoxFuture;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::client::{Client, Limit};
use crate::codec::{AnyCodec, Codec, Json, Raw, Text};
use crate::error::{Access, Error, Kind, Result};
use crate::link::Connection;
use crate::stream::Subscription;

/// Names a primitive and how to open it.
///
/// `open` asks the server to route the primitive to a store. It does not fail if the primitive exists: primitives are
/// shared by all clients that name them.
#[must_use = "nothing is sent until it is opened"]
pub struct OpenRequest<P> {
    primitive: PrimitiveClient,
    make: Box<dyn FnOnce(Arc<PrimitiveClient>) -> P + Send>,
}

/// A primitive that stores values of a type `V` through a [`Codec`].
pub trait Typed: Sized + 'static {
    /// The same primitive with values of another type.
    type With<V: Send + 'static>: Typed;

    #[doc(hidden)]
    fn with<V: Send + 'static>(primitive: Arc<PrimitiveClient>, codec: BoundCodec<V>) -> Self::With<V>;
}

/// A codec that is bound to a value type. Only this crate can make one.
#[doc(hidden)]
pub struct BoundCodec<V>(pub(crate) AnyCodec<V>);

/// The client of one opened primitive, shared by its handles.
#[doc(hidden)]
pub struct PrimitiveClient {
    client: Client,
    service: &'static Service,
    name: String,
    tags: Vec<String>,
    /// The number of the connection over which the primitive was opened last, 0 for none. Another connection is
    /// another session, for which it has to be opened again.
    opened: AtomicU64,
    closed: AtomicBool,
}

/// The calls that differ only in their types between the primitives.
pub(crate) struct Service {
    pub(crate) kind: &'static str,
    pub(crate) create: fn(Channel, tonic::Request<Creation>) -> Answer,
    pub(crate) close: fn(Channel, tonic::Request<PrimitiveId>) -> Answer,
}

/// The content of the call that opens a primitive.
pub(crate) struct Creation {
    pub(crate) id: PrimitiveId,
    pub(crate) tags: Vec<String>,
}

pub(crate) type Answer = BoxFuture<'static, std::result::Result<tonic::Response<()>, Status>>;

/// Makes the [`Service`] of a primitive from its module and the client of its second service.
macro_rules! service {
    ($kind:literal, $module:ident, $client:ident :: $Client:ident) => {
        crate::open::Service {
            kind: $kind,
            create: |channel, request| {
                Box::pin(async move {
                    let mut client = atomix_proto::$module::$client::$Client::new(channel);
                    let request = crate::open::map_request(request, |creation| {
                        atomix_proto::$module::CreateRequest { id: Some(creation.id), tags: creation.tags }
                    });
                    client.create(request).await.map(|response| response.map(|_| ()))
                })
            },
            close: |channel, request| {
                Box::pin(async move {
                    let mut client = atomix_proto::$module::$client::$Client::new(channel);
                    let request = crate::open::map_request(request, |id| {
                        atomix_proto::$module::CloseRequest { id: Some(id) }
                    });
                    client.close(request).await.map(|response| response.map(|_| ()))
                })
            },
        }
    };
}

/// Names a method of a generated client. Its answers may have any size: the server bounds them, and an answer that is
/// refused here may be that of a write which is applied.
macro_rules! rpc {
    ($Client:ident . $method:ident) => {
        |channel, request| async move {
            $Client::new(channel).max_decoding_message_size(usize::MAX).$method(request).await
        }
    };
}

/// Lets a request builder be awaited.
macro_rules! awaitable {
    ($Builder:ident $(<$V:ident>)? -> $Output:ty) => {
        impl $(<$V: Send + 'static>)? IntoFuture for $Builder $(<$V>)? {
            type Output = crate::error::Result<$Output>;
            type IntoFuture = futures::future::BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.send())
            }
        }
    };
}

pub(crate) use {awaitable, rpc, service};

pub(crate) fn map_request<A, B>(request: tonic::Request<A>, map: impl FnOnce(A) -> B) -> tonic::Request<B> {
    let (metadata, extensions, message) = request.into_parts();
    tonic::Request::from_parts(metadata, extensions, map(message))
}

// === impl OpenRequest ===

impl<P> OpenRequest<P> {
    pub(crate) fn new(
        client: &Client,
        service: &'static Service,
        name: String,
        make: impl FnOnce(Arc<PrimitiveClient>) -> P + Send + 'static,
    ) -> Self {
        let primitive = PrimitiveClient {
            client: client.clone(),
            service,
            name,
            tags: Vec::new(),
            opened: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        Self { primitive, make: Box::new(make) }
    }

    /// Adds a tag. Routes choose the store by the tags.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.primitive.tags.push(tag.into());
        self
    }

    /// Adds tags.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.primitive.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Opens the primitive. Cancel safe.
    ///
    /// Fails with [`Kind::Denied`] if no route matches, [`Kind::Unavailable`] while routes are not programmed or the
    /// store is not connected, [`Kind::Unsupported`] if the store has no such primitive.
    pub async fn open(self) -> Result<P> {
        self.primitive.open().await?;
        Ok((self.make)(Arc::new(self.primitive)))
    }
}

impl<P: Typed> OpenRequest<P> {
    /// Stores values as JSON.
    pub fn json<V>(self) -> OpenRequest<P::With<V>>
    where
        V: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        self.codec(Json)
    }

    /// Stores values as UTF-8 text.
    pub fn text(self) -> OpenRequest<P::With<String>> {
        self.codec(Text)
    }

    /// Stores values as they are. This is the default.
    pub fn raw(self) -> OpenRequest<P::With<bytes::Bytes>> {
        self.codec(Raw)
    }

    /// Stores values through a codec of your own.
    pub fn codec<V: Send + 'static>(self, codec: impl Codec<V>) -> OpenRequest<P::With<V>> {
        let codec = BoundCodec(AnyCodec::new(codec));
        OpenRequest { primitive: self.primitive, make: Box::new(move |primitive| P::with(primitive, codec)) }
    }
}

impl<P> fmt::Debug for OpenRequest<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.primitive.fmt(f)
    }
}

impl<V> fmt::Debug for BoundCodec<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl PrimitiveClient ===

impl PrimitiveClient {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.service.kind
    }

    /// Returns the `id` of requests.
    // Every request message has it as an option, which is how prost spells a message field.
    #[allow(clippy::unnecessary_wraps, reason = "the generated field is an option")]
    pub(crate) fn id(&self) -> Option<PrimitiveId> {
        Some(PrimitiveId { name: self.name.clone() })
    }

    /// Returns the connection that the next call will use, if there is one.
    pub(crate) fn connection(&self) -> Option<Connection> {
        self.client.link().connection()
    }

    async fn open(&self) -> Result<()> {
        let mut retry = self.client.retry();
        loop {
            match self.create().await {
                Ok(()) => return Ok(()),
                Err(error) => retry.pause_after(error).await?,
            }
        }
    }

    async fn create(&self) -> Result<()> {
        let request = Creation { id: PrimitiveId { name: self.name.clone() }, tags: self.tags.clone() };
        let link = self.client.link();
        self.client.attempt(link, Access::Read, Limit::Call, request, &self.service.create).await?;
        let number = link.connection().map_or(0, |connection| connection.number);
        self.opened.store(number, Ordering::Relaxed);
        Ok(())
    }

    /// Opens the primitive for the session that the next call will belong to, unless that is done.
    async fn ready(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Invalid, format!("{} is closed, open it again", self.kind())));
        }
        let opened = self.opened.load(Ordering::Relaxed);
        match self.connection() {
            Some(connection) if connection.number == opened => Ok(()),
            _ => self.create().await,
        }
    }

    /// Makes a call, repeated as long as the budget lasts.
    pub(crate) async fn call<Req, Res, F, Fut>(&self, access: Access, request: Req, method: F) -> Result<Res>
    where
        Req: Clone,
        F: Fn(Channel, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = std::result::Result<tonic::Response<Res>, Status>>,
    {
        self.call_within(access, Limit::Call, || request.clone(), method).await
    }

    /// Makes a call with a request that is built for each attempt.
    pub(crate) async fn call_within<Req, Res, F, Fut>(
        &self,
        access: Access,
        limit: Limit,
        request: impl Fn() -> Req,
        method: F,
    ) -> Result<Res>
    where
        F: Fn(Channel, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = std::result::Result<tonic::Response<Res>, Status>>,
    {
        let mut retry = self.client.retry();
        loop {
            let error = match self.ready().await {
                Err(error) => error,
                Ok(()) => {
                    match self.client.attempt(self.client.link(), access, limit, request(), &method).await {
                        Ok(response) => return Ok(response),
                        Err(error) => error,
                    }
                }
            };
            if error.is_retryable() {
                // Perhaps the server has forgotten the primitive, as after a restart.
                self.opened.store(0, Ordering::Relaxed);
            }
            retry.pause_after(error).await?;
        }
    }

    /// Opens a stream whose response headers confirm the registration.
    pub(crate) async fn stream<Req, Msg, F, Fut, T>(
        self: &Arc<Self>,
        request: Req,
        method: F,
        convert: impl Fn(Msg) -> Result<T> + Send + 'static,
    ) -> Result<Subscription<T>>
    where
        Req: Clone,
        Msg: Send + 'static,
        T: Send + 'static,
        F: Fn(Channel, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = std::result::Result<tonic::Response<Streaming<Msg>>, Status>>,
    {
        let stream = self.call_within(Access::Read, Limit::Open, || request.clone(), method).await?;
        Ok(self.subscription(stream, None, move |message| convert(message).map(Some)))
    }

    /// Opens a stream whose first message confirms the registration. `convert` gives `None` for such a message.
    pub(crate) async fn acknowledged<Req, Msg, F, Fut, T>(
        self: &Arc<Self>,
        request: Req,
        method: F,
        convert: impl Fn(Msg) -> Result<Option<T>> + Send + 'static,
    ) -> Result<Subscription<T>>
    where
        Req: Clone,
        Msg: Send + 'static,
        T: Send + 'static,
        F: Fn(Channel, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = std::result::Result<tonic::Response<Streaming<Msg>>, Status>>,
    {
        let mut retry = self.client.retry();
        loop {
            let mut stream = self.call_within(Access::Read, Limit::Open, || request.clone(), &method).await?;
            let first = self.client.env().timeout(self.client.call_timeout(), stream.message()).await;
            let error = match first {
                Ok(Ok(Some(message))) => {
                    let first = convert(message)?;
                    return Ok(self.subscription(stream, first, convert));
                }
                Ok(Ok(None)) => Error::new(Kind::Cancelled, "stream ended before it was acknowledged"),
                Ok(Err(status)) => Error::from_status(status, Access::Read),
                Err(_) => Error::new(Kind::Timeout, "stream was not acknowledged in time"),
            };
            self.opened.store(0, Ordering::Relaxed);
            retry.pause_after(error).await?;
        }
    }

    fn subscription<Msg: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        stream: Streaming<Msg>,
        first: Option<T>,
        convert: impl Fn(Msg) -> Result<Option<T>> + Send + 'static,
    ) -> Subscription<T> {
        // The primitive client keeps the client, and so the connection, alive.
        let state = (Some(stream), first, Arc::clone(self), convert);
        Subscription::new(futures::stream::unfold(state, |(stream, first, primitive, convert)| async move {
            if let Some(first) = first {
                return Some((Ok(first), (stream, None, primitive, convert)));
            }
            let mut stream = stream?;
            let item = loop {
                match stream.message().await {
                    Ok(None) => return None,
                    Ok(Some(message)) => match convert(message) {
                        Ok(None) => {}
                        Ok(Some(item)) => break Ok(item),
                        Err(error) => break Err(error),
                    },
                    Err(status) => {
                        return Some((
                            Err(Error::from_status(status, Access::Read)),
                            (None, None, primitive, convert),
                        ));
                    }
                }
            };
            Some((item, (Some(stream), None, primitive, convert)))
        }))
    }

    /// Ends the use of the primitive by this client.
    pub(crate) async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let Some(connection) = self.connection() else { return Ok(()) };
        if connection.number != self.opened.load(Ordering::Relaxed) {
            // The session for which it was opened is over.
            return Ok(());
        }
        let id = PrimitiveId { name: self.name.clone() };
        self.client.attempt(self.client.link(), Access::Session, Limit::Call, id, &self.service.close).await
    }
}

impl fmt::Debug for PrimitiveClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind())
            .field("name", &self.name)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}
