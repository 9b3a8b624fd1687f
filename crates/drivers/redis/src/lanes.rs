// SPDX-License-Identifier: Apache-2.0
//! Packs transactions of one keyspace that arrive while others are under way into one call.
//!
//! A caller who finds a lane empty goes at once. The others wait in its queue for *carriers*: tasks that take all who wait to
//! Redis together, again and again until nobody waits. So a single caller waits for nothing, many pay for one call together,
//! and nobody waits for a caller who does not poll its call. What waits is bounded by the number of callers.

use std::collections::{HashMap, VecDeque};

use atomix_kv::emulate::{Sum, added, addition};
use atomix_kv::{Error, Keyspace, Outcome, Txn, Write};
use bytes::Bytes;
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
    /// A caller goes alone.
    alone: bool,
    carriers: usize,
    waiting: VecDeque<Waiting>,
}

/// A transaction whose caller waits.
#[derive(Debug)]
struct Waiting {
    txn: Txn,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Outcome, Error>>;

/// Transactions that go together, and who waits for each. Additions to one number are one of them.
#[derive(Debug, Default)]
pub(crate) struct Pack {
    pub(crate) txns: Vec<Txn>,
    callers: Vec<Callers>,
    /// Where in the pack numbers are added to.
    sums: HashMap<Bytes, usize>,
}

/// Who waits for a transaction.
#[derive(Debug)]
enum Callers {
    One(Answer),
    All(Sum<Answer>),
}

/// What a caller does.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Goes, and tells [`Lanes::back`].
    Go(Txn),
    /// Waits to be answered. With `carry` it starts a carrier.
    Wait { answer: oneshot::Receiver<Result<Outcome, Error>>, carry: bool },
}

/// Carriers of one lane: while the call of one is on the wire Redis works on that of the other.
const CARRIERS_MAX: usize = 2;
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
        if !queue.alone && queue.carriers == 0 {
            queue.alone = true;
            return Turn::Go(txn);
        }
        let (sender, answer) = oneshot::channel();
        queue.waiting.push_back(Waiting { txn, answer: sender });
        let carry = queue.carriers < CARRIERS_MAX;
        queue.carriers += usize::from(carry);
        Turn::Wait { answer, carry }
    }

    /// Says that the caller who went alone is back.
    pub(crate) fn back(&self, lane: &Lane) {
        let mut lanes = self.lanes.lock();
        if let Some(queue) = lanes.get_mut(lane) {
            queue.alone = false;
            if queue.carriers == 0 {
                lanes.remove(lane);
            }
        }
    }

    /// Takes those whom a carrier takes along. Empty if nobody waits: the carrier is at its end then.
    pub(crate) fn next(&self, lane: &Lane) -> Pack {
        let mut lanes = self.lanes.lock();
        let mut pack = Pack::default();
        let Some(queue) = lanes.get_mut(lane) else { return pack };
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            if next.answer.is_closed() {
                // Its caller is gone, and it was not sent yet.
                queue.waiting.pop_front();
                continue;
            }
            bytes += weight(&next.txn);
            let alone = program::alone(&next.txn);
            if !pack.txns.is_empty() && (alone || pack.txns.len() == BATCH_MAX || bytes > BATCH_BYTES_MAX) {
                break;
            }
            if let Some(waiting) = queue.waiting.pop_front() {
                pack.push(waiting);
            }
            if alone {
                break;
            }
        }
        if pack.txns.is_empty() {
            queue.carriers -= 1;
            if queue.carriers == 0 && !queue.alone {
                lanes.remove(lane);
            }
        }
        pack
    }

    /// Says that a carrier has ended before its time, with the runtime that it ran on. Who waits learns nothing any more.
    pub(crate) fn lost(&self, lane: &Lane) {
        let mut lanes = self.lanes.lock();
        if let Some(queue) = lanes.get_mut(lane) {
            queue.carriers -= 1;
            if queue.carriers == 0 {
                queue.waiting.clear();
                if !queue.alone {
                    lanes.remove(lane);
                }
            }
        }
    }
}

