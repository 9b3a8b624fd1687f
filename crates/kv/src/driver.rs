// SPDX-License-Identifier: Apache-2.0
//! The trait that makes stores.

use std::fmt;
use std::sync::Arc;

use atomix_env::Env;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::{Error, Store};

/// The configuration of a store as the operator wrote it: one JSON object.
pub type StoreConfig = serde_json::Map<String, serde_json::Value>;

/// What a driver may use of the outside world.
#[derive(Debug, Clone)]
pub struct Context {
    /// Time, chance and tasks.
    pub env: Env,
    /// The store's name, for messages.
    pub store: String,
}

/// Makes stores of one kind.
pub trait Driver: Send + Sync + fmt::Debug + 'static {
    /// Returns the driver's name, such as `memory`.
    fn name(&self) -> &'static str;

    /// Returns the version of its configuration and behaviour, such as `v1`.
    fn version(&self) -> &'static str;

    /// Returns the other names and versions under which the driver is asked for.
    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Returns one sentence for operators: what the stores keep and where.
    fn description(&self) -> &'static str;

    /// Checks a configuration without connecting. An error names the field ([`crate::ErrorKind::Config`]).
    fn validate(&self, config: &StoreConfig) -> Result<(), Error>;

    /// Connects a store.
    ///
    /// # Behaviour
    /// - bad configuration: [`crate::ErrorKind::Config`].
    /// - backend not reachable: [`crate::ErrorKind::Unavailable`]; the caller tries again.
    /// - cancelled: nothing is left behind.
    fn connect(&self, config: StoreConfig, context: Context) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>>;
}

/// Reads a typed configuration. Unknown fields are errors if `T` denies them; every error names its field.
pub fn parse_config<T: DeserializeOwned>(config: &StoreConfig) -> Result<T, Error> {
    serde_json::from_value(serde_json::Value::Object(config.clone()))
        .map_err(|error| Error::config(format!("store configuration is wrong: {error}")))
}
