// SPDX-License-Identifier: Apache-2.0
//! The body of a request, received no faster than there is room for.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::connection::Connection;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Bytes of a message that need no room: the number of streams bounds their sum.
const SMALL_BYTES: usize = 4 << 10;
/// Bytes that a stream keeps while it waits for room: about one window.
const STREAM_BYTES: usize = 64 << 10;
/// Bytes before each message of gRPC: whether it is compressed, and its length in four bytes.
const PREFIX_BYTES: usize = 5;

/// The body of a request.
///
/// gRPC collects a message before it is decoded, so the windows bound only what was not yet looked at: a thousand
/// streams that each send all but the last byte of a message of 4 MiB would cost 4 GiB. Each message has its length
/// first. A large one takes that length from what its connection may receive, in order of arrival, and gives it back
/// when the next one begins or the body is dropped.
///
/// A waiting message keeps its window full of unread bytes, and all streams share the window of the connection: full of
/// waiting messages, it would block every stream. So at most half of it may wait, and further messages are refused.
pub struct RequestBody {
    body: RecvStream,
    /// All DATA was read, trailers may follow.
    data_done: bool,
    connection: Arc<Connection>,
    messages: Messages,
    /// The room of the message that is being received.
    room: Option<Room>,
    waiting: Option<Waiting>,
}

/// The room of a message, in its connection and among all connections.
struct Room {
    connection: Arc<Connection>,
    bytes: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Finds messages, however their bytes are cut.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    have: usize,
    /// Bytes until the next prefix.
    rest: usize,
}

/// Bytes that wait for room.
struct Waiting {
    frame: Frame<Bytes>,
    bytes: usize,
    room: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
    connection: Arc<Connection>,
}

// === impl RequestBody ===

impl RequestBody {
    pub(crate) fn new(body: RecvStream, connection: &Arc<Connection>) -> Self {
        let connection = Arc::clone(connection);
        Self { body, data_done: false, connection, messages: Messages::default(), room: None, waiting: None }
    }

    /// Waits for what comes next, and lets the peer send as much again.
    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        // A reset with this code means that the peer needs no more than it received: the body ends here.
        let end = |error: h2::Error| (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error));
        if !self.data_done {
            match ready!(self.body.poll_data(context)) {
                Some(Ok(bytes)) => {
                    // Fails only if the stream has ended, which the next read finds out.
                    drop(self.body.flow_control().release_capacity(bytes.len()));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(end(error)),
                None => self.data_done = true,
            }
        }
        Poll::Ready(match ready!(self.body.poll_trailers(context)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => end(error),
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            let frame = match ready!(this.poll_received(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            let begun = frame.data_ref().and_then(|bytes| this.messages.read(bytes));
            let Some(bytes) = begun else {
                return Poll::Ready(Some(Ok(frame)));
            };
            // The message before is whole.
            this.room = None;
            if bytes <= SMALL_BYTES {
                this.room = Some(Room::new(&this.connection, bytes, None));
                return Poll::Ready(Some(Ok(frame)));
            }
            let allowance = &this.connection.allowance;
            if bytes > allowance.message_bytes_max() {
                return Poll::Ready(Some(Err(too_large(bytes, allowance.message_bytes_max()))));
            }
            if !this.connection.usage.is_open() {
                this.connection.usage.refuse();
                return Poll::Ready(Some(Err(Box::new(no_memory()))));
            }
            this.room =
                allowance.try_take(bytes).map(|permit| Room::new(&this.connection, bytes, Some(permit)));
            if this.room.is_some() {
                return Poll::Ready(Some(Ok(frame)));
            }
            this.waiting = Waiting::new(&this.connection, frame, bytes);
            if this.waiting.is_none() {
                return Poll::Ready(Some(Err(no_room())));
            }
        }
        let waiting = this.waiting.as_mut().expect("it waits if it did not return");
        let permit = ready!(waiting.room.as_mut().poll(context));
        let bytes = waiting.bytes;
        this.room = permit.map(|permit| Room::new(&this.connection, bytes, Some(permit)));
        let frame = this.waiting.take().map(Waiting::into_frame);
        Poll::Ready(if this.room.is_some() { frame.map(Ok) } else { Some(Err(no_room())) })
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("connection", &self.connection.id()).finish_non_exhaustive()
    }
}

// === impl Room ===

impl Room {
    fn new(connection: &Arc<Connection>, bytes: usize, permit: Option<OwnedSemaphorePermit>) -> Self {
        let connection = Arc::clone(connection);
        let bytes = connection.allowance.begin_receiving(bytes);
        connection.usage.take(bytes);
        Self { connection, bytes, _permit: permit }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.connection.allowance.end_receiving();
        self.connection.usage.give(self.bytes);
    }
}

// === impl Messages ===

impl Messages {
    /// Reads along; returns the length of a message that begins in `bytes` and does not end in them.
    fn read(&mut self, mut bytes: &[u8]) -> Option<usize> {
        let mut begun = None;
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return begun.filter(|_| self.rest > 0);
            }
            let taken = (PREFIX_BYTES - self.have).min(bytes.len());
            self.prefix[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.have = 0;
                self.rest = u32::from_be_bytes(length) as usize;
                begun = Some(self.rest);
            }
        }
    }
}

