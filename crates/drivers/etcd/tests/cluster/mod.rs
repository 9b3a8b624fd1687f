// SPDX-License-Identifier: Apache-2.0
//! etcd servers for the tests of the driver, and stores on them.
#![allow(dead_code, reason = "every test uses a part of it")]

pub(crate) mod ledger;
pub(crate) mod proxy;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atomix_driver_etcd::EtcdDriver;
use atomix_env::Env;
use atomix_kv::{Context, Driver, Error, Store};
use atomix_kv_testkit::Subject;
use atomix_kv_testkit::servers::etcd::Etcd;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Stores on one server, each under a prefix of its own.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    server: OnceCell<Etcd>,
    stores: AtomicU64,
}

impl Subjects {
    async fn server(&self) -> &Etcd {
        self.server.get_or_init(|| Etcd::start(&[])).await
    }

    /// Connects a store of its own on the shared server.
    pub(crate) async fn connect(&self, more: Value) -> Result<Arc<dyn Store>, Error> {
        let endpoint = self.server().await.endpoint();
        let number = self.stores.fetch_add(1, Ordering::Relaxed);
        let mut config = json!({"endpoints": [endpoint], "prefix": format!("test/{number}/")});
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        connect(config).await
    }
}

impl Subject for Subjects {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(self.connect(json!({})))
    }

    fn is_foreign(&self) -> bool {
        true
    }
}

/// Connects a store of this configuration.
pub(crate) async fn connect(config: Value) -> Result<Arc<dyn Store>, Error> {
    let Value::Object(config) = config else { panic!("a configuration is an object") };
    EtcdDriver.connect(config, Context { env: Env::real(), store: "test".to_owned() }).await
}
