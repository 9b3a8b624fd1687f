// SPDX-License-Identifier: Apache-2.0
//! Admission of connections: limits for each kind of port, a message for refused peers, and file descriptors that are
//! reserved for operators.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::Env;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::connection::{End, Origin};
use crate::counters::Refusal;
use crate::frames::{self, go_away};
use crate::limits::Limits;
use crate::wire::Socket;

/// The peers for which a port is. Connections of one kind do not count against the limits of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Applications: [`Limits::connections_max`], [`Limits::connections_per_peer_max`].
    Primitives,
    /// Operators: [`Limits::control_connections_max`], half of it for one peer. Some descriptors are kept for them.
    Control,
}

/// The open connections, to be held against the limits.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    open: [Mutex<Open>; 2],
    spares: Mutex<Vec<File>>,
    refusing: AtomicUsize,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    /// Those of them that were ended to make room for others, and have not left yet.
    replaced: usize,
    by_origin: HashMap<Origin, usize>,
}

/// File descriptors that are reserved for operators, for the case that all files are in use.
const SPARES: usize = 8;
/// Refused connections that get the reason at the same time; more are closed without one.
const REFUSING_MAX: usize = 64;
/// The time in which a refused peer must read the reason.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The bytes that it may send meanwhile.
const REFUSAL_READ_MAX: usize = 64 << 10;

// === impl Admission ===

impl Admission {
    pub(crate) fn enter(&self, kind: Kind, origin: Origin, limits: &Limits) -> Result<(), Refusal> {
        let (max, per_peer_max) = kind.limits(limits);
        let mut open = self.open[kind as usize].lock();
        if open.total - open.replaced >= max {
            return Err(Refusal::Full);
        }
        let count = open.by_origin.get(&origin).copied().unwrap_or_default();
        if count >= per_peer_max {
            return Err(Refusal::PeerFull);
        }
        open.total += 1;
        open.by_origin.insert(origin, count + 1);
        Ok(())
    }

    /// Returns the peers that have at least two connections more than `origin`, with how many they have.
    pub(crate) fn larger(&self, kind: Kind, origin: Origin) -> HashMap<Origin, usize> {
        let open = self.open[kind as usize].lock();
        let own = open.by_origin.get(&origin).copied().unwrap_or_default();
        open.by_origin
            .iter()
            .filter(|(_, count)| **count > own + 1)
            .map(|(origin, count)| (*origin, *count))
            .collect()
    }

    /// Gives the place of a connection to another one, if `end` ends it. It leaves as [`End::Replaced`].
    pub(crate) fn replace(&self, kind: Kind, end: impl FnOnce() -> bool) -> bool {
        // Under the lock: the connection may leave as soon as it was ended.
        let mut open = self.open[kind as usize].lock();
        let ended = end();
        open.replaced += usize::from(ended);
        ended
    }

    pub(crate) fn leave(&self, kind: Kind, origin: Origin, end: Option<End>) {
        let mut open = self.open[kind as usize].lock();
        open.total -= 1;
        open.replaced -= usize::from(end == Some(End::Replaced));
        if let Entry::Occupied(mut count) = open.by_origin.entry(origin) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        drop(open);
        if kind == Kind::Control {
            // At once, before a client takes the descriptor that was just given back.
            self.keep_spares();
        }
    }

    /// Opens the descriptors that are kept for operators, as many as are missing and can be had.
    pub(crate) fn keep_spares(&self) {
        let mut spares = self.spares.lock();
        while spares.len() < SPARES {
            let Ok(spare) = File::open("/dev/null") else { return };
            spares.push(spare);
        }
    }

    /// Gives one of them up for a connection of this kind. Returns whether there was one.
    pub(crate) fn use_spare(&self, kind: Kind, error: &io::Error) -> bool {
        kind == Kind::Control && is_out_of_files(error) && self.spares.lock().pop().is_some()
    }

