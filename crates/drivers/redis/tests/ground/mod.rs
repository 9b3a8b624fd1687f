// SPDX-License-Identifier: Apache-2.0
//! Redis as a subject of the kit: one server for all, a prefix of its own for each store.
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atomix_driver_redis::RedisDriver;
use atomix_env::Env;
use atomix_kv::{Context, Driver, Error, Store, StoreConfig};
use atomix_kv_testkit::servers::redis::Redis;
use atomix_kv_testkit::{Configured, Subject};
use futures::future::BoxFuture;

/// A server, and stores on it.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) redis: Redis,
    pub(crate) config: StoreConfig,
    stores: AtomicU64,
}

/// Connects a store.
pub(crate) async fn connect(config: StoreConfig) -> Result<Arc<dyn Store>, Error> {
    connect_in(Env::real(), config).await
}

/// Connects a store in this outside world.
pub(crate) async fn connect_in(env: Env, config: StoreConfig) -> Result<Arc<dyn Store>, Error> {
    RedisDriver.connect(config, Context { env, store: "test".to_owned() }).await
}

/// Makes a configuration out of JSON.
pub(crate) fn config(json: serde_json::Value) -> StoreConfig {
    let serde_json::Value::Object(config) = json else { panic!("no object: {json}") };
    config
}

// === impl Ground ===

impl Ground {
    /// Starts a server with these arguments.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let redis = Redis::start(arguments).await;
        let config = config(serde_json::json!({ "address": redis.address() }));
        Self { redis, config, stores: AtomicU64::new(0) }
    }

    /// The configuration of a store that is empty, with these fields beside.
    pub(crate) fn fresh(&self, fields: serde_json::Value) -> StoreConfig {
        let mut fresh = self.config.clone();
        let store = self.stores.fetch_add(1, Ordering::Relaxed);
        fresh.insert("key-prefix".to_owned(), format!("t{store}:").into());
        fresh.extend(config(fields));
        fresh
    }
}

impl Subject for Ground {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(connect(self.fresh(serde_json::json!({}))))
    }

    fn open_configured(&self) -> BoxFuture<'_, Result<Configured, Error>> {
        Box::pin(async {
            let config = self.fresh(serde_json::json!({}));
            Ok((connect(config.clone()).await?, config))
        })
    }

    fn open_forgetful(&self, commits: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        Some(Box::pin(connect(self.fresh(serde_json::json!({ "history-commits-max": commits })))))
    }
}
