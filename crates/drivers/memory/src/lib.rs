// SPDX-License-Identifier: Apache-2.0
#![doc = include_str!("../docs.md")]

mod store;

use std::sync::Arc;

use atomix_store::{Context, Driver, Error, HistoryBudget, Machine, Store, StoreConfig, parse_config};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde::de::IgnoredAny;

pub use store::MemoryStore;

/// Makes stores that live in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryDriver;

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

// === impl MemoryDriver ===

impl Driver for MemoryDriver {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn version(&self) -> &'static str {
        "v1"
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        // The original's in-process drivers: contract/drivers.md section 1.
        &[("atomix.io/pod-memory", "v1"), ("PodMemory", "v1beta1"), ("Test", "v1")]
    }

    fn replaces(&self) -> &'static [&'static str] {
        &["podmemory"]
    }

    fn description(&self) -> &'static str {
        "keeps everything in this process and loses it with the process"
    }

    fn complete(&self, config: &mut StoreConfig, machine: &Machine) {
        atomix_engine::complete(config, machine);
    }

    fn shows(&self, field: &str) -> bool {
        // None of the fields is a secret.
        let ours =
            ["bytesmax", "historycommitsmax", "historybytesmax", "historiesbytesmax", "sessiontimeout"];
        ours.contains(&field) || field.split('.').next() == Some("partitions")
    }

    fn validate(&self, config: &StoreConfig) -> Result<(), Error> {
        Settings::read(config).map(drop)
    }

    fn connect(&self, config: StoreConfig, context: Context) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(async move {
            let store: Arc<dyn Store> =
                Arc::new(MemoryStore::with_env(Settings::read(&config)?, &context.env));
            Ok(store)
        })
    }
}

// === impl Settings ===

impl Settings {
    fn read(config: &StoreConfig) -> Result<Self, Error> {
        let settings: Self = parse_config(config)?;
        if settings.history_commits_max == 0 {
            return Err(Error::config(
                "store configuration is wrong: `history-commits-max` must be at least 1",
            ));
        }
        Ok(settings)
    }
}

impl Default for Settings {
    fn default() -> Self {
        let retention = atomix_store::Retention::default();
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
