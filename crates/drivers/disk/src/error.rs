// SPDX-License-Identifier: Apache-2.0
//! Maps errors of the disk to errors of the store.

use std::io;

use atomix_store::{Error, ErrorKind};

/// Returns the error of a file with invalid content, and the next step of the operator.
pub(crate) fn damaged(file: &str, at: u64, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "store is damaged and stays closed: restore a backup into an empty folder: file=`{file}` at=`{at}` what=`{what}`"
        ),
    )
}

/// Returns the same error for a backup.
pub(crate) fn damaged_backup(file: &str, at: u64, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("backup is damaged: use another one: file=`{file}` at=`{at}` what=`{what}`"),
    )
}

/// Returns the error of a backup that could not be read.
pub(crate) fn unreadable_backup(file: &str, error: io::Error) -> Error {
    Error::unavailable(format!("backup cannot be read: file=`{file}`")).caused_by(error)
}

/// Returns the error of a file that could not be read when the store was opened.
pub(crate) fn unreadable(file: &str, error: io::Error) -> Error {
    Error::unavailable(format!("store cannot be read: file=`{file}`")).caused_by(error)
}

/// Returns whether the disk has no space, in all or for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
