// SPDX-License-Identifier: Apache-2.0
//! Between the engine's revisions and stamps and those of a foreign store.
//!
//! A foreign store may leave gaps between revisions and may name stamps as it likes, but both must be in the
//! order of the engine's. The pairs are recorded as they appear, and every violation of the order is reported
//! as a difference.

use std::collections::HashMap;

use atomix_store::{
    Change, Commit, Entry, Found, Guard, Outcome, Read, Revision, Snapshot, Txn, Write, Written,
};
use bytes::Bytes;

/// The revisions and stamps of one keyspace on the other side.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    /// The store's revision of each of the engine's commits; the engine's first is one.
    commits: Vec<Revision>,
    /// The latest revision that the store has shown.
    shown: Revision,
    /// The store's stamps by the engine's, and the other way round.
    to_store: HashMap<Bytes, Bytes>,
    to_engine: HashMap<Bytes, Bytes>,
}

/// A revision that the engine does not have: what a wrong revision of the store is turned into.
const WRONG: Revision = Revision(u64::MAX);

// === impl Translation ===

impl Translation {
    /// Takes note of what a transaction did on both sides, so that all of it can be translated.
    pub(crate) fn note(&mut self, engine: &Outcome, store: &Outcome) -> Result<(), String> {
        for (engine, store) in engine.writes.iter().zip(&store.writes) {
            if let (Written::Stamped { key: engine }, Written::Stamped { key: store }) = (engine, store) {
                self.to_store.insert(engine.clone(), store.clone());
                self.to_engine.insert(store.clone(), engine.clone());
            }
        }
        let new = usize::try_from(engine.revision.0).expect("it is small") == self.commits.len() + 1;
        if new {
            if store.revision <= self.shown {
                return Err(format!("a commit at {} comes after {} was shown", store.revision, self.shown));
            }
            self.commits.push(store.revision);
        }
        self.shown = self.shown.max(store.revision);
        Ok(())
    }

    /// Takes note of a revision at which the store has read.
    pub(crate) fn note_read(&mut self, store: &Snapshot) -> Result<(), String> {
        if store.revision < self.commits.last().copied().unwrap_or_default() {
            return Err(format!("a read at {} comes after a commit", store.revision));
        }
        self.shown = self.shown.max(store.revision);
        Ok(())
    }

    /// Returns the store's name of a revision of the engine; one that will not come if the engine has not come that far.
    pub(crate) fn revision_for_store(&self, revision: Revision) -> Revision {
        match revision.0 {
            0 => Revision(0),
            at => usize::try_from(at - 1)
                .ok()
                .and_then(|at| self.commits.get(at))
                .map_or(Revision(u64::MAX >> 2), |revision| *revision),
        }
    }

    /// Returns the transaction with the names of the store.
    pub(crate) fn txn_for_store(&self, mut txn: Txn) -> Txn {
        for guard in &mut txn.guards {
            match guard {
                Guard::ModifiedAt { key, revision } => {
                    *revision = self.revision_for_store(*revision);
                    self.key_for_store(key);
                }
                Guard::Absent { key }
                | Guard::Present { key }
                | Guard::ValueIs { key, .. }
                | Guard::ValueIsNot { key, .. } => self.key_for_store(key),
            }
        }
        for write in &mut txn.writes {
            match write {
                Write::Put { key, .. } | Write::Add { key, .. } | Write::Delete { key } => {
                    self.key_for_store(key);
                }
                Write::Stamp { .. } | Write::DeleteRange { .. } => {}
            }
        }
        txn.reads = self.reads_for_store(txn.reads);
        txn
    }

    /// Returns the reads with the names of the store.
    pub(crate) fn reads_for_store(&self, mut reads: Vec<Read>) -> Vec<Read> {
        for read in &mut reads {
            match read {
                Read::Get { key } => self.key_for_store(key),
                Read::Scan { .. } | Read::Count { .. } => {}
            }
        }
        reads
    }

    /// Returns an outcome of the store with the names of the engine.
    pub(crate) fn outcome(&self, outcome: Outcome) -> Outcome {
        Outcome {
            revision: self.moment(outcome.revision),
            applied: outcome.applied,
            writes: outcome.writes.into_iter().map(|written| self.written(written)).collect(),
            reads: outcome.reads.into_iter().map(|found| self.found(found)).collect(),
        }
    }

    /// Returns a snapshot of the store with the names of the engine.
    pub(crate) fn snapshot(&self, snapshot: Snapshot) -> Snapshot {
        Snapshot {
            revision: self.moment(snapshot.revision),
            reads: snapshot.reads.into_iter().map(|found| self.found(found)).collect(),
        }
    }

    /// Returns a commit of the store with the names of the engine.
    pub(crate) fn commit(&self, commit: &Commit) -> Commit {
        let change = |change: &Change| Change {
            key: self.key(change.key.clone()),
            previous: change.previous.clone().map(|entry| self.entry(entry)),
            current: change.current.clone().map(|entry| self.entry(entry)),
        };
        Commit {
            revision: self.exactly(commit.revision),
            changes: commit.changes.iter().map(change).collect(),
        }
    }

    fn key_for_store(&self, key: &mut Bytes) {
        if let Some(stamp) = self.to_store.get(key) {
            key.clone_from(stamp);
        }
    }

    fn key(&self, key: Bytes) -> Bytes {
        self.to_engine.get(&key).cloned().unwrap_or(key)
    }

    fn entry(&self, entry: Entry) -> Entry {
        Entry {
            key: self.key(entry.key),
            value: entry.value,
            created: self.exactly(entry.created),
            modified: self.exactly(entry.modified),
        }
    }

    fn written(&self, written: Written) -> Written {
        match written {
            Written::Put { previous } => Written::Put { previous: previous.map(|entry| self.entry(entry)) },
            Written::Deleted { previous } => {
                Written::Deleted { previous: previous.map(|entry| self.entry(entry)) }
            }
            Written::Stamped { key } => Written::Stamped { key: self.key(key) },
            Written::Added { .. } | Written::RangeDeleted { .. } => written,
        }
    }

    fn found(&self, found: Found) -> Found {
        match found {
            Found::Entry(entry) => Found::Entry(entry.map(|entry| self.entry(entry))),
            Found::Entries { entries, more } => {
                Found::Entries { entries: entries.into_iter().map(|entry| self.entry(entry)).collect(), more }
            }
            Found::Count(_) => found,
        }
    }

    /// The engine's revision of a commit.
    fn exactly(&self, store: Revision) -> Revision {
        self.commits.binary_search(&store).map_or(WRONG, |at| Revision(at as u64 + 1))
    }

    /// The engine's revision at a moment: that of the last commit before.
    fn moment(&self, store: Revision) -> Revision {
        Revision(self.commits.partition_point(|commit| *commit <= store) as u64)
    }
}
