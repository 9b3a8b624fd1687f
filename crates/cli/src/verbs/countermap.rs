// SPDX-License-Identifier: Apache-2.0
//! `atomix countermap`

use std::process::ExitCode;

use atomix_client::countermap::Event;
use atomix_client::{Client, CounterMap};
use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure, absent};
use crate::held;
use crate::text::show;
use crate::verbs::{change, follow, listed};

/// The verbs of a counter map.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the number of a key
    Get {
        /// The map
        name: String,
        /// The key
        key: String,
    },
    /// Set the number of a key
    Set {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The number
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Set the number of a new key
    Insert {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The number
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Set the number of a key if it is CHECK
    Update {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The expected number
        #[arg(allow_negative_numbers = true)]
        check: i64,
        /// The new number
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Add to the number of a key and print it
    Incr {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The amount; not 0
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
    },
    /// Subtract from the number of a key and print it
    Decr {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The amount; not 0
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
    },
    /// Remove a key and print its number
    #[command(alias = "delete")]
    Remove {
        /// The map
        name: String,
        /// The key
        key: String,
        /// Only if the number is this; not 0
        #[arg(long, allow_negative_numbers = true, value_name = "NUMBER")]
        check: Option<i64>,
    },
    /// Print how many keys there are
    Size {
        /// The map
        name: String,
    },
    /// Remove all keys
    Clear {
        /// The map
        name: String,
    },
    /// Print all keys with their numbers
    List {
        /// The map
        name: String,
    },
    /// Print every change from now on
    #[command(alias = "tail")]
    Watch {
        /// The map
        name: String,
        /// Only of this key
        #[arg(long)]
        key: Option<String>,
    },
    /// Hold the locks of keys while a command runs
    Lock(held::LockKeys),
    /// Unlock keys; only useful on a server that gives all its clients one session
    Unlock {
        /// The map
        name: String,
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

impl Verb {
    fn name(&self) -> &str {
        match self {
            Self::Get { name, .. }
            | Self::Set { name, .. }
            | Self::Insert { name, .. }
            | Self::Update { name, .. }
            | Self::Incr { name, .. }
            | Self::Decr { name, .. }
            | Self::Remove { name, .. }
            | Self::Size { name }
            | Self::Clear { name }
            | Self::List { name }
            | Self::Watch { name, .. }
            | Self::Unlock { name, .. } => name,
            Self::Lock(lock) => &lock.name,
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        if let Self::Lock(lock) = self {
            let name = lock.name.clone();
            let map = |client: Client| async move { context.open(client.counter_map(name)).await };
            return lock.run(context, map, CounterMap::lock).await;
        }
        let printer = context.printer;
        let client = context.client().await?;
        let map = context.open(client.counter_map(self.name())).await?;
        let number =
            |key: &str, value: i64| printer.line(value.to_string(), &json!({"key": key, "value": value}));
        match self {
            Self::Lock(_) => {}
            Self::Get { key, .. } => match map.get(&key).await? {
                Some(value) => number(&key, value)?,
                None => return Err(absent(&key)),
            },
            Self::Set { key, value, .. } => {
                let previous = map.set(&key, value).await?;
                printer.line(
                    value.to_string(),
                    &json!({"key": key, "value": value, "previous_value": previous}),
                )?;
            }
            Self::Insert { key, value, .. } => {
                map.insert(&key, value).await?;
                number(&key, value)?;
            }
            Self::Update { key, check, value, .. } => {
                map.update(&key, check, value).await?;
                number(&key, value)?;
            }
            Self::Incr { key, delta, .. } => number(&key, map.increment(&key, delta).await?)?,
            Self::Decr { key, delta, .. } => number(&key, map.decrement(&key, delta).await?)?,
            Self::Remove { key, check: Some(check), .. } => {
                if !map.remove_if(&key, check).await? {
                    return Err(absent(&key));
                }
                number(&key, check)?;
            }
            Self::Remove { key, check: None, .. } => match map.remove(&key).await? {
                Some(value) => number(&key, value)?,
                None => return Err(absent(&key)),
            },
            Self::Size { .. } => {
                let size = map.size().await?;
                printer.line(size.to_string(), &json!({"size": size}))?;
            }
            Self::Clear { .. } => {
                map.clear().await?;
                printer.object(&json!({"cleared": true}))?;
            }
            Self::List { .. } => {
                return listed(context, map.entries().await?, |entry| {
                    let human = format!("{}\t{}", show(entry.key.as_bytes()), entry.value);
                    printer.line(human, &json!({"key": entry.key, "value": entry.value}))
                })
                .await;
            }
            Self::Watch { key, .. } => {
                return follow(map.events().key(key.unwrap_or_default()).await?, |event| match event {
                    Event::Inserted { key, value } => {
                        let object = json!({"key": key, "value": value});
                        change(printer, "inserted", &[&key, &value.to_string()], object)
                    }
                    Event::Updated { key, value, previous } => {
                        let object = json!({"key": key, "value": value, "previous_value": previous});
                        change(printer, "updated", &[&key, &value.to_string()], object)
                    }
                    Event::Removed { key, value } => {
                        let object = json!({"key": key, "value": value});
                        change(printer, "removed", &[&key, &value.to_string()], object)
                    }
                    _ => Ok(()),
                })
                .await;
            }
            Self::Unlock { keys, .. } => {
                map.unlock(&keys).await?;
                printer.object(&json!({"unlocked": keys}))?;
            }
        }
        Ok(DONE)
    }
}
