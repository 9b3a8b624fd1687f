// SPDX-License-Identifier: Apache-2.0
//! Packs transactions of one keyspace that arrive while others are under way into one call.
//!
//! A caller who finds a lane free goes at once; the others wait in its queue and go together when one of those comes back. So
//! a single caller waits for nothing, and many pay for one call together. What waits is bounded by the number of callers.

use std::collections::{HashMap, VecDeque};

use atomix_kv::{Error, Keyspace, Outcome, Txn, Write};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::program;

/// The queues of all keyspaces in which something is under way.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<Lane, Queue>>,
}

/// Transactions that may be packed together: those of a keyspace that need memory, and those that do not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    pub(crate) keyspace: Keyspace,
    pub(crate) shrinks: bool,
}

#[derive(Debug, Default)]
struct Queue {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

/// A transaction whose caller waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) txn: Txn,
    pub(crate) answer: oneshot::Sender<Result<Outcome, Error>>,
}

/// What a caller does.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Goes, and tells [`Lanes::next`] when it is back.
    Go(Txn),
    /// Waits to be answered by somebody else.
    Wait(oneshot::Receiver<Result<Outcome, Error>>),
}

/// Calls of one lane that are under way at the same time: while one is on the wire Redis works on the other.
const UNDER_WAY_MAX: usize = 2;
/// Transactions in one call. Redis serves nobody else meanwhile.
const BATCH_MAX: usize = 128;
/// Bytes in one call, beyond which packing saves nothing.
const BATCH_BYTES_MAX: usize = 256 * 1024;

// === impl Lanes ===

impl Lanes {
    pub(crate) fn enter(&self, lane: &Lane, txn: Txn) -> Turn {
        let mut lanes = self.lanes.lock();
        let queue = match lanes.get_mut(lane) {
            Some(queue) => queue,
            None => lanes.entry(lane.clone()).or_default(),
        };
        if queue.under_way < UNDER_WAY_MAX {
            queue.under_way += 1;
            return Turn::Go(txn);
        }
        let (answer, receiver) = oneshot::channel();
        queue.waiting.push_back(Waiting { txn, answer });
        Turn::Wait(receiver)
    }

    /// Takes who goes next, after a call came back. Empty if nobody does: the call is not under way any more then.
    pub(crate) fn next(&self, lane: &Lane) -> Vec<Waiting> {
        let mut lanes = self.lanes.lock();
        let Some(queue) = lanes.get_mut(lane) else { return Vec::new() };
        let mut batch: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            if next.answer.is_closed() {
                // Its caller is gone, and it was not sent yet.
                queue.waiting.pop_front();
                continue;
            }
            bytes += weight(&next.txn);
            let alone = program::alone(&next.txn);
            if !batch.is_empty() && (alone || batch.len() == BATCH_MAX || bytes > BATCH_BYTES_MAX) {
                break;
            }
            batch.extend(queue.waiting.pop_front());
            if alone {
                break;
            }
        }
        if batch.is_empty() {
            queue.under_way -= 1;
            if queue.under_way == 0 {
                lanes.remove(lane);
            }
        }
        batch
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

    fn lane() -> Lane {
        Lane { keyspace: Keyspace::new("k"), shrinks: false }
    }

    fn put(value: usize) -> Txn {
        Txn::new().write(Write::Put { key: "k".into(), value: vec![0; value].into() })
    }

    fn wait(lanes: &Lanes, txn: Txn) -> oneshot::Receiver<Result<Outcome, Error>> {
        match lanes.enter(&lane(), txn) {
            Turn::Wait(receiver) => receiver,
            Turn::Go(_) => panic!("it goes"),
        }
    }

    fn full() -> Lanes {
        let lanes = Lanes::default();
        for _ in 0..UNDER_WAY_MAX {
            assert!(matches!(lanes.enter(&lane(), put(1)), Turn::Go(_)));
        }
        lanes
    }

    #[test]
    fn those_who_wait_go_together_and_a_lane_ends_with_its_last_call() {
        let lanes = full();
        let _waiting: Vec<_> = (0..5).map(|_| wait(&lanes, put(1))).collect();
        assert_eq!(lanes.next(&lane()).len(), 5);
        for _ in 0..UNDER_WAY_MAX {
            assert!(lanes.next(&lane()).is_empty());
        }
        assert!(lanes.lanes.lock().is_empty());
    }

    #[test]
    fn a_batch_is_bounded_and_a_named_request_goes_alone() {
        let lanes = full();
        let mut waiting: Vec<_> = (0..=BATCH_MAX).map(|_| wait(&lanes, put(1))).collect();
        assert_eq!(lanes.next(&lane()).len(), BATCH_MAX);
        waiting.push(wait(&lanes, put(1).once("name")));
        waiting.push(wait(&lanes, put(BATCH_BYTES_MAX)));
        waiting.push(wait(&lanes, put(1)));
        for expected in [1, 1, 1, 1, 0] {
            assert_eq!(lanes.next(&lane()).len(), expected);
        }
    }

    #[test]
    fn who_is_gone_before_its_turn_is_not_sent() {
        let lanes = full();
        drop(wait(&lanes, put(1)));
        let _kept = wait(&lanes, put(2));
        let batch = lanes.next(&lane());
        assert_eq!(batch.len(), 1);
        assert_eq!(batch[0].txn, put(2));
    }
}
