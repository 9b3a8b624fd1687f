// SPDX-License-Identifier: Apache-2.0
//! Answers that hand something over, and the proof that the caller got them.
//!
//! A call that grants a lock changes its caller's state with its answer. The caller may give up in the same moment: then
//! its `RST_STREAM` crosses the answer, or it drops an answer that came after its deadline without a word. The service
//! attaches a [`Receipt`] to such an answer. Once the last frame of the answer was written, the connection sends a PING. A
//! client handles frames in order, so the answer to the PING proves that the caller's transport had the answer, and every
//! `RST_STREAM` that the caller sent before is read before. One PING is in flight at a time and covers all answers that
//! were written before it. The PING follows at once if the caller's deadline is near or many answers are unproved, and with
//! the next sweep of connections otherwise.
//!
//! One library breaks that order: nghttp2 (Node.js, curl) sends the answer to a PING before a `RST_STREAM` that it has
//! queued earlier. Both leave it together, so a confirmed receipt is kept for a second more, for such a reset.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::Instant;
use parking_lot::Mutex;

/// Answers in a table that were written and not confirmed, for each stream that may be open. A conforming client answers
/// a PING within a round trip, and uses each of its streams about once in that time.
const UNCONFIRMED_PER_STREAM: usize = 4;
/// For how long a reset may follow the proof of its answer.
const OVERTAKEN: Duration = Duration::from_secs(1);
/// Confirmed receipts that a connection keeps for that time. An overtaken reset is next to the proof, so the last few suffice.
const CONFIRMED_MAX: usize = 64;
/// An answer with a deadline this near is proved at once. For others the proof may wait for the next sweep of connections: only
/// near its deadline a client drops an answer without a reset, and a PING for each grant costs a tenth of the hand-overs.
const PROMPT: Duration = Duration::from_secs(10);
/// Unproved answers of a connection that are not left to the sweep.
const UNPROVED_MAX: usize = 64;

/// The outcome of an answer that is not known to have reached its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The caller did not take the answer: its stream or its connection ended before.
    Refused,
    /// The proof came after the caller's deadline: the caller may have taken the answer or dropped it. If the service takes
    /// back what the answer handed over, it must close the connection, so that the caller sees it.
    Unknown,
}

/// Runs a callback if an answer does not reach its caller.
///
/// A service inserts it into the extensions of its HTTP response. The callback runs at most once: with
/// [`Undelivered::Refused`] if the response, its stream or its connection ends before the answer is confirmed, or the
/// caller resets the stream with a code other than `NO_ERROR` (also within a second after the confirmation); with [`Undelivered::Unknown`] if the confirmation comes
/// after the deadline. A confirmed answer drops the callback. A receipt that is dropped before its response reaches the
/// transport counts as refused.
///
/// The callback runs on the thread of the connection: it must neither block nor panic.
#[derive(Debug, Clone)]
pub struct Receipt(Arc<Inner>);

type Undo = Box<dyn FnOnce(Undelivered) + Send>;

struct Inner {
    deadline: Option<Instant>,
    undo: Mutex<Option<Undo>>,
}

/// The receipts of one connection whose answers were handed to HTTP/2 and are not yet confirmed.
#[derive(Debug)]
pub(crate) struct Receipts {
    /// The number of entries, to be read without the lock.
    count: AtomicUsize,
    max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By stream. Streams are never numbered twice on a connection, so a number below that is missing here is settled.
    entries: HashMap<u32, Receipt>,
    /// Streams whose last frame was written after the last PING.
    written: Vec<u32>,
    /// One of them is to be proved at once.
    prompt: bool,
    /// Streams that the PING in flight covers.
    pinged: Vec<u32>,
    /// Streams whose answers were confirmed within the last seconds, in that order.
    confirmed: VecDeque<(Instant, u32, Receipt)>,
    /// The connection ended.
    closed: bool,
}

/// There are more unconfirmed answers than a conforming client can cause.
#[derive(Debug)]
pub(crate) struct TooMany;

// === impl Receipt ===

