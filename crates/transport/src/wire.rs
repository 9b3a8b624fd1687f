// SPDX-License-Identifier: Apache-2.0
//! The socket of a connection, with a look at the frames that pass.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::connection::{Connection, End};
use crate::frames::{Flood, Framing, Greeting, Pace, go_away};

/// A socket. An enum, so that reading and writing need no virtual call.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket on its way from one tokio runtime to another.
#[derive(Debug)]
pub(crate) enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Lets HTTP/2 read and write, counts, and ends a connection that floods.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    connection: Arc<Connection>,
    inbound: Framing,
    outbound: Framing,
    pace: Pace,
    /// The first bytes, which were looked at before HTTP/2 began.
    greeting: Vec<u8>,
    last_stream: u32,
    /// Streams whose resets were read here and may not have been handled by HTTP/2 yet: it handles all before it reads
    /// again.
    resets: Vec<u32>,
    flood: Option<Flood>,
}

/// Bytes that are read at a time before the protocol is known: a small request, as a whole.
const GREETING_BYTES: usize = 4 << 10;

/// The answer to a peer that speaks HTTP/1.
const HTTP1_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\n\
    connection: close\r\n\
    \r\n\
    This port speaks gRPC, which is HTTP/2 without TLS (prior knowledge), and not HTTP/1. \
    Use a gRPC client, the atomix command, or grpcurl -plaintext.\n";

macro_rules! with {
    ($socket:expr, $it:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($it) => $do,
            Socket::Unix($it) => $do,
        }
    };
}

// === impl Socket ===

impl Socket {
    /// Takes the socket from the tokio runtime that it was accepted on.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Self::Tcp(socket) => Detached::Tcp(socket.into_std()?),
            Self::Unix(socket) => Detached::Unix(socket.into_std()?),
        })
    }
}

// === impl Detached ===

impl Detached {
    /// Gives the socket to the current tokio runtime.
    pub(crate) fn attach(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(socket) => Socket::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => Socket::Unix(UnixStream::from_std(socket)?),
        })
    }
}

// === impl Wire ===

impl Wire {
    pub(crate) fn new(socket: Socket, connection: Arc<Connection>, pings_per_second_max: u32) -> Self {
        let pace = Pace::new(pings_per_second_max, connection.opened());
        Self {
            socket,
            connection,
            inbound: Framing::of_client(),
            outbound: Framing::of_server(),
            pace,
            greeting: Vec::new(),
            last_stream: 0,
            resets: Vec::new(),
            flood: None,
        }
    }

