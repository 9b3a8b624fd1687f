// SPDX-License-Identifier: Apache-2.0
//! The socket of a connection, with a look at the frames that pass.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::connection::Connection;
use crate::frames::{Flood, Framing, Pace};

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
    last_stream: u32,
    flood: Option<Flood>,
}

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
            last_stream: 0,
            flood: None,
        }
    }

    /// Looks at bytes that came.
    fn read_along(&mut self, bytes: &[u8]) -> io::Result<()> {
        let begun = self.inbound.has_begun();
        let Self { connection, inbound, pace, last_stream, flood, .. } = self;
        inbound.read(bytes, |head| {
            if head.is_headers() {
                *last_stream = head.stream.max(*last_stream);
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
            self.say_goodbye(flood);
            return Err(calm(flood));
        }
        Ok(())
    }

    /// Tells the peer why, if that is possible without waiting: HTTP/2 above us has no way to be asked for it.
    fn say_goodbye(&self, flood: Flood) {
        if !self.outbound.is_between_frames() {
            return;
        }
        let frame = flood.go_away(self.last_stream);
        let said = with!(&self.socket, socket => socket.try_write(&frame));
        tracing::trace!(connection = self.connection.id(), ?said, "said goodbye to a flood");
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
        let before = buffer.filled().len();
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
        this.outbound.read(&bytes[..count], |head| this.pace.sent(head));
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
            this.outbound.read(&slice[..part], |head| this.pace.sent(head));
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
