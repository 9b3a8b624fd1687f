// SPDX-License-Identifier: Apache-2.0
//! What the disk says, in the words of the floor.

use std::io;

use atomix_kv::{Error, ErrorKind};

/// Says that a file holds what cannot have been written like that, and what to do.
pub(crate) fn damaged(file: &str, at: u64, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "store is damaged and stays closed: restore a backup into an empty folder: file=`{file}` at=`{at}` what=`{what}`"
        ),
    )
}

/// Says the same of a backup.
pub(crate) fn damaged_backup(file: &str, at: u64, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("backup is damaged: use another one: file=`{file}` at=`{at}` what=`{what}`"),
    )
}

/// Says that a backup could not be read.
pub(crate) fn unreadable_backup(file: &str, error: io::Error) -> Error {
    Error::unavailable(format!("backup cannot be read: file=`{file}`")).caused_by(error)
}

/// Says that a file could not be read when the store was opened.
pub(crate) fn unreadable(file: &str, error: io::Error) -> Error {
    Error::unavailable(format!("store cannot be read: file=`{file}`")).caused_by(error)
}

/// Tells whether the disk has no room, for anybody or for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
