// SPDX-License-Identifier: Apache-2.0
//! Commits.
//!
//! etcd does not add. An addition is written as a sum with the last known number, on condition that the
//! number has not changed; if it has, the response carries the new one. Known numbers are cached, so that an
//! addition to a number without other writers is one round trip. Within this store additions to one number
//! run one after the other, and waiting ones are summed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::Backoff;
use atomix_remote::{Adder, Batcher, Combiner};
use atomix_store::{Error, Keyspace, Outcome, Revision, Txn, Write, Written, number_bytes};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::OwnedMutexGuard;

use crate::core::Core;
use crate::keys::{Space, complete};
use crate::once;
use crate::plan::{self, CachedValue, End, Footprint, Plan, Preread};
use crate::senders::{Request, TxnSender};

/// Commits transactions.
#[derive(Debug)]
pub(crate) struct Commits {
    committer: Committer,
    combiner: Combiner<Committer>,
}

#[derive(Clone)]
struct Committer {
    core: Arc<Core>,
    writes: Batcher<TxnSender>,
    numbers: Arc<Numbers>,
}

/// Last known value of each counter key. Holding the lock serialises additions within this process.
#[derive(Default)]
struct Numbers {
    known: Mutex<HashMap<Bytes, Arc<tokio::sync::Mutex<CachedValue>>>>,
}

/// Maximum of cached numbers. Those in use are kept beyond it.
const NUMBERS_MAX: usize = 16_384;
/// Maximum of attempts of a transaction. Each conflict means that another transaction succeeded.
const ROUNDS_MAX: u32 = 256;
/// The first and the longest pause after conflicts.
const CONFLICT_PAUSE_MIN: Duration = Duration::from_millis(4);
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(32);
/// One of so many named requests looks whether there are too many.
const COUNT_EVERY: u64 = 32;

// === impl Commits ===

impl Commits {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let env = core.env.clone();
        let writes =
            Batcher::new(TxnSender::new(Arc::clone(&core)), env.clone(), core.settings.request_timeout);
        let committer = Committer { core, writes, numbers: Arc::default() };
        Self { combiner: Combiner::new(committer.clone(), env), committer }
    }

    pub(crate) async fn commit(&self, keyspace: &Keyspace, txn: Txn) -> Result<Outcome, Error> {
        txn.check(self.committer.core.limits())?;
        if let Some((key, delta)) = atomix_remote::addition(&txn) {
            return self.combiner.add(keyspace, key, delta).await;
        }
        self.committer.commit(&self.committer.core.space(keyspace), &txn).await
    }
}

// === impl Committer ===

