// SPDX-License-Identifier: Apache-2.0
//! Reading a store from its folder.
//!
//! The newest snapshot, then every batch of the logs after it, without a gap. Nothing is changed here: a store that
//! cannot be read is left as it is.

use std::sync::Arc;

use atomix_store::{Entry, Error, Outcome};
use bytes::Bytes;

use crate::core::Core;
use crate::error::{damaged, damaged_backup, unreadable, unreadable_backup};
use crate::files::{File, Files};
use crate::frame::{Found, Frame, Kind, Reader};
use crate::layout::{UNFINISHED, log_name, number, snapshot_name};
use crate::record::{self, End, Header, Role, SnapshotEnd, StoredCommit, VERSION};
use crate::segment::Segment;
use crate::space::Space;

/// A store as read from its folder.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) core: Core,
    /// `None` for an empty folder.
    pub(crate) store: Option<u128>,
    /// The number of the next batch.
    pub(crate) next: u64,
    /// The first batches of the logs that are still needed, and their bytes.
    pub(crate) logs: Vec<u64>,
    pub(crate) log_bytes: u64,
    /// The last of them.
    pub(crate) last: Option<Segment>,
    /// The snapshot that was read.
    pub(crate) snapshot: Option<String>,
    /// Files that are not needed any more, or never were completed.
    pub(crate) obsolete: Vec<String>,
}

/// One file, while it is read.
struct Reading<'a> {
    name: &'a str,
    reader: Reader<'a>,
    /// Whether it stands alone, for messages.
    backup: bool,
}

/// Reads everything into `content`, which is empty.
pub(crate) fn recover(files: &dyn Files, core: Core) -> Result<Recovered, Error> {
    let names = files.list().map_err(|error| unreadable(".", error))?;
    let mut snapshots: Vec<u64> = names.iter().filter_map(|name| number(name, "snapshot")).collect();
    let mut logs: Vec<u64> = names.iter().filter_map(|name| number(name, "log")).collect();
    snapshots.sort_unstable();
    logs.sort_unstable();
    let mut recovered = Recovered {
        core,
        store: None,
        next: 1,
        logs: Vec::new(),
        log_bytes: 0,
        last: None,
        snapshot: None,
        obsolete: names.into_iter().filter(|name| name.ends_with(UNFINISHED)).collect(),
    };
    if let Some(newest) = snapshots.pop() {
        let name = snapshot_name(newest);
        let (role, log) = recovered.snapshot(files, &name)?;
        if recovered.next != newest {
            return Err(damaged(&name, 0, "the name is not that of the content"));
        }
        if role == Role::Snapshot && logs.last().is_none_or(|last| *last < log) {
            return Err(damaged(&log_name(log), 0, "the log after the snapshot is missing"));
        }
        recovered.snapshot = Some(name);
        recovered.obsolete.extend(snapshots.into_iter().map(snapshot_name));
    }
    // A log ends where the next one begins, so the last one that does not begin too late is the first that counts.
    let begin = logs.partition_point(|first| *first <= recovered.next).saturating_sub(1);
    let needed = logs.split_off(begin.min(logs.len()));
    recovered.obsolete.extend(logs.into_iter().map(log_name));
    for (at, first) in needed.iter().enumerate() {
        let name = log_name(*first);
        if *first > recovered.next {
            return Err(damaged(&name, 0, "the log before it is missing"));
        }
        recovered.log(files, &name, *first, needed.get(at + 1).copied())?;
        recovered.logs.push(*first);
    }
    // The log has those that were given back as well, and earlier versions kept all of them.
    recovered.core.sweep(recovered.next);
    Ok(recovered)
}

// === impl Recovered ===

impl Recovered {
    /// Reads a snapshot, and returns with which batch the log begins in which the next batch is.
    fn snapshot(&mut self, files: &dyn Files, name: &str) -> Result<(Role, u64), Error> {
        let file = open(files, name)?;
        let (header, end) = read_snapshot(file.as_ref(), name, &self.core, false)?;
        self.store = Some(header.store);
        self.next = end.next;
        Ok((header.role, end.log))
    }

    /// Reads the log that begins with batch `first`, up to the batch before `until`.
    fn log(&mut self, files: &dyn Files, name: &str, first: u64, until: Option<u64>) -> Result<(), Error> {
        let file = open(files, name)?;
        let mut reading = Reading::new(name, file.as_ref(), false)?;
        let last = until.is_none();
        let header = reading.header(self.store, |role| role == Role::Log)?;
        if header.base != first {
            return Err(reading.damage("the name is not that of the content"));
        }
        self.store = Some(header.store);
        let mut batch = first;
        while until.is_none_or(|until| batch < until) {
            match reading.frame()? {
                Some(Frame { kind: Kind::Batch, payload }) => {
                    // A snapshot may have some of them already.
                    if batch >= self.next {
                        self.core.batch(&payload)?;
                        self.next = batch + 1;
                    }
                    batch += 1;
                }
                Some(Frame { kind: Kind::End, payload }) if last => {
                    let missing = log_name(record::one::<End>(&payload)?.next);
                    return Err(damaged(&missing, 0, "the log is missing"));
                }
                Some(_) => return Err(reading.damage("a frame of another kind")),
                None if last => break,
                None => return Err(reading.damage("it ends before the next log begins")),
            }
        }
        self.log_bytes += reading.reader.at();
        // The content may be shown from now on, so it has to survive a power cut. Only the last log can hold
        // frames that were never synced.
        if last {
            file.sync().map_err(|error| unreadable(name, error))?;
            let ((salt, number), at) = (reading.reader.place(), reading.reader.at());
            let segment = Segment::of_read(first, Arc::clone(&file), salt, at, number);
            self.last = Some(segment.map_err(|error| unreadable(name, error))?);
        }
        Ok(())
    }
}

