// SPDX-License-Identifier: Apache-2.0
//! Writes the whole content, while commits continue.
//!
//! A snapshot is begun when a new log is. Each keyspace is copied page by page, and its lock is held for a page only, so
//! the copy is of no single moment: what was committed meanwhile may be in it or not, or by half. That does no harm,
//! because the log that was begun has all of it, and making those commits again over such a copy ends in their state
//! ([`atomix_engine::Engine::redo`]). The copy counts only when everything in it is on the disk, and if nothing was taken back
//! meanwhile.
//!
//! A backup is the same, with the batches of that log appended.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atomix_store::{Error, ErrorKind, Limits, Order, Range, Read};
use bytes::Bytes;

use crate::error::{damaged, is_full, unreadable};
use crate::files::{File, Files};
use crate::frame::{self, Found, Kind, Reader};
use crate::journal::{Journal, Rolled};
use crate::layout::{log_name, snapshot_name, unfinished};
use crate::record::{self, Header, Role, Section, SnapshotEnd, StoredCommit, VERSION};
use crate::reserve;
use crate::space::Space;

/// The destination of frames.
pub(crate) trait Sink {
    /// Takes the next bytes.
    fn take(&mut self, bytes: Vec<u8>) -> Result<(), Error>;
}

/// Numbers frames and gives them away in pieces.
struct Copy<'a> {
    sink: &'a mut dyn Sink,
    /// Bytes written so far.
    given: u64,
    salt: u32,
    number: u64,
    bytes: Vec<u8>,
}

/// A snapshot that becomes a file.
struct FileSink {
    file: Arc<dyn File>,
    at: u64,
    synced: u64,
    /// The length of the reserve that it was, if it was one.
    reserve: Option<u64>,
}

/// Given away at once.
const PIECE: usize = 256 << 10;
/// Bytes after which a snapshot is synced, so that the last sync does not hold up those of the log.
const SYNC: u64 = 4 << 20;
/// Entries that are copied under one lock.
const PAGE: usize = 256;

/// Writes a snapshot, and removes what it replaces. Blocks.
pub(crate) fn snapshot(journal: &Journal) -> Result<(), Error> {
    let _copying = journal.copying.lock();
    let rollbacks = journal.queue.lock().rollbacks;
    let rolled = journal.roll()?;
    let full = journal.full.load(Ordering::Acquire);
    let name = snapshot_name(rolled.base);
    let written = match write(journal, rolled, &name, rollbacks, full) {
        Err(error) if error.kind() == ErrorKind::Full && !full => {
            write(journal, rolled, &name, rollbacks, true)
        }
        written => written,
    };
    written?;
    let old = {
        let mut queue = journal.queue.lock();
        queue.log_bytes = queue.log_bytes.saturating_sub(rolled.bytes_before);
        let first = queue.logs.partition_point(|log| *log < rolled.log);
        queue.logs.drain(..first).map(log_name).collect::<Vec<_>>()
    };
    let snapshots = journal.files.list().map_err(failed)?;
    let snapshots = snapshots.into_iter().filter(|other| other.starts_with("snapshot-") && *other < name);
    for file in old.into_iter().chain(snapshots) {
        // A file that cannot be removed now is not read again, and removed at the next start.
        drop(journal.files.remove(&file));
    }
    // The reserve is set aside in the room that has just become free.
    journal.work.notify_one();
    Ok(())
}

