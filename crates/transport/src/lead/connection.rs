// SPDX-License-Identifier: Apache-2.0
//! A connection as services see it.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use atomix_env::{Env, Instant, Shutdown};
use parking_lot::Mutex;

/// One connection. Every request that comes over it carries it in its extensions.
pub struct Connection {
    peer: Peer,
    owner: OnceLock<Box<dyn Any + Send + Sync>>,
    pub(crate) closing: Shutdown,
    streams: AtomicUsize,
    /// When the last stream ended.
    quiet_since: Mutex<Instant>,
}

/// Who is on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix {
        /// Its process id, where the system tells it.
        pid: Option<i32>,
        /// Its user.
        uid: u32,
    },
}

/// Is told about connections. Both calls must be quick.
pub trait Observer: Send + Sync + 'static {
    /// A connection begins; no request has come yet.
    fn opened(&self, connection: &Arc<Connection>);

    /// The connection has ended, however it ended; called once.
    fn closed(&self, connection: &Arc<Connection>);

    /// Whether a connection without streams may be closed after the idle time-out.
    fn may_close(&self, connection: &Arc<Connection>) -> bool {
        let _ = connection;
        true
    }
}

/// Counts a stream while it is open.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    connection: Arc<Connection>,
    env: Env,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(peer: Peer, now: Instant) -> Self {
        let (owner, closing) = (OnceLock::new(), Shutdown::new());
        Self { peer, owner, closing, streams: AtomicUsize::new(0), quiet_since: Mutex::new(now) }
    }

    /// Returns the other side.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Returns what [`Connection::set_owner`] has set, if it is of this type.
    pub fn owner<T: 'static>(&self) -> Option<&T> {
        self.owner.get()?.downcast_ref()
    }

    /// Attaches a value to the connection, for whoever answers its requests. Only the first one stays.
    pub fn set_owner<T: Any + Send + Sync>(&self, owner: T) {
        drop(self.owner.set(Box::new(owner)));
    }

    /// Closes the connection at once, with everything that runs on it.
    pub fn close(&self) {
        self.closing.cancel();
    }

    pub(crate) fn stream(self: &Arc<Self>, env: &Env) -> StreamGuard {
        self.streams.fetch_add(1, Ordering::Relaxed);
        StreamGuard { connection: Arc::clone(self), env: env.clone() }
    }

    /// Returns since when no stream is open; `None` while one is.
    pub(crate) fn quiet_since(&self) -> Option<Instant> {
        let quiet = *self.quiet_since.lock();
        (self.streams.load(Ordering::Relaxed) == 0).then_some(quiet)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

// === impl StreamGuard ===

impl Drop for StreamGuard {
    fn drop(&mut self) {
        *self.connection.quiet_since.lock() = self.env.now();
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => fmt::Display::fmt(address, f),
            Self::Unix { pid: Some(pid), uid } => write!(f, "unix:pid={pid},uid={uid}"),
            Self::Unix { pid: None, uid } => write!(f, "unix:uid={uid}"),
        }
    }
}
