// SPDX-License-Identifier: Apache-2.0
#![doc = include_str!("../docs.md")]

mod commit_queue;
mod config;
mod core;
mod cursor;
mod dial;
mod error;
mod follow;
mod frame;
mod library;
mod link;
mod names;
mod nodes;
mod position;
mod program;
mod server;
mod store;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;

use atomix_store::{Context, Driver, Error, HistoryBudget, JsonObject, Machine, Store};
use futures::future::BoxFuture;

pub use config::{Persistence, Settings};
pub use store::RedisStore;

/// Makes stores whose keyspaces are in Redis.
#[derive(Debug, Clone, Copy, Default)]
pub struct RedisDriver;

// === impl RedisDriver ===

impl Driver for RedisDriver {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn version(&self) -> &'static str {
        "v1"
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        // The original's drivers: contract/drivers.md section 1.
        &[("atomix.io/redis", "v8"), ("atomix.io/redis", "v9")]
    }

    fn replaces(&self) -> &'static [&'static str] {
        &["sharedmemory"]
    }

    fn description(&self) -> &'static str {
        "keeps everything in an existing Redis: one server, one with sentinels, or a cluster"
    }

    fn complete(&self, config: &mut JsonObject, machine: &Machine) {
        HistoryBudget::complete(config, machine);
    }

    fn shows(&self, field: &str) -> bool {
        Settings::shows(field)
    }

    fn validate(&self, config: &JsonObject) -> Result<(), Error> {
        Settings::read(config).map(drop)
    }

    fn files(&self, config: &JsonObject) -> Vec<PathBuf> {
        Settings::read(config).map(|settings| settings.files()).unwrap_or_default()
    }

    fn connect(&self, config: JsonObject, context: Context) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(async move {
            let store: Arc<dyn Store> =
                Arc::new(RedisStore::connect(Settings::read(&config)?, context.env).await?);
            Ok(store)
        })
    }
}
