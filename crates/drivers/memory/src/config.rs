// SPDX-License-Identifier: Apache-2.0
//! The configuration of a memory store.

use atomix_store::{Error, HistoryBudget, JsonObject, Retention, parse_config};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The configuration of a memory store.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Bytes of keys and values in the whole store, with 384 for each entry and 1,024 for each keyspace; writes beyond
    /// are refused, deletes still work. The driver's default is three eighths of the memory of the process, for all embedded
    /// stores together.
    pub bytes_max: usize,
    /// Commits per keyspace that a watch may lag behind. Default 4,096; at least 1.
    pub history_commits_max: usize,
    /// Bytes of those commits. Default 4 MiB.
    pub history_bytes_max: usize,
    /// Bytes of the histories of all keyspaces. Beyond, each keeps what its watches have not seen yet, and its last few
    /// commits. The driver's default is a sixteenth of the memory of the process, at most 64 MiB.
    pub histories_bytes_max: usize,
    /// Accepted from configurations of the original's `pod-memory` driver, without effect: a process is one partition.
    pub partitions: IgnoredAny,
    /// Accepted from such configurations, without effect: sessions are those of the runtime.
    #[serde(alias = "sessionTimeout", alias = "session_timeout")]
    pub session_timeout: IgnoredAny,
}

// === impl Settings ===

impl Settings {
    pub(crate) fn read(config: &JsonObject) -> Result<Self, Error> {
        let settings: Self = parse_config(config)?;
        if settings.history_commits_max == 0 {
            return Err(Error::config(
                "store configuration is wrong: `history-commits-max` must be at least 1",
            ));
        }
        Ok(settings)
    }

    /// Returns what a keyspace keeps for its watches.
    pub(crate) fn retention(&self) -> Retention {
        Retention { commits_max: self.history_commits_max, bytes_max: self.history_bytes_max }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let retention = Retention::default();
        Self {
            bytes_max: 4 * 1024 * 1024 * 1024,
            history_commits_max: retention.commits_max,
            history_bytes_max: retention.bytes_max,
            histories_bytes_max: HistoryBudget::BYTES_MAX,
            partitions: IgnoredAny,
            session_timeout: IgnoredAny,
        }
    }
}