impl Receipt {
    /// Makes a receipt. `deadline` is when the caller gives up, as far as it is known: its arrival plus its
    /// `grpc-timeout`. A service that wants a margin for the way of the request subtracts it here.
    pub fn new(deadline: Option<Instant>, undo: impl FnOnce(Undelivered) + Send + 'static) -> Self {
        Self(Arc::new(Inner { deadline, undo: Mutex::new(Some(Box::new(undo))) }))
    }

    /// Settles the receipt, once.
    fn fail(&self, outcome: Undelivered) {
        self.0.fail(outcome);
    }

    fn confirm(&self) {
        let undo = self.0.undo.lock().take();
        drop(undo);
    }

    fn is_late(&self, now: Instant) -> bool {
        self.0.deadline.is_some_and(|deadline| now >= deadline)
    }
}

// === impl Inner ===

impl Inner {
    fn fail(&self, outcome: Undelivered) {
        // A statement of its own, so that the callback runs without the lock.
        let undo = self.undo.lock().take();
        if let Some(undo) = undo {
            undo(outcome);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.fail(Undelivered::Refused);
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.undo.lock().is_some();
        f.debug_struct("Inner").field("deadline", &self.deadline).field("open", &open).finish()
    }
}

// === impl Receipts ===

impl Receipts {
    pub(crate) fn new(streams_max: u32) -> Self {
        let max = (streams_max as usize).saturating_mul(UNCONFIRMED_PER_STREAM);
        Self { count: AtomicUsize::new(0), max, table: Mutex::default() }
    }

    /// Takes the receipt of an answer whose last frame is about to be handed to HTTP/2.
    pub(crate) fn expect(&self, stream: u32, receipt: Receipt) -> Result<(), TooMany> {
        let mut table = self.table.lock();
        if table.closed || table.entries.len() >= self.max {
            let closed = table.closed;
            drop(table);
            receipt.fail(Undelivered::Refused);
            return if closed { Ok(()) } else { Err(TooMany) };
        }
        table.entries.insert(stream, receipt);
        self.count.store(table.count(), Ordering::Release);
        Ok(())
    }

    /// Notes that the last frame of an answer is being written: what is sent from now on comes after it.
    pub(crate) fn written(&self, stream: u32, now: impl FnOnce() -> Instant) {
        if self.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        let Some(receipt) = table.entries.get(&stream) else { return };
        let prompt = receipt.0.deadline.is_some_and(|deadline| deadline < now() + PROMPT);
        table.written.push(stream);
        table.prompt |= prompt || table.written.len() >= UNPROVED_MAX;
    }

    /// Notes that a stream ended before its answer was confirmed.
    pub(crate) fn refused(&self, stream: u32) {
        if self.is_empty() {
            return;
        }
        let receipt = {
            let mut table = self.table.lock();
            let receipt = table.take(stream);
            self.count.store(table.count(), Ordering::Release);
            receipt
        };
        if let Some(receipt) = receipt {
            receipt.fail(Undelivered::Refused);
        }
    }

    /// Notes that we reset a stream: an answer that was not written yet never will be.
    pub(crate) fn reset_by_us(&self, stream: u32) {
        if self.is_empty() {
            return;
        }
        let table = self.table.lock();
        let written = table.written.contains(&stream) || table.pinged.contains(&stream);
        drop(table);
        if !written {
            self.refused(stream);
        }
    }

    /// Returns whether a PING is wanted and none is in flight for earlier answers.
    pub(crate) fn wants_ping(&self) -> bool {
        !self.is_empty() && {
            let table = self.table.lock();
            table.pinged.is_empty() && table.prompt
        }
    }

    /// Notes that a PING is being sent: it covers everything that was written.
    pub(crate) fn pinged(&self) {
        if self.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        table.pinged = std::mem::take(&mut table.written);
        table.prompt = false;
    }