    /// Waits for the first bytes, and answers a peer that speaks HTTP/1. HTTP/2 would write its own frames before it reads.
    pub(crate) fn poll_greeting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match Greeting::of(&self.greeting) {
                Greeting::Http2 => return Poll::Ready(Ok(())),
                Greeting::Http1 => {
                    let sent = with!(&self.socket, socket => socket.try_write(HTTP1_ANSWER));
                    tracing::debug!(connection = self.connection.id(), ?sent, "a peer speaks HTTP/1");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP/1")));
                }
                Greeting::Unknown => {}
            }
            let mut bytes = [0; GREETING_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(with!(&mut self.socket, socket => Pin::new(socket).poll_read(context, &mut buffer)))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.greeting.extend_from_slice(buffer.filled());
        }
    }

    /// Looks at bytes that came.
    fn read_along(&mut self, bytes: &[u8]) -> io::Result<()> {
        let begun = self.inbound.has_begun();
        let Self { connection, inbound, pace, last_stream, resets, flood, .. } = self;
        connection.traffic.read();
        inbound.read(bytes, |head| {
            if head.is_headers() {
                *last_stream = head.stream.max(*last_stream);
            } else if let Some(reason) = head.reset() {
                if reason != h2::Reason::NO_ERROR {
                    resets.push(head.stream);
                    connection.receipts.refused(head.stream);
                }
            } else if head.is_pong() {
                connection.receipts.ponged(|| connection.env.now());
            }
            if flood.is_none() {
                *flood = pace.received(head, || connection.env.now()).err();
            }
        });
        if !begun && self.inbound.has_begun() {
            self.connection.traffic.begin();
        }
        if let Some(flood) = self.flood {
            self.connection.traffic.flood(flood);
            self.send_goaway(flood);
            return Err(calm(flood));
        }
        Ok(())
    }

    /// Sends the reason in a GOAWAY, if that is possible without waiting: h2 has no call for it.
    fn send_goaway(&self, flood: Flood) {
        if !self.outbound.is_between_frames() {
            return;
        }
        let frame = flood.go_away(self.last_stream);
        let sent = with!(&self.socket, socket => socket.try_write(&frame));
        tracing::trace!(connection = self.connection.id(), ?sent, "sent GOAWAY after a flood");
    }

    /// Sends a GOAWAY with the reason to a peer that is cut for its use of memory.
    fn send_cut_reason(&self) {
        if self.connection.ordered_end() == Some(End::Memory) && self.outbound.is_between_frames() {
            let frame = go_away(
                self.last_stream,
                "too much memory: answers were not read or requests not finished (limits.buffers-bytes-max)",
            );
            let sent = with!(&self.socket, socket => socket.try_write(&frame));
            tracing::trace!(connection = self.connection.id(), ?sent, "cut");
        }
    }

    /// Looks at bytes that were written.
    fn write_along(&mut self, bytes: &[u8]) {
        let Self { connection, outbound, pace, .. } = self;
        outbound.read(bytes, |head| {
            pace.sent(head);
            if head.ends_stream() {
                connection.receipts.written(head.stream, || connection.env.now());
            } else if head.reset().is_some() {
                connection.receipts.reset_by_us(head.stream);
            }
        });
    }

    /// HTTP/2 has handled all resets that were read: the answers that it had taken before are in the table by now.
    fn forget_resets(&mut self) {
        for stream in self.resets.drain(..) {
            self.connection.receipts.refused(stream);
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) -> usize {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.connection.traffic.wrote(*bytes);
                *bytes
            }
            Poll::Ready(Err(_)) => 0,
            Poll::Pending => {
                self.connection.traffic.block();
                0
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.send_cut_reason();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(flood) = this.flood {
            return Poll::Ready(Err(calm(flood)));
        }
        this.forget_resets();
        let before = buffer.filled().len();
        if !this.greeting.is_empty() {
            let count = this.greeting.len().min(buffer.remaining());
            buffer.put_slice(&this.greeting[..count]);
            this.greeting.drain(..count);
            if this.greeting.is_empty() {
                // Not needed any more.
                this.greeting = Vec::new();
            }
            return Poll::Ready(this.read_along(&buffer.filled()[before..]));
        }
        ready!(with!(&mut this.socket, socket => Pin::new(socket).poll_read(context, buffer)))?;
        Poll::Ready(this.read_along(&buffer.filled()[before..]))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = with!(&mut this.socket, socket => Pin::new(socket).poll_write(context, bytes));
        let count = this.wrote(&written);
        this.write_along(&bytes[..count]);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written =
            with!(&mut this.socket, socket => Pin::new(socket).poll_write_vectored(context, slices));
        let mut count = this.wrote(&written);
        for slice in slices {
            let part = count.min(slice.len());
            this.write_along(&slice[..part]);
            count -= part;
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        with!(&self.socket, socket => socket.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(&mut self.socket, socket => Pin::new(socket).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(&mut self.socket, socket => Pin::new(socket).poll_shutdown(context))
    }
}

fn calm(flood: Flood) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, flood.reason())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use std::future::poll_fn;

    use atomix_env::Env;
    use tokio::io::AsyncWriteExt;

    use crate::connection::Peer;
    use crate::limits::Limits;
    use crate::receipt::{Receipt, Undelivered};

    async fn read(wire: &mut Wire) {
        let mut bytes = [0; 256];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|context| Pin::new(&mut *wire).poll_read(context, &mut buffer)).await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_that_was_read_before_its_answer_was_made_refuses_it() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let limits = Limits::default();
        let connection = Arc::new(Connection::new(
            1,
            Peer::Unix { pid: None, uid: 0 },
            Env::real(),
            &limits,
            &Pool::new(1),
        ));
        let mut wire = Wire::new(Socket::Unix(near), Arc::clone(&connection), 10);
        let reset = |stream| [0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8];
        far.write_all(&[&[0; 24][..], &reset(1)].concat()).await.unwrap();
        read(&mut wire).await;
        // HTTP/2 has not seen the reset yet and takes the answer, which it will drop when it does.
        let (sender, outcomes) = std::sync::mpsc::channel();
        let receipt = Receipt::new(None, move |outcome| sender.send(outcome).unwrap());
        connection.receipts.expect(1, receipt).unwrap();
        assert!(outcomes.try_recv().is_err());
        far.write_all(&reset(3)).await.unwrap();
        read(&mut wire).await;
        assert_eq!(outcomes.try_recv(), Ok(Undelivered::Refused));
    }
}
