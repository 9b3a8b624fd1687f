// SPDX-License-Identifier: Apache-2.0
//! The budget of unread answer bytes of one connection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

/// The time that an answer or a request waits for buffer room before its stream ends.
pub(crate) const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// Counts the bytes that were handed to HTTP/2 and not yet written.
///
/// The size of a message is known only once it exists, and a message that exists costs its memory already. So the
/// gate is *before* the message is made: it opens while the balance is positive, and the message may overdraw. At most
/// one message a worker thread is made beyond the budget. Asking for the exact size afterwards, which was considered,
/// would have held a thousand answers in memory while they waited for room.
///
/// Without waiters, passing and giving back are atomic operations; with waiters, they pass in the order of arrival.
#[derive(Debug)]
pub(crate) struct Budget {
    whole: i64,
    balance: AtomicI64,
    /// The number of `queue`'s entries, to be read without its lock.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

/// At most one entry a stream, so the limit of streams bounds it.
#[derive(Debug, Default)]
struct Queue {
    next: u64,
    waiters: BTreeMap<u64, Waker>,
}

/// A place in the queue of a [`Budget`]. Must be given to [`Budget::leave`] when its owner goes away.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<u64>);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        let whole = signed(bytes);
        Self { whole, balance: AtomicI64::new(whole), waiting: AtomicUsize::new(0), queue: Mutex::default() }
    }

    /// Waits until the balance is positive and all earlier waiters have passed.
    pub(crate) fn poll_pass(&self, place: &mut Place, context: &mut Context<'_>) -> Poll<()> {
        if place.0.is_none() && self.waiting.load(Ordering::SeqCst) == 0 && self.is_open() {
            return Poll::Ready(());
        }
        let mut queue = self.queue.lock();
        let number = place.0.unwrap_or_else(|| {
            queue.next += 1;
            queue.next
        });
        queue.waiters.insert(number, context.waker().clone());
        place.0 = Some(number);
        // Invariant: `waiting` is written before the balance is read here, and `give` does it the other way round, so
        // one of the two sees the other.
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        let first = queue.waiters.first_key_value().map(|(first, _)| *first);
        if first != Some(number) || !self.is_open() {
            return Poll::Pending;
        }
        self.remove(&mut queue, place);
        Poll::Ready(())
    }

    /// Gives up a place. Safe to repeat.
    pub(crate) fn leave(&self, place: &mut Place) {
        if place.0.is_some() {
            self.remove(&mut self.queue.lock(), place);
        }
    }

    /// Takes `bytes`, into debt if need be.
    pub(crate) fn take(&self, bytes: usize) {
        self.balance.fetch_sub(signed(bytes), Ordering::SeqCst);
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&self, bytes: usize) {
        self.balance.fetch_add(signed(bytes), Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 && self.is_open() {
            Self::wake_first(&self.queue.lock());
        }
    }

    /// Returns whether everything was given back.
    pub(crate) fn is_whole(&self) -> bool {
        self.balance.load(Ordering::SeqCst) >= self.whole
    }

    pub(crate) fn balance(&self) -> i64 {
        self.balance.load(Ordering::SeqCst)
    }

    fn is_open(&self) -> bool {
        self.balance.load(Ordering::SeqCst) > 0
    }

    /// Removes a place and passes the turn on: the wake-up may have been meant for the one that leaves.
    fn remove(&self, queue: &mut Queue, place: &mut Place) {
        if let Some(number) = place.0.take() {
            queue.waiters.remove(&number);
            self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
            if self.is_open() {
                Self::wake_first(queue);
            }
        }
    }

    fn wake_first(queue: &Queue) {
        if let Some(waker) = queue.waiters.values().next() {
            waker.wake_by_ref();
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;
    use std::sync::Arc;

    fn pass(budget: &Budget, place: &mut Place) -> bool {
        budget.poll_pass(place, &mut Context::from_waker(&noop_waker())).is_ready()
    }

    #[test]
    fn a_message_may_overdraw_and_the_next_waits_until_the_debt_is_paid() {
        let budget = Budget::new(10);
        let mut place = Place::default();
        assert!(pass(&budget, &mut place));
        budget.take(25);
        assert!(!pass(&budget, &mut place));
        budget.give(15);
        assert!(!pass(&budget, &mut place), "a balance of zero is closed");
        budget.give(10);
        assert!(pass(&budget, &mut place));
        assert_eq!(budget.balance(), 10);
    }

    #[test]
    fn waiters_pass_in_order_without_overtaking() {
        let budget = Budget::new(1);
        budget.take(1);
        let (mut first, mut second, mut late) = (Place::default(), Place::default(), Place::default());
        assert!(!pass(&budget, &mut first));
        assert!(!pass(&budget, &mut second));
        budget.give(1);
        assert!(!pass(&budget, &mut late));
        assert!(!pass(&budget, &mut second));
        assert!(pass(&budget, &mut first));
        assert!(pass(&budget, &mut second));
        assert!(pass(&budget, &mut late));
    }

    #[test]
    fn a_waiter_that_leaves_passes_its_turn_on() {
        struct Count(AtomicUsize);
        impl futures::task::ArcWake for Count {
            fn wake_by_ref(this: &Arc<Self>) {
                this.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let budget = Budget::new(1);
        budget.take(1);
        let (mut first, mut second) = (Place::default(), Place::default());
        assert!(!pass(&budget, &mut first));
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = futures::task::waker(Arc::clone(&woken));
        assert!(budget.poll_pass(&mut second, &mut Context::from_waker(&waker)).is_pending());
        budget.give(1);
        budget.leave(&mut first);
        budget.leave(&mut first);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(pass(&budget, &mut second));
        assert_eq!(budget.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        let budget = Arc::new(Budget::new(1));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    for _ in 0..2_000 {
                        let mut place = Place::default();
                        let pass = std::future::poll_fn(|context| budget.poll_pass(&mut place, context));
                        runtime.block_on(pass);
                        budget.take(3);
                        budget.give(3);
                    }
                });
            }
        });
        assert_eq!(budget.balance(), 1);
    }
}
