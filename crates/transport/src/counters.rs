// SPDX-License-Identifier: Apache-2.0
//! Counters of connections.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::connection::End;

/// Counts connections since the start. Cheap to read at any time; the numbers are not of one instant.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    refused: [AtomicU64; 2],
    accept_errors: AtomicU64,
    ended: [AtomicU64; End::ALL.len()],
    calls_refused: AtomicU64,
}

/// The reason for the refusal of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// There are [`connections_max`](crate::Limits::connections_max) already.
    Full,
    /// The peer has [`connections_per_peer_max`](crate::Limits::connections_per_peer_max) already.
    PeerFull,
}

impl Counters {
    /// Returns the connections that were served.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns the connections that were refused for a reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].load(Ordering::Relaxed)
    }

    /// Returns how often the system could not accept, for example because files ran out.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Returns the connections that ended for a reason.
    pub fn ended(&self, end: End) -> u64 {
        self.ended[end as usize].load(Ordering::Relaxed)
    }

    /// Returns the connections that are open.
    pub fn open(&self) -> u64 {
        let ended: u64 = End::ALL.into_iter().map(|end| self.ended(end)).sum();
        self.accepted().saturating_sub(ended)
    }

    /// Returns the calls and requests that were refused because the buffers of all connections were full.
    pub fn calls_refused(&self) -> u64 {
        self.calls_refused.load(Ordering::Relaxed)
    }

    pub(crate) fn count_calls_refused(&self, calls: u64) {
        self.calls_refused.fetch_add(calls, Ordering::Relaxed);
    }

    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_ended(&self, end: End) {
        self.ended[end as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::Full, Self::PeerFull];

    /// Returns the word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::PeerFull => "peer_full",
        }
    }
}
