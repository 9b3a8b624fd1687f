// SPDX-License-Identifier: Apache-2.0
//! Bugs in transactions.

use std::time::Duration;

use atomix_env::Env;
use atomix_store::{Entry, Error, Found, Guard, Keyspace, Outcome, Read, Revision, Txn, Write, Written};
use bytes::Bytes;

use super::{Bug, Planted};

impl Planted {
    /// Commits with the bug.
    pub(super) async fn spoiled_commit(
        &self,
        bug: Bug,
        keyspace: &Keyspace,
        mut txn: Txn,
    ) -> Result<Outcome, Error> {
        let left_out = self.spoil_txn(bug, keyspace, &mut txn).await;
        let undo = match bug {
            Bug::LostWrite if self.turn(7) => Some(self.undo(keyspace, &txn).await?),
            _ => None,
        };
        let again = (bug == Bug::RepeatedWrite && self.turn(7)).then(|| txn.clone());
        let stamp = txn.writes.iter().find_map(|write| match write {
            Write::Stamp { value, .. } => Some(value.clone()),
            _ => None,
        });
        let mut outcome = self.store.commit(keyspace, txn).await?;
        if outcome.applied {
            for at in left_out {
                outcome.writes.insert(at.min(outcome.writes.len()), Written::Deleted { previous: None });
            }
            if let Some(again) = again.or(undo) {
                self.store.commit(keyspace, again).await?;
            }
            if let Some(value) = stamp {
                self.spoil_stamp(bug, keyspace, value, &mut outcome);
            }
        }
        Self::spoil_reads(bug, &mut outcome.reads);
        if bug == Bug::LostPrevious {
            for written in &mut outcome.writes {
                if let Written::Put { previous } = written {
                    *previous = None;
                }
            }
        }
        Ok(outcome)
    }

    /// Spoils a transaction. Returns the positions of the writes that were left out.
    async fn spoil_txn(&self, bug: Bug, keyspace: &Keyspace, txn: &mut Txn) -> Vec<usize> {
        let forgotten = |guard: &Guard| match bug {
            Bug::ForgottenGuard => matches!(guard, Guard::ValueIsNot { .. }),
            Bug::ForgottenAbsent => matches!(guard, Guard::Absent { .. }),
            Bug::ForgottenVersion => matches!(guard, Guard::ModifiedAt { .. }),
            Bug::ForgottenValue | Bug::StolenOwner => matches!(guard, Guard::ValueIs { .. }),
            Bug::ForgottenRecord => matches!(guard, Guard::ModifiedAt { .. } | Guard::ValueIs { .. }),
            _ => false,
        };
        txn.guards.retain(|guard| !forgotten(guard));
        let place = |at: Option<usize>| at.into_iter().collect::<Vec<_>>();
        let left_out = match bug {
            Bug::DoubleApply => {
                txn.once = None;
                Vec::new()
            }
            Bug::RangeTooShort => {
                self.shorten_ranges(keyspace, txn).await;
                Vec::new()
            }
            Bug::TornWrite => {
                let entry = |write: &Write| matches!(write, Write::Put { key, .. } if key.starts_with(b"k"));
                let several = txn.writes.iter().filter(|write| entry(write)).count() > 1;
                place(txn.writes.iter().rposition(entry).filter(|_| several))
            }
            Bug::LostDelete => {
                let delete = |write: &Write| matches!(write, Write::Delete { .. });
                place(txn.writes.iter().position(delete).filter(|_| self.turn(5)))
            }
            Bug::NoTtl => place(txn.writes.iter().position(|write| deadline(write).is_some())),
            Bug::EarlyTtl => {
                txn.writes.iter_mut().for_each(shorten);
                Vec::new()
            }
            Bug::LateTtl => {
                // The mark of an expiry.
                if txn.writes.iter().any(|write| matches!(write, Write::Put { key, .. } if key == "x")) {
                    Env::real().sleep(Duration::from_secs(5)).await;
                }
                Vec::new()
            }
            _ => Vec::new(),
        };
        for at in &left_out {
            txn.writes.remove(*at);
        }
        left_out
    }

    async fn shorten_ranges(&self, keyspace: &Keyspace, txn: &mut Txn) {
        for write in &mut txn.writes {
            let Write::DeleteRange { range } = write else { continue };
            let last = Read::Scan {
                range: range.clone(),
                order: atomix_store::Order::KeyDescending,
                limit: 1,
                keys_only: true,
            };
            let found = self.store.read(keyspace, vec![last]).await;
            if let Ok(snapshot) = found
                && let Some(last) = snapshot.reads[0].entries().first()
            {
                *range = range.before(&last.key);
            }
        }
    }

    /// Returns the transaction that makes `txn` undone.
    async fn undo(&self, keyspace: &Keyspace, txn: &Txn) -> Result<Txn, Error> {
        let mut undo = Txn::new();
        for write in &txn.writes {
            match write {
                Write::Put { key, .. } | Write::Delete { key } => {
                    let get = Read::Get { key: key.clone() };
                    let before = self.store.read(keyspace, vec![get]).await?;
                    undo = undo.write(match before.reads[0].entry() {
                        Some(entry) => Write::Put { key: key.clone(), value: entry.value.clone() },
                        None => Write::Delete { key: key.clone() },
                    });
                }
                Write::Add { key, delta } => {
                    undo = undo.write(Write::Add { key: key.clone(), delta: delta.wrapping_neg() });
                }
                Write::Stamp { .. } | Write::DeleteRange { .. } => {}
            }
        }
        Ok(undo)
    }

    /// Spoils the report of a stamp with this value.
    fn spoil_stamp(&self, bug: Bug, keyspace: &Keyspace, value: Bytes, outcome: &mut Outcome) {
        let mut memory = self.memory();
        let before = memory.stamps.insert(keyspace.clone(), (outcome.revision, value.clone()));
        match (bug, before) {
            (Bug::ReusedToken, Some((revision, _))) if self.turn(3) => outcome.revision = revision,
            (Bug::SelfGranted, _) if self.turn(3) => {
                let key = outcome.writes.iter().find_map(|written| match written {
                    Written::Stamped { key } => Some(key.clone()),
                    _ => None,
                });
                let key = key.expect("there is a stamp");
                let (created, modified): (Revision, Revision) = (outcome.revision, outcome.revision);
                let entries = vec![Entry { key, value, created, modified }];
                for found in &mut outcome.reads {
                    *found = Found::Entries { entries: entries.clone(), more: false };
                }
            }
            _ => {}
        }
    }
}

/// Returns deadline and time to live, if this writes them: both in milliseconds, under a key of their kind.
fn deadline(write: &Write) -> Option<(u64, u64)> {
    let Write::Put { key, value } = write else { return None };
    let number = |at: usize| Some(u64::from_be_bytes(value.get(at..at + 8)?.try_into().ok()?));
    if key.first() != Some(&b't') {
        return None;
    }
    Some((number(0)?, number(8)?))
}

fn shorten(write: &mut Write) {
    let Some((at, ttl)) = deadline(write) else { return };
    let (at, ttl) = (at - ttl * 9 / 10, ttl / 10);
    if let Write::Put { value, .. } = write {
        *value = [at.to_be_bytes(), ttl.to_be_bytes()].concat().into();
    }
}
