// SPDX-License-Identifier: Apache-2.0
//! A primitive's keyspace in its store.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use atomix_env::{Backoff, Env, WallTime};
use atomix_store::{
    Entry, Found, Guard, Keyspace, Order, Outcome, Range, Read, Snapshot, Store, Txn, WatchFrom, WatchStream,
    Write,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::fence;
use crate::kit::keys::KeyKind;
use crate::kit::membership::Membership;
use crate::kit::reads::{Kinds, PAGE, Pages, Reads};

/// The context of a primitive: a store, its keyspace there, the members of the store, the environment, and the limits of
/// its arguments. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Backing {
    store: Arc<dyn Store>,
    kind: Kind,
    keyspace: Keyspace,
    membership: Arc<Membership>,
    env: Env,
    limits: Arc<Limits>,
}

/// The limits of arguments. What is beyond is refused with [`crate::Reason::Invalid`] before it reaches the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key, an element, or a candidate's name.
    pub key_bytes_max: usize,
    /// Bytes of a value or payload.
    pub value_bytes_max: usize,
    /// Operations, keys or values in one call.
    pub batch_max: usize,
    /// Calls that wait for one name.
    pub waiters_max: usize,
}

/// The content of a primitive that is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vacancy {
    /// Nothing: it is as if it had never been used.
    Empty,
    /// Content.
    Content,
    /// Content that expires, while a runtime has the primitive open.
    Expiring,
}

/// Pauses between attempts while the store does not answer: longer each time, and varied by chance.
#[derive(Debug)]
pub(crate) struct Retry(Backoff);

/// The number of rounds of a read-and-write loop before it gives up with [`crate::Reason::Contention`]. A round fails
/// only because another one succeeded, so this many in a row mean that callers should back off.
pub(crate) const ROUNDS_MAX: usize = 128;

/// Runs `work` to its end, also when the caller goes away before that: what was sent to a store may be applied later, and
/// the process has to handle that. The result is dropped in that case.
pub async fn run_uncancellable<T: Send + 'static>(
    env: &Env,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let mut work: BoxFuture<'static, _> = match fence::presented() {
        None => Box::pin(work),
        Some(fences) => Box::pin(fence::fenced(fences, work)),
    };
    // Most stores of this process answer at once.
    if let Poll::Ready(done) = futures::poll!(work.as_mut()) {
        return done;
    }
    let (sender, done) = oneshot::channel();
    env.detach(async move {
        drop(sender.send(work.await));
    });
    done.await.unwrap_or_else(|_| Err(Error::new(Reason::Internal, "a call was ended by the runtime")))
}

// === impl Retry ===

impl Retry {
    const MIN: Duration = Duration::from_millis(20);
    const MAX: Duration = Duration::from_secs(2);

    /// Waits before the next attempt. Cancel safe.
    pub(crate) async fn pause(&mut self, env: &Env) {
        self.0.pause(env).await;
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self(Backoff::new(Self::MIN, Self::MAX))
    }
}

// === impl Backing ===

impl fence::Committer for Backing {
    async fn commit(&self, txn: Txn) -> Result<Outcome, atomix_store::Error> {
        self.commit_raw(txn).await
    }

    fn reads(&self) -> Reads<'_> {
        self.reads()
    }

    fn wall(&self) -> WallTime {
        self.env.wall()
    }
}

impl Backing {
    /// Makes the backing of the primitive of `kind` and `name`.
    pub fn new(
        store: Arc<dyn Store>,
        membership: Arc<Membership>,
        kind: Kind,
        name: &str,
        env: Env,
        limits: Arc<Limits>,
    ) -> Self {
        Self { store, kind, keyspace: kind.keyspace(name), membership, env, limits }
    }

    /// Returns the content that the store has of the primitive. Changes nothing.
    pub async fn vacancy(&self) -> Result<Vacancy, Error> {
        Ok(self.look().await?.0)
    }

    /// Releases what the primitive costs its store, if it has no content. Not while it is watched, and harmless while it is used:
    /// tokens, versions and revisions go on beyond those that it has had.
    pub async fn vacate(&self) -> Result<Vacancy, Error> {
        let (vacancy, residue) = self.look().await?;
        if vacancy != Vacancy::Empty {
            return Ok(vacancy);
        }
        if !residue.is_empty() {
            let mut txn = Txn::new();
            for entry in residue {
                let key = entry.key;
                txn = txn.guard(Guard::ModifiedAt { key: key.clone(), revision: entry.modified });
                txn = txn.write(Write::Delete { key });
            }
            if !self.commit(txn).await?.applied {
                // It is used again.
                return Ok(Vacancy::Content);
            }
        }
        self.store.reclaim(&self.keyspace).await?;
        Ok(Vacancy::Empty)
    }

    /// Counts the entries that the store holds of the primitive, those that mean nothing included.
    pub async fn entries(&self) -> Result<u64, Error> {
        Ok(self.read(vec![Read::Count { range: Range::prefix("") }]).await?.reads[0].count())
    }

    /// Deletes everything that the store holds of the primitive but the places in the queues of its locks, if `guards` hold; false
    /// if they do not. One transaction: no reader sees a part of it, also after a crash.
    pub(crate) async fn erase_if(&self, guards: Vec<Guard>) -> Result<bool, Error> {
        let queues = KeyKind::Stamp.range();
        let before = Range { start: Bytes::new(), end: Some(queues.start) };
        let mut writes = vec![Write::DeleteRange { range: before }];
        writes.extend(queues.end.map(|start| Write::DeleteRange { range: Range { start, end: None } }));
        Ok(self.commit(Txn { guards, writes, ..Txn::default() }).await?.applied)
    }

