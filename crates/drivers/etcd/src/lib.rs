// SPDX-License-Identifier: Apache-2.0
#![doc = include_str!("../docs.md")]

mod commit;
mod config;
mod connection;
mod core;
#[cfg(feature = "test-util")]
pub mod direct;
mod error;
mod http2;
mod keys;
mod link;
mod once;
mod plan;
mod senders;
mod store;
mod tls;
mod watch;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use atomix_store::{Context, Driver, Error, HistoryBudget, JsonObject, Machine, Store};
use futures::future::BoxFuture;

pub use config::{Settings, Tls};
pub use store::EtcdStore;

/// Makes stores in an existing etcd cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct EtcdDriver;

// === impl EtcdDriver ===

impl Driver for EtcdDriver {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn version(&self) -> &'static str {
        "v3"
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        // The original's driver: contract/drivers.md section 1.
        &[("atomix.io/etcd", "v3")]
    }

    fn replaces(&self) -> &'static [&'static str] {
        &["raft", "multiraft", "sharedmemory"]
    }

    fn description(&self) -> &'static str {
        "keeps everything in an existing etcd cluster, version 3.4 or later"
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
                Arc::new(EtcdStore::connect(Settings::read(&config)?, context.env).await?);
            Ok(store)
        })
    }
}
