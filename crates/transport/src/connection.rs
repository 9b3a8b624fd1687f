// SPDX-License-Identifier: Apache-2.0
//! One connection, as its calls and its operators see it.

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use atomix_env::{Env, Instant};
use futures::task::AtomicWaker;

use crate::allowance::Allowance;
use crate::budget::Budget;
use crate::frames::Flood;
use crate::limits::Limits;
use crate::pool::{Pool, Usage};
use crate::receipt::Receipts;

/// The peer of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A peer on the network.
    Tcp(SocketAddr),
    /// A process of this machine, as the kernel knows it.
    Unix {
        /// The process that connected; unknown on some systems.
        pid: Option<i32>,
        /// The user it ran as.
        uid: u32,
    },
}

/// The origin of connections, which the limit for each peer counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    Address(IpAddr),
    User(u32),
}

/// The reason for the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The peer left, or its process or machine did.
    Left,
    /// The listener drained and the calls of the connection had ended.
    Drained,
    /// The listener drained and calls of the connection ran beyond the grace.
    Cut,
    /// [`Connection::close`].
    Closed,
    /// It ran no call for too long.
    Idle,
    /// It ran no call and held nothing when there were as many connections as there may be, and a peer with fewer of them
    /// came.
    Replaced,
    /// It did not begin HTTP/2 in time.
    PrefaceTimeout,
    /// It did not answer our ping in time.
    Lost,
    /// It did not read for so long that it cannot have answered our ping.
    Stalled,
    /// It sent too many control frames.
    Flooded,
    /// It broke the rules of HTTP/2 or tried to wear us out.
    Violation,
    /// It used most of the buffers when those of all connections were full, and did not read its answers or finish its
    /// requests.
    Memory,
}

/// A connection. Every request carries it, as `Arc<Connection>`, in its extensions.
pub struct Connection {
    id: u64,
    peer: Peer,
    opened: Instant,
    owner: OnceLock<Box<dyn Any + Send + Sync>>,
    pub(crate) env: Env,
    /// For answers.
    pub(crate) budget: Budget,
    /// For both, and for calls, as a part of those of all connections.
    pub(crate) usage: Usage,
    /// For requests.
    pub(crate) allowance: Allowance,
    /// For answers that hand something over.
    pub(crate) receipts: Receipts,
    long_calls: AtomicU32,
    long_calls_max: u32,
    pub(crate) traffic: Traffic,
    order: Order,
}

/// A call that may last for any time, counted until this is dropped.
#[derive(Debug)]
pub struct LongCall(Arc<Connection>);

/// The counters that the sweep reads. Written by the tasks of the connection; relaxed, because only their change over
/// time matters.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Calls that run.
    calls: AtomicUsize,
    /// Calls so far.
    calls_total: AtomicU64,
    /// Bytes that the socket took so far.
    written: AtomicU64,
    /// Reads that found something so far.
    reads: AtomicU64,
    /// Pings that we sent so far.
    pings: AtomicU64,
    /// The last of them was not answered yet.
    pinged: AtomicBool,
    /// The socket takes no more.
    blocked: AtomicBool,
    /// The preface and the first frame are here.
    begun: AtomicBool,
    /// A [`Flood`] ended the connection.
    flooded: AtomicBool,
}

/// The orders to the task of the connection.
#[derive(Debug, Default)]
struct Order {
    stage: AtomicU8,
    /// A ping is to be sent.
    probe: AtomicBool,
    /// The first [`End`] that was ordered, plus one.
    end: AtomicU8,
    waker: AtomicWaker,
}