    /// Deletes everything that the store holds of the primitive but the places in the queues of its locks, in one transaction.
    pub async fn erase(&self) -> Result<(), Error> {
        self.erase_if(Vec::new()).await.map(drop)
    }

    /// Returns the content, and the entries that mean nothing if there is nothing else.
    async fn look(&self) -> Result<(Vacancy, Vec<Entry>), Error> {
        let residue = self.kind.residue();
        let limit = 1 + usize::from(residue.is_some());
        let all = Read::Scan { range: Range::prefix(""), order: Order::Key, limit, keys_only: false };
        let deadlines = Read::Count { range: KeyKind::Deadline.range() };
        let mut reads = self.read(vec![all, deadlines]).await?.reads;
        if reads[1].count() > 0 {
            return Ok((Vacancy::Expiring, Vec::new()));
        }
        let Found::Entries { entries, more } = reads.swap_remove(0) else {
            return Err(Error::new(Reason::Internal, "a scan was answered as another read"));
        };
        let means_nothing = |entry: &Entry| {
            residue.iter().any(|(key, value)| {
                entry.key == *key && value.as_ref().is_none_or(|value| entry.value == *value)
            })
        };
        if more || !entries.iter().all(means_nothing) {
            return Ok((Vacancy::Content, Vec::new()));
        }
        Ok((Vacancy::Empty, entries))
    }

    pub(crate) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) async fn read(&self, reads: Vec<Read>) -> Result<Snapshot, Error> {
        Ok(self.reads().read(reads).await?)
    }

    /// Commits without fences, with the store's own error. Every answer to a read is of the kind that it asks for.
    pub(crate) async fn commit_raw(&self, txn: Txn) -> Result<Outcome, atomix_store::Error> {
        let (always, refused) = (Kinds::asked(txn.asked(true)), Kinds::asked(txn.asked(false)));
        let outcome = self.store.commit(&self.keyspace, txn).await?;
        if outcome.applied { always } else { refused }.check(&outcome.reads)?;
        Ok(outcome)
    }

    /// Returns the reads of the keyspace that may take several steps.
    pub(crate) fn reads(&self) -> Reads<'_> {
        Reads::new(&*self.store, &self.keyspace)
    }

    /// Walks over the entries of `range` in the order of their keys, as many in a step as the store gives.
    pub(crate) fn scan_all(&self, range: Range, keys_only: bool) -> Pages<'_> {
        self.reads().scan_all(range, keys_only)
    }

    /// Reads one entry.
    pub(crate) async fn get(&self, key: Bytes) -> Result<Option<Entry>, Error> {
        Ok(self.read(vec![Read::Get { key }]).await?.reads[0].entry().cloned())
    }

    pub(crate) async fn count(&self, range: Range) -> Result<u32, Error> {
        let count = self.read(vec![Read::Count { range }]).await?.reads[0].count();
        // The wire has 32 bits; a larger size is shown as the largest.
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Commits with the fences of the call that runs, if it has presented some.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        match fence::presented() {
            None => Ok(self.commit_raw(txn).await?),
            // Boxed: the future of every other call stays small.
            Some(fences) => Box::pin(fence::commit(self, txn, &fences)).await,
        }
    }

    pub(crate) async fn watch(&self, from: WatchFrom) -> Result<WatchStream, Error> {
        Ok(self.store.watch(&self.keyspace, from).await?)
    }

    pub(crate) async fn watch_range(&self, range: Range, from: WatchFrom) -> Result<WatchStream, Error> {
        Ok(self.store.watch_range(&self.keyspace, range, from).await?)
    }

    /// Returns how many writes go into one step of a long walk: stores differ in what a transaction may have.
    pub(crate) fn writes_at_once(&self) -> usize {
        self.store.profile().limits.writes_max.clamp(1, PAGE)
    }

    pub(crate) fn check_key(&self, key: &str) -> Result<(), Error> {
        check("key", "key-bytes-max", key.len(), self.limits.key_bytes_max)
    }

    pub(crate) fn check_element(&self, element: &str) -> Result<(), Error> {
        check("element", "key-bytes-max", element.len(), self.limits.key_bytes_max)
    }

    pub(crate) fn check_candidate(&self, candidate: &str) -> Result<(), Error> {
        check("candidate", "key-bytes-max", candidate.len(), self.limits.key_bytes_max)
    }

    pub(crate) fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        check("value", "value-bytes-max", value.len(), self.limits.value_bytes_max)
    }

    pub(crate) fn check_batch(&self, count: usize) -> Result<(), Error> {
        let max = self.limits.batch_max;
        if count > max {
            return Err(Error::invalid(format!(
                "too many in one call, split it or raise `limits.batch-max`: count=`{count}` max=`{max}`"
            )));
        }
        Ok(())
    }
}

fn check(what: &str, setting: &str, bytes: usize, max: usize) -> Result<(), Error> {
    if bytes > max {
        return Err(Error::invalid(format!(
            "{what} too large, shorten it or raise `limits.{setting}`: bytes=`{bytes}` max=`{max}`"
        )));
    }
    Ok(())
}

impl Default for Limits {
    fn default() -> Self {
        Self { key_bytes_max: 4096, value_bytes_max: 1024 * 1024, batch_max: 10_000, waiters_max: 10_000 }
    }
}
