// SPDX-License-Identifier: Apache-2.0
//! Fences: a keyspace remembers, for each lock or election, the greatest fencing token that it has accepted, and refuses
//! smaller ones.
//!
//! A call presents its tokens in a scope ([`fenced`]). Each transaction that the call commits in this scope carries them as
//! guards: the check is part of the store's own atomic step. A token that repeats costs no round trip; a greater one is
//! written first, in a transaction of its own.
//!
//! Two keys for each fence: `Key::Fence` has the token, and `Key::FenceDay` the day on which it was raised, so that the oldest come
//! first. Each raise deletes some fences that nothing has raised for [`KEPT_DAYS`].

use std::sync::Arc;

use atomix_env::WallTime;
use atomix_store::{Entry, Guard, Keyspace, Outcome, Read, Txn, Write};
use bytes::Bytes;
use tokio::task_local;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::codec::{Decoder, Encoder};
use crate::kit::keys::{Key, KeyKind};
use crate::kit::reads::Reads;

/// A fencing token that a call presents: the token of a lock, or the term of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    kind: Kind,
    name: String,
    token: u64,
}

task_local! {
    static PRESENTED: Arc<[Fence]>;
}

/// The keyspace that a call writes to.
pub(crate) trait Committer: Sync {
    /// Commits without fences.
    fn commit(&self, txn: Txn) -> impl Future<Output = Result<Outcome, atomix_store::Error>> + Send;

    /// Returns the reads of the keyspace.
    fn reads(&self) -> Reads<'_>;

    /// Returns the time by the wall clock.
    fn wall(&self) -> WallTime;
}

/// Rounds in which another call raised a fence meanwhile. Each is a step of a token that only grows.
const ROUNDS_MAX: usize = 128;
/// Fences that one call may present.
pub const FENCES_MAX: usize = 4;
/// Fences that one keyspace remembers.
const REMEMBERED_MAX: u64 = 100_000;
/// For how many whole days a fence is remembered after it was raised.
const KEPT_DAYS: u32 = 1;
/// Old fences that a raise deletes at most: more than one, so that a backlog shrinks.
const REAPED: usize = 4;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Runs `call` so that everything that it writes is refused with [`Reason::Fenced`] if a greater token of one of `fences`
/// was accepted before by the keyspace that is written to.
pub async fn fenced<T>(fences: Arc<[Fence]>, call: impl Future<Output = T>) -> T {
    PRESENTED.scope(fences, call).await
}

/// Returns the fences of the call that runs; none outside of [`fenced`].
pub(crate) fn presented() -> Option<Arc<[Fence]>> {
    PRESENTED.try_with(Arc::clone).ok()
}

// === impl Fence ===

impl Fence {
    /// Makes a fence of the lock or the election `name`, or [`Reason::Invalid`] for other kinds.
    pub fn new(kind: Kind, name: String, token: u64) -> Result<Self, Error> {
        if !matches!(kind, Kind::Lock | Kind::Election) {
            return Err(Error::invalid(format!("only a lock or an election is a guard: kind=`{kind}`")));
        }
        Ok(Self { kind, name, token })
    }

    fn key(&self) -> Bytes {
        Key::Fence { source: self.source().as_bytes() }.encode()
    }

    fn day_key(&self, day: u32) -> Bytes {
        Key::FenceDay { day, source: self.source().as_bytes() }.encode()
    }

    /// Returns the keyspace of the lock or the election, which names it.
    fn source(&self) -> Keyspace {
        self.kind.keyspace(&self.name)
    }

    fn stored(&self) -> Bytes {
        Encoder::with_capacity(8).u64(self.token).finish()
    }

    fn refused(&self, accepted: u64) -> Error {
        let Self { kind, name, token } = self;
        let name = atomix_store::printable(name);
        let message = format!(
            "a later holder has written here, this one must stop: {kind}='{name}' token=`{token}` accepted=`{accepted}`"
        );
        Error::new(Reason::Fenced, message)
    }
}

