// SPDX-License-Identifier: Apache-2.0
//! Sums additions to one number while another addition to it is in flight.
//!
//! A store without additions needs a read and a guarded write for each, and all but one of the writers that
//! race lose their round trip. Here one addition per number is in flight; those that arrive meanwhile are
//! summed and become the next. Each caller is answered with the number after its own addition, as if they had
//! been sent one by one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use atomix_env::{Env, Policy};
use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use atomix_store::{Error, ErrorKind, Keyspace, Outcome, Revision, Txn, Write, Written};

/// Adds to numbers in a store.
pub trait Adder: Send + Sync + 'static {
    /// Adds `delta` to a number, wrapping around, in one atomic step. Returns the number after it and the commit.
    fn add<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        key: &'a Bytes,
        delta: i64,
    ) -> BoxFuture<'a, Result<(i64, Revision), Error>>;
}

/// Sums additions. Cheap to clone.
///
/// Only for a transaction that is an [`addition`] and nothing else: summed additions are one commit, and a
/// guard or a read beside them could observe that.
pub struct Combiner<A: Adder> {
    shared: Arc<Shared<A>>,
}

struct Shared<A: Adder> {
    adder: A,
    env: Env,
    /// The numbers with an addition in flight, and the additions that wait for it.
    numbers: Mutex<HashMap<(Keyspace, Bytes), Sum<Waiting>>>,
}

type Waiting = oneshot::Sender<Result<Outcome, Error>>;

/// Additions to one number that are sent as one, with their callers.
#[derive(Debug)]
pub struct Sum<W> {
    delta: i64,
    parts: Vec<(i64, W)>,
}

/// Maximum of additions that wait for one number. Further ones are refused with `Unavailable`.
const WAITING_MAX: usize = 65_536;

// === impl Combiner ===

impl<A: Adder> Combiner<A> {
    /// Makes a combiner.
    pub fn new(adder: A, env: Env) -> Self {
        Self { shared: Arc::new(Shared { adder, env, numbers: Mutex::default() }) }
    }

    /// Adds `delta` to a number and returns what a transaction of this addition alone would have returned.
    ///
    /// # Behaviour
    /// - too many wait: [`ErrorKind::Unavailable`], nothing was added.
    /// - an error of the store: returned to every caller whose addition was in the sum, because it is true of
    ///   each.
    /// - cancelled before its sum was sent: not added. Cancelled later: added or not.
    pub async fn add(&self, keyspace: &Keyspace, key: &Bytes, delta: i64) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        let number = (keyspace.clone(), key.clone());
        match self.shared.numbers.lock().entry(number.clone()) {
            Entry::Occupied(mut in_flight) => {
                if in_flight.get().parts.len() >= WAITING_MAX {
                    return Err(Error::unavailable(format!("too many additions wait: max=`{WAITING_MAX}`")));
                }
                in_flight.get_mut().push(delta, answer);
            }
            Entry::Vacant(idle) => {
                idle.insert(Sum::default());
                let mut first = Sum::default();
                first.push(delta, answer);
                let shared = Arc::clone(&self.shared);
                self.shared.env.detach(async move {
                    let mut first = Some(first);
                    // After a panic the task continues with the waiting additions.
                    let work = || shared.work(number.clone(), first.take().unwrap_or_default());
                    let _ended = shared.env.supervised("combiner", Policy::Restart, work).await;
                });
            }
        }
        match answered.await {
            Ok(answer) => answer,
            // The task that adds is dropped only when its runtime ends, perhaps in the middle of a round trip.
            Err(_) => Err(Error::new(ErrorKind::OutcomeUnknown, "the process is ending")),
        }
    }
}

impl<A: Adder> Clone for Combiner<A> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<A: Adder> fmt::Debug for Combiner<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Combiner")
            .field("in_flight", &self.shared.numbers.lock().len())
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<A: Adder> Shared<A> {
    /// Sends sum after sum until no addition waits for this number.
    async fn work(&self, number: (Keyspace, Bytes), mut round: Sum<Waiting>) {
        loop {
            // Additions of callers that are gone before the sum is made are left out.
            round.retain(|answer| !answer.is_canceled());
            if !round.parts.is_empty() {
                let result = self.adder.add(&number.0, &number.1, round.delta()).await;
                // A caller that is gone needs no answer.
                round.share(&result, |answer, outcome| drop(answer.send(outcome)));
            }
            let mut numbers = self.numbers.lock();
            let Entry::Occupied(mut in_flight) = numbers.entry(number.clone()) else { return };
            round = std::mem::take(in_flight.get_mut());
            if round.parts.is_empty() {
                in_flight.remove();
                return;
            }
        }
    }
}

// === impl Sum ===

impl<W> Sum<W> {
    /// Adds an addition of `delta` by `who`.
    pub fn push(&mut self, delta: i64, who: W) {
        self.delta = self.delta.wrapping_add(delta);
        self.parts.push((delta, who));
    }

    /// Returns what all of them add, wrapping around.
    pub fn delta(&self) -> i64 {
        self.delta
    }

    /// Drops the additions of those that `keep` does not want.
    fn retain(&mut self, mut keep: impl FnMut(&W) -> bool) {
        let all = std::mem::take(self);
        all.parts.into_iter().filter(|(_, who)| keep(who)).for_each(|(delta, who)| self.push(delta, who));
    }

    /// Answers every addition of [`Sum::delta`] as if they had been sent one by one: `result` is the number
    /// after all, and the commit.
    pub fn share(
        self,
        result: &Result<(i64, Revision), Error>,
        mut answer: impl FnMut(W, Result<Outcome, Error>),
    ) {
        // Numbers wrap around, so the number before the sum is exact whatever the deltas are.
        let mut value = result.as_ref().map_or(0, |(after, _)| after.wrapping_sub(self.delta));
        for (delta, who) in self.parts {
            value = value.wrapping_add(delta);
            answer(
                who,
                match result {
                    Ok((_, revision)) => Ok(Outcome {
                        revision: *revision,
                        applied: true,
                        writes: vec![Written::Added { value }],
                        reads: Vec::new(),
                    }),
                    Err(error) => Err(error.clone()),
                },
            );
        }
    }
}

impl<W> Default for Sum<W> {
    fn default() -> Self {
        Self { delta: 0, parts: Vec::new() }
    }
}

/// Returns the number and the delta of a transaction that is nothing but an addition, which may be part of a sum.
pub fn addition(txn: &Txn) -> Option<(&Bytes, i64)> {
    match &txn.writes[..] {
        [Write::Add { key, delta }]
            if txn.guards.is_empty() && txn.reads.is_empty() && txn.once.is_none() =>
        {
            Some((key, *delta))
        }
        _ => None,
    }
}

/// Returns what an addition made of its number, and the commit. An error for the outcome of anything else.
pub fn added(outcome: &Outcome) -> Result<(i64, Revision), Error> {
    match outcome.writes.first() {
        Some(Written::Added { value }) => Ok((*value, outcome.revision)),
        _ => Err(Error::new(ErrorKind::Internal, "an addition was answered as something else")),
    }
}

#[cfg(test)]
mod tests;