/// The ordered stage of a connection. Only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    Serve,
    /// No new calls; running ones may end.
    Drain,
    /// Now.
    Close,
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(id: u64, peer: Peer, env: Env, limits: &Limits, pool: &Arc<Pool>) -> Self {
        Self {
            id,
            peer,
            opened: env.now(),
            owner: OnceLock::new(),
            env,
            budget: Budget::new(limits.connection_send_bytes_max),
            usage: Usage::new(pool),
            allowance: Allowance::new(limits),
            receipts: Receipts::new(limits.streams_per_connection_max),
            long_calls: AtomicU32::new(0),
            long_calls_max: limits.long_calls_per_connection_max,
            traffic: Traffic::default(),
            order: Order::default(),
        }
    }

    /// Returns the number of this connection, which no other of its [`Transport`](crate::Transport) has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the peer.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns when the connection was accepted.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns the number of calls that run: requests that came and whose answers are not yet handed to HTTP/2 whole.
    pub fn calls(&self) -> usize {
        self.traffic.calls.load(Ordering::Relaxed)
    }

    /// Returns how many calls may wait or stream at the same time.
    pub fn long_calls_max(&self) -> u32 {
        self.long_calls_max
    }

    /// Counts a call that may last for any time, because it waits for others or streams. `None` if there are as many as
    /// [`Limits::long_calls_per_connection_max`](crate::Limits::long_calls_per_connection_max): one more could take the
    /// last stream of the connection, and the call that ends the wait would find none.
    pub fn begin_long_call(self: &Arc<Self>) -> Option<LongCall> {
        // Dropped immediately if it exceeds the maximum.
        let call = LongCall(Arc::clone(self));
        (self.long_calls.fetch_add(1, Ordering::Relaxed) < self.long_calls_max).then_some(call)
    }

    /// Returns whether no call runs and no bytes of answers wait for the socket.
    pub(crate) fn is_quiet(&self) -> bool {
        self.calls() == 0 && self.budget.is_whole()
    }

    /// Returns whether memory is kept because the peer has to read answers or to finish requests.
    pub(crate) fn waits_for_peer(&self) -> bool {
        !self.budget.is_whole() || self.allowance.is_receiving()
    }

    /// Returns what the observer attached, if it is a `T`.
    pub fn owner<T: 'static>(&self) -> Option<&T> {
        self.owner.get()?.downcast_ref()
    }

    /// Attaches something to the connection, once: what is attached first stays. An owner that holds an `Arc` of its
    /// connection would keep both alive for ever; let it hold a `Weak`.
    pub fn set_owner<T: Any + Send + Sync>(&self, owner: T) {
        drop(self.owner.set(Box::new(owner)));
    }

    /// Ends the connection immediately: sends GOAWAY if the socket takes it, and drops the running calls. Does not wait;
    /// the observer hears when it is over.
    pub fn close(&self) {
        self.end(End::Closed);
    }

    /// Orders the drain.
    pub(crate) fn drain(&self) {
        self.order.raise(Stage::Drain);
    }

    /// Orders a ping, if none is in flight.
    pub(crate) fn probe(&self) {
        self.order.probe.store(true, Ordering::Release);
        self.order.waker.wake();
    }

    /// Returns whether a ping was ordered, once.
    pub(crate) fn take_probe(&self) -> bool {
        self.order.probe.load(Ordering::Relaxed) && self.order.probe.swap(false, Ordering::AcqRel)
    }

    /// Orders the end. The first reason stays.
    pub(crate) fn end(&self, end: End) {
        self.end_first(end);
    }

    /// As [`Connection::end`]. Returns whether this is the first reason.
    pub(crate) fn end_first(&self, end: End) -> bool {
        // Losing the race means that a reason stands already, which is as good.
        let lost =
            self.order.end.compare_exchange(0, end as u8 + 1, Ordering::AcqRel, Ordering::Acquire).is_err();
        tracing::trace!(connection = self.id, reason = end.name(), first = !lost, "connection is to end");
        self.order.raise(Stage::Close);
        !lost
    }

    /// Returns what is ordered, and wakes `waker` at the next order.
    pub(crate) fn ordered(&self, waker: &Waker) -> Stage {
        self.order.waker.register(waker);
        self.order.stage()
    }

    /// Returns the reason that was ordered.
    pub(crate) fn ordered_end(&self) -> Option<End> {
        let position = self.order.end.load(Ordering::Acquire).checked_sub(1)?;
        End::ALL.get(usize::from(position)).copied()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("opened", &self.opened)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

// === impl LongCall ===

impl Drop for LongCall {
    fn drop(&mut self) {
        self.0.long_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Traffic ===

impl Traffic {
    pub(crate) fn call_began(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.calls_total.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn call_ended(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn calls_total(&self) -> u64 {
        self.calls_total.load(Ordering::Relaxed)
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.blocked.load(Ordering::Relaxed) {
            self.blocked.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often something was read.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(crate) fn ping(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
        self.pinged.store(true, Ordering::Relaxed);
    }

    pub(crate) fn pong(&self) {
        self.pinged.store(false, Ordering::Relaxed);
    }

    /// Returns the number of the ping that was not answered yet.
    pub(crate) fn ping_in_flight(&self) -> Option<u64> {
        self.pinged.load(Ordering::Relaxed).then(|| self.pings.load(Ordering::Relaxed))
    }

    pub(crate) fn block(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// Returns the bytes that were written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns the bytes written so far if no more can be written.
    pub(crate) fn blocked_at(&self) -> Option<u64> {
        self.blocked.load(Ordering::Relaxed).then(|| self.written.load(Ordering::Relaxed))
    }

    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub(crate) fn flood(&self, flood: Flood) {
        tracing::debug!(reason = flood.reason(), "a peer floods its connection");
        self.flooded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }
}

// === impl Order ===

impl Order {
    fn raise(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serve,
            1 => Stage::Drain,
            _ => Stage::Close,
        }
    }
}

// === impl End ===

impl End {
    /// All reasons, in the order of the declaration.
    pub const ALL: [Self; 12] = [
        Self::Left,
        Self::Drained,
        Self::Cut,
        Self::Closed,
        Self::Idle,
        Self::Replaced,
        Self::PrefaceTimeout,
        Self::Lost,
        Self::Stalled,
        Self::Flooded,
        Self::Violation,
        Self::Memory,
    ];

    /// Returns the word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Drained => "drained",
            Self::Cut => "cut",
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Replaced => "replaced",
            Self::PrefaceTimeout => "preface-timeout",
            Self::Lost => "lost",
            Self::Stalled => "stalled",
            Self::Flooded => "flooded",
            Self::Violation => "violation",
            Self::Memory => "memory",
        }
    }
}

// === impl Peer ===

impl Peer {
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Tcp(address) => Origin::Address(match address.ip().to_canonical() {
                address @ IpAddr::V4(_) => address,
                // A host with one IPv6 address has at least the 2^64 of its network.
                IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
            }),
            Self::Unix { uid, .. } => Origin::User(*uid),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { pid: Some(pid), uid } => write!(f, "unix:pid={pid},uid={uid}"),
            Self::Unix { pid: None, uid } => write!(f, "unix:uid={uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Origin {
        Peer::Tcp(address.parse().unwrap()).origin()
    }

    #[test]
    fn peers_of_one_address_or_network_count_together() {
        assert_eq!(origin("192.0.2.1:1"), origin("192.0.2.1:2"));
        assert_eq!(origin("192.0.2.1:1"), origin("[::ffff:192.0.2.1]:3"));
        assert_ne!(origin("192.0.2.1:1"), origin("192.0.2.2:1"));
        assert_eq!(origin("[2001:db8:0:1::1]:1"), origin("[2001:db8:0:1:ffff::2]:1"));
        assert_ne!(origin("[2001:db8:0:1::1]:1"), origin("[2001:db8:0:2::1]:1"));
    }

    #[test]
    fn one_long_call_too_many_is_refused_until_another_ends() {
        let limits = Limits { long_calls_per_connection_max: 2, ..Limits::default() };
        let connection = Arc::new(Connection::new(
            1,
            Peer::Unix { pid: None, uid: 0 },
            Env::real(),
            &limits,
            &Pool::new(1),
        ));
        let calls = [(); 2].map(|()| connection.begin_long_call().unwrap());
        for _ in 0..3 {
            assert!(connection.begin_long_call().is_none());
        }
        drop(calls);
        assert!(connection.begin_long_call().is_some());
    }

    #[test]
    fn the_first_reason_of_an_end_stays() {
        let connection = Connection::new(
            1,
            Peer::Unix { pid: None, uid: 0 },
            Env::real(),
            &Limits::default(),
            &Pool::new(1),
        );
        assert_eq!(connection.ordered_end(), None);
        for end in End::ALL {
            connection.end(end);
        }
        assert_eq!(connection.ordered_end(), Some(End::Left));
        for (position, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, position);
        }
    }
}
