// SPDX-License-Identifier: Apache-2.0
#![doc = include_str!("../docs.md")]

mod config;
mod core;
mod error;
mod store;

use std::sync::Arc;

use atomix_store::{Context, Driver, Error, JsonObject, Machine, Store};
use futures::future::BoxFuture;

pub use config::Settings;
pub use store::MemoryStore;

/// Makes stores that live in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryDriver;

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

    fn complete(&self, config: &mut JsonObject, machine: &Machine) {
        atomix_engine::complete(config, machine);
    }

    fn shows(&self, field: &str) -> bool {
        // None of the fields is a secret.
        let ours =
            ["bytesmax", "historycommitsmax", "historybytesmax", "historiesbytesmax", "sessiontimeout"];
        ours.contains(&field) || field.split('.').next() == Some("partitions")
    }

    fn validate(&self, config: &JsonObject) -> Result<(), Error> {
        Settings::read(config).map(drop)
    }

    fn connect(&self, config: JsonObject, context: Context) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(async move {
            let store: Arc<dyn Store> =
                Arc::new(MemoryStore::with_env(Settings::read(&config)?, &context.env));
            Ok(store)
        })
    }
}
