// SPDX-License-Identifier: Apache-2.0
//! The semantics, as pure code: one keyspace, no clock, no chance, no I/O.

use bytes::{BufMut, Bytes, BytesMut};

use crate::once::Once;
use atomix_store::{
    Change, Commit, Entry, Error, Found, Guard, Limits, Order, Outcome, Range, Read, Revision, Snapshot,
    Sorted, Txn, Write, Written, number, number_bytes,
};

/// The state of one keyspace and what transactions do to it.
#[derive(Debug, Default)]
pub struct Engine {
    table: Sorted<Bytes, Record>,
    revision: Revision,
    bytes: usize,
    /// Entries by the first byte of their key. Each kind of key of a primitive has its own first byte, so the
    /// size of a map is known without walking it.
    counts: Vec<(u8, u64)>,
    /// Most keyspaces never see a named request.
    once: Option<Box<Once>>,
}

#[derive(Debug, Clone)]
struct Record {
    value: Bytes,
    created: Revision,
    modified: Revision,
}

// === impl Engine ===

impl Engine {
    /// Makes an empty keyspace at revision zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the latest revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Returns whether the keyspace holds no entry and remembers no named request.
    pub fn is_vacant(&self) -> bool {
        self.is_empty() && self.named_bytes() == 0
    }

    /// Applies one transaction and returns what it did, with the changes for watches (none if nothing changed).
    ///
    /// An error changes nothing.
    pub fn apply(&mut self, txn: &Txn, limits: &Limits) -> Result<(Outcome, Vec<Change>), Error> {
        txn.check(limits)?;
        if let Some(outcome) = self.remembered(txn) {
            return Ok((outcome, Vec::new()));
        }
        let applied = txn.guards.iter().all(|guard| self.holds(guard));
        let (mut writes, mut changes) = (Vec::new(), Vec::new());
        if applied {
            self.check_numbers(&txn.writes)?;
            let revision = Revision(self.revision.0 + 1);
            writes.reserve_exact(txn.writes.len());
            changes.reserve_exact(txn.writes.len());
            for write in &txn.writes {
                writes.push(self.write(write, revision, &mut changes));
            }
            if !changes.is_empty() {
                self.revision = revision;
                // They are kept for watches, often one for two writes.
                changes.shrink_to_fit();
            }
        }
        let reads = txn.asked(applied).iter().map(|read| self.find(read, limits)).collect();
        let outcome = Outcome { revision: self.revision, applied, writes, reads };
        if let Some(name) = &txn.once {
            self.once.get_or_insert_default().insert(name, &outcome);
        }
        Ok((outcome, changes))
    }

    /// Answers reads.
    pub fn read(&self, reads: &[Read], limits: &Limits) -> Result<Snapshot, Error> {
        limits.check_reads(reads)?;
        let reads = reads.iter().map(|read| self.find(read, limits)).collect();
        Ok(Snapshot { revision: self.revision, reads })
    }

    /// Returns the entry of a key.
    pub fn entry(&self, key: &Bytes) -> Option<Entry> {
        self.table.get_key_value(key).map(|(key, record)| entry(key, record))
    }

    /// Applies the changes of a commit again, as recovery from a log does. Repeating it, also over a later
    /// state, ends in the state after the last commit that is repeated.
    pub fn redo(&mut self, commit: &Commit) {
        for change in &commit.changes {
            self.set(&change.key, change.current.as_ref());
        }
        self.revision = self.revision.max(commit.revision);
    }

    /// Reverts the changes of the latest commit and returns to the `revision` before it, for a store that
    /// could not persist the commit.
    pub fn undo(&mut self, changes: &[Change], revision: Revision) {
        for change in changes.iter().rev() {
            self.set(&change.key, change.previous.as_ref());
        }
        self.revision = revision;
    }

    /// Puts an entry where it was in another engine.
    pub fn restore(&mut self, entry: &Entry) {
        self.set(&entry.key, Some(entry));
    }

    /// Goes on from `revision` instead of from the beginning.
    pub fn restore_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// Returns the outcomes of named requests that are remembered, the oldest first.
    pub fn named(&self) -> impl Iterator<Item = (Bytes, Outcome)> {
        self.once.iter().flat_map(|once| once.iter())
    }

    /// Returns roughly the bytes that named requests take.
    pub fn named_bytes(&self) -> usize {
        self.once.as_ref().map_or(0, |once| once.bytes())
    }

    /// Returns whether the outcome of the request of this name is remembered.
    pub fn remembers(&self, name: &Bytes) -> bool {
        self.once.as_ref().is_some_and(|once| once.contains(name))
    }

