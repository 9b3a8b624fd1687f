// SPDX-License-Identifier: Apache-2.0
//! Room that is set aside on the disk, so that a full disk can be emptied from within.
//!
//! Two files hold it. One becomes the log of a start that finds the disk full; the other the snapshot that replaces the
//! logs after entries were deleted. A file is given another name, never removed and made anew, so that nothing else takes
//! its room in between.

use std::io;
use std::sync::Arc;

use crate::error::is_full;
use crate::files::{File, Files};

/// The reserve for a log. Its content is zeros, as that of a new log has to be.
pub(crate) const LOG: &str = "reserve-log";
/// The reserve for a snapshot.
pub(crate) const SNAPSHOT: &str = "reserve-snapshot";

/// The bytes that are set aside for each.
const LOG_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 1 << 20 };
const SNAPSHOT_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };
/// The minimum that is set aside: a disk without it is full.
const BYTES_MIN: u64 = if cfg!(test) { 1 << 10 } else { 256 << 10 };

/// Makes sure that the reserves are there.
pub(crate) fn keep(files: &dyn Files) -> io::Result<()> {
    set_aside(files, LOG, LOG_BYTES)?;
    set_aside(files, SNAPSHOT, SNAPSHOT_BYTES)
}

/// Sets more aside for a snapshot of about `bytes`, at most `max`, as far as the disk has it.
pub(crate) fn grow(files: &dyn Files, bytes: u64, max: u64) {
    // Without more a snapshot may not fit until more is deleted.
    drop(set_aside(files, SNAPSHOT, bytes.min(max)));
}

/// Returns how much is set aside for a snapshot.
pub(crate) fn for_snapshot(files: &dyn Files) -> u64 {
    files.open(SNAPSHOT).and_then(|file| file.len()).unwrap_or(0)
}

/// Makes the reserve `name` as long as `target`; shorter if the disk does not have as much.
fn set_aside(files: &dyn Files, name: &str, target: u64) -> io::Result<()> {
    let (file, held) = match files.open(name) {
        Ok(file) => {
            let held = file.len()?;
            (file, held)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (files.create(name)?, 0),
        Err(error) => return Err(error),
    };
    let mut step = target.saturating_sub(held);
    while step >= BYTES_MIN {
        match file.allocate(held, step) {
            Ok(()) => {
                // A power cut must not take it away again: the next start may need it.
                file.sync()?;
                return files.sync();
            }
            // A part of it may have been taken.
            Err(error) if is_full(&error) => file.shrink(held)?,
            Err(error) => return Err(error),
        }
        step /= 2;
    }
    if held >= BYTES_MIN {
        return Ok(());
    }
    drop(files.remove(name));
    Err(io::ErrorKind::StorageFull.into())
}

/// Gives the reserve `name` the name `to` and returns it with its length.
pub(crate) fn take(files: &dyn Files, name: &str, to: &str) -> io::Result<(Arc<dyn File>, u64)> {
    files.rename(name, to)?;
    // Before anything is written: a power cut must not bring back a reserve with content.
    files.sync()?;
    let file = files.open(to)?;
    let len = file.len()?;
    Ok((file, len))
}
