// SPDX-License-Identifier: Apache-2.0
//! The payloads of frames, in the encoding of `postcard` (a public, stable wire format).

use atomix_store::{Change, Commit, Entry, Error, ErrorKind, Keyspace, Outcome, Revision};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::frame;

/// The kind of a file. The payload of its first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// Drawn by chance when the store is made; the same in all of its files.
    pub(crate) store: u128,
    pub(crate) role: Role,
    /// Of a log the number of its first batch; of a snapshot or backup of the batch before which it was begun.
    pub(crate) base: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Log,
    /// Comes with the log that follows it.
    Snapshot,
    /// A snapshot that stands alone.
    Backup,
}

/// A commit as it is stored. Written with [`StoredCommit::put`], which borrows what this owns.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredCommit {
    pub(crate) keyspace: Bytes,
    pub(crate) revision: u64,
    changes: Vec<StoredChange>,
    pub(crate) named: Option<(Bytes, Outcome)>,
}

#[derive(Debug, Deserialize)]
struct StoredChange {
    key: Bytes,
    previous: Option<StoredRecord>,
    current: Option<StoredRecord>,
}

#[derive(Debug, Deserialize)]
struct StoredRecord {
    value: Bytes,
    created: u64,
    modified: u64,
}

/// The name of a keyspace and its revision when its part of the snapshot was begun.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) keyspace: Keyspace,
    pub(crate) revision: Revision,
    /// Every later commit, as far as it was durable, is among the commits of the section.
    pub(crate) floor: Revision,
}

/// The last frame of a complete file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// The number of the next batch: what comes after this file.
    pub(crate) next: u64,
}

/// The last frame of a snapshot or a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotEnd {
    /// The number of the next batch.
    pub(crate) next: u64,
    /// The number of the first batch of the log in which the next batch is. Written only if it is another one: a snapshot
    /// on a full disk begins no log.
    pub(crate) log: u64,
}

#[derive(Serialize)]
struct CommitRef<'a> {
    keyspace: &'a Bytes,
    revision: u64,
    changes: Vec<ChangeRef<'a>>,
    named: Option<(&'a Bytes, &'a Outcome)>,
}

#[derive(Serialize)]
struct ChangeRef<'a> {
    key: &'a Bytes,
    previous: Option<RecordRef<'a>>,
    current: Option<RecordRef<'a>>,
}

#[derive(Serialize)]
struct RecordRef<'a> {
    value: &'a Bytes,
    created: u64,
    modified: u64,
}

/// The revision `created` of a previous record whose value was left out. No record has it: it would be created after it
/// was modified.
const LEFT_OUT: u64 = u64::MAX;
/// Values up to this size are never left out.
const SMALL: usize = 64;

/// The format that this driver writes, and the newest one that it reads.
pub(crate) const VERSION: u32 = 1;

// === impl Header ===

impl Header {
    /// Returns what the other frames of the file are salted with.
    pub(crate) fn salt(&self) -> u32 {
        let role = match self.role {
            Role::Log => 1u8,
            Role::Snapshot => 2,
            Role::Backup => 3,
        };
        let parts = [&self.store.to_le_bytes()[..], &[role], &self.base.to_le_bytes()];
        // A salt of zero is that of the header itself.
        frame::crc(0, &parts.concat()) | 1
    }
}

// === impl StoredCommit ===

impl StoredCommit {
    /// Appends a commit to a payload. Payloads hold any number of them. `lean` leaves previous values out, which are in
    /// the state before the commit: a deletion must not need the room of what it deletes.
    pub(crate) fn put(
        payload: &mut Vec<u8>,
        keyspace: &Keyspace,
        commit: &Commit,
        named: Option<(&Bytes, &Outcome)>,
        lean: bool,
    ) {
        let changes = commit.changes.iter().map(|change| ChangeRef {
            key: &change.key,
            previous: change.previous.as_ref().map(|entry| {
                if lean && entry.value.len() > SMALL {
                    RecordRef { value: &NOTHING, created: LEFT_OUT, modified: entry.modified.0 }
                } else {
                    RecordRef::new(entry)
                }
            }),
            current: change.current.as_ref().map(RecordRef::new),
        });
        let (revision, changes) = (commit.revision.0, changes.collect());
        append(payload, &CommitRef { keyspace: keyspace.as_bytes(), revision, changes, named });
    }