/// Writes the file of a snapshot. With `reserve` it is written into the room that is set aside for it, and without the
/// commits that are kept for watches, which may hold all that was deleted.
fn write(journal: &Journal, rolled: Rolled, name: &str, rollbacks: u64, reserve: bool) -> Result<(), Error> {
    let temporary = unfinished(name);
    let files = journal.files.as_ref();
    let mut sink = FileSink::create(files, &temporary, reserve).map_err(failed)?;
    let file = Arc::clone(&sink.file);
    let mut named = false;
    let written = dump(journal, Role::Snapshot, rolled.base, !reserve, &mut sink)
        .and_then(|mut copy| {
            journal.flush()?;
            copy.finish(SnapshotEnd { next: rolled.base, log: rolled.log })
        })
        .and_then(|()| {
            if sink.reserve.is_some() {
                file.shrink(sink.at).map_err(failed)?;
            }
            file.sync().map_err(failed)?;
            if journal.queue.lock().rollbacks != rollbacks {
                return Err(Error::unavailable("snapshot aborted after a disk error"));
            }
            files.rename(&temporary, name).map_err(failed)?;
            // From now on the snapshot is in use, also if this returns an error.
            named = true;
            files.sync().map_err(failed)
        });
    if written.is_err() && !named {
        // Best effort: what is left behind is removed when the store is opened the next time.
        drop(match sink.reserve {
            Some(len) if sink.at > len => {
                file.shrink(len).and_then(|()| files.rename(&temporary, reserve::SNAPSHOT))
            }
            Some(_) => files.rename(&temporary, reserve::SNAPSHOT),
            None => files.remove(&temporary),
        });
    }
    // Refill the reserve, and extend it if the content has grown.
    journal.reserve_used.store(true, Ordering::Release);
    written
}

fn failed(error: io::Error) -> Error {
    let kind = if is_full(&error) { ErrorKind::Full } else { ErrorKind::Unavailable };
    Error::new(kind, "a snapshot cannot be written").caused_by(error)
}

/// Gives a backup away, piece by piece. Blocks.
pub(crate) fn backup(journal: &Journal, sink: &mut dyn Sink) -> Result<(), Error> {
    let _copying = journal.copying.lock();
    let rollbacks = journal.queue.lock().rollbacks;
    let Rolled { base, log: first, .. } = journal.roll()?;
    let mut copy = dump(journal, Role::Backup, base, true, sink)?;
    journal.flush()?;
    let (logs, after) = {
        let queue = journal.queue.lock();
        if queue.rollbacks != rollbacks {
            return Err(Error::unavailable("backup aborted after a disk error: try again"));
        }
        (queue.logs.iter().copied().filter(|log| *log >= first).collect::<Vec<_>>(), journal.durable() + 1)
    };
    for (at, first) in logs.iter().enumerate() {
        copy.batches(journal, *first, base, logs.get(at + 1).copied().unwrap_or(after))?;
    }
    copy.finish(SnapshotEnd { next: after, log: after })
}

/// Copies all keyspaces, with the commits that are kept for watches if `history` is true.
fn dump<'a>(
    journal: &Journal,
    role: Role,
    base: u64,
    history: bool,
    sink: &'a mut dyn Sink,
) -> Result<Copy<'a>, Error> {
    let header = Header { version: VERSION, store: journal.store, role, base };
    let mut copy = Copy { sink, given: 0, salt: 0, number: 0, bytes: Vec::new() };
    copy.value(Kind::Header, &header)?;
    copy.salt = header.salt();
    let spaces = journal.core.spaces.all();
    // Read after them: a keyspace that is missing among them was given back before, and has raised it.
    copy.value(Kind::Floor, &journal.core.floor())?;
    for space in spaces {
        copy.space(&space, history)?;
    }
    Ok(copy)
}

// === impl Copy ===

