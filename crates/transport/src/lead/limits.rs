// SPDX-License-Identifier: Apache-2.0
//! What connections may do.

use std::time::Duration;

/// Bounds on connections and on what one of them can make us keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Streams open at once on one connection; more are refused. hyper's own default, which tonic takes away.
    pub streams_per_connection_max: u32,
    /// Streams that a peer makes us reset before the connection is closed (`MadeYouReset`, RUSTSEC-2024-0003).
    pub local_reset_streams_max: usize,
    /// Streams that a peer resets before we have looked at them, before the connection is closed (rapid reset).
    pub pending_reset_streams_max: usize,
    /// Bytes of the headers of one request.
    pub header_list_bytes_max: u32,
    /// Bytes that a peer may send on one stream before we have read them.
    pub stream_window: u32,
    /// Bytes that a peer may send on one connection before we have read them.
    pub connection_window: u32,
    /// Time between our pings.
    pub ping_interval: Duration,
    /// Time for the answer to a ping; then the connection is dead.
    pub ping_timeout: Duration,
    /// Time for a new connection to begin to speak HTTP/2.
    pub preface_timeout: Duration,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address; Unix sockets have none.
    pub connections_per_peer_max: usize,
    /// Pings in a second from a peer that sends nothing else; after three such seconds the connection is closed.
    pub pings_per_second_max: u32,
    /// Time without streams after which a connection is closed, if its owner lets it.
    pub idle_timeout: Duration,
    /// Bytes of answers that wait for a slow reader on one stream.
    pub stream_send_bytes_max: usize,
    /// Bytes of large answers that wait for a slow reader on one connection.
    pub connection_send_bytes_max: usize,
    /// Bytes of large requests that are being received on one connection; more wait their turn.
    pub connection_receive_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_connection_max: 1000,
            local_reset_streams_max: 1024,
            pending_reset_streams_max: 20,
            header_list_bytes_max: 16 * 1024,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            preface_timeout: Duration::from_secs(5),
            connections_max: 10_000,
            connections_per_peer_max: 1000,
            pings_per_second_max: 10,
            idle_timeout: Duration::from_mins(15),
            stream_send_bytes_max: 1024 * 1024,
            connection_send_bytes_max: 8 * 1024 * 1024,
            connection_receive_bytes_max: 8 * 1024 * 1024,
        }
    }
}
