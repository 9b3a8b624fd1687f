// SPDX-License-Identifier: Apache-2.0
//! The library of functions that Redis runs.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::config::Settings;
use crate::program::limits;

/// Our library with the settings written into it. Its names carry a digest, so that runtimes of several versions and
/// settings work side by side on one Redis.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) source: String,
    pub(crate) commit: String,
    /// As `commit`, for what does not grow the keyspace.
    pub(crate) shrink: String,
    pub(crate) read: String,
    /// Makes sure that a keyspace has a state.
    pub(crate) found: String,
    /// Gives an empty keyspace back.
    pub(crate) reclaim: String,
    /// The suffix of channel names.
    pub(crate) channel: String,
}

// === impl Library ===

impl Library {
    pub(crate) fn new(settings: &Settings) -> Self {
        let channel = match settings.database {
            0 => String::new(),
            database => database.to_string(),
        };
        let limits = limits();
        let body = include_str!("library.lua")
            .replace("$HISTORY_COMMITS_MAX", &settings.history_commits_max.to_string())
            .replace("$HISTORY_BYTES_HALF", &(settings.history_bytes_max / 2).to_string())
            .replace("$SCAN_BYTES_MAX", &limits.scan_bytes_max.to_string())
            .replace("$ONCE_MAX", &limits.once_max.to_string())
            .replace("$CHANNEL", &channel);
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let digest = format!("{:016x}", hasher.finish());
        Self {
            source: format!("#!lua name=atomix_{digest}\n{}", body.replace("$HASH", &digest)),
            commit: format!("commit_{digest}"),
            shrink: format!("shrink_{digest}"),
            read: format!("read_{digest}"),
            found: format!("found_{digest}"),
            reclaim: format!("reclaim_{digest}"),
            channel,
        }
    }
}
