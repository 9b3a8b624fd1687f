// SPDX-License-Identifier: Apache-2.0
#![doc = include_str!("../docs.md")]

mod config;
mod core;
mod error;
mod files;
mod frame;
mod journal;
mod keeper;
mod layout;
mod offline;
mod record;
mod recover;
mod reserve;
mod segment;
mod snapshot;
mod space;
mod store;
mod writer;

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod sim;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::Env;
use atomix_store::{Context, Driver, Error, JsonObject, Machine, Store, fold};
use futures::future::BoxFuture;
use tokio::sync::oneshot;

pub use config::{Settings, Syncing};
pub use offline::{Report, restore, verify};
pub use store::DiskStore;

use config::FIELDS;
use files::Folder;

/// Makes stores that live in a folder of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskDriver;

// === impl DiskDriver ===

impl Driver for DiskDriver {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn version(&self) -> &'static str {
        "v1"
    }

    fn description(&self) -> &'static str {
        "keeps everything in a folder of this machine: what was answered survives a power cut"
    }

    fn complete(&self, config: &mut JsonObject, machine: &Machine) {
        atomix_engine::complete(config, machine);
    }

    fn shows(&self, field: &str) -> bool {
        FIELDS.iter().any(|ours| fold(ours) == field)
    }

    fn validate(&self, config: &JsonObject) -> Result<(), Error> {
        Settings::read(config).map(drop)
    }

    fn preflight(&self, config: &JsonObject) -> Result<(), Error> {
        files::usable(Path::new(&Settings::read(config)?.dir))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn connect_timeout(&self) -> Duration {
        // Everything is read, about a million entries a second. What cannot be read fails by itself.
        Duration::from_hours(1)
    }

    fn connect(&self, config: JsonObject, context: Context) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(async move {
            let settings = Settings::read(&config)?;
            let env = &context.env;
            let begun = env.now();
            loop {
                // A store that this process has closed keeps the folder until its last call has ended. Asked before the
                // attempt, because it may end right after it.
                let closing = files::is_held_by_this_process(Path::new(&settings.dir));
                let opened = open(env, settings.clone()).await;
                if opened.is_ok() || !closing || env.now().since(begun) >= CLOSING_MAX {
                    return opened.map(|store| Arc::new(store) as Arc<dyn Store>);
                }
                env.sleep(CLOSING_MAX / 100).await;
            }
        })
    }
}

/// The time for which a store waits until its predecessor in the same process releases the folder.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// Reads a store on a separate thread.
async fn open(env: &Env, settings: Settings) -> Result<DiskStore, Error> {
    let (sender, opened) = oneshot::channel();
    let own = env.clone();
    let open = move || {
        let store = Folder::open(Path::new(&settings.dir))
            .and_then(|folder| DiskStore::open(Arc::new(folder), settings, own));
        // A caller that is gone wants no store: it is closed by being dropped.
        drop(sender.send(store));
    };
    let failed = |error| Error::unavailable("no thread to read the store with").caused_by(error);
    env.thread("atomix-open", open).map_err(failed)?;
    let gone = |_| Error::new(atomix_store::ErrorKind::Internal, "reading the store ended without a result");
    opened.await.map_err(gone)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_field_may_be_shown() {
        for field in FIELDS {
            let mut config = JsonObject::new();
            config.insert(field.to_owned(), json!(1.5));
            assert_eq!(atomix_store::redact(&config, &|field| DiskDriver.shows(field)), config);
            let error = DiskDriver.validate(&config).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`: ")), "{error}");
        }
        let unknown: JsonObject = [("secret-key".to_owned(), json!("hunter2"))].into_iter().collect();
        let shown = atomix_store::redact(&unknown, &|field| DiskDriver.shows(field));
        assert_eq!(shown["secret-key"], atomix_store::HIDDEN);
    }
}