/// Commits `txn` with `committer` if no greater token was accepted than those of `fences`, else [`Reason::Fenced`].
pub(crate) async fn commit(committer: &impl Committer, txn: Txn, fences: &[Fence]) -> Result<Outcome, Error> {
    let reads = txn.reads.len();
    // A store remembers also the refusal of a named request. So it is sent only when its tokens are accepted, or are
    // too small and the request may have been applied before.
    let rounds = if txn.once.is_some() { prepare(committer, fences).await? } else { ROUNDS_MAX };
    for _ in 0..rounds {
        let mut outcome = committer.commit(with_guards(txn.clone(), fences)).await?;
        if outcome.applied {
            outcome.reads.truncate(reads);
            return Ok(outcome);
        }
        let found = outcome.reads.split_off(reads);
        let mut held = true;
        for (fence, found) in fences.iter().zip(&found) {
            held &= raise(committer, fence, found.entry()).await?;
        }
        if held {
            // The transaction was refused by its own guards.
            return Ok(outcome);
        }
    }
    Err(Error::contention())
}

/// Raises what is lower than `fences`. Returns the number of rounds that a named request has.
async fn prepare(committer: &impl Committer, fences: &[Fence]) -> Result<usize, Error> {
    for _ in 0..ROUNDS_MAX {
        let keys: Vec<Bytes> = fences.iter().map(Fence::key).collect();
        let found = committer.reads().get_all(&keys).await?;
        let mut held = true;
        for (fence, found) in fences.iter().zip(&found) {
            match raise(committer, fence, found.as_ref()).await {
                Err(error) if error.reason() == Reason::Fenced => {}
                raised => held &= raised?,
            }
        }
        if held {
            return Ok(1);
        }
    }
    Err(Error::contention())
}

/// Adds the guards of `fences`, and the reads that explain a refusal.
fn with_guards(mut txn: Txn, fences: &[Fence]) -> Txn {
    if txn.reads.is_empty() {
        txn = txn.if_refused();
    }
    for fence in fences {
        let key = fence.key();
        txn = txn.guard(Guard::ValueIs { key: key.clone(), value: fence.stored() }).read(Read::Get { key });
    }
    txn
}

/// Returns whether the fence was at the token when a transaction was refused; raises it if it was lower.
async fn raise(committer: &impl Committer, fence: &Fence, found: Option<&Entry>) -> Result<bool, Error> {
    let key = fence.key();
    let guard = match found {
        Some(entry) => {
            let accepted = token(&entry.value)?;
            if accepted == fence.token {
                return Ok(true);
            }
            if accepted > fence.token {
                return Err(fence.refused(accepted));
            }
            Guard::ModifiedAt { key: key.clone(), revision: entry.modified }
        }
        None => Guard::Absent { key: key.clone() },
    };
    let day = u32::try_from(committer.wall().since_unix().as_secs() / DAY_SECONDS).unwrap_or(u32::MAX);
    reap(committer, day).await?;
    let count = Read::Count { range: KeyKind::Fence.range() };
    if found.is_none() && committer.reads().read(vec![count]).await?.reads[0].count() >= REMEMBERED_MAX {
        let message = format!(
            "the primitive remembers too many guards, those of yesterday are deleted first: max=`{REMEMBERED_MAX}`"
        );
        return Err(Error::new(Reason::StoreFull, message));
    }
    let txn = Txn::new()
        .guard(guard)
        .write(Write::Put { key, value: fence.stored() })
        .write(Write::Put { key: fence.day_key(day), value: fence.stored() });
    // Refused if another call raised it: the next round looks again.
    committer.commit(txn).await?;
    Ok(false)
}

/// Deletes some of the fences that were raised last before the days that they are kept.
async fn reap(committer: &impl Committer, today: u32) -> Result<(), Error> {
    let mut range = KeyKind::FenceDay.range();
    range.end = Some(Key::FenceDay { day: today.saturating_sub(KEPT_DAYS), source: &[] }.encode());
    let scan = Read::Scan { range, order: atomix_store::Order::Key, limit: REAPED, keys_only: false };
    let snapshot = committer.reads().read(vec![scan]).await?;
    for entry in snapshot.reads[0].entries() {
        let Key::FenceDay { source, .. } = Key::decode(&entry.key)? else {
            return Err(Error::damaged("fence"));
        };
        let key = Key::Fence { source }.encode();
        // Not if it was raised again: a later day has it then.
        let unchanged = Guard::ValueIs { key: key.clone(), value: entry.value.clone() };
        let day = Write::Delete { key: entry.key.clone() };
        let both = Txn::new().guard(unchanged).write(Write::Delete { key }).write(day.clone());
        if !committer.commit(both).await?.applied {
            committer.commit(Txn::new().write(day)).await?;
        }
    }
    Ok(())
}

fn token(value: &[u8]) -> Result<u64, Error> {
    let mut record = Decoder::new("fence", value);
    let token = record.u64()?;
    record.end(token)
}
