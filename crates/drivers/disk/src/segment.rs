// SPDX-License-Identifier: Apache-2.0
//! The log that is written.

use std::io;
use std::sync::Arc;

use crate::error::is_full;
use crate::files::{File, Files};
use crate::frame::{self, Kind};
use crate::record::{self, End, Header, Role, VERSION};
use crate::recover::{UNFINISHED, log_name};

/// A log to which batches are appended.
#[derive(Debug)]
pub(crate) struct Segment {
    name: String,
    file: Arc<dyn File>,
    salt: u32,
    /// Where the next frame is written, and its number.
    at: u64,
    number: u64,
    /// Up to where room was taken on the disk.
    end: u64,
    /// Frames since the last sync.
    unsynced: usize,
}

/// Room is taken in steps of this size. A new log makes do with less when the disk is nearly full. Tests take little, so
/// that logs grow in them.
const STEPS: [u64; 3] = if cfg!(test) { [16 << 10, 8 << 10, 4 << 10] } else { [4 << 20, 1 << 20, 256 << 10] };

// === impl Segment ===

impl Segment {
    /// Makes the log that begins with batch `first`, under a name that nobody reads yet.
    pub(crate) fn prepare(files: &dyn Files, store: u128, first: u64) -> io::Result<Self> {
        let name = log_name(first);
        let file = files.create(&unfinished(&name))?;
        let end = allocate(file.as_ref(), 0, &STEPS)?;
        let header = Header { version: VERSION, store, role: Role::Log, base: first };
        let (mut payload, mut bytes) = (Vec::new(), Vec::new());
        record::append(&mut payload, &header);
        frame::put(&mut bytes, 0, Kind::Header, 0, 0, 0, &payload);
        file.write_at(&bytes, 0)?;
        file.sync()?;
        let at = bytes.len() as u64;
        Ok(Self { name, file, salt: header.salt(), at, number: 1, end, unsynced: 0 })
    }

    /// Makes of a log that was read to its end what can be closed. All of it is on the disk.
    pub(crate) fn of_read(
        name: &str,
        file: Arc<dyn File>,
        salt: u32,
        at: u64,
        number: u64,
    ) -> io::Result<Self> {
        let end = file.len()?;
        Ok(Self { name: name.to_owned(), file, salt, at, number, end, unsynced: 0 })
    }

    /// Notes at the end of the log that another one goes on with batch `next`, so that it is missed when somebody removes
    /// it, and gives back the room that was not used. Does nothing if there is no room, and is not synced: a start needs
    /// the note only when the other one is gone.
    pub(crate) fn close(&mut self, next: u64) -> io::Result<()> {
        let mut payload = Vec::new();
        record::append(&mut payload, &End { next });
        if log_name(next) == self.name || self.room() < frame::room(payload.len()) as u64 {
            return Ok(());
        }
        self.put(Kind::End, &payload)?;
        self.file.shrink(self.at + frame::HEAD as u64)
    }

    /// Gives the log its name. From now on it counts, whatever this answers, and the log before ends where it begins. As it
    /// has its header and its room already, a log that is found without them was damaged.
    pub(crate) fn adopt(&self, files: &dyn Files) -> io::Result<()> {
        files.rename(&unfinished(&self.name), &self.name)?;
        files.sync()
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
        // The last step is left to others: a snapshot may need it to make room.
        let steps = [STEPS[0], STEPS[1]].map(|step| bytes.next_multiple_of(step));
        let taken = allocate(self.file.as_ref(), self.end, &steps)?;
        // A power cut must not take the room away again once it is used.
        self.file.sync()?;
        self.end += taken;
        Ok(())
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

/// Returns the name of a file that is not complete yet.
pub(crate) fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED}")
}