    /// Returns the commit, and whether it is as watches have to see it. `before` finds what the state before the commit
    /// has under a key, as it was modified at a revision; previous values that were left out and are not found are empty.
    pub(crate) fn commit(self, before: impl Fn(&Bytes, Revision) -> Option<Entry>) -> (Commit, bool) {
        let mut whole = true;
        let changes = self.changes.into_iter().map(|change| {
            let entry = |record: StoredRecord| Entry {
                key: change.key.clone(),
                value: record.value,
                created: Revision(record.created),
                modified: Revision(record.modified),
            };
            let previous = change.previous.map(|record| {
                if record.created != LEFT_OUT {
                    return entry(record);
                }
                before(&change.key, Revision(record.modified)).unwrap_or_else(|| {
                    whole = false;
                    entry(record)
                })
            });
            let current = change.current.map(entry);
            Change { key: change.key, previous, current }
        });
        let commit = Commit { revision: Revision(self.revision), changes: changes.collect() };
        (commit, whole)
    }
}

impl<'a> RecordRef<'a> {
    fn new(entry: &'a Entry) -> Self {
        Self { value: &entry.value, created: entry.created.0, modified: entry.modified.0 }
    }
}

static NOTHING: Bytes = Bytes::new();

// === impl SnapshotEnd ===

impl SnapshotEnd {
    pub(crate) fn put(self, payload: &mut Vec<u8>) {
        append(payload, &self.next);
        if self.log != self.next {
            append(payload, &self.log);
        }
    }

    pub(crate) fn read(payload: &[u8]) -> Result<Self, Error> {
        let mut numbers = Vec::with_capacity(2);
        each(payload, |number: u64| {
            numbers.push(number);
            Ok(())
        })?;
        let next = *numbers.first().ok_or_else(strange)?;
        Ok(Self { next, log: numbers.get(1).copied().unwrap_or(next) })
    }
}

/// Appends a value to a payload.
pub(crate) fn append<T: Serialize>(payload: &mut Vec<u8>, value: &T) {
    // Vectors take everything, and the types here are plain data.
    let taken = postcard::to_extend(value, std::mem::take(payload));
    *payload = taken.expect("plain data can be written to memory");
}

/// Reads all values of a payload.
pub(crate) fn each<'de, T: Deserialize<'de>>(
    mut payload: &'de [u8],
    mut take: impl FnMut(T) -> Result<(), Error>,
) -> Result<(), Error> {
    while !payload.is_empty() {
        let (value, rest) = postcard::take_from_bytes(payload).map_err(|error| strange().caused_by(error))?;
        payload = rest;
        take(value)?;
    }
    Ok(())
}

/// Reads the one value of a payload.
pub(crate) fn one<'de, T: Deserialize<'de>>(payload: &'de [u8]) -> Result<T, Error> {
    postcard::from_bytes(payload).map_err(|error| strange().caused_by(error))
}

/// The checksum is right, so the file was written like this: by a defect of this program, or by another
/// program.
fn strange() -> Error {
    Error::new(ErrorKind::Corrupt, "store holds a record that cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_survive_their_encoding_side_by_side() {
        let entry = |value: &'static str, at| Entry {
            key: "k".into(),
            value: value.into(),
            created: Revision(1),
            modified: Revision(at),
        };
        let commits: Vec<Commit> = (2..5)
            .map(|at| Commit {
                revision: Revision(at),
                changes: vec![
                    Change {
                        key: "k".into(),
                        previous: Some(entry("old", 1)),
                        current: Some(entry("new", at)),
                    },
                    Change { key: "gone".into(), previous: None, current: None },
                ],
            })
            .collect();
        let outcome = Outcome { revision: Revision(4), applied: true, writes: vec![], reads: vec![] };
        let (keyspace, name) = (Keyspace::new("map/it"), Bytes::from_static(b"name"));
        let mut payload = Vec::new();
        for commit in &commits {
            StoredCommit::put(&mut payload, &keyspace, commit, Some((&name, &outcome)), false);
        }
        let mut found = Vec::new();
        each(&payload, |stored: StoredCommit| {
            assert_eq!(
                (&stored.keyspace, &stored.named),
                (keyspace.as_bytes(), &Some((name.clone(), outcome.clone())))
            );
            found.push(stored.commit(|_, _| None).0);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, commits);
        assert!(each::<StoredCommit>(&payload[..payload.len() - 1], |_| Ok(())).is_err());
    }
}
