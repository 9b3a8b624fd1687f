// SPDX-License-Identifier: Apache-2.0
//! The budget of the bytes that one connection receives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atomix_env::Env;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::ROOM_TIMEOUT;
use crate::limits::Limits;

/// The budget of received bytes of one connection.
#[derive(Debug)]
pub(crate) struct Allowance {
    room: Arc<Semaphore>,
    bytes_max: u32,
    message_bytes_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
    /// Messages that are being received.
    receiving: AtomicUsize,
}

// === impl Allowance ===

impl Allowance {
    pub(crate) fn new(limits: &Limits) -> Self {
        let bytes_max = limits.connection_receive_bytes_max.min(Semaphore::MAX_PERMITS);
        let waiting_max = limits.connection_window / 2 / limits.stream_window.max(1);
        Self {
            room: Arc::new(Semaphore::new(bytes_max)),
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            message_bytes_max: limits.message_bytes_max,
            waiting: AtomicUsize::new(0),
            waiting_max: waiting_max as usize,
            receiving: AtomicUsize::new(0),
        }
    }

    /// Returns the bytes that a message may have.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// Takes room if there is some and no earlier request waits for it.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_many_owned(self.share(bytes)).ok()
    }

    /// Waits for room, `None` if there was none for [`ROOM_TIMEOUT`]. Cancel safe.
    pub(crate) fn take(&self, bytes: usize, env: Env) -> BoxFuture<'static, Option<OwnedSemaphorePermit>> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.share(bytes));
        Box::pin(async move { env.timeout(ROOM_TIMEOUT, room).await.ok()?.ok() })
    }

    /// Returns whether a message is being received.
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) > 0
    }

    /// Counts a message that is being received, and returns the bytes that it counts for.
    pub(crate) fn begin_receiving(&self, bytes: usize) -> usize {
        self.receiving.fetch_add(1, Ordering::Relaxed);
        self.share(bytes) as usize
    }

    pub(crate) fn end_receiving(&self) {
        self.receiving.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a message that waits for room. Returns whether it may: `false` if too many wait.
    pub(crate) fn begin_waiting(&self) -> bool {
        let may_wait = self.waiting.fetch_add(1, Ordering::AcqRel) < self.waiting_max;
        if !may_wait {
            self.end_waiting();
        }
        may_wait
    }

    pub(crate) fn end_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// A message larger than the budget takes all of it; the service enforces the message size limit.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_larger_than_everything_takes_everything() {
        let allowance = Allowance::new(&Limits::default());
        let all = allowance.try_take(usize::MAX);
        assert!(all.is_some());
        assert!(allowance.try_take(1).is_none());
        drop(all);
        assert!(allowance.try_take(1).is_some());
    }
}
