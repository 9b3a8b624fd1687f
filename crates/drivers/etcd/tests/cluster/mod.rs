// SPDX-License-Identifier: Apache-2.0
//! etcd servers for the tests of the driver, and stores on them.
#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail, starts tasks, and prints its results"
)]

pub(crate) mod ledger;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atomix_driver_etcd::EtcdDriver;
use atomix_env::Env;
use std::time::Duration;

use atomix_conformance::{Configured, Subject};
use atomix_servers::etcd::Etcd;
use atomix_store::{
    Context, Driver, Error, Health, Keyspace, Outcome, Profile, Read, Snapshot, Store, Txn, WatchFrom,
    WatchStream,
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Stores on one server, each under a separate prefix.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    server: OnceCell<Etcd>,
    stores: AtomicU64,
}

impl Subjects {
    async fn server(&self) -> &Etcd {
        self.server.get_or_init(|| Etcd::start(&[])).await
    }

    /// The configuration of a separate store on the shared server.
    async fn config(&self) -> Value {
        let endpoint = self.server().await.endpoint();
        let number = self.stores.fetch_add(1, Ordering::Relaxed);
        json!({"endpoints": [endpoint], "prefix": format!("test/{number}/")})
    }
}

impl Subject for Subjects {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(async { connect(self.config().await).await })
    }

    fn open_configured(&self) -> BoxFuture<'_, Result<Configured, Error>> {
        Box::pin(async {
            let config = self.config().await;
            let store = connect(config.clone()).await?;
            Ok((store, config.as_object().cloned().unwrap_or_default()))
        })
    }

    fn is_foreign(&self) -> bool {
        true
    }

    fn open_forgetful(&self, commits: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        Some(Box::pin(async move {
            let server = Etcd::start(&[]).await;
            let config = json!({"endpoints": [server.endpoint()], "history-commits-max": commits});
            let store: Arc<dyn Store> = Arc::new(Compacting {
                store: connect(config).await?,
                server,
                commits: commits as u64,
                compacted: AtomicU64::new(0),
            });
            Ok(store)
        }))
    }
}

/// A store whose etcd is compacted all the time.
#[derive(Debug)]
struct Compacting {
    store: Arc<dyn Store>,
    server: Etcd,
    commits: u64,
    compacted: AtomicU64,
}

impl Store for Compacting {
    fn profile(&self) -> &Profile {
        self.store.profile()
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        self.store.read(keyspace, reads)
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            let outcome = self.store.commit(keyspace, txn).await?;
            // 64 revisions of the store are one of etcd.
            let oldest = (outcome.revision.0 / 64).saturating_sub(self.commits) / 50 * 50;
            if self.compacted.fetch_max(oldest, Ordering::Relaxed) < oldest {
                self.server.compact(oldest).await;
            }
            Ok(outcome)
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        self.store.watch(keyspace, from)
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        self.store.check()
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.store.close(grace)
    }
}

/// Connects a store of this configuration.
pub(crate) async fn connect(config: Value) -> Result<Arc<dyn Store>, Error> {
    connect_in(Env::real(), config).await
}

/// Connects a store of this configuration in this outside world.
pub(crate) async fn connect_in(env: Env, config: Value) -> Result<Arc<dyn Store>, Error> {
    let Value::Object(config) = config else { panic!("a configuration is an object") };
    EtcdDriver.connect(config, Context { env, store: "test".to_owned() }).await
}