/// Reads a snapshot or a backup, which must be complete. `backup` selects the text of errors.
pub(crate) fn read_snapshot(
    file: &dyn File,
    name: &str,
    core: &Core,
    backup: bool,
) -> Result<(Header, SnapshotEnd), Error> {
    let mut reading = Reading::new(name, file, backup)?;
    let header = reading.header(None, |role| role != Role::Log)?;
    let mut section: Option<Arc<Space>> = None;
    loop {
        let Some(frame) = reading.frame()? else {
            return Err(reading.damage("it is not complete"));
        };
        let payload = &frame.payload;
        match (frame.kind, &section) {
            (Kind::Keyspace, _) => section = Some(core.section(payload)?),
            (Kind::Entries, Some(space)) => {
                let mut engine = space.engine.lock();
                record::each(payload, |entry: Entry| {
                    core.budget.track(&mut engine, |engine| engine.restore(&entry));
                    Ok(())
                })?;
                core.budget.check_memory(core.bytes_max)?;
            }
            (Kind::Commits, Some(space)) => record::each(payload, |stored: StoredCommit| {
                space.history.push(stored.commit(|_, _| None).0, core.retention);
                Ok(())
            })?,
            (Kind::Named, Some(space)) => {
                let mut engine = space.engine.lock();
                record::each(payload, |(name, outcome): (Bytes, Outcome)| {
                    core.budget.track(&mut engine, |engine| engine.remember(&name, &outcome));
                    Ok(())
                })?;
            }
            (Kind::Floor, _) => core.raise_floor(record::one(payload)?),
            (Kind::Batch, _) => core.batch(payload)?,
            (Kind::End, _) => return Ok((header, SnapshotEnd::read(payload)?)),
            (Kind::Header | Kind::Entries | Kind::Commits | Kind::Named, _) => {
                return Err(reading.damage("a frame in the wrong place"));
            }
        }
    }
}

// === impl Reading ===

impl<'a> Reading<'a> {
    fn new(name: &'a str, file: &'a dyn File, backup: bool) -> Result<Self, Error> {
        let unreadable = if backup { unreadable_backup } else { unreadable };
        let reader = Reader::new(file).map_err(|error| unreadable(name, error))?;
        Ok(Self { name, reader, backup })
    }

    /// Reads the header. Files get their names when they have one.
    fn header(&mut self, store: Option<u128>, right: fn(Role) -> bool) -> Result<Header, Error> {
        let frame = self.frame()?.ok_or_else(|| self.damage("it is empty"))?;
        if frame.kind != Kind::Header {
            return Err(self.damage("it does not begin with a header"));
        }
        // The version comes first and alone decides how the rest is read.
        let (version, _) = postcard::take_from_bytes::<u32>(&frame.payload)
            .map_err(|_| self.damage("a header that cannot be read"))?;
        if version != VERSION {
            let what = if self.backup {
                "backup was written by another version of atomix: use that one"
            } else {
                "store was written by another version of atomix: use that one, or restore a backup"
            };
            let name = self.name;
            return Err(Error::config(format!("{what}: file=`{name}` format=`{version}` known=`{VERSION}`")));
        }
        let header: Header = record::one(&frame.payload)?;
        if !right(header.role) || store.is_some_and(|store| store != header.store) {
            return Err(self.damage("it is a file of another store or of another kind"));
        }
        self.reader.salted(header.salt(), 1);
        Ok(header)
    }

    fn frame(&mut self) -> Result<Option<Frame>, Error> {
        let unreadable = if self.backup { unreadable_backup } else { unreadable };
        match self.reader.next().map_err(|error| unreadable(self.name, error))? {
            Found::Frame(frame) => Ok(Some(frame)),
            Found::Nothing => Ok(None),
            Found::Damage(what) => Err(self.damage(what)),
        }
    }

    fn damage(&self, what: &str) -> Error {
        let damaged = if self.backup { damaged_backup } else { damaged };
        damaged(self.name, self.reader.at(), what)
    }
}

fn open(files: &dyn Files, name: &str) -> Result<Arc<dyn File>, Error> {
    files.open(name).map_err(|error| unreadable(name, error))
}
