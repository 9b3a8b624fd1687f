// SPDX-License-Identifier: Apache-2.0
//! Bodies that cannot make us keep more than a connection's share.
//!
//! h2 bounds what waits on one stream. A peer with a thousand streams and a window of one byte each could still make us
//! keep a thousand large answers, or a thousand large requests that never end. So large frames of answers take their
//! size out of a budget of the connection, which they give back when h2 has sent them; and large requests take the size
//! that they declare before they are read, in order of arrival, which they give back when the call ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::connection::StreamGuard;
use atomix_env::Env;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// What the large bodies of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    bytes: Arc<Semaphore>,
    max: u32,
    env: Env,
}

/// The body of an answer.
pub(crate) struct Answer<B> {
    body: B,
    budget: Budget,
    waiting: Option<Waiting>,
    /// The stream is open until its answer has been given.
    _stream: StreamGuard,
}

/// The body of a request.
pub struct Request<B> {
    body: B,
    budget: Budget,
    /// The prefix of the message: whether it is compressed (1), its length (4).
    prefix: [u8; PREFIX],
    prefix_len: usize,
    held: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
}

struct Waiting {
    frame: Bytes,
    permit: BoxFuture<'static, Option<Result<OwnedSemaphorePermit, AcquireError>>>,
}

/// Bytes that give their share back when they are dropped.
struct Counted {
    bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

const PREFIX: usize = 5;
/// Smaller frames are not counted: the streams of a connection are bounded, and so is their sum.
const SMALL: usize = 4 * 1024;
/// How long a large frame waits for its share before its stream is ended.
const PATIENCE: Duration = Duration::from_secs(30);

type Error = Box<dyn std::error::Error + Send + Sync>;

// === impl Budget ===

impl Budget {
    pub(crate) fn new(max: usize, env: Env) -> Self {
        let max = u32::try_from(max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self { bytes: Arc::new(Semaphore::new(max as usize)), max, env }
    }

    /// Takes a share at once if nobody waits for one. What is larger than the whole budget takes all of it.
    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.bytes).try_acquire_many_owned(self.share(bytes)).ok()
    }

    fn take(&self, frame: Bytes, bytes: usize) -> Waiting {
        let share = Arc::clone(&self.bytes).acquire_many_owned(self.share(bytes));
        let env = self.env.clone();
        Waiting { frame, permit: Box::pin(async move { env.timeout(PATIENCE, share).await.ok() }) }
    }

    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max)
    }
}

// === impl Waiting ===

impl Waiting {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<OwnedSemaphorePermit, Error>> {
        self.permit.as_mut().poll(context).map(|permit| match permit {
            Some(Ok(permit)) => Ok(permit),
            Some(Err(error)) => Err(error.into()),
            None => Err("the peer does not read or send what waits on other streams".into()),
        })
    }
}

// === impl Answer ===

impl<B> Answer<B> {
    pub(crate) fn new(body: B, budget: Budget, stream: StreamGuard) -> Self {
        Self { body, budget, waiting: None, _stream: stream }
    }
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let (bytes, share) = if let Some(waiting) = &mut this.waiting {
            let share = std::task::ready!(waiting.poll(context))?;
            (std::mem::take(&mut waiting.frame), share)
        } else {
            let frame = match std::task::ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(bytes) if bytes.len() > SMALL => {
                    let len = bytes.len();
                    if let Some(share) = this.budget.try_take(len) {
                        (bytes, share)
                    } else {
                        this.waiting = Some(this.budget.take(bytes, len));
                        return self.poll_frame(context);
                    }
                }
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        };
        this.waiting = None;
        let counted = Bytes::from_owner(Counted { bytes, _share: share });
        Poll::Ready(Some(Ok(Frame::data(counted))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.waiting.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

// === impl Request ===

impl<B> Request<B> {
    pub(crate) fn new(body: B, budget: Budget) -> Self {
        Self { body, budget, prefix: [0; PREFIX], prefix_len: 0, held: None, waiting: None }
    }

    /// Reads the prefix of the first message; its length once that is complete with these bytes.
    fn declared(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.prefix_len == PREFIX {
            return None;
        }
        let len = bytes.len().min(PREFIX - self.prefix_len);
        self.prefix[self.prefix_len..self.prefix_len + len].copy_from_slice(&bytes[..len]);
        self.prefix_len += len;
        let [_, length @ ..] = self.prefix;
        (self.prefix_len == PREFIX).then_some(u32::from_be_bytes(length) as usize)
    }
}

impl<B> std::fmt::Debug for Request<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl<B> Body for Request<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Some(waiting) = &mut this.waiting {
            this.held = Some(std::task::ready!(waiting.poll(context))?);
            let frame = std::mem::take(&mut waiting.frame);
            this.waiting = None;
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let frame = match std::task::ready!(Pin::new(&mut this.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        if let Some(declared) = this.declared(&bytes).filter(|declared| *declared > SMALL) {
            if let Some(share) = this.budget.try_take(declared) {
                this.held = Some(share);
            } else {
                this.waiting = Some(this.budget.take(bytes, declared));
                return self.poll_frame(context);
            }
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

// === impl Counted ===

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
