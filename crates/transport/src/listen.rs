// SPDX-License-Identifier: Apache-2.0
//! Where connections come from.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

use crate::connection::Peer;
use crate::wire::Socket;

/// Connections that the kernel keeps for us while we are busy. The kernel lowers it to its own bound.
const BACKLOG: u32 = 1_024;

/// A bound address. Peers can connect from now on, and are answered once it is served.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// A socket's file. Removes it at the end if it is still the same file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Binds an address of the network; port 0 takes a free one. A host name that stands for several addresses is
    /// bound at the first that is possible. Cancel safe.
    pub async fn tcp(host: &str, port: u16) -> io::Result<Self> {
        Self::bind_tcp(host, port, false).await
    }

    /// As [`Listener::tcp`], and lets other listeners of this user bind the same address, between which the kernel
    /// divides the connections: for one runtime on each core, each with its own listener. Cancel safe.
    pub async fn tcp_shared(host: &str, port: u16) -> io::Result<Self> {
        Self::bind_tcp(host, port, true).await
    }

    /// Binds a Unix socket. Replaces the file of a socket that nobody listens to any more, and refuses one that is
    /// alive or something else. The file goes away with the listener. Who may connect is decided by the rights of the
    /// folder and of the file. Cancel safe.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path).await?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        let file = SocketFile { path: path.to_owned(), identity: identity(path) };
        Ok(Self(Kind::Unix(listener, file)))
    }

    /// Returns the address with the port that was taken, if this listens on the network.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(_, address) => Some(*address),
            Kind::Unix(..) => None,
        }
    }

    async fn bind_tcp(host: &str, port: u16, shared: bool) -> io::Result<Self> {
        // Brackets are how an address of version 6 is told from its port.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "host has no address");
        for address in tokio::net::lookup_host((host, port)).await? {
            match bind_address(address, shared) {
                Ok(listener) => {
                    let address = listener.local_addr()?;
                    return Ok(Self(Kind::Tcp(listener, address)));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Takes the next connection. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.0 {
            Kind::Tcp(listener, _) => {
                let (socket, address) = listener.accept().await?;
                // Calls are small, and each waits for its answer.
                socket.set_nodelay(true)?;
                Ok((Socket::Tcp(socket), Peer::Tcp(address)))
            }
            Kind::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                let credentials = socket.peer_cred()?;
                let peer = Peer::Unix { pid: credentials.pid(), uid: credentials.uid() };
                Ok((Socket::Unix(socket), peer))
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp(_, address) => address.fmt(f),
            Kind::Unix(_, file) => write!(f, "unix:{}", file.path.display()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            // Whoever removed it first did what is wanted.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn bind_address(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    if shared {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Removes the file of a socket whose process is gone.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return refused("a file that is not a socket is in the way, choose another path");
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replaced the socket of a process that is gone");
            fs::remove_file(path)
        }
        Ok(_) => refused("another process listens on this socket, end it or choose another path"),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
