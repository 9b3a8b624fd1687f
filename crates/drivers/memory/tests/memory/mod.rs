// SPDX-License-Identifier: Apache-2.0
//! The memory store as a subject of the kit.

use std::sync::Arc;

use atomix_conformance::Subject;
use atomix_driver_memory::{MemoryStore, Settings};
use atomix_store::{Error, Store};
use futures::future::{BoxFuture, ready};

#[derive(Debug)]
pub(crate) struct Memory;

fn open(settings: Settings) -> BoxFuture<'static, Result<Arc<dyn Store>, Error>> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(settings));
    Box::pin(ready(Ok(store)))
}

impl Subject for Memory {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        open(Settings::default())
    }

    fn open_forgetful(&self, commits: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        Some(open(Settings { history_commits_max: commits, ..Settings::default() }))
    }

    fn open_small(&self, bytes: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        Some(open(Settings { bytes_max: bytes, ..Settings::default() }))
    }
}