// === impl Waiting ===

impl Waiting {
    /// Queues up, unless too many wait already.
    fn new(connection: &Arc<Connection>, frame: Frame<Bytes>, bytes: usize) -> Option<Self> {
        let allowance = &connection.allowance;
        if !allowance.begin_waiting() {
            return None;
        }
        let room = allowance.take(bytes, connection.env.clone());
        connection.usage.take(STREAM_BYTES);
        Some(Self { frame, bytes, room, connection: Arc::clone(connection) })
    }

    fn into_frame(mut self) -> Frame<Bytes> {
        std::mem::replace(&mut self.frame, Frame::data(Bytes::new()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.connection.allowance.end_waiting();
        self.connection.usage.give(STREAM_BYTES);
    }
}

/// Makes the status for a message without buffer room: certainly nothing was applied. gRPC's own error, because that is what a service finds again however its
/// framework wraps the errors of bodies.
fn no_room() -> BoxError {
    Box::new(Status::unavailable(
        "too many large messages at the same time on one connection, send fewer or open another",
    ))
}

/// Makes the status for a message that is too large, with a code that every client of the services can map: tonic would say
/// `OUT_OF_RANGE`.
fn too_large(bytes: usize, max: usize) -> BoxError {
    Box::new(Status::invalid_argument(format!(
        "the message is too large: send less at a time or raise limits.message-bytes-max: bytes=`{bytes}`, max=`{max}`"
    )))
}

/// Makes the status for full buffers of all connections: certainly nothing was applied.
pub(crate) fn no_memory() -> Status {
    Status::unavailable(
        "the server has no memory left for more calls and requests of this connection (limits.buffers-bytes-max): try again, \
         read answers faster, or run fewer calls at the same time",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_found_however_the_bytes_are_cut() {
        let mut bytes = vec![0, 0, 0, 0, 3, 1, 2, 3];
        bytes.extend([0, 0, 0, 0, 0]);
        bytes.extend([1, 0, 0, 1, 44]);
        bytes.extend([7; 300]);
        for cut in 1..=13 {
            let mut messages = Messages::default();
            let found: Vec<usize> = bytes.chunks(cut).filter_map(|piece| messages.read(piece)).collect();
            assert_eq!(found.last(), Some(&300), "pieces of {cut}");
            assert!(found[..found.len() - 1].iter().all(|length| *length == 3));
            assert_eq!((messages.rest, messages.have), (0, 0));
        }
    }

    #[test]
    fn a_message_that_came_whole_needs_no_room() {
        let mut messages = Messages::default();
        assert_eq!(messages.read(&[0, 0, 0, 0, 2, 9, 9]), None);
        assert_eq!(messages.read(&[0, 0, 0, 0, 2, 9]), Some(2));
        assert_eq!(messages.read(&[9, 0, 0]), None);
    }
}