    /// Notes that the answer to our PING was read.
    pub(crate) fn ponged(&self, now: impl FnOnce() -> Instant) {
        if self.is_empty() {
            return;
        }
        let mut late = Vec::new();
        let settled = {
            let mut table = self.table.lock();
            let pinged = std::mem::take(&mut table.pinged);
            if pinged.is_empty() {
                return;
            }
            let now = now();
            for stream in pinged {
                match table.entries.remove(&stream) {
                    Some(receipt) if receipt.is_late(now) => late.push(receipt),
                    Some(receipt) => table.confirmed.push_back((now, stream, receipt)),
                    None => {}
                }
            }
            let settled = table.settle(now);
            self.count.store(table.count(), Ordering::Release);
            settled
        };
        for receipt in late {
            receipt.fail(Undelivered::Unknown);
        }
        settled.iter().for_each(Receipt::confirm);
    }

    /// Drops confirmed receipts whose reset would have come by now. Returns whether others wait for a PING.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        if self.is_empty() {
            return false;
        }
        let (settled, unproved) = {
            let mut table = self.table.lock();
            let settled = table.settle(now);
            self.count.store(table.count(), Ordering::Release);
            (settled, table.pinged.is_empty() && !table.written.is_empty())
        };
        settled.iter().for_each(Receipt::confirm);
        unproved
    }

    /// Ends everything, with the connection.
    pub(crate) fn close(&self) {
        let (entries, confirmed) = {
            let mut table = self.table.lock();
            table.closed = true;
            self.count.store(0, Ordering::Release);
            (std::mem::take(&mut table.entries), std::mem::take(&mut table.confirmed))
        };
        for receipt in entries.values() {
            receipt.fail(Undelivered::Refused);
        }
        for (_, _, receipt) in confirmed {
            receipt.confirm();
        }
    }

    /// Returns whether no answer waits for its confirmation. Free for connections without such answers.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

// === impl Table ===

impl Table {
    fn count(&self) -> usize {
        self.entries.len() + self.confirmed.len()
    }

    /// Takes the receipt of a stream, confirmed or not.
    fn take(&mut self, stream: u32) -> Option<Receipt> {
        self.entries.remove(&stream).or_else(|| {
            let position = self.confirmed.iter().position(|(_, confirmed, _)| *confirmed == stream)?;
            self.confirmed.remove(position).map(|(_, _, receipt)| receipt)
        })
    }

