// SPDX-License-Identifier: Apache-2.0
//! Listeners: TCP addresses and Unix sockets.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket, UnixStream};

use crate::connection::Peer;
use crate::wire::Socket;

/// Connections that the kernel keeps for us while we are busy. The kernel lowers it to its own bound.
const BACKLOG: u32 = 1_024;

/// A bound address. Peers can connect from now on, and are answered once it is served.
#[derive(Debug)]
pub struct Listener(Kind);

/// The users who may connect to a Unix socket, beside root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketRights {
    /// The mode of the file. None lets those read and write whom the umask leaves any right: connecting needs both, and
    /// what the umask leaves to others by default, 022, is not enough for it.
    pub mode: Option<u32>,
    /// A group of `/etc/group`, or a number. None is the group of the process, or of the folder if its set-group-ID
    /// bit is set.
    pub group: Option<String>,
}

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
        // An IPv6 address may stand in brackets, which separate it from its port.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "host has no address");
        for address in tokio::net::lookup_host((host, port)).await? {
            match bind_address(address) {
                Ok(listener) => {
                    let address = listener.local_addr()?;
                    return Ok(Self(Kind::Tcp(listener, address)));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// As [`Listener::unix_with`], with the default rights. Cancel safe.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        Self::unix_with(path, &SocketRights::default()).await
    }

    /// Binds a Unix socket. Replaces the file of a socket without a listener, and refuses a file that is a live socket
    /// or something else. The listener removes the file when it is dropped. The file has its rights before a peer can connect.
    /// Cancel safe.
    pub async fn unix_with(path: &Path, rights: &SocketRights) -> io::Result<Self> {
        let bind = || {
            let socket = UnixSocket::new_stream()?;
            socket.bind(path).map(|()| socket)
        };
        let socket = match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path).await?;
                bind()?
            }
            bound => bound?,
        };
        let file = SocketFile { path: path.to_owned(), identity: identity(path) };
        rights.give(path)?;
        Ok(Self(Kind::Unix(socket.listen(BACKLOG)?, file)))
    }

    /// Returns the address with the port that was taken, if this listens on the network.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(_, address) => Some(*address),
            Kind::Unix(..) => None,
        }
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

// === impl SocketRights ===

impl SocketRights {
    fn give(&self, path: &Path) -> io::Result<()> {
        if let Some(group) = &self.group {
            chown(path, None, Some(group_id(group)?)).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot give the socket to group `{group}`: {error}"))
            })?;
        }
        let mode = match self.mode {
            Some(mode) => mode,
            None => readable_and_writable(fs::symlink_metadata(path)?.mode()),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }
}

/// Returns reading and writing for each class of users that has any right in `mode`.
fn readable_and_writable(mode: u32) -> u32 {
    [0o700, 0o070, 0o007].into_iter().filter(|class| mode & class != 0).map(|class| class & 0o666).sum()
}

fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = fs::read_to_string("/etc/group")?;
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| {
        let message = format!("no such group in /etc/group, name another one or its number: group=`{group}`");
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            // Another process may have removed it already.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn bind_address(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
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
            tracing::info!(path = %path.display(), "replaced the socket of a process that has ended");
            fs::remove_file(path)
        }
        Ok(_) => refused("another process listens on this socket, end it or choose another path"),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_umask_says_who_may_connect() {
        // The modes that bind gives a socket with the umasks 000, 022, 027 and 077.
        let modes = [0o777, 0o755, 0o750, 0o700].map(readable_and_writable);
        assert_eq!(modes, [0o666, 0o666, 0o660, 0o600]);
    }

    #[tokio::test]
    async fn a_socket_has_the_rights_that_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let group = fs::metadata(folder.path()).unwrap().gid().to_string();
        let rights = SocketRights { mode: Some(0o640), group: Some(group.clone()) };
        let listener = Listener::unix_with(&path, &rights).await.unwrap();
        let file = fs::symlink_metadata(&path).unwrap();
        assert_eq!((file.mode() & 0o777, file.gid().to_string()), (0o640, group));
        drop(listener);
        let rights = SocketRights { group: Some("no such group".to_owned()), ..rights };
        let error = Listener::unix_with(&path, &rights).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!path.exists(), "a socket with the wrong rights does not stay");
    }
}
