// SPDX-License-Identifier: Apache-2.0
//! Bound addresses.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::Peer;
use super::socket::Socket;

/// An address that is bound. Connections wait until somebody serves them.
#[derive(Debug)]
pub struct Listener {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// Removed with the listener.
#[derive(Debug)]
struct SocketFile(PathBuf);

// === impl Listener ===

impl Listener {
    /// Binds a TCP port; port 0 takes a free one.
    pub async fn tcp(host: &str, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((host, port)).await?;
        let address = listener.local_addr()?;
        Ok(Self { source: Source::Tcp(listener, address) })
    }

    /// Binds a Unix socket. The file of a process that is gone is replaced; that of a living one is refused with
    /// [`io::ErrorKind::AddrInUse`]. The file is removed when the listener is dropped.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).await.is_err() =>
            {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        Ok(Self { source: Source::Unix(listener, SocketFile(path.to_owned())) })
    }

    /// Waits for a connection. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.source {
            Source::Tcp(listener, _) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Socket::Tcp(stream), Peer::Tcp(address)))
            }
            Source::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let peer = Peer::Unix { pid: credentials.pid(), uid: credentials.uid() };
                Ok((Socket::Unix(stream), peer))
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Tcp(_, address) => fmt::Display::fmt(address, f),
            Source::Unix(_, file) => write!(f, "unix:{}", file.0.display()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        drop(std::fs::remove_file(&self.0));
    }
}
