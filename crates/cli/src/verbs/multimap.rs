// SPDX-License-Identifier: Apache-2.0
//! `atomix multimap`

use std::process::ExitCode;

use atomix_client::multimap::Event;
use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{CONFLICT, DONE, Failure, absent, found};
use crate::text::show;
use crate::verbs::{Given, change, follow, listed};

/// The verbs of a multimap.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the values of a key, one a line
    Get {
        /// The map
        name: String,
        /// The key
        key: String,
    },
    /// Print whether a key has a value; exit code 3 if not
    Contains {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
    },
    /// Add values to a key; exit code 4 if it has all of them
    Put {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The values; `-` for standard input, `@FILE` for a file
        #[arg(required = true)]
        values: Vec<String>,
        #[command(flatten)]
        given: Given,
    },
    /// Give a key exactly these values
    Replace {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The values, `-` for standard input, `@FILE` for a file; none remove the key
        values: Vec<String>,
        #[command(flatten)]
        given: Given,
    },
    /// Remove values of a key, or all; exit code 3 if it has none of them
    #[command(alias = "delete")]
    Remove {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The values, `-` for standard input, `@FILE` for a file; none stand for all
        values: Vec<String>,
        #[command(flatten)]
        given: Given,
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
    /// Print all keys with their values
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
}

impl Verb {
    fn name(&self) -> &str {
        let (Self::Get { name, .. }
        | Self::Contains { name, .. }
        | Self::Put { name, .. }
        | Self::Replace { name, .. }
        | Self::Remove { name, .. }
        | Self::Size { name }
        | Self::Clear { name }
        | Self::List { name }
        | Self::Watch { name, .. }) = self;
        name
    }

    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let printer = context.printer;
        let client = context.client().await?;
        let map = context.open(client.multimap(self.name())).await?;
        match self {
            Self::Get { key, .. } => {
                let values = map.get(&key).await?;
                if values.is_empty() {
                    return Err(absent(&key));
                }
                values.iter().try_for_each(|value| printer.human(show(value.as_bytes())))?;
                printer.object(&json!({"key": key, "values": values}))?;
            }
            Self::Contains { key, value, given, .. } => {
                let value = given.text(&value)?;
                let contains = map.contains(&key, &value).await?;
                printer
                    .line(contains.to_string(), &json!({"key": key, "value": value, "contains": contains}))?;
                return Ok(found(contains));
            }
            Self::Put { key, values, given, .. } => {
                let added = map.put_all(&key, given.texts(&values)?).await?;
                printer.line(
                    if added { "added" } else { "exists already" },
                    &json!({"key": key, "added": added}),
                )?;
                return Ok(if added { DONE } else { ExitCode::from(CONFLICT) });
            }
            Self::Replace { key, values, given, .. } => {
                let previous = map.replace(&key, given.texts(&values)?).await?;
                printer.object(&json!({"key": key, "previous_values": previous}))?;
            }
            Self::Remove { key, values, given, .. } => {
                let removed = if values.is_empty() {
                    !map.replace(&key, Vec::<String>::new()).await?.is_empty()
                } else {
                    map.remove_all(&key, given.texts(&values)?).await?
                };
                printer.line(
                    if removed { "removed" } else { "not found" },
                    &json!({"key": key, "removed": removed}),
                )?;
                return Ok(found(removed));
            }
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
                    let values: Vec<String> =
                        entry.values.iter().map(|value| show(value.as_bytes())).collect();
                    let human = format!("{}\t{}", show(entry.key.as_bytes()), values.join("\t"));
                    printer.line(human, &json!({"key": entry.key, "values": entry.values}))
                })
                .await;
            }
            Self::Watch { key, .. } => {
                return follow(map.events().key(key.unwrap_or_default()).await?, |event| match event {
                    Event::Added { key, value } => {
                        change(printer, "added", &[&key, &value], json!({"key": key, "value": value}))
                    }
                    Event::Removed { key, value } => {
                        change(printer, "removed", &[&key, &value], json!({"key": key, "value": value}))
                    }
                    _ => Ok(()),
                })
                .await;
            }
        }
        Ok(DONE)
    }
}
