// SPDX-License-Identifier: Apache-2.0
//! `atomix list`

use std::process::ExitCode;

use atomix_client::list::Event;
use clap::Subcommand;
use serde_json::json;

use crate::Context;
use crate::failure::{DONE, Failure};
use crate::text::{put_value, show, value as read_value};
use crate::verbs::{change, follow};

/// What to do with a list. The first value has index 0.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add a value at the end
    Append {
        /// The list
        name: String,
        /// The value, or `-` for standard input
        value: String,
    },
    /// Insert a value before an index
    Insert {
        /// The list
        name: String,
        /// The index
        index: u32,
        /// The value, or `-` for standard input
        value: String,
    },
    /// Print the value at an index
    Get {
        /// The list
        name: String,
        /// The index
        index: u32,
    },
    /// Replace the value at an index
    Set {
        /// The list
        name: String,
        /// The index
        index: u32,
        /// The value, or `-` for standard input
        value: String,
    },
    /// Remove the value at an index and print it
    Remove {
        /// The list
        name: String,
        /// The index
        index: u32,
    },
    /// Print all values with their indexes
    List {
        /// The list
        name: String,
    },
    /// Print how many values there are
    Size {
        /// The list
        name: String,
    },
    /// Remove all values
    Clear {
        /// The list
        name: String,
    },
    /// Print every change from now on
    Watch {
        /// The list
        name: String,
        /// Before that print every value as appended
        #[arg(long)]
        replay: bool,
    },
}

impl Verb {
    fn name(&self) -> &str {
        let (Self::Append { name, .. }
        | Self::Insert { name, .. }
        | Self::Get { name, .. }
        | Self::Set { name, .. }
        | Self::Remove { name, .. }
        | Self::List { name }
        | Self::Size { name }
        | Self::Clear { name }
        | Self::Watch { name, .. }) = self;
        name
    }

    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let printer = context.printer;
        let client = context.client().await?;
        let list = context.open(client.list(self.name())).await?;
        let item = |index: u32, value: &[u8]| {
            let mut object = json!({"index": index});
            put_value(&mut object, "value", value);
            object
        };
        match self {
            Self::Append { value, .. } => {
                list.append(&read_value(&value)?).await?;
                printer.object(&json!({"appended": true}))?;
            }
            Self::Insert { index, value, .. } => {
                list.insert(index, &read_value(&value)?).await?;
                printer.object(&json!({"index": index}))?;
            }
            Self::Get { index, .. } => {
                let value = list.get(index).await?;
                printer.bytes(&value, &item(index, &value))?;
            }
            Self::Set { index, value, .. } => {
                list.set(index, &read_value(&value)?).await?;
                printer.object(&json!({"index": index}))?;
            }
            Self::Remove { index, .. } => {
                let value = list.remove(index).await?;
                printer.bytes(&value, &item(index, &value))?;
            }
            Self::List { .. } => {
                return follow(list.items().await?, |one| {
                    printer.line(format!("{}\t{}", one.index, show(&one.value)), &item(one.index, &one.value))
                })
                .await;
            }
            Self::Size { .. } => {
                let size = list.size().await?;
                printer.line(size.to_string(), &json!({"size": size}))?;
            }
            Self::Clear { .. } => {
                list.clear().await?;
                printer.object(&json!({"cleared": true}))?;
            }
            Self::Watch { replay, .. } => {
                let changes = if replay { list.events_with_replay().await? } else { list.events().await? };
                return follow(changes, |event| {
                    let (name, index, value, previous) = match event {
                        Event::Appended { index, value } => ("appended", index, value, None),
                        Event::Inserted { index, value } => ("inserted", index, value, None),
                        Event::Updated { index, value, previous } => {
                            ("updated", index, value, Some(previous))
                        }
                        Event::Removed { index, value } => ("removed", index, value, None),
                        _ => return Ok(()),
                    };
                    let mut object = item(index, &value);
                    if let Some(previous) = previous {
                        put_value(&mut object, "previous_value", &previous);
                    }
                    change(printer, name, &[&index.to_string(), &show(&value)], object)
                })
                .await;
            }
        }
        Ok(DONE)
    }
}
