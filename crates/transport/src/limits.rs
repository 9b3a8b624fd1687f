// SPDX-License-Identifier: Apache-2.0
//! The limits of a peer.

use std::time::Duration;

/// Bounds what one peer can cost. The defaults hold an attacking connection under 16 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Calls that wait for others and streams at the same time on one connection. Old clients put all of theirs on one.
    /// See [`Connection::begin_long_call`](crate::Connection::begin_long_call).
    pub long_calls_per_connection_max: u32,
    /// Streams of HTTP/2 at the same time on one connection. A client keeps back what is above it, until streams end: this
    /// must leave room beside the long calls for those that end them.
    pub streams_per_connection_max: u32,
    /// Streams that we may have to reset for a peer's mistakes before its connection ends.
    pub local_reset_streams_max: usize,
    /// Streams that a peer may open and reset before we took them, before its connection ends.
    pub pending_reset_streams_max: usize,
    /// Bytes of the headers of one call.
    pub header_list_bytes_max: u32,
    /// Bytes of a request that wait unread, for one stream.
    pub stream_window: u32,
    /// Bytes of requests that wait unread, for one connection.
    pub connection_window: u32,
    /// Time between our pings, which find peers that vanished. Zero sends none.
    pub ping_interval: Duration,
    /// Time that a peer has to answer our ping.
    pub ping_timeout: Duration,
    /// Time that a peer has from the accept until its preface and first SETTINGS are here.
    pub preface_timeout: Duration,
    /// Open connections to ports of [`Kind::Primitives`](crate::Kind::Primitives). One more is refused, unless an idle one of
    /// a peer with more connections can make room for it.
    pub connections_max: usize,
    /// Open connections of one peer: an IPv4 address, an IPv6 network of 64 bits, or a local user.
    pub connections_per_peer_max: usize,
    /// Open connections to ports of [`Kind::Control`](crate::Kind::Control); half of them of one peer.
    pub control_connections_max: usize,
    /// Pings of a peer in one second beyond what its calls and our answers explain. More than that for three seconds
    /// ends the connection.
    pub pings_per_second_max: u32,
    /// Time after which a connection ends that runs no call, if the observer lets it. Zero is never.
    pub idle_timeout: Duration,
    /// Bytes of one answer that wait for a slow reader, not counting the message that is over the bound.
    pub stream_send_bytes_max: usize,
    /// Bytes of all answers of one connection that wait for a slow reader, not counting the message that is over the
    /// bound.
    pub connection_send_bytes_max: usize,
    /// Bytes of one message that is received. A larger one is refused when its length is known.
    pub message_bytes_max: usize,
    /// Bytes of the large messages that are being received on one connection. More wait their turn or are refused.
    pub connection_receive_bytes_max: usize,
    /// Bytes of requests, running calls and answers of all connections together.
    pub buffers_bytes_max: usize,
}

/// The default of [`Limits::long_calls_per_connection_max`].
const LONG_CALLS_MAX: u32 = 1_500;

impl Limits {
    /// Returns how many streams a connection needs that may have as many long calls.
    pub fn streams_beside(long_calls: u32) -> u32 {
        // A call of another kind needs its stream for moments: more at the same time wait for each other, not for ever.
        long_calls.saturating_add(long_calls / 4).saturating_add(100)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            long_calls_per_connection_max: LONG_CALLS_MAX,
            streams_per_connection_max: Self::streams_beside(LONG_CALLS_MAX),
            local_reset_streams_max: 1_024,
            pending_reset_streams_max: 20,
            header_list_bytes_max: 16 << 10,
            stream_window: 64 << 10,
            connection_window: 1 << 20,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            preface_timeout: Duration::from_secs(5),
            connections_max: 10_000,
            connections_per_peer_max: 1_000,
            control_connections_max: 256,
            pings_per_second_max: 10,
            idle_timeout: Duration::from_mins(15),
            stream_send_bytes_max: 1 << 20,
            connection_send_bytes_max: 4 << 20,
            message_bytes_max: 4 << 20,
            connection_receive_bytes_max: 8 << 20,
            buffers_bytes_max: 1 << 30,
        }
    }
}
