// SPDX-License-Identifier: Apache-2.0
//! Batches transactions of one keyspace that arrive while others are in flight into one call.
//!
//! A caller that finds its queue idle calls Redis directly. Others wait in the queue for *senders*: tasks
//! that send all waiting transactions together, until the queue is empty. So a single caller waits for
//! nothing, many share one call, and no caller waits for one that does not poll its call. The number of
//! callers bounds the queue.

use std::collections::{HashMap, VecDeque};

use atomix_remote::{Sum, added, addition};
use atomix_store::{Error, Keyspace, Outcome, Txn, Write};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::program;

/// The queues of all keyspaces with transactions in flight.
#[derive(Debug, Default)]
pub(crate) struct CommitQueues {
    queues: Mutex<HashMap<QueueKey, CommitQueue>>,
}

/// Identifies transactions that may be batched: those of a keyspace that need memory, and those that do not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct QueueKey {
    pub(crate) keyspace: Keyspace,
    pub(crate) shrinks: bool,
}

#[derive(Debug, Default)]
struct CommitQueue {
    /// A caller makes a direct call.
    direct: bool,
    senders: usize,
    waiting: VecDeque<Waiting>,
}

/// A transaction whose caller waits.
#[derive(Debug)]
struct Waiting {
    txn: Txn,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Outcome, Error>>;

/// Transactions that are sent together, and their callers. Additions to one number are one of them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) txns: Vec<Txn>,
    callers: Vec<Callers>,
    /// The positions in the batch of the additions, by number.
    sums: HashMap<Bytes, usize>,
}

/// The callers of a transaction.
#[derive(Debug)]
enum Callers {
    One(Answer),
    All(Sum<Answer>),
}

/// The way of a transaction to Redis.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The caller sends it, and calls [`CommitQueues::direct_call_ended`] after that.
    Direct(Txn),
    /// A sender sends it. With `start_sender` the caller starts one.
    Queued { answer: oneshot::Receiver<Result<Outcome, Error>>, start_sender: bool },
}

/// Senders of one queue: while the call of one is on the wire Redis works on that of the other.
const SENDERS_MAX: usize = 2;
/// Transactions in one call. Redis serves no other client meanwhile.
const BATCH_MAX: usize = 128;
/// Bytes in one call, beyond which batching saves nothing.
const BATCH_BYTES_MAX: usize = 256 * 1024;

// === impl CommitQueues ===

impl CommitQueues {
    pub(crate) fn admit(&self, key: &QueueKey, txn: Txn) -> Admission {
        let mut queues = self.queues.lock();
        let queue = match queues.get_mut(key) {
            Some(queue) => queue,
            None => queues.entry(key.clone()).or_default(),
        };
        if !queue.direct && queue.senders == 0 {
            queue.direct = true;
            return Admission::Direct(txn);
        }
        let (sender, answer) = oneshot::channel();
        queue.waiting.push_back(Waiting { txn, answer: sender });
        let start_sender = queue.senders < SENDERS_MAX;
        queue.senders += usize::from(start_sender);
        Admission::Queued { answer, start_sender }
    }

    /// Ends the direct call of a queue.
    pub(crate) fn direct_call_ended(&self, key: &QueueKey) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(key) {
            queue.direct = false;
            if queue.senders == 0 {
                queues.remove(key);
            }
        }
    }

    /// Returns the next batch for a sender. If it is empty, no transaction waits, and the sender has to end.
    pub(crate) fn next(&self, key: &QueueKey) -> Batch {
        let mut queues = self.queues.lock();
        let mut batch = Batch::default();
        let Some(queue) = queues.get_mut(key) else { return batch };
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            if next.answer.is_closed() {
                // Its caller is gone, and it was not sent yet.
                queue.waiting.pop_front();
                continue;
            }
            bytes += weight(&next.txn);
            let alone = program::alone(&next.txn);
            if !batch.txns.is_empty() && (alone || batch.txns.len() == BATCH_MAX || bytes > BATCH_BYTES_MAX) {
                break;
            }
            if let Some(waiting) = queue.waiting.pop_front() {
                batch.push(waiting);
            }
            if alone {
                break;
            }
        }
        if batch.txns.is_empty() {
            queue.senders -= 1;
            if queue.senders == 0 && !queue.direct {
                queues.remove(key);
            }
        }
        batch
    }

    /// Called when a sender task was dropped with its runtime; drops the waiting transactions, so that their
    /// callers get `OutcomeUnknown`.
    pub(crate) fn sender_dropped(&self, key: &QueueKey) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(key) {
            queue.senders -= 1;
            if queue.senders == 0 {
                queue.waiting.clear();
                if !queue.direct {
                    queues.remove(key);
                }
            }
        }
    }
}

// === impl Batch ===

