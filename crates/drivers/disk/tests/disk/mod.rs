// SPDX-License-Identifier: Apache-2.0
//! The disk store as a subject of the kit.

use std::sync::{Arc, Mutex};

use atomix_conformance::{Configured, Subject};
use atomix_driver_disk::DiskDriver;
use atomix_env::Env;
use atomix_store::{Context, Driver, Error, JsonObject, Store};
use futures::future::BoxFuture;
use serde_json::json;
use tempfile::TempDir;

/// Makes each store in a separate folder, which goes with this value.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    folders: Mutex<Vec<TempDir>>,
}

impl Disk {
    fn config(&self, name: &str, value: usize) -> JsonObject {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let mut config = JsonObject::new();
        config.insert("dir".to_owned(), json!(folder.path()));
        config.insert(name.to_owned(), json!(value));
        self.folders.lock().expect("no test panics with the lock").push(folder);
        config
    }
}

fn open(config: JsonObject) -> BoxFuture<'static, Result<Arc<dyn Store>, Error>> {
    let context = Context { env: Env::real(), store: "it".to_owned() };
    Box::pin(async move { DiskDriver.connect(config, context).await })
}

impl Subject for Disk {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        open(self.config("history-commits-max", 4096))
    }

    fn open_configured(&self) -> BoxFuture<'_, Result<Configured, Error>> {
        let config = self.config("history-commits-max", 4096);
        Box::pin(async move { Ok((open(config.clone()).await?, config)) })
    }

    fn open_forgetful(&self, commits: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        Some(open(self.config("history-commits-max", commits)))
    }

    fn open_small(&self, bytes: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        Some(open(self.config("bytes-max", bytes)))
    }
}
