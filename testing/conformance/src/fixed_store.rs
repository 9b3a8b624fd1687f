// SPDX-License-Identifier: Apache-2.0
//! A driver for stores that a test has made.

use std::fmt;
use std::sync::Arc;

use atomix_store::{Context, Driver, Error, JsonObject, Store};
use futures::future::{BoxFuture, ready};

/// A driver that makes nothing: to connect is to get what the test hands out. Its name is `test`/`v1`.
pub struct FixedStoreDriver(Box<dyn Fn() -> Arc<dyn Store> + Send + Sync>);

// === impl FixedStoreDriver ===

impl FixedStoreDriver {
    /// Hands out what `store` returns, each time that a store is connected.
    pub fn new(store: impl Fn() -> Arc<dyn Store> + Send + Sync + 'static) -> Self {
        Self(Box::new(store))
    }
}

impl fmt::Debug for FixedStoreDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FixedStoreDriver").finish_non_exhaustive()
    }
}

impl Driver for FixedStoreDriver {
    fn name(&self) -> &'static str {
        "test"
    }

    fn version(&self) -> &'static str {
        "v1"
    }

    fn description(&self) -> &'static str {
        "hands out a store of the test"
    }

    fn validate(&self, _config: &JsonObject) -> Result<(), Error> {
        Ok(())
    }

    fn connect(
        &self,
        _config: JsonObject,
        _context: Context,
    ) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(ready(Ok((self.0)())))
    }
}
