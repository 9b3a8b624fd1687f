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

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;

use crate::budget::{Budget, Place};
use crate::connection::Connection;

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

/// Finds the connections to cut, from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Relief {
    /// The bytes that each connection had written and read at the last check.
    progress: HashMap<u64, (u64, u64)>,
    looks: u32,
}

/// The pool hears of a connection in steps of this size, and not at all of one that uses less. So ordinary calls do not
/// share a counter with other threads, and a connection that uses little is never refused.
const STEP: usize = 16 << 10;
/// A running call is counted with this, beside its messages: measured are 6 KiB for a watch, 8 for a waiting lock, 10
/// for a request that is not complete.
pub(crate) const CALL_BYTES: usize = 8 << 10;
/// The reserve beyond the bound, and the part that cutting frees.
const RESERVE: usize = 4;
const RELIEF: usize = 8;
/// The time between two looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After so many looks a connection is cut even if something moves on it.
const LOOKS_MAX: u32 = 10;

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
        while self.budget.balance() > 0 {
            self.exhausted.notified().await;
        }
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
    fn excess(&self) -> usize {
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
            if self.pool.budget.balance() <= 0 {
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
        self.pool.budget.balance() > 0 || (self.bytes() < STEP && self.pool.has_reserve())
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

// === impl Relief ===

impl Relief {
    /// Checks all connections and returns those to cut.
    pub(crate) fn look<'a>(
        &mut self,
        pool: &Pool,
        connections: impl Iterator<Item = &'a Arc<Connection>>,
    ) -> Vec<Arc<Connection>> {
        let mut excess = pool.excess();
        if excess == 0 || pool.budget.balance() > 0 && self.looks == 0 {
            *self = Self::default();
            return Vec::new();
        }
        let mut progress = HashMap::new();
        let (mut stalled, mut moving) = (Vec::new(), Vec::new());
        for connection in connections {
            let bytes = connection.usage.bytes();
            if bytes < STEP || !connection.waits_for_peer() {
                continue;
            }
            if connection.ordered_end().is_some() {
                // It is on its way.
                excess = excess.saturating_sub(bytes);
                continue;
            }
            let now = (connection.traffic.written(), connection.traffic.reads());
            progress.insert(connection.id(), now);
            match self.progress.get(&connection.id()) {
                Some(before) if *before == now => stalled.push((bytes, connection)),
                Some(_) => moving.push((bytes, connection)),
                None => {}
            }
        }
        self.progress = progress;
        self.looks += 1;
        stalled.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut cut = Vec::new();
        for (bytes, connection) in stalled {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            cut.push(Arc::clone(connection));
        }
        if excess > 0 && self.looks >= LOOKS_MAX {
            let largest = moving.into_iter().max_by_key(|(bytes, _)| *bytes);
            cut.extend(largest.map(|(_, connection)| Arc::clone(connection)));
        }
        cut
    }

    /// Returns whether nothing is to be done until the bound is reached again.
    pub(crate) fn is_over(&self) -> bool {
        self.looks == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{End, Peer};
    use crate::limits::Limits;
    use atomix_env::Env;
    use futures::task::noop_waker;

    const MIB: usize = 1 << 20;

    fn connection(id: u64, pool: &Arc<Pool>) -> Arc<Connection> {
        let peer = Peer::Unix { pid: None, uid: 0 };
        Arc::new(Connection::new(id, peer, Env::real(), &Limits::default(), pool))
    }

    /// Answers that wait for their reader.
    fn fill(connection: &Connection, bytes: usize) {
        connection.budget.take(bytes);
        connection.usage.take(bytes);
    }

    fn ids(cut: &[Arc<Connection>]) -> Vec<u64> {
        cut.iter().map(|connection| connection.id()).collect()
    }

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

    #[test]
    fn those_that_use_most_and_stand_still_are_cut_until_an_eighth_is_free() {
        let pool = Pool::new(8 * MIB);
        let all: Vec<_> = (0..5).map(|id| connection(id, &pool)).collect();
        for (connection, mib) in all.iter().zip([1, 3, 2, 1, 1]) {
            fill(connection, mib * MIB);
        }
        // Running calls alone are no reason.
        all[4].budget.give(MIB);
        let mut relief = Relief::default();
        assert!(
            relief.look(&pool, all.iter()).is_empty(),
            "one check does not show which connection makes no progress"
        );
        all[1].traffic.wrote(1);
        let cut = relief.look(&pool, all.iter());
        assert_eq!(ids(&cut), [2], "2 MiB are more than an eighth, and the largest moves");
        cut[0].end(End::Memory);
        assert!(relief.look(&pool, all.iter()).is_empty(), "it is waited for");
        cut[0].usage.give(2 * MIB);
        assert!(relief.look(&pool, all.iter()).is_empty() && relief.is_over());
    }

    #[test]
    fn after_a_while_the_largest_is_cut_although_something_moves() {
        let pool = Pool::new(MIB);
        let (one, other) = (connection(1, &pool), connection(2, &pool));
        fill(&one, MIB / 4);
        fill(&other, MIB);
        let mut relief = Relief::default();
        let mut looks = 0;
        let cut = loop {
            looks += 1;
            one.traffic.wrote(1);
            other.traffic.wrote(1);
            let cut = relief.look(&pool, [&one, &other].into_iter());
            if !cut.is_empty() {
                break cut;
            }
        };
        assert_eq!((ids(&cut), looks), (vec![2], LOOKS_MAX));
    }
}