impl Committer {
    async fn commit(&self, space: &Space, txn: &Txn) -> Result<Outcome, Error> {
        let stamps = txn.writes.iter().filter_map(|write| match write {
            Write::Stamp { prefix, .. } => Some(self.core.stamp(prefix)),
            Write::Put { .. } | Write::Add { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => None,
        });
        let lease = match &txn.once {
            Some(name) => {
                if self.core.names_are_full(space) {
                    return once::find(&self.core, space, name)
                        .await?
                        .ok_or_else(|| once::too_many(&self.core));
                }
                self.core.lease().await?
            }
            None => 0,
        };
        let mut preread = Preread { stamps: stamps.collect(), ..Preread::default() };
        let timeout = self.core.settings.request_timeout;
        let taken = self.core.env.timeout(timeout, self.numbers.take(space, plan::keys_to_read(txn))).await;
        let mut numbers = taken.map_err(|_| {
            Error::unavailable(format!(
                "too many concurrent additions to the same number, try again: request-timeout=`{timeout:?}`"
            ))
        })?;
        preread.cached =
            numbers.iter().map(|(key, known)| (key.clone(), CachedValue::clone(known))).collect();
        let mut backoff = Backoff::new(CONFLICT_PAUSE_MIN, CONFLICT_PAUSE_MAX);
        for round in 0..ROUNDS_MAX {
            if round > 2 {
                // To let the conflicting transactions finish.
                backoff.pause(&self.core.env).await;
            }
            preread.once = txn.once.as_ref().map(|name| once::memory(space, name, txn, &preread, lease));
            let plan = Plan::new(space, txn, &preread);
            let sent = self.send(space, txn, &preread, plan).await;
            let (revision, end, answers) = sent.map_err(|error| self.core.without_lease(error))?;
            let applied = match end {
                End::Applied => true,
                End::Refused => false,
                End::NotANumber => return Err(Error::invalid("an addition to a value that is no number")),
                End::Stale => {
                    plan::moved(&mut preread, answers)?;
                    for (key, known) in &mut numbers {
                        **known = preread.cached[key].if_number();
                    }
                    continue;
                }
                End::Remembered => {
                    let remembered = plan::range_answer(answers.into_iter().next())?.kvs.into_iter().next();
                    let remembered = remembered.ok_or_else(|| plan::unexpected("remembered request"))?;
                    return once::recall(&self.core, space, remembered).await;
                }
            };
            let outcome =
                plan::outcome(space, txn, &preread, self.core.limits(), revision, (applied, answers))?;
            if applied {
                note(txn, &outcome, &mut numbers);
            }
            if txn.once.is_some() && self.core.env.random().is_multiple_of(COUNT_EVERY) {
                self.count_names(space.clone());
            }
            return Ok(outcome);
        }
        Err(Error::unavailable(format!(
            "transaction conflicted too often, try again: conflicts=`{ROUNDS_MAX}`"
        )))
    }

    async fn send(
        &self,
        space: &Space,
        txn: &Txn,
        preread: &Preread,
        mut plan: Plan,
    ) -> Result<(Revision, End, Vec<crate::wire::ResponseOp>), Error> {
        let request = std::mem::take(&mut plan.request);
        let (bytes, operations) = (request.encoded_len(), plan::operations(&request));
        self.core.check_size(bytes, operations)?;
        let footprint = Footprint::new(space, txn, preread);
        let request = Request { space: space.clone(), txn: request, footprint, operations, bytes };
        let (revision, response) = self.writes.run(request).await?;
        let (end, answers) = plan.end(response)?;
        Ok((revision, end, answers))
    }

    fn count_names(&self, space: Space) {
        let core = Arc::clone(&self.core);
        self.core.env.detach(async move {
            match once::count_all(&core, &space).await {
                Ok(count) if usize::try_from(count).is_ok_and(|count| count >= core.limits().once_max) => {
                    core.set_names_full(&space);
                }
                Ok(_) => {}
                // The next one tries again.
                Err(error) => tracing::debug!(%error, "the named requests cannot be counted"),
            }
        });
    }
}

impl Adder for Committer {
    fn add<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        key: &'a Bytes,
        delta: i64,
    ) -> BoxFuture<'a, Result<(i64, Revision), Error>> {
        Box::pin(async move {
            let txn = Txn::new().write(Write::Add { key: key.clone(), delta });
            atomix_remote::added(&self.commit(&self.core.space(keyspace), &txn).await?)
        })
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer")
            .field("writes", &self.writes)
            .field("numbers", &self.numbers.known.lock().len())
            .finish_non_exhaustive()
    }
}

// === impl Numbers ===

impl Numbers {
    /// Locks the cached values of `keys` in the order of the keys, so that transactions with several keys
    /// cannot deadlock.
    async fn take(&self, space: &Space, mut keys: Vec<Bytes>) -> Vec<(Bytes, OwnedMutexGuard<CachedValue>)> {
        keys.sort_unstable();
        keys.dedup();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            let known = self.known(space.entry_key(&key));
            taken.push((key, known.lock_owned().await));
        }
        taken
    }

    fn known(&self, key: Bytes) -> Arc<tokio::sync::Mutex<CachedValue>> {
        let mut known = self.known.lock();
        if known.len() >= NUMBERS_MAX && !known.contains_key(&key) {
            known.retain(|_, pin| Arc::strong_count(pin) > 1);
        }
        Arc::clone(known.entry(key).or_default())
    }
}

/// Takes note of what the numbers are after a commit.
fn note(txn: &Txn, outcome: &Outcome, numbers: &mut [(Bytes, OwnedMutexGuard<CachedValue>)]) {
    for (write, written) in txn.writes.iter().zip(&outcome.writes) {
        if let (Write::Add { key, .. }, Written::Added { value }) = (write, written)
            && let Some((_, known)) = numbers.iter_mut().find(|(number, _)| number == key)
        {
            **known = CachedValue { modified: complete(outcome.revision), value: Some(number_bytes(*value)) };
        }
    }
}