    /// Remembers the outcome of a named request that another engine has applied.
    pub fn remember(&mut self, name: &Bytes, outcome: &Outcome) {
        self.once.get_or_insert_default().insert(name, outcome);
    }

    /// Forgets a named request that was taken back.
    pub fn forget(&mut self, name: &Bytes) {
        if let Some(once) = &mut self.once {
            once.remove(name);
        }
    }

    /// Forgets the named requests that are old enough, see [`Rotation`](crate::Rotation).
    pub fn rotate_named(&mut self) {
        if self.once.as_mut().is_some_and(|once| !once.rotate()) {
            self.once = None;
        }
    }

    fn set(&mut self, key: &Bytes, entry: Option<&Entry>) {
        if let Some((key, old)) = self.table.remove_entry(key) {
            self.bytes -= key.len() + old.value.len();
            self.counted(&key, -1);
        }
        if let Some(entry) = entry {
            self.bytes += entry.bytes();
            self.counted(key, 1);
            let (value, created, modified) = (entry.value.clone(), entry.created, entry.modified);
            self.table.insert(key.clone(), Record { value, created, modified });
        }
    }

    /// Returns the outcome of the request of this name, if it is remembered.
    fn remembered(&self, txn: &Txn) -> Option<Outcome> {
        self.once.as_ref()?.get(txn.once.as_ref()?)
    }

    fn holds(&self, guard: &Guard) -> bool {
        let record = |key: &Bytes| self.table.get(key);
        match guard {
            Guard::Absent { key } => record(key).is_none(),
            Guard::Present { key } => record(key).is_some(),
            Guard::ModifiedAt { key, revision } => {
                record(key).is_some_and(|record| record.modified == *revision)
            }
            Guard::ValueIs { key, value } => record(key).is_some_and(|record| record.value == *value),
            Guard::ValueIsNot { key, value } => record(key).is_none_or(|record| record.value != *value),
        }
    }

    /// Refuses additions to a value that is not a number, before anything is written.
    fn check_numbers(&self, writes: &[Write]) -> Result<(), Error> {
        for write in writes {
            if let Write::Add { key, .. } = write
                && let Some(record) = self.table.get(key)
                && number(&record.value).is_none()
            {
                return Err(Error::invalid("an addition to a value that is no number"));
            }
        }
        Ok(())
    }

    fn write(&mut self, write: &Write, revision: Revision, changes: &mut Vec<Change>) -> Written {
        match write {
            Write::Put { key, value } => {
                Written::Put { previous: self.put(key.clone(), owned(value), revision, changes) }
            }
            Write::Add { key, delta } => {
                let old = self.table.get(key).and_then(|record| number(&record.value)).unwrap_or(0);
                let value = old.wrapping_add(*delta);
                self.put(key.clone(), number_bytes(value), revision, changes);
                Written::Added { value }
            }
            Write::Stamp { prefix, value } => {
                let mut key = BytesMut::with_capacity(prefix.len() + 8);
                key.put_slice(prefix);
                key.put_u64(revision.0);
                let key = key.freeze();
                self.put(key.clone(), owned(value), revision, changes);
                Written::Stamped { key }
            }
            Write::Delete { key } => Written::Deleted { previous: self.delete(key, changes) },
            Write::DeleteRange { range } => {
                let keys: Vec<Bytes> = self.range(range).map(|(key, _)| key.clone()).collect();
                for key in &keys {
                    self.delete(key, changes);
                }
                Written::RangeDeleted { count: keys.len() as u64 }
            }
        }
    }

    fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        revision: Revision,
        changes: &mut Vec<Change>,
    ) -> Option<Entry> {
        self.bytes += value.len();
        let mut current = Record { value, created: revision, modified: revision };
        let previous = if let Some(record) = self.table.get_mut(&key) {
            current.created = record.created;
            let old = std::mem::replace(record, current.clone());
            self.bytes -= old.value.len();
            Some(entry(&key, &old))
        } else {
            self.table.insert(key.clone(), current.clone());
            self.bytes += key.len();
            self.counted(&key, 1);
            None
        };
        let current = Some(entry(&key, &current));
        changes.push(Change { key, previous: previous.clone(), current });
        previous
    }

    fn delete(&mut self, key: &Bytes, changes: &mut Vec<Change>) -> Option<Entry> {
        let (key, record) = self.table.remove_entry(key)?;
        self.bytes -= key.len() + record.value.len();
        self.counted(&key, -1);
        let previous = Some(entry(&key, &record));
        changes.push(Change { key, previous: previous.clone(), current: None });
        previous
    }

    fn find(&self, read: &Read, limits: &Limits) -> Found {
        match read {
            Read::Get { key } => Found::Entry(self.entry(key)),
            Read::Scan { range, order, limit, keys_only } => {
                let range = self.range(range);
                match order {
                    // The suffix of a stamp is its revision, so stamps of one prefix are in order of creation.
                    Order::Key | Order::Created => page(range, *limit, *keys_only, limits),
                    Order::KeyDescending => page(range.rev(), *limit, *keys_only, limits),
                }
            }
            Read::Count { range } => Found::Count(self.count(range)),
        }
    }

    fn count(&self, range: &Range) -> u64 {
        let [first] = range.start.as_ref() else {
            return self.range(range).count() as u64;
        };
        if *range == Range::prefix(range.start.clone()) {
            return self.counts.iter().find(|(byte, _)| byte == first).map_or(0, |(_, count)| *count);
        }
        self.range(range).count() as u64
    }

    fn counted(&mut self, key: &Bytes, by: i64) {
        let first = key.first().copied().expect("keys are not empty: checked by `Txn::check`");
        if let Some((_, count)) = self.counts.iter_mut().find(|(byte, _)| *byte == first) {
            *count = count.wrapping_add_signed(by);
        } else {
            // Most keyspaces hold one kind of key.
            self.counts.reserve_exact(1);
            self.counts.push((first, by.unsigned_abs()));
        }
    }

    fn range(&self, range: &Range) -> impl DoubleEndedIterator<Item = (&Bytes, &Record)> + use<'_> {
        self.table.range(&range.start, range.end.as_ref())
    }
}

fn entry(key: &Bytes, record: &Record) -> Entry {
    Entry {
        key: key.clone(),
        value: record.value.clone(),
        created: record.created,
        modified: record.modified,
    }
}

fn page<'a>(
    records: impl Iterator<Item = (&'a Bytes, &'a Record)>,
    limit: usize,
    keys_only: bool,
    limits: &Limits,
) -> Found {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (key, record) in records {
        if entries.len() == limit || (bytes >= limits.scan_bytes_max && !entries.is_empty()) {
            return Found::Entries { entries, more: true };
        }
        let mut entry = entry(key, record);
        if keys_only {
            entry.value = Bytes::new();
        }
        bytes += entry.bytes();
        entries.push(entry);
    }
    Found::Entries { entries, more: false }
}

/// Copies a value for storage. A caller's value is mostly a slice of a received message and would keep the
/// buffer of the whole message alive.
fn owned(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Txn {
        Txn::new().write(Write::Put { key: key.into(), value: value.into() })
    }

    fn state(engine: &Engine) -> (Revision, usize, Vec<Found>) {
        let reads = [
            Read::Scan { range: Range::prefix(""), order: Order::Key, limit: 100, keys_only: false },
            Read::Count { range: Range::prefix("k") },
        ];
        let snapshot = engine.read(&reads, &Limits::default()).unwrap();
        (snapshot.revision, engine.bytes(), snapshot.reads)
    }

    #[test]
    fn a_value_does_not_keep_the_request_that_it_came_in() {
        let (request, mut engine) = (Bytes::from(vec![7; 64 * 1024]), Engine::new());
        let put = |size| Txn::new().write(Write::Put { key: "k".into(), value: request.slice(..size) });
        let (_, changes) = engine.apply(&put(100), &Limits::default()).unwrap();
        assert_eq!((changes.len(), changes.capacity()), (1, 1), "they are kept for watches as well");
        assert!(request.is_unique());
    }

    #[test]
    fn what_is_undone_leaves_no_trace_and_what_is_redone_is_the_same() {
        let limits = Limits::default();
        let (mut engine, mut copy) = (Engine::new(), Engine::new());
        for txn in [put("k1", "one"), put("k2", "two")] {
            let (outcome, changes) = engine.apply(&txn, &limits).unwrap();
            copy.redo(&Commit { revision: outcome.revision, changes });
        }
        let before = state(&engine);
        assert_eq!(state(&copy), before);
        let txn = put("k1", "longer")
            .write(Write::DeleteRange { range: Range::prefix("k2") })
            .write(Write::Stamp { prefix: "s".into(), value: "x".into() })
            .once("name");
        let (outcome, changes) = engine.apply(&txn, &limits).unwrap();
        assert_eq!(engine.named().count(), 1);
        engine.undo(&changes, before.0);
        engine.forget(&"name".into());
        assert_eq!(state(&engine), before);
        assert_eq!(engine.named().count(), 0);
        let commit = Commit { revision: outcome.revision, changes };
        engine.redo(&commit);
        let after = state(&engine);
        engine.redo(&commit);
        assert_eq!(state(&engine), after);
        assert_eq!(after.0, Revision(3));
    }
}
