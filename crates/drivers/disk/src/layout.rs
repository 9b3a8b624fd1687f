// SPDX-License-Identifier: Apache-2.0
//! The names of the files in the folder of a store.

/// The suffix of a file that is not complete yet.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// Returns the name of the log that begins with batch `first`.
pub(crate) fn log_name(first: u64) -> String {
    format!("log-{first:016x}")
}

/// Returns the name of the snapshot after which batch `next` comes.
pub(crate) fn snapshot_name(next: u64) -> String {
    format!("snapshot-{next:016x}")
}

/// Returns the number in the name of a file of this kind.
pub(crate) fn number(name: &str, kind: &str) -> Option<u64> {
    let digits = name.strip_prefix(kind)?.strip_prefix('-')?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Returns the name of a file that is not complete yet.
pub(crate) fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED}")
}
