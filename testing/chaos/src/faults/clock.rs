// SPDX-License-Identifier: Apache-2.0
//! A wall clock that jumps, for one process. Its monotonic clock does not.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// The clock. It is right until it jumps.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    folder: TempDir,
}

// === impl Clock ===

impl Clock {
    /// Makes a clock; if that does not work here, prints that `what` is skipped.
    #[allow(clippy::print_stdout, reason = "a test that is skipped prints the reason")]
    pub fn or_skip(what: &str) -> Option<Self> {
        let places = fs::read_dir("/usr/lib").ok()?.flatten();
        let library = places
            .map(|place| place.path().join("faketime/libfaketime.so.1"))
            .find(|library| library.exists());
        if library.is_none() {
            println!("{what}: skipped, needs libfaketime");
        }
        let clock = Self { library: library?, folder: tempfile::tempdir().ok()? };
        clock.jump(0);
        Some(clock)
    }

    /// Gives the clock to a program.
    pub fn preload(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    /// Lets the clock be so many seconds ahead of the right time, or behind it.
    pub fn jump(&self, seconds: i64) {
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("the folder is ours");
        // The reader never sees half a number.
        fs::rename(new, self.file()).expect("the folder is ours");
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}
