// SPDX-License-Identifier: Apache-2.0
//! Named requests.
//!
//! A named request writes a key of its name in its own transaction, whether its guards hold or not. That key
//! records the request, whether it was applied and the results of its additions; its revision is the time.
//! Everything else is read back from etcd's history at that revision: previous values just before it, the
//! rest at it. So nothing is written after the fact, and a lost answer can be looked up in every case.
//!
//! The keys hang on leases, of which each store makes a new one every ten seconds in which it is needed and renews none: so
//! etcd forgets them by itself, by its own clock. A keyspace that has too many takes no new ones.

use atomix_store::{Error, ErrorKind, Outcome, Range, Read, Revision, Txn, Write, Written};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::keys::Space;
use crate::plan::{self, Memory, Preread};
use crate::wire::{KeyValue, RangeRequest};

/// The record of a named request. Part of the stored format.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    applied: bool,
    /// The writes, with empty values: those are in the history.
    writes: Vec<Write>,
    /// The results of the additions, in their order.
    numbers: Vec<i64>,
    stamps: Vec<Bytes>,
    reads: Vec<Read>,
}

/// Returns what a transaction named `name` writes to be remembered.
pub(crate) fn memory(space: &Space, name: &Bytes, txn: &Txn, preread: &Preread, lease: i64) -> Memory {
    let numbers = txn.writes.iter().filter_map(|write| match write {
        Write::Add { key, delta } => Some(plan::sum(preread, key, *delta)),
        Write::Put { .. } | Write::Stamp { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => None,
    });
    let mut remembered = Remembered {
        applied: true,
        writes: txn.writes.iter().map(without_value).collect(),
        numbers: numbers.collect(),
        stamps: preread.stamps.clone(),
        reads: txn.asked(true).to_vec(),
    };
    let applied = remembered.text();
    remembered.applied = false;
    remembered.reads = txn.asked(false).to_vec();
    Memory { key: space.name_key(name), lease, applied, refused: remembered.text() }
}

/// Returns the outcome of the request that `remembered` is about.
///
/// An error of kind [`ErrorKind::OutcomeUnknown`] if etcd has compacted the history in which the outcome was.
pub(crate) async fn recall(core: &Core, space: &Space, remembered: KeyValue) -> Result<Outcome, Error> {
    let at = remembered.mod_revision;
    let told: Remembered = serde_json::from_slice(&remembered.value).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "a remembered request is damaged").caused_by(error)
    })?;
    let mut writes = Vec::with_capacity(told.writes.len());
    let (mut numbers, mut stamps) = (told.numbers.into_iter(), told.stamps.into_iter());
    for write in told.writes.iter().filter(|_| told.applied) {
        writes.push(match write {
            Write::Put { key, .. } => Written::Put { previous: entry(core, space, key, at - 1).await? },
            Write::Delete { key } => Written::Deleted { previous: entry(core, space, key, at - 1).await? },
            Write::Add { .. } => {
                Written::Added { value: numbers.next().ok_or_else(|| plan::unexpected("number"))? }
            }
            Write::Stamp { .. } => {
                Written::Stamped { key: stamps.next().ok_or_else(|| plan::unexpected("stamp"))? }
            }
            Write::DeleteRange { range } => {
                Written::RangeDeleted { count: count(core, space, range, at - 1).await? }
            }
        });
    }
    let mut reads = Vec::with_capacity(told.reads.len());
    let questions = plan::questions(space, &told.reads, plan::page(&told.writes));
    for (read, question) in told.reads.iter().zip(questions) {
        let answer = match question {
            Some(question) => Some(history(core, RangeRequest { revision: at, ..question }).await?),
            None => None,
        };
        reads.push(plan::found_or_nothing(space, read, core.limits(), answer));
    }
    Ok(Outcome { revision: revision(at), applied: told.applied, writes, reads })
}

/// Returns how many named requests of a keyspace are remembered.
pub(crate) async fn count_all(core: &Core, space: &Space) -> Result<i64, Error> {
    let span = space.all_names();
    let count =
        RangeRequest { key: span.start, range_end: span.end, count_only: true, ..RangeRequest::default() };
    Ok(core.range(count).await?.count)
}

/// Returns the outcome of the request of this name, if it is remembered.
pub(crate) async fn find(core: &Core, space: &Space, name: &Bytes) -> Result<Option<Outcome>, Error> {
    match core.range(plan::get(space.name_key(name))).await?.kvs.into_iter().next() {
        Some(remembered) => recall(core, space, remembered).await.map(Some),
        None => Ok(None),
    }
}

/// Returns the error of a keyspace that remembers as many named requests as it may.
pub(crate) fn too_many(core: &Core) -> Error {
    let max = core.limits().once_max;
    Error::new(
        ErrorKind::Full,
        format!(
            "too many named requests of this primitive in the last 5 minutes: try again in a minute: max=`{max}`"
        ),
    )
}

impl Remembered {
    fn text(&self) -> Bytes {
        serde_json::to_vec(self).expect("plain values can be written down").into()
    }
}

fn without_value(write: &Write) -> Write {
    match write {
        Write::Put { key, .. } => Write::Put { key: key.clone(), value: Bytes::new() },
        Write::Stamp { prefix, .. } => Write::Stamp { prefix: prefix.clone(), value: Bytes::new() },
        Write::Add { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => write.clone(),
    }
}

async fn entry(
    core: &Core,
    space: &Space,
    key: &Bytes,
    at: i64,
) -> Result<Option<atomix_store::Entry>, Error> {
    let question = RangeRequest { revision: at, ..plan::get(space.entry_key(key)) };
    Ok(history(core, question).await?.kvs.into_iter().next().map(|kv| space.entry(kv)))
}

async fn count(core: &Core, space: &Space, range: &Range, at: i64) -> Result<u64, Error> {
    let read = Read::Count { range: range.clone() };
    let Some(Some(question)) = plan::questions(space, &[read], 1).pop() else { return Ok(0) };
    let answer = history(core, RangeRequest { revision: at, ..question }).await?;
    Ok(u64::try_from(answer.count).unwrap_or_default())
}

/// Asks about the past.
async fn history(core: &Core, question: RangeRequest) -> Result<crate::wire::RangeResponse, Error> {
    core.range(question).await.map_err(|error| {
        if matches!(error.kind(), ErrorKind::Compacted { .. }) {
            let message = "this request was answered before, but etcd has compacted what its answer was";
            return Error::new(ErrorKind::OutcomeUnknown, message);
        }
        error
    })
}

fn revision(at: i64) -> Revision {
    crate::keys::revision(at)
}
