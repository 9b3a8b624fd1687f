// SPDX-License-Identifier: Apache-2.0
//! Stores with a planted bug, to prove that the differential test and the judge of histories find it.
//!
//! A bug of a store shows as a bug of the primitives above it: a guard that is forgotten on the queue of a
//! lock is an unlock by another session, an item that is kept from a watch is a waiter that is never woken.
//! So bugs of all kinds are planted here, and nowhere in the product.
#![allow(clippy::wildcard_enum_match_arm, reason = "each place is about some of the bugs")]

mod commits;
mod watches;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atomix_store::{
    Error, Found, Health, Keyspace, Outcome, Profile, Read, Snapshot, Store, Txn, WatchFrom, WatchStream,
};
use bytes::Bytes;
use futures::future::BoxFuture;

/// The bug of a [`Planted`] store. "Now and then" is every so many calls, so that a run can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// `ValueIsNot` counts as held.
    ForgottenGuard,
    /// A replaced value is not reported.
    LostPrevious,
    /// Every third commit is kept from watches.
    WatchGap,
    /// Counts are one too high.
    CountOffByOne,
    /// A named request is applied again.
    DoubleApply,
    /// Reads show nothing where something is, now and then.
    StaleRead,
    /// The previous value is missing in watches.
    WatchWithoutPrevious,
    /// A delete of a range leaves its last entry.
    RangeTooShort,
    /// Reads show now and then what they have shown before.
    OldRead,
    /// `Absent` counts as held.
    ForgottenAbsent,
    /// `ModifiedAt` counts as held.
    ForgottenVersion,
    /// `ValueIs` counts as held.
    ForgottenValue,
    /// `ModifiedAt` and `ValueIs` count as held.
    ForgottenRecord,
    /// A commit is undone after it was answered, now and then.
    LostWrite,
    /// A commit is applied twice, now and then.
    RepeatedWrite,
    /// The last entry of a transaction with several is not written.
    TornWrite,
    /// A deletion is answered and not done, now and then.
    LostDelete,
    /// A stamp is reported with the revision of the one before it, now and then.
    ReusedToken,
    /// A stamp is reported as the only one although it is not, now and then.
    SelfGranted,
    /// Stamps are reported as those of the last writer, and `ValueIs` counts as held.
    StolenOwner,
    /// Every second deletion of a stamp is kept from watches.
    LostWakeup,
    /// Watches bring every third commit twice.
    DuplicateEvent,
    /// Watches bring every third commit after the one that follows it.
    SwappedEvents,
    /// Watches bring the changes of one key as those of another, now and then.
    WrongKey,
    /// Watches show a value that was never written, now and then.
    WrongValue,
    /// Watches leave out the first commit after they began.
    LateWatch,
    /// Watches bring the last entry of a commit with several after the next commit.
    TornEvent,
    /// A tenth of every time to live is stored.
    EarlyTtl,
    /// Entries expire five seconds late.
    LateTtl,
    /// Times to live are forgotten.
    NoTtl,
}

impl Bug {
    /// Those that the differential test finds: each shows in the answers to a single caller.
    pub const ALL: [Self; 8] = [
        Self::ForgottenGuard,
        Self::LostPrevious,
        Self::WatchGap,
        Self::CountOffByOne,
        Self::DoubleApply,
        Self::StaleRead,
        Self::WatchWithoutPrevious,
        Self::RangeTooShort,
    ];
}

/// A store with a bug around one without.
#[derive(Debug)]
pub struct Planted {
    store: Arc<dyn Store>,
    bug: Bug,
    /// The prefix of the keyspaces that have the bug.
    within: Bytes,
    calls: AtomicU64,
    memory: Mutex<Memory>,
}

/// State of a bug.
#[derive(Debug, Default)]
struct Memory {
    /// Answers to reads, by the reads.
    answers: HashMap<String, Snapshot>,
    /// The revision of the last stamp of each keyspace, and its value.
    stamps: HashMap<Keyspace, (atomix_store::Revision, Bytes)>,
}

// === impl Planted ===

impl Planted {
    /// Plants `bug` in `store`.
    pub fn new(store: Arc<dyn Store>, bug: Bug) -> Self {
        Self { store, bug, within: Bytes::new(), calls: AtomicU64::new(0), memory: Mutex::default() }
    }

    /// Leaves keyspaces alone whose names do not begin with `within`.
    #[must_use]
    pub fn within(mut self, within: impl Into<Bytes>) -> Self {
        self.within = within.into();
        self
    }

    /// Returns the bug that `keyspace` has.
    fn bug(&self, keyspace: &Keyspace) -> Option<Bug> {
        keyspace.as_bytes().starts_with(&self.within).then_some(self.bug)
    }

    /// Returns whether it is this call's turn, which is every so many times.
    fn turn(&self, every: u64) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % every == every - 1
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spoil_reads(bug: Bug, reads: &mut [Found]) {
        if bug == Bug::CountOffByOne {
            for found in reads {
                if let Found::Count(count) = found {
                    *count += 1;
                }
            }
        }
    }

    fn spoil_snapshot(&self, bug: Bug, keyspace: &Keyspace, asked: &str, snapshot: &mut Snapshot) {
        Self::spoil_reads(bug, &mut snapshot.reads);
        match bug {
            Bug::StaleRead if self.turn(5) => {
                if let Some(Found::Entry(entry)) = snapshot.reads.first_mut() {
                    *entry = None;
                }
            }
            Bug::OldRead => {
                let asked = format!("{keyspace} {asked}");
                let mut memory = self.memory();
                match memory.answers.get(&asked) {
                    Some(old) if self.turn(5) => *snapshot = old.clone(),
                    _ => drop(memory.answers.insert(asked, snapshot.clone())),
                }
            }
            Bug::StolenOwner => {
                let memory = self.memory();
                let Some((_, value)) = memory.stamps.get(keyspace) else { return };
                for found in &mut snapshot.reads {
                    if let Found::Entries { entries, .. } = found {
                        let stamps = entries.iter_mut().filter(|entry| entry.key.first() == Some(&b'l'));
                        stamps.for_each(|entry| entry.value.clone_from(value));
                    }
                }
            }
            _ => {}
        }
    }
}

impl Store for Planted {
    fn profile(&self) -> &Profile {
        self.store.profile()
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let asked = format!("{reads:?}");
            let mut snapshot = self.store.read(keyspace, reads).await?;
            if let Some(bug) = self.bug(keyspace) {
                self.spoil_snapshot(bug, keyspace, &asked, &mut snapshot);
            }
            Ok(snapshot)
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        match self.bug(keyspace) {
            Some(bug) => Box::pin(self.spoiled_commit(bug, keyspace, txn)),
            None => self.store.commit(keyspace, txn),
        }
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        let watch = self.store.watch(keyspace, from);
        match self.bug(keyspace) {
            Some(bug) => Box::pin(async move { Ok(watches::spoil(bug, watch.await?)) }),
            None => watch,
        }
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.store.check()
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.store.close(grace)
    }
}