    /// Closes the connection of a refused peer, after sending the reason unless [`REFUSING_MAX`] are being sent already.
    pub(crate) fn refuse(self: &std::sync::Arc<Self>, socket: Socket, env: &Env, why: &str) {
        if self.refusing.fetch_add(1, Ordering::Relaxed) >= REFUSING_MAX {
            self.refusing.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let frames = [frames::empty_settings(), go_away(0, why)].concat();
        let (this, env) = (std::sync::Arc::clone(self), env.clone());
        env.clone().detach(async move {
            let sent = async {
                match socket {
                    Socket::Tcp(socket) => send(socket, &frames).await,
                    Socket::Unix(socket) => send(socket, &frames).await,
                }
            };
            let sent = env.timeout(REFUSAL_TIMEOUT, sent).await;
            tracing::trace!(?sent, "refused a connection");
            this.refusing.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Writes `bytes` and reads what comes until the peer closes: a socket that is closed with unread bytes would make the
/// peer's system throw away what was written.
async fn send(mut socket: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes).await?;
    socket.shutdown().await?;
    let (mut piece, mut read) = ([0; 1024], 0);
    while read < REFUSAL_READ_MAX {
        match socket.read(&mut piece).await? {
            0 => break,
            count => read += count,
        }
    }
    Ok(())
}

/// Returns whether the process or the system has no descriptor left.
fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

// === impl Kind ===

impl Kind {
    /// Returns the limit of all connections, and of those of one peer.
    fn limits(self, limits: &Limits) -> (usize, usize) {
        match self {
            Self::Primitives => (limits.connections_max, limits.connections_per_peer_max),
            Self::Control => (limits.control_connections_max, limits.control_connections_max.div_ceil(2)),
        }
    }

    /// Returns the message of a refusal, for the peer and the log.
    pub(crate) fn message(self, refusal: Refusal, limits: &Limits) -> String {
        let (max, per_peer_max) = self.limits(limits);
        match (self, refusal) {
            (Self::Primitives, Refusal::Full) => {
                format!("too many connections: close some, or raise limits.connections-max: limit={max}")
            }
            (Self::Primitives, Refusal::PeerFull) => format!(
                "too many connections from this address: close some, or raise limits.connections-per-peer-max: \
                 limit={per_peer_max}"
            ),
            (Self::Control, Refusal::Full) => format!(
                "too many control connections: close some, or raise limits.control-connections-max: limit={max}"
            ),
            (Self::Control, Refusal::PeerFull) => format!(
                "too many control connections from this address, which may have half of \
                 limits.control-connections-max: close some, or raise it: limit={per_peer_max}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_kinds_of_ports_do_not_count_against_each_other() {
        let limits = Limits {
            connections_max: 3,
            connections_per_peer_max: 2,
            control_connections_max: 3,
            ..Limits::default()
        };
        let admission = Admission::default();
        let origin = |last| Origin::Address(Ipv4Addr::new(192, 0, 2, last).into());
        let enter = |kind, last| admission.enter(kind, origin(last), &limits);
        for kind in [Kind::Primitives, Kind::Control] {
            assert_eq!(enter(kind, 1), Ok(()));
            assert_eq!(enter(kind, 1), Ok(()));
            assert_eq!(enter(kind, 1), Err(Refusal::PeerFull));
            assert_eq!(enter(kind, 2), Ok(()));
            assert_eq!(enter(kind, 3), Err(Refusal::Full));
        }
        admission.leave(Kind::Control, origin(1), None);
        assert_eq!(enter(Kind::Primitives, 3), Err(Refusal::Full));
        assert_eq!(enter(Kind::Control, 1), Ok(()));
        assert!(!admission.spares.lock().is_empty(), "kept when an operator leaves");
        let out_of_files = io::Error::from_raw_os_error(24);
        assert!(!admission.use_spare(Kind::Primitives, &out_of_files));
        assert!((0..SPARES).all(|_| admission.use_spare(Kind::Control, &out_of_files)));
        assert!(!admission.use_spare(Kind::Control, &out_of_files));
    }

    #[test]
    fn a_replaced_connection_gives_its_place_before_it_leaves() {
        let limits = Limits { connections_max: 3, connections_per_peer_max: 3, ..Limits::default() };
        let admission = Admission::default();
        let origin = |last| Origin::Address(Ipv4Addr::new(192, 0, 2, last).into());
        let enter = |last| admission.enter(Kind::Primitives, origin(last), &limits);
        for last in [1, 1, 2] {
            assert_eq!(enter(last), Ok(()));
        }
        assert_eq!(enter(3), Err(Refusal::Full));
        assert_eq!(admission.larger(Kind::Primitives, origin(3)), HashMap::from([(origin(1), 2)]));
        assert_eq!(admission.larger(Kind::Primitives, origin(2)), HashMap::new());
        assert!(!admission.replace(Kind::Primitives, || false));
        assert_eq!(enter(3), Err(Refusal::Full));
        assert!(admission.replace(Kind::Primitives, || true));
        assert_eq!(enter(3), Ok(()));
        assert_eq!(enter(3), Err(Refusal::Full));
        admission.leave(Kind::Primitives, origin(1), Some(End::Replaced));
        assert_eq!(enter(3), Err(Refusal::Full));
        admission.leave(Kind::Primitives, origin(2), Some(End::Left));
        assert_eq!(enter(3), Ok(()));
    }
}
