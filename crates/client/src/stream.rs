// SPDX-License-Identifier: Apache-2.0
//! Streams from the server.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use crate::error::Result;

/// A stream of messages from the server.
///
/// It ends without an error when the listing is complete, or when the primitive is closed by this client. It ends
/// after an error otherwise: it is never opened again behind the caller's back, because changes could be missed.
/// Dropping it ends it on the server.
#[must_use = "a subscription that is dropped has ended"]
pub struct Subscription<T> {
    stream: BoxStream<'static, Result<T>>,
}

/// Asks for the content of a primitive; `.await` it for the [`Subscription`].
#[must_use = "nothing is sent until it is awaited"]
pub struct Listing<T> {
    start: Box<dyn FnOnce(bool) -> BoxFuture<'static, Result<Subscription<T>>> + Send>,
    watch: bool,
}

/// Asks for the changes of a primitive; `.await` it for the [`Subscription`].
///
/// When the `.await` is over the server has registered the subscription: no later change is missed.
#[must_use = "nothing is sent until it is awaited"]
pub struct Changes<T> {
    start: Box<dyn FnOnce(String) -> BoxFuture<'static, Result<Subscription<T>>> + Send>,
    key: String,
}

// === impl Subscription ===

impl<T> Subscription<T> {
    pub(crate) fn new(stream: impl Stream<Item = Result<T>> + Send + 'static) -> Self {
        Self { stream: stream.boxed() }
    }

    /// Waits for the next message; `None` means the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<T>> {
        self.stream.next().await
    }

    /// Reads to the end. The memory grows with the number of messages. A cancelled call loses what it had read.
    pub async fn collect(mut self) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while let Some(item) = self.next().await {
            all.push(item?);
        }
        Ok(all)
    }
}

impl<T> Stream for Subscription<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

// === impl Listing ===

impl<T> Listing<T> {
    pub(crate) fn new<F, R>(start: F) -> Self
    where
        F: FnOnce(bool) -> R + Send + 'static,
        R: Future<Output = Result<Subscription<T>>> + Send + 'static,
    {
        Self { start: Box::new(move |watch| Box::pin(start(watch))), watch: false }
    }

    /// Keeps the stream open after the content and sends each later change. A removal sends the last value and
    /// looks like an update (a key of a multimap: with no values); use the events to distinguish them.
    pub fn watch(mut self) -> Self {
        self.watch = true;
        self
    }
}

impl<T: 'static> IntoFuture for Listing<T> {
    type Output = Result<Subscription<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        (self.start)(self.watch)
    }
}

impl<T> fmt::Debug for Listing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").field("watch", &self.watch).finish_non_exhaustive()
    }
}

// === impl Changes ===

impl<T> Changes<T> {
    pub(crate) fn new<F, R>(start: F) -> Self
    where
        F: FnOnce(String) -> R + Send + 'static,
        R: Future<Output = Result<Subscription<T>>> + Send + 'static,
    {
        Self { start: Box::new(move |key| Box::pin(start(key))), key: String::new() }
    }

    /// Sends the changes of this key only. The empty key stands for all keys.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }
}

impl<T: 'static> IntoFuture for Changes<T> {
    type Output = Result<Subscription<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        (self.start)(self.key)
    }
}

impl<T> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("key", &self.key).finish_non_exhaustive()
    }
}
