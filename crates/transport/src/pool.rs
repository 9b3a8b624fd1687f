// SPDX-License-Identifier: Apache-2.0
//! The buffers of all connections together: requests that are being received, calls that run, answers that wait for
//! their readers.
//!
//! The bounds of one connection hold one peer down; many peers, each within its bounds, would fill the memory of the
//! process all the same. So each connection counts what it uses ([`Usage`]), and the sum has a bound ([`Pool`]). At the
//! bound:
//!
//! - a connection that uses little goes on, out of a reserve beyond the bound, so that others are served;
//! - one that uses more waits with its answers, and its new calls and large requests are refused;
//! - connections whose peers neither read answers nor finish requests are cut, those that use most first, until an
//!   eighth is free. When none of them stands still, the largest is cut once the bound was reached for a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;

use crate::budget::{Budget, Place};

/// The bytes of all connections.
#[derive(Debug)]
pub(crate) struct Pool {
    bytes_max: usize,
    budget: Budget,
    exhausted: Notify,
    refusals: AtomicU64,
}

/// The bytes of one connection.
#[derive(Debug)]
pub(crate) struct Usage {
    pool: Arc<Pool>,
    bytes: AtomicUsize,
}

/// The pool hears of a connection in steps of this size, and not at all of one that uses less. So ordinary calls do not
/// share a counter with other threads, and a connection that uses little is never refused.
pub(crate) const STEP: usize = 16 << 10;
/// A running call is counted with this, beside its messages: measured are 6 KiB for a watch, 8 for a waiting lock, 10
/// for a request that is not complete.
pub(crate) const CALL_BYTES: usize = 8 << 10;
/// The parts of the bound that are the reserve beyond it, and that cutting frees.
const RESERVE: usize = 4;
const RELIEF: usize = 8;
// === impl Pool ===

impl Pool {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            budget: Budget::new(bytes_max),
            exhausted: Notify::new(),
            refusals: AtomicU64::new(0),
        })
    }

    /// Waits until the bound is reached. Cancel safe.
    pub(crate) async fn exhausted(&self) {
        while !self.is_exhausted() {
            self.exhausted.notified().await;
        }
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.budget.balance() <= 0
    }

    /// Returns the bytes in use, roughly.
    pub(crate) fn used(&self) -> usize {
        let bytes_max = i64::try_from(self.bytes_max).unwrap_or(i64::MAX);
        usize::try_from(bytes_max.saturating_sub(self.budget.balance())).unwrap_or(0)
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Returns how many calls and requests were refused.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Returns the bytes by which more is used than should be after cutting.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.bytes_max - self.bytes_max / RELIEF)
    }

    fn has_reserve(&self) -> bool {
        self.used() < self.bytes_max + self.bytes_max / RESERVE
    }
}

// === impl Usage ===

impl Usage {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), bytes: AtomicUsize::new(0) }
    }

    /// Returns the bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts `bytes` that must be given back.
    pub(crate) fn take(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // The steps of all changes add up to the step of the sum, in whichever order threads get here.
        let steps = (before + bytes) / STEP - before / STEP;
        if steps > 0 {
            self.pool.budget.take(steps * STEP);
            if self.pool.is_exhausted() {
                self.pool.exhausted.notify_one();
            }
        }
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let steps = before / STEP - (before - bytes) / STEP;
        if steps > 0 {
            self.pool.budget.give(steps * STEP);
        }
    }

    /// Returns whether the connection may use more at once.
    pub(crate) fn is_open(&self) -> bool {
        !self.pool.is_exhausted() || (self.bytes() < STEP && self.pool.has_reserve())
    }

    /// Counts a call or request that was refused.
    pub(crate) fn refuse(&self) {
        self.pool.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the connection may use more.
    pub(crate) fn poll_open(&self, place: &mut Place, context: &mut Context<'_>) -> Poll<()> {
        if self.bytes() < STEP && self.pool.has_reserve() {
            self.leave(place);
            return Poll::Ready(());
        }
        self.pool.budget.poll_pass(place, context)
    }

    /// Gives up a place. Safe to repeat.
    pub(crate) fn leave(&self, place: &mut Place) {
        self.pool.budget.leave(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_pool_counts_in_steps_and_everything_comes_back() {
        let pool = Pool::new(MIB);
        let (one, other) = (Usage::new(&pool), Usage::new(&pool));
        one.take(STEP - 1);
        assert_eq!(pool.used(), 0, "a connection that uses little is not counted");
        one.take(1);
        other.take(3 * STEP + 5);
        assert_eq!(pool.used(), 4 * STEP);
        std::thread::scope(|scope| {
            for usage in [&one, &one, &other, &other] {
                scope.spawn(move || {
                    for bytes in 0..20_000 {
                        usage.take(bytes);
                        usage.give(bytes);
                    }
                });
            }
        });
        one.give(STEP);
        other.give(3 * STEP + 5);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn beyond_the_bound_only_connections_that_use_little_go_on() {
        let pool = Pool::new(MIB);
        let (heavy, light) = (Usage::new(&pool), Usage::new(&pool));
        heavy.take(MIB);
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut place = Place::default();
        assert!(!heavy.is_open() && light.is_open());
        assert!(heavy.poll_open(&mut place, &mut context).is_pending());
        assert!(light.poll_open(&mut Place::default(), &mut context).is_ready());
        let greedy = Usage::new(&pool);
        greedy.take(MIB / RESERVE);
        assert!(!light.is_open(), "the reserve has an end");
        greedy.give(MIB / RESERVE);
        heavy.give(STEP);
        assert!(heavy.poll_open(&mut place, &mut context).is_ready());
    }
}
