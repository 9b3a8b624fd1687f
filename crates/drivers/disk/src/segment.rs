// SPDX-License-Identifier: Apache-2.0
//! The log that is written.

use std::io;
use std::sync::Arc;

use crate::error::is_full;
use crate::files::{File, Files};
use crate::frame::{self, Kind};
use crate::layout::{log_name, unfinished};
use crate::record::{self, End, Header, Role, VERSION};
use crate::reserve;

/// A log to which batches are appended.
#[derive(Debug)]
pub(crate) struct Segment {
    name: String,
    /// The number of the first batch.
    first: u64,
    file: Arc<dyn File>,
    salt: u32,
    /// The position and the number of the next frame.
    at: u64,
    number: u64,
    /// Up to where room was taken on the disk.
    end: u64,
    /// Frames since the last sync.
    unsynced: usize,
}

/// Room is taken in steps of this size. A new log makes do with less when the disk is nearly full. Tests take little, so
/// that logs grow in them.
const STEPS: [u64; 4] =
    if cfg!(test) { [16 << 10, 8 << 10, 4 << 10, 1 << 10] } else { [4 << 20, 1 << 20, 256 << 10, 64 << 10] };

// === impl Segment ===

impl Segment {
    /// Makes the log that begins with batch `first`, under a temporary name. With `reserve` it may use the
    /// space that is set aside for it.
    pub(crate) fn prepare(files: &dyn Files, store: u128, first: u64, reserve: bool) -> io::Result<Self> {
        let name = log_name(first);
        let (file, end) = match Self::create(files, &unfinished(&name)) {
            Err(error) if reserve && is_full(&error) => {
                reserve::take(files, reserve::LOG, &unfinished(&name)).map_err(|_| error)?
            }
            created => created?,
        };
        let header = Header { version: VERSION, store, role: Role::Log, base: first };
        let (mut payload, mut bytes) = (Vec::new(), Vec::new());
        record::append(&mut payload, &header);
        frame::put(&mut bytes, 0, Kind::Header, 0, 0, 0, &payload);
        file.write_at(&bytes, 0)?;
        file.sync()?;
        let at = bytes.len() as u64;
        Ok(Self { name, first, file, salt: header.salt(), at, number: 1, end, unsynced: 0 })
    }

    fn create(files: &dyn Files, name: &str) -> io::Result<(Arc<dyn File>, u64)> {
        let file = files.create(name)?;
        match allocate(file.as_ref(), 0, &STEPS) {
            Ok(taken) => Ok((file, taken)),
            Err(error) => {
                // Best effort: what is left behind is removed when the store is opened the next time.
                drop(files.remove(name));
                Err(error)
            }
        }
    }

    /// Makes of a log that was read to its end what can be closed. All of it is on the disk.
    pub(crate) fn of_read(
        first: u64,
        file: Arc<dyn File>,
        salt: u32,
        at: u64,
        number: u64,
    ) -> io::Result<Self> {
        let end = file.len()?;
        Ok(Self { name: log_name(first), first, file, salt, at, number, end, unsynced: 0 })
    }

    /// Notes at the end of the log that another one continues with batch `next`, so that recovery detects its
    /// removal, and gives back the unused space. Does nothing if there is no space, and is not synced: a
    /// start needs the note only when the other log is gone.
    pub(crate) fn close(&mut self, next: u64) -> io::Result<()> {
        let mut payload = Vec::new();
        record::append(&mut payload, &End { next });
        if log_name(next) == self.name || self.room() < frame::room(payload.len()) as u64 {
            return Ok(());
        }
        self.put(Kind::End, &payload)?;
        self.file.shrink(self.at + frame::HEAD as u64)
    }

    /// Gives back the room of a log that was read to its end and is not written any more.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        // A crash may have left a part of a frame here, which would look cut off.
        self.file.write_at(&[0; frame::HEAD], self.at)?;
        self.file.sync()?;
        self.file.shrink(self.at + frame::HEAD as u64)?;
        self.file.sync()?;
        self.end = self.at + frame::HEAD as u64;
        Ok(())
    }

    /// Gives the log its name. From now on it is in use, also if this returns an error, and the log before
    /// ends where it begins. It has its header and its space already, so a log that is found without them was
    /// damaged.
    pub(crate) fn adopt(&self, files: &dyn Files) -> io::Result<()> {
        files.rename(&unfinished(&self.name), &self.name)?;
        files.sync()
    }

    /// Returns the number of the first batch.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Returns how many bytes were written.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Returns how many bytes of frames there is room for.
    pub(crate) fn room(&self) -> u64 {
        // Behind the last frame there are always zeros: by them a tail that was cut off is noticed.
        (self.end - self.at).saturating_sub(frame::HEAD as u64)
    }

    /// Takes more room, enough for `bytes` of frames.
    pub(crate) fn extend(&mut self, bytes: u64) -> io::Result<()> {
        let steps = [STEPS[0], STEPS[1]].map(|step| bytes.next_multiple_of(step));
        let taken = allocate(self.file.as_ref(), self.end, &steps)?;
        // A power cut must not take the room away again once it is used.
        self.file.sync()?;
        self.end += taken;
        Ok(())
    }

    /// Takes small pieces of what is left on a full disk, until there is room for `bytes` of frames or nothing is left.
    pub(crate) fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let before = self.end;
        while self.room() < bytes {
            match allocate(self.file.as_ref(), self.end, &STEPS[2..]) {
                Ok(taken) => self.end += taken,
                Err(error) if is_full(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if self.end > before { self.file.sync() } else { Ok(()) }
    }

    /// Writes a batch. There must be room for it.
    pub(crate) fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.put(Kind::Batch, payload)
    }

    fn put(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frame::room(payload.len()));
        frame::put(&mut bytes, self.at, kind, self.number, self.unsynced, self.salt, payload);
        self.file.write_at(&bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.number += 1;
        self.unsynced += 1;
        Ok(())
    }

    /// Makes all batches survive a power cut.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.unsynced = 0;
        Ok(())
    }
}

/// Takes room of the first of `steps` that the disk has, and returns which one.
fn allocate(file: &dyn File, at: u64, steps: &[u64]) -> io::Result<u64> {
    let mut full = io::Error::from(io::ErrorKind::StorageFull);
    for step in steps {
        match file.allocate(at, *step) {
            Ok(()) => return Ok(*step),
            Err(error) if is_full(&error) => full = error,
            Err(error) => return Err(error),
        }
    }
    Err(full)
}