// === impl Pack ===

impl Pack {
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

    /// Tells everybody what became of its transaction.
    pub(crate) fn answer(self, outcomes: Vec<Result<Outcome, Error>>) {
        for (callers, outcome) in self.callers.into_iter().zip(outcomes) {
            // Who does not wait any more need not know.
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
    use atomix_kv::{Revision, Written};

    fn lane() -> Lane {
        Lane { keyspace: Keyspace::new("k"), shrinks: false }
    }

    fn put(value: usize) -> Txn {
        Txn::new().write(Write::Put { key: "k".into(), value: vec![0; value].into() })
    }

    fn wait(lanes: &Lanes, txn: Txn) -> oneshot::Receiver<Result<Outcome, Error>> {
        match lanes.enter(&lane(), txn) {
            Turn::Wait { answer, .. } => answer,
            Turn::Go(_) => panic!("it goes"),
        }
    }

    /// A lane with a caller who went alone and does not come back.
    fn busy() -> Lanes {
        let lanes = Lanes::default();
        assert!(matches!(lanes.enter(&lane(), put(1)), Turn::Go(_)));
        lanes
    }

    #[test]
    fn those_who_wait_go_together_and_a_lane_ends_with_the_last_of_them() {
        let lanes = busy();
        let mut carriers = 0;
        let waiting: Vec<_> = (0..5)
            .map(|_| match lanes.enter(&lane(), put(1)) {
                Turn::Wait { answer, carry } => {
                    carriers += usize::from(carry);
                    answer
                }
                Turn::Go(_) => panic!("it goes"),
            })
            .collect();
        assert_eq!(carriers, CARRIERS_MAX);
        assert_eq!(lanes.next(&lane()).txns.len(), waiting.len());
        for _ in 0..carriers {
            assert!(lanes.next(&lane()).txns.is_empty());
        }
        lanes.back(&lane());
        assert!(lanes.lanes.lock().is_empty());
    }

    #[test]
    fn a_batch_is_bounded_and_a_named_request_goes_alone() {
        let lanes = busy();
        let mut waiting: Vec<_> = (0..=BATCH_MAX).map(|_| wait(&lanes, put(1))).collect();
        assert_eq!(lanes.next(&lane()).txns.len(), BATCH_MAX);
        waiting.push(wait(&lanes, put(1).once("name")));
        waiting.push(wait(&lanes, put(BATCH_BYTES_MAX)));
        waiting.push(wait(&lanes, put(1)));
        for expected in [1, 1, 1, 1, 0] {
            assert_eq!(lanes.next(&lane()).txns.len(), expected);
        }
    }

    #[test]
    fn who_is_gone_before_its_turn_is_not_sent() {
        let lanes = busy();
        drop(wait(&lanes, put(1)));
        let _kept = wait(&lanes, put(2));
        assert_eq!(lanes.next(&lane()).txns, [put(2)]);
    }

    #[test]
    fn additions_to_one_number_go_as_their_sum_and_each_learns_its_own() {
        let add = |key: &'static str, delta| Txn::new().write(Write::Add { key: key.into(), delta });
        let lanes = busy();
        let mut waiting = vec![wait(&lanes, add("n", 1)), wait(&lanes, put(1))];
        waiting.extend([wait(&lanes, add("n", 2)), wait(&lanes, add("m", 5)), wait(&lanes, add("n", -7))]);
        let pack = lanes.next(&lane());
        assert_eq!(pack.txns, [add("n", -4), put(1), add("m", 5)]);
        let outcome =
            |writes| Ok(Outcome { revision: Revision(3), applied: true, writes, reads: Vec::new() });
        let added = |value| outcome(vec![Written::Added { value }]);
        pack.answer(vec![added(6), outcome(Vec::new()), added(5)]);
        let got = waiting.iter_mut().map(|answer| answer.try_recv().unwrap().unwrap().writes);
        let value = |value| vec![Written::Added { value }];
        assert_eq!(got.collect::<Vec<_>>(), [value(11), Vec::new(), value(13), value(5), value(6)]);
    }
}