impl Batch {
    fn push(&mut self, Waiting { txn, answer }: Waiting) {
        let Some((key, delta)) = addition(&txn) else {
            self.txns.push(txn);
            self.callers.push(Callers::One(answer));
            return;
        };
        if let Some(at) = self.sums.get(key)
            && let Callers::All(sum) = &mut self.callers[*at]
        {
            sum.push(delta, answer);
            self.txns[*at].writes = vec![Write::Add { key: key.clone(), delta: sum.delta() }];
            return;
        }
        self.sums.insert(key.clone(), self.txns.len());
        let mut sum = Sum::default();
        sum.push(delta, answer);
        self.txns.push(txn);
        self.callers.push(Callers::All(sum));
    }

    /// Answers every caller with the outcome of its transaction.
    pub(crate) fn answer(self, outcomes: Vec<Result<Outcome, Error>>) {
        for (callers, outcome) in self.callers.into_iter().zip(outcomes) {
            // A caller that is gone needs no answer.
            let tell = |answer: Answer, outcome| drop(answer.send(outcome));
            match callers {
                Callers::One(answer) => tell(answer, outcome),
                Callers::All(sum) => sum.share(&outcome.and_then(|outcome| added(&outcome)), tell),
            }
        }
    }
}

fn weight(txn: &Txn) -> usize {
    let writes = txn.writes.iter().map(|write| match write {
        Write::Put { key, value } | Write::Stamp { prefix: key, value } => key.len() + value.len(),
        Write::Add { key, .. } | Write::Delete { key } => key.len(),
        Write::DeleteRange { range } => range.start.len(),
    });
    writes.sum::<usize>() + 64 * (txn.guards.len() + txn.reads.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_store::{Revision, Written};

    fn key() -> QueueKey {
        QueueKey { keyspace: Keyspace::new("k"), shrinks: false }
    }

    fn put(value: usize) -> Txn {
        Txn::new().write(Write::Put { key: "k".into(), value: vec![0; value].into() })
    }

    fn wait(queues: &CommitQueues, txn: Txn) -> oneshot::Receiver<Result<Outcome, Error>> {
        match queues.admit(&key(), txn) {
            Admission::Queued { answer, .. } => answer,
            Admission::Direct(_) => panic!("it goes"),
        }
    }

    /// Queues with a direct call that does not end.
    fn busy() -> CommitQueues {
        let queues = CommitQueues::default();
        assert!(matches!(queues.admit(&key(), put(1)), Admission::Direct(_)));
        queues
    }

    #[test]
    fn those_who_wait_go_together_and_a_lane_ends_with_the_last_of_them() {
        let queues = busy();
        let mut senders = 0;
        let waiting: Vec<_> = (0..5)
            .map(|_| match queues.admit(&key(), put(1)) {
                Admission::Queued { answer, start_sender } => {
                    senders += usize::from(start_sender);
                    answer
                }
                Admission::Direct(_) => panic!("it goes"),
            })
            .collect();
        assert_eq!(senders, SENDERS_MAX);
        assert_eq!(queues.next(&key()).txns.len(), waiting.len());
        for _ in 0..senders {
            assert!(queues.next(&key()).txns.is_empty());
        }
        queues.direct_call_ended(&key());
        assert!(queues.queues.lock().is_empty());
    }

    #[test]
    fn a_batch_is_bounded_and_a_named_request_goes_alone() {
        let queues = busy();
        let mut waiting: Vec<_> = (0..=BATCH_MAX).map(|_| wait(&queues, put(1))).collect();
        assert_eq!(queues.next(&key()).txns.len(), BATCH_MAX);
        waiting.push(wait(&queues, put(1).once("name")));
        waiting.push(wait(&queues, put(BATCH_BYTES_MAX)));
        waiting.push(wait(&queues, put(1)));
        for expected in [1, 1, 1, 1, 0] {
            assert_eq!(queues.next(&key()).txns.len(), expected);
        }
    }

    #[test]
    fn who_is_gone_before_its_turn_is_not_sent() {
        let queues = busy();
        drop(wait(&queues, put(1)));
        let _kept = wait(&queues, put(2));
        assert_eq!(queues.next(&key()).txns, [put(2)]);
    }

    #[test]
    fn additions_to_one_number_go_as_their_sum_and_each_learns_its_own() {
        let add = |key: &'static str, delta| Txn::new().write(Write::Add { key: key.into(), delta });
        let queues = busy();
        let mut waiting = vec![wait(&queues, add("n", 1)), wait(&queues, put(1))];
        waiting.extend([wait(&queues, add("n", 2)), wait(&queues, add("m", 5)), wait(&queues, add("n", -7))]);
        let batch = queues.next(&key());
        assert_eq!(batch.txns, [add("n", -4), put(1), add("m", 5)]);
        let outcome =
            |writes| Ok(Outcome { revision: Revision(3), applied: true, writes, reads: Vec::new() });
        let added = |value| outcome(vec![Written::Added { value }]);
        batch.answer(vec![added(6), outcome(Vec::new()), added(5)]);
        let got = waiting.iter_mut().map(|answer| answer.try_recv().unwrap().unwrap().writes);
        let value = |value| vec![Written::Added { value }];
        assert_eq!(got.collect::<Vec<_>>(), [value(11), Vec::new(), value(13), value(5), value(6)]);
    }
}