impl Copy<'_> {
    fn space(&mut self, space: &Space, history: bool) -> Result<(), Error> {
        let revision = space.engine.lock().revision();
        let (floor, commits) = if history { space.history.kept() } else { (space.history.tip(), Vec::new()) };
        self.value(Kind::Keyspace, &Section { keyspace: space.name.clone(), revision, floor })?;
        let mut payload = Vec::new();
        for commit in commits {
            StoredCommit::put(&mut payload, &space.name, &commit, None, false);
            self.full(Kind::Commits, &mut payload, PIECE)?;
        }
        self.full(Kind::Commits, &mut payload, 0)?;
        let named: Vec<_> = {
            let engine = space.engine.lock();
            engine.named().collect()
        };
        for outcome in named {
            record::append(&mut payload, &outcome);
            self.full(Kind::Named, &mut payload, PIECE)?;
        }
        self.full(Kind::Named, &mut payload, 0)?;
        let mut rest = Range { start: Bytes::new(), end: None };
        let limits = Limits { scan_bytes_max: PIECE, ..Limits::default() };
        loop {
            let page = Read::Scan { range: rest.clone(), order: Order::Key, limit: PAGE, keys_only: false };
            let found = space.engine.lock().read(&[page], &limits)?.reads.remove(0);
            for entry in found.entries() {
                record::append(&mut payload, entry);
            }
            self.full(Kind::Entries, &mut payload, 0)?;
            match found.entries().last() {
                Some(last) if found.more() => rest = rest.after(&last.key),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Copies the batches from `base` on of the log that begins with batch `first`, up to the batch before `until`.
    fn batches(&mut self, journal: &Journal, first: u64, base: u64, until: u64) -> Result<(), Error> {
        let log = log_name(first);
        let file = journal.files.open(&log).map_err(|error| unreadable(&log, error))?;
        let mut reader = Reader::new(file.as_ref()).map_err(|error| unreadable(&log, error))?;
        let header: Header = record::one(&payload(&mut reader, &log)?)?;
        reader.salted(header.salt(), 1);
        for batch in first..until {
            let payload = payload(&mut reader, &log)?;
            if batch >= base {
                self.frame(Kind::Batch, &payload)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, end: SnapshotEnd) -> Result<(), Error> {
        let mut payload = Vec::new();
        end.put(&mut payload);
        self.frame(Kind::End, &payload)?;
        self.sink.take(std::mem::take(&mut self.bytes))
    }

    fn value<T: serde::Serialize>(&mut self, kind: Kind, value: &T) -> Result<(), Error> {
        let mut payload = Vec::new();
        record::append(&mut payload, value);
        self.frame(kind, &payload)
    }

    /// Ends a frame when its payload has more than `max` bytes.
    fn full(&mut self, kind: Kind, payload: &mut Vec<u8>, max: usize) -> Result<(), Error> {
        if payload.len() > max {
            self.frame(kind, payload)?;
            payload.clear();
        }
        Ok(())
    }

    fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        frame::put(&mut self.bytes, self.given, kind, self.number, 0, self.salt, payload);
        self.number += 1;
        if self.bytes.len() >= PIECE {
            self.given += self.bytes.len() as u64;
            self.sink.take(std::mem::take(&mut self.bytes))?;
        }
        Ok(())
    }
}

impl FileSink {
    fn create(files: &dyn Files, name: &str, reserve: bool) -> io::Result<Self> {
        let (file, reserve) = match reserve.then(|| reserve::take(files, reserve::SNAPSHOT, name)) {
            Some(Ok((file, len))) => (file, Some(len)),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Some(Err(_)) | None => (files.create(name)?, None),
        };
        Ok(Self { file, at: 0, synced: 0, reserve })
    }
}

impl Sink for FileSink {
    fn take(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        self.file.write_at(&bytes, self.at).map_err(failed)?;
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC {
            self.file.sync().map_err(failed)?;
            self.synced = self.at;
        }
        Ok(())
    }
}

/// Reads the next frame of a log, which must be there.
fn payload(reader: &mut Reader<'_>, log: &str) -> Result<Vec<u8>, Error> {
    match reader.next().map_err(|error| unreadable(log, error))? {
        Found::Frame(frame) => Ok(frame.payload),
        Found::Nothing => Err(damaged(log, reader.at(), "a batch is missing")),
        Found::Damage(what) => Err(damaged(log, reader.at(), what)),
    }
}