    /// Removes confirmed receipts that are old, or more than are kept.
    fn settle(&mut self, now: Instant) -> Vec<Receipt> {
        let mut settled = Vec::new();
        while let Some((since, _, _)) = self.confirmed.front()
            && (now.since(*since) >= OVERTAKEN || self.confirmed.len() > CONFIRMED_MAX)
        {
            settled.extend(self.confirmed.pop_front().map(|(_, _, receipt)| receipt));
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_env::{Clock, ManualClock};
    use std::time::Duration;

    type Outcomes = Arc<Mutex<Vec<(u32, Undelivered)>>>;

    fn receipt(outcomes: &Outcomes, stream: u32, deadline: Option<Instant>) -> Receipt {
        let outcomes = Arc::clone(outcomes);
        Receipt::new(deadline, move |outcome| outcomes.lock().push((stream, outcome)))
    }

    fn expect(receipts: &Receipts, outcomes: &Outcomes, streams: &[u32]) {
        for stream in streams {
            receipts.expect(*stream, receipt(outcomes, *stream, None)).unwrap();
        }
    }

    fn never() -> Instant {
        unreachable!("the time does not matter")
    }

    #[test]
    fn a_receipt_that_is_dropped_is_refused_once_however_often_it_was_cloned() {
        let outcomes = Outcomes::default();
        let receipt = receipt(&outcomes, 1, None);
        drop(receipt.clone());
        assert!(outcomes.lock().is_empty());
        drop(receipt);
        assert_eq!(*outcomes.lock(), [(1, Undelivered::Refused)]);
    }

    #[test]
    fn a_ping_confirms_what_was_written_before_it_and_nothing_else() {
        let clock = ManualClock::new();
        let (receipts, outcomes) = (Receipts::new(10), Outcomes::default());
        expect(&receipts, &outcomes, &[1, 3, 5]);
        receipts.written(1, never);
        receipts.written(3, never);
        assert!(!receipts.wants_ping(), "without a deadline the sweep asks for it");
        assert!(receipts.sweep(clock.now()));
        receipts.pinged();
        receipts.written(5, never);
        assert!(!receipts.wants_ping(), "one ping is in flight at a time");
        receipts.ponged(|| clock.now());
        receipts.refused(5);
        clock.advance(OVERTAKEN);
        receipts.sweep(clock.now());
        receipts.refused(1);
        assert_eq!(*outcomes.lock(), [(5, Undelivered::Refused)]);
        assert!(receipts.is_empty());
    }

    #[test]
    fn a_reset_that_the_proof_has_overtaken_refuses() {
        let clock = ManualClock::new();
        let (receipts, outcomes) = (Receipts::new(10), Outcomes::default());
        expect(&receipts, &outcomes, &[1, 3]);
        receipts.written(1, never);
        receipts.written(3, never);
        receipts.pinged();
        receipts.ponged(|| clock.now());
        clock.advance(OVERTAKEN / 2);
        receipts.sweep(clock.now());
        receipts.refused(3);
        receipts.refused(3);
        receipts.close();
        assert_eq!(*outcomes.lock(), [(3, Undelivered::Refused)]);
    }

    #[test]
    fn the_last_confirmed_receipts_are_kept_and_no_more() {
        let clock = ManualClock::new();
        let (receipts, outcomes) = (Receipts::new(1000), Outcomes::default());
        let streams: Vec<u32> = (0..).map(|number| 2 * number + 1).take(CONFIRMED_MAX + 1).collect();
        expect(&receipts, &outcomes, &streams);
        for stream in &streams {
            assert!(receipts.table.lock().written.len() < UNPROVED_MAX || receipts.wants_ping());
            receipts.written(*stream, never);
        }
        receipts.pinged();
        receipts.ponged(|| clock.now());
        receipts.refused(streams[0]);
        receipts.refused(streams[1]);
        assert_eq!(*outcomes.lock(), [(streams[1], Undelivered::Refused)]);
    }

    #[test]
    fn a_reset_before_the_proof_refuses_and_a_second_word_changes_nothing() {
        let (receipts, outcomes) = (Receipts::new(10), Outcomes::default());
        expect(&receipts, &outcomes, &[1]);
        receipts.written(1, never);
        receipts.pinged();
        receipts.refused(1);
        receipts.ponged(never);
        receipts.close();
        assert_eq!(*outcomes.lock(), [(1, Undelivered::Refused)]);
    }

    #[test]
    fn a_proof_after_the_deadline_leaves_the_outcome_unknown() {
        let clock = ManualClock::new();
        let (receipts, outcomes) = (Receipts::new(10), Outcomes::default());
        for (stream, seconds) in [(1, 1), (3, 2)] {
            let deadline = clock.now() + Duration::from_secs(seconds);
            receipts.expect(stream, receipt(&outcomes, stream, Some(deadline))).unwrap();
            receipts.written(stream, || clock.now());
            assert!(receipts.wants_ping(), "the deadline is near");
        }
        receipts.pinged();
        clock.advance(Duration::from_secs(1));
        receipts.ponged(|| clock.now());
        assert_eq!(*outcomes.lock(), [(1, Undelivered::Unknown)]);
    }

    #[test]
    fn our_reset_refuses_only_what_was_not_written() {
        let clock = ManualClock::new();
        let (receipts, outcomes) = (Receipts::new(10), Outcomes::default());
        expect(&receipts, &outcomes, &[1, 3]);
        receipts.written(1, never);
        receipts.reset_by_us(1);
        receipts.reset_by_us(3);
        receipts.pinged();
        receipts.reset_by_us(1);
        receipts.ponged(|| clock.now());
        assert_eq!(*outcomes.lock(), [(3, Undelivered::Refused)]);
    }

    #[test]
    fn the_table_is_bounded_and_refuses_after_the_end() {
        let (receipts, outcomes) = (Receipts::new(1), Outcomes::default());
        expect(&receipts, &outcomes, &[1, 3, 5, 7]);
        receipts.expect(9, receipt(&outcomes, 9, None)).unwrap_err();
        assert_eq!(outcomes.lock().len(), 1);
        receipts.close();
        receipts.expect(11, receipt(&outcomes, 11, None)).unwrap();
        assert_eq!(outcomes.lock().len(), 6);
        assert!(receipts.is_empty());
    }
}
