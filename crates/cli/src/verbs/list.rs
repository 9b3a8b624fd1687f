// SPDX-License-Identifier: Apache-2.0
//! `atomix list`

use std::process::ExitCode;

use atomix_client::list::Event;
use atomix_client::{Kind, List};
use bytes::Bytes;
use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure};
use crate::text::{put_value, show};
use crate::verbs::{Exact, Given, change, follow, listed};

/// The verbs of a list. The first value has index 0.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add a value at the end
    Append {
        /// The list
        name: String,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
    },
    /// Insert a value before an index
    Insert {
        /// The list
        name: String,
        /// The index
        index: u32,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
    },
    /// Print the value at an index; exit code 3 if there is none, as for all verbs with an index
    Get {
        /// The list
        name: String,
        /// The index
        index: u32,
        #[command(flatten)]
        exact: Exact,
    },
    /// Replace the value at an index
    Set {
        /// The list
        name: String,
        /// The index
        index: u32,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
    },
    /// Remove the value at an index and print it
    #[command(alias = "delete")]
    Remove {
        /// The list
        name: String,
        /// The index
        index: u32,
        #[command(flatten)]
        exact: Exact,
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
    #[command(alias = "tail")]
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
            Self::Append { value, given, .. } => {
                list.append(&given.bytes(&value)?).await?;
                printer.object(&json!({"appended": true}))?;
            }
            Self::Insert { index, value, given, .. } => {
                let done = list.insert(index, &given.bytes(&value)?).await;
                within(&list, index, done).await?;
                printer.object(&json!({"index": index}))?;
            }
            Self::Get { index, exact, .. } => {
                let value = within(&list, index, list.get(index).await).await?;
                printer.value(&value, exact.raw, &item(index, &value))?;
            }
            Self::Set { index, value, given, .. } => {
                let done = list.set(index, &given.bytes(&value)?).await;
                within(&list, index, done).await?;
                printer.object(&json!({"index": index}))?;
            }
            Self::Remove { index, exact, .. } => {
                let value = within(&list, index, list.remove(index).await).await?;
                printer.value(&value, exact.raw, &item(index, &value))?;
            }
            Self::List { .. } => {
                return listed(context, list.items().await?, |one| {
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
                    change(printer, name, &[index.to_string().as_bytes(), &value[..]], object)
                })
                .await;
            }
        }
        Ok(DONE)
    }
}

/// Distinguishes an index beyond the end, which the server rejects as an invalid argument as the contract requires, from
/// other invalid arguments.
async fn within<T>(list: &List<Bytes>, index: u32, result: atomix_client::Result<T>) -> Result<T, Failure> {
    if result.as_ref().is_err_and(|error| error.kind() == Kind::Invalid) {
        let size = list.size().await?;
        if index >= size {
            return Err(Failure::Absent(format!("index=`{index}` size=`{size}`"), "KEY_NOT_FOUND"));
        }
    }
    Ok(result?)
}
