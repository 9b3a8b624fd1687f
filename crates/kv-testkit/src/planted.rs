// SPDX-License-Identifier: Apache-2.0
//! Stores with a planted bug, to prove that the differential test finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atomix_kv::{
    Error, Found, Guard, Health, Keyspace, Level, Outcome, Profile, Read, Snapshot, Store, Txn, WatchFrom,
    WatchItem, WatchStream, Write, Written,
};
use futures::StreamExt;
use futures::future::BoxFuture;

/// What is wrong with a [`Planted`] store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// `ValueIsNot` counts as held.
    ForgottenGuard,
    /// A replaced value is not told.
    LostPrevious,
    /// Every third commit is kept from watches.
    WatchGap,
    /// Counts are one too high.
    CountOffByOne,
    /// A named request is applied again.
    DoubleApply,
    /// Reads show the state before the last commit now and then.
    StaleRead,
    /// The previous value is missing in watches.
    WatchWithoutPrevious,
    /// A delete of a range leaves its last entry.
    RangeTooShort,
}

impl Bug {
    /// All of them.
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
    calls: AtomicU64,
}

// === impl Planted ===

impl Planted {
    /// Plants `bug` in `store`.
    pub fn new(store: Arc<dyn Store>, bug: Bug) -> Self {
        Self { store, bug, calls: AtomicU64::new(0) }
    }

    fn spoil_reads(&self, reads: &mut [Found]) {
        if self.bug == Bug::CountOffByOne {
            for found in reads {
                if let Found::Count(count) = found {
                    *count += 1;
                }
            }
        }
    }

    async fn spoil_txn(&self, keyspace: &Keyspace, txn: &mut Txn) {
        match self.bug {
            Bug::ForgottenGuard => txn.guards.retain(|guard| !matches!(guard, Guard::ValueIsNot { .. })),
            Bug::DoubleApply => txn.once = None,
            Bug::RangeTooShort => {
                for write in &mut txn.writes {
                    let Write::DeleteRange { range } = write else { continue };
                    let last = Read::Scan {
                        range: range.clone(),
                        order: atomix_kv::Order::KeyDescending,
                        limit: 1,
                        keys_only: true,
                    };
                    let found = self.store.read(keyspace, vec![last], Level::Latest).await;
                    if let Ok(snapshot) = found
                        && let Some(last) = snapshot.reads[0].entries().first()
                    {
                        *range = range.before(&last.key);
                    }
                }
            }
            Bug::LostPrevious
            | Bug::WatchGap
            | Bug::CountOffByOne
            | Bug::StaleRead
            | Bug::WatchWithoutPrevious => {}
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
        level: Level,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let mut snapshot = self.store.read(keyspace, reads, level).await?;
            self.spoil_reads(&mut snapshot.reads);
            let stale = self.bug == Bug::StaleRead && self.calls.fetch_add(1, Ordering::Relaxed) % 5 == 4;
            if stale && let Some(Found::Entry(entry)) = snapshot.reads.first_mut() {
                *entry = None;
            }
            Ok(snapshot)
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, mut txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            self.spoil_txn(keyspace, &mut txn).await;
            let mut outcome = self.store.commit(keyspace, txn).await?;
            self.spoil_reads(&mut outcome.reads);
            if self.bug == Bug::LostPrevious {
                for written in &mut outcome.writes {
                    if let Written::Put { previous } = written {
                        *previous = None;
                    }
                }
            }
            Ok(outcome)
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(async move {
            let bug = self.bug;
            let mut commits = 0u64;
            let watch = self.store.watch(keyspace, from).await?;
            let spoiled = watch.filter_map(move |item| {
                let item = match item {
                    Ok(WatchItem::Commit(commit)) => {
                        commits += 1;
                        let mut commit = commit.as_ref().clone();
                        if bug == Bug::WatchWithoutPrevious {
                            commit.changes.iter_mut().for_each(|change| change.previous = None);
                        }
                        let gap = bug == Bug::WatchGap && commits.is_multiple_of(3);
                        (!gap).then(|| Ok(WatchItem::Commit(Arc::new(commit))))
                    }
                    other => Some(other),
                };
                std::future::ready(item)
            });
            Ok(spoiled.boxed())
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.store.check()
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.store.close(grace)
    }
}
