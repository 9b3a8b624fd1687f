// SPDX-License-Identifier: Apache-2.0
//! The configuration of a disk store.

use std::time::Duration;

use atomix_store::{Error, JsonObject, Retention, deserialize_duration, parse_config};
use serde::Deserialize;

/// The configuration of a disk store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The folder of the store. It is made if it is not there, and used by one process at a time.
    pub dir: String,
    /// The moment at which a commit is answered.
    #[serde(default)]
    pub durability: Syncing,
    /// With `interval`: how long what was answered may not be on the disk yet. Default 100 ms; 1 ms to 1 h.
    #[serde(default = "defaults::sync_interval", deserialize_with = "deserialize_duration")]
    pub sync_interval: Duration,
    /// Bytes of keys and values in the whole store, with 384 for each entry and 1,024 for each keyspace; all of it is kept
    /// in memory. Writes beyond are refused, deletes still work. The driver's default is three eighths of the memory of
    /// the process, for all embedded stores together.
    #[serde(default = "defaults::bytes_max")]
    pub bytes_max: usize,
    /// Commits per keyspace that a watch may lag behind, also across a restart. Default 4,096; at least 1.
    #[serde(default = "defaults::history_commits_max")]
    pub history_commits_max: usize,
    /// Bytes of those commits. Default 4 MiB.
    #[serde(default = "defaults::history_bytes_max")]
    pub history_bytes_max: usize,
    /// Bytes of the histories of all keyspaces. Beyond, each keeps what its watches have not seen yet, and its last few
    /// commits. The driver's default is a sixteenth of the memory of the process, at most 64 MiB.
    #[serde(default = "defaults::histories_bytes_max")]
    pub histories_bytes_max: usize,
    /// The minimum time for which a commit is kept for watches; at most a quarter longer. Measured while the
    /// process runs. Default 1 h; 1 s to 30 d.
    #[serde(default = "defaults::history_age_max", deserialize_with = "deserialize_duration")]
    pub history_age_max: Duration,
    /// Bytes of logs after which a snapshot replaces them. Default 64 MiB; at least 1 MiB.
    #[serde(default = "defaults::log_bytes_max")]
    pub log_bytes_max: u64,
}

/// The names of the fields. None is a secret.
pub(crate) const FIELDS: [&str; 9] = [
    "dir",
    "durability",
    "sync-interval",
    "bytes-max",
    "history-commits-max",
    "history-bytes-max",
    "histories-bytes-max",
    "history-age-max",
    "log-bytes-max",
];

/// The moment at which a commit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Syncing {
    /// After it is on the disk. Commits that arrive during a sync share the next one.
    #[default]
    Sync,
    /// After it is written; it is on the disk within [`Settings::sync_interval`].
    Interval,
}

/// The default values of the fields.
mod defaults {
    use std::time::Duration;

    use atomix_store::{HistoryBudget, Retention};

    pub(super) fn sync_interval() -> Duration {
        Duration::from_millis(100)
    }

    pub(super) fn bytes_max() -> usize {
        4 << 30
    }

    pub(super) fn history_commits_max() -> usize {
        Retention::default().commits_max
    }

    pub(super) fn history_bytes_max() -> usize {
        Retention::default().bytes_max
    }

    pub(super) fn histories_bytes_max() -> usize {
        HistoryBudget::BYTES_MAX
    }

    pub(super) fn history_age_max() -> Duration {
        Duration::from_hours(1)
    }

    pub(super) fn log_bytes_max() -> u64 {
        64 << 20
    }
}

/// Settings that a new configuration may change in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    pub(crate) bytes_max: usize,
    pub(crate) retention: Retention,
    pub(crate) history_age_max: Duration,
    pub(crate) log_bytes_max: u64,
}

// === impl Settings ===

impl Settings {
    pub(crate) fn read(config: &JsonObject) -> Result<Self, Error> {
        let settings: Self = parse_config(config)?;
        let wrong = |field: &str, bounds: &str| {
            Err(Error::config(format!("store configuration is wrong: `{field}` must be {bounds}")))
        };
        if settings.dir.is_empty() {
            return wrong("dir", "the path of a folder");
        }
        if settings.history_commits_max == 0 {
            return wrong("history-commits-max", "at least 1");
        }
        if settings.log_bytes_max < 1 << 20 {
            return wrong("log-bytes-max", "at least 1048576");
        }
        if !(Duration::from_millis(1)..=Duration::from_hours(1)).contains(&settings.sync_interval) {
            return wrong("sync-interval", "1ms to 1h");
        }
        if !(Duration::from_secs(1)..=Duration::from_hours(30 * 24)).contains(&settings.history_age_max) {
            return wrong("history-age-max", "1s to 30d");
        }
        Ok(settings)
    }

    pub(crate) fn interval(&self) -> Option<Duration> {
        (self.durability == Syncing::Interval).then_some(self.sync_interval)
    }

    pub(crate) fn tuning(&self) -> Tuning {
        Tuning {
            bytes_max: self.bytes_max,
            retention: Retention { commits_max: self.history_commits_max, bytes_max: self.history_bytes_max },
            history_age_max: self.history_age_max,
            log_bytes_max: self.log_bytes_max,
        }
    }
}
