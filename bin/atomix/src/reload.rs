// SPDX-License-Identifier: Apache-2.0
//! SIGHUP: the configuration is read again, and what can change while the process runs is applied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atomix_config::{Config, Loaded, StoreSpec};
use atomix_env::Env;
use atomix_runtime::Runtime;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::check::{mistakes, routes};
use crate::log::Log;

/// The configuration in force, and where to read the next one.
pub(crate) struct Reload {
    load: Load,
    config: Config,
    runtime: Arc<Runtime>,
    log: Log,
}

/// Reads the configuration from the sources that the process was started with.
pub(crate) type Load = Arc<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// The time limit of reading the file and resolving its names.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

// === impl Reload ===

impl Reload {
    pub(crate) fn new(load: Load, config: Config, runtime: Arc<Runtime>, log: Log) -> Self {
        Self { load, config, runtime, log }
    }

    /// Returns the configuration in force.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the configuration again and applies what can be applied. A wrong one changes nothing. The log shows which
    /// parts were applied and which need a restart. Not cancel safe: a part may have been applied.
    pub(crate) async fn run(&mut self, env: &Env) {
        let loaded = match self.read(env).await {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                tracing::error!(error = mistakes, "the configuration is wrong: the old one stays in force");
                return;
            }
        };
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let new = loaded.config;
        let restart = restarts(&self.config, &new);
        if new.log.level != self.config.log.level {
            self.log.set_level(new.log.level);
            tracing::info!(level = ?new.log.level, "reloaded: `log.level`");
            self.config.log.level = new.log.level;
        }
        for store in &new.stores {
            self.store(store).await;
        }
        for store in
            self.config.stores.iter().filter(|store| !new.stores.iter().any(|new| new.id() == store.id()))
        {
            tracing::warn!(store = %store.id(), "a store is not in the configuration any more: it stays connected until `atomix store disconnect` or a restart");
        }
        if new.routes != self.config.routes {
            self.routes(new);
        }
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "these settings need a restart");
        }
        tracing::info!("the configuration was reloaded");
    }

    /// Reads and checks the configuration on a thread of its own: files may be on a disk that does not answer.
    async fn read(&self, env: &Env) -> Result<Loaded, String> {
        let (sender, receiver) = oneshot::channel();
        let (load, runtime) = (Arc::clone(&self.load), Arc::clone(&self.runtime));
        let read = move || {
            let loaded = load().and_then(|loaded| {
                let mistakes = mistakes(&loaded, &runtime);
                if mistakes.is_empty() { Ok(loaded) } else { Err(mistakes.join("\n")) }
            });
            // A process that ends meanwhile does not need it.
            drop(sender.send(loaded));
        };
        env.thread("atomix-reload", read).map_err(|error| error.to_string())?;
        let late = || format!("it cannot be read in time: timeout=`{READ_TIMEOUT:?}`");
        let read = env.timeout(READ_TIMEOUT, receiver).await.map_err(|_| late())?;
        read.unwrap_or_else(|_| Err("reading it has ended by a defect".to_owned()))
    }

    async fn store(&mut self, new: &StoreSpec) {
        let id = new.id();
        let at = self.config.stores.iter().position(|store| store.id() == id);
        let Some(at) = at else {
            if self.runtime.store(&id).is_some() {
                tracing::warn!(store = %id, "a store of this name was connected at run time: it stays as it is");
                return;
            }
            match self.runtime.connect(id.clone(), new.driver.clone(), new.config.clone()).await {
                Ok(()) => {
                    tracing::info!(store = %id, "reloaded: a new store is being connected");
                    self.config.stores.push(new.clone());
                }
                Err(error) => tracing::error!(store = %id, %error, "a new store is refused"),
            }
            return;
        };
        let old = &self.config.stores[at];
        if old.driver != new.driver || (new.config.is_empty() && !old.config.is_empty()) {
            tracing::warn!(store = %id, "the driver of a store, or to have no `config` any more, needs a restart");
            return;
        }
        let applied = if old.config == new.config {
            // The files that it names may have another content.
            self.runtime.reconnect(&id).await
        } else {
            self.runtime.configure(&id, new.config.clone()).await.map(|()| true)
        };
        match applied {
            Ok(true) => {
                tracing::info!(store = %id, "reloaded: the store works with its new configuration and files");
                self.config.stores[at] = new.clone();
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(store = %id, %error, "a store goes on with its old configuration");
            }
        }
    }

    fn routes(&mut self, new: Config) {
        match routes(&new).map_or(Ok(()), |routes| self.runtime.program(routes)) {
            Ok(()) => {
                tracing::info!("reloaded: `routes`, for primitives that are created from now on");
                self.config.routes = new.routes;
            }
            Err(error) => tracing::error!(%error, "the new routes are refused: the old ones stay in force"),
        }
    }
}

/// Returns the settings that differ and are not applied while the process runs.
fn restarts(old: &Config, new: &Config) -> Vec<String> {
    let table = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(table)) => table,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (table(old), table(new));
    let mut keys = Vec::new();
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        if key == "stores" || key == "routes" || old.get(key) == new.get(key) {
            continue;
        }
        match (old.get(key), new.get(key)) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                let parts: BTreeSet<_> = old.keys().chain(new.keys()).collect();
                let differ = parts.into_iter().filter(|part| old.get(*part) != new.get(*part));
                keys.extend(differ.map(|part| format!("{key}.{part}")).filter(|key| key != "log.level"));
            }
            _ => keys.push(key.clone()),
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_need_a_restart_are_named() {
        let load = |flags: &[(&str, &str)]| {
            atomix_config::Loader::new().flags(flags.iter().copied()).load().unwrap().config
        };
        let old = load(&[]);
        assert!(restarts(&old, &load(&[("log.level", "debug")])).is_empty());
        let new = load(&[("log.level", "debug"), ("limits.batch-max", "7"), ("workers", "3")]);
        assert_eq!(restarts(&old, &new), ["limits.batch-max", "workers"]);
    }
}
