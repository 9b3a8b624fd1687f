// SPDX-License-Identifier: Apache-2.0
//! `atomix set`

use std::process::ExitCode;

use atomix_client::set::Event;
use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{CONFLICT, DONE, Failure, found};
use crate::text::show;
use crate::verbs::{Given, Ttl, change, follow, listed, removal};

/// The verbs of a set.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add an element; exit code 4 if it is there
    Add {
        /// The set
        name: String,
        /// The element, `-` for standard input, or `@FILE`
        element: String,
        #[command(flatten)]
        given: Given,
        #[command(flatten)]
        ttl: Ttl,
    },
    /// Remove an element; exit code 3 if it is not there
    #[command(alias = "delete")]
    Remove {
        /// The set
        name: String,
        /// The element, `-` for standard input, or `@FILE`
        element: String,
        #[command(flatten)]
        given: Given,
    },
    /// Print whether the set has an element; exit code 3 if not
    Contains {
        /// The set
        name: String,
        /// The element, `-` for standard input, or `@FILE`
        element: String,
        #[command(flatten)]
        given: Given,
    },
    /// Print all elements
    List {
        /// The set
        name: String,
    },
    /// Print how many elements there are
    Size {
        /// The set
        name: String,
    },
    /// Remove all elements
    Clear {
        /// The set
        name: String,
    },
    /// Print every change from now on
    #[command(alias = "tail")]
    Watch {
        /// The set
        name: String,
    },
}

impl Verb {
    fn name(&self) -> &str {
        let (Self::Add { name, .. }
        | Self::Remove { name, .. }
        | Self::Contains { name, .. }
        | Self::List { name }
        | Self::Size { name }
        | Self::Clear { name }
        | Self::Watch { name }) = self;
        name
    }

    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let printer = context.printer;
        let client = context.client().await?;
        let set = context.open(client.set(self.name())).await?;
        match self {
            Self::Add { element, given, ttl, .. } => {
                let element = given.text(&element)?;
                let mut add = set.add(&element);
                if let Some(ttl) = ttl.ttl {
                    add = add.ttl(ttl);
                }
                let added = add.await?;
                let human = if added { "added" } else { "exists already" };
                printer.line(human, &json!({"element": element, "added": added}))?;
                return Ok(if added { DONE } else { ExitCode::from(CONFLICT) });
            }
            Self::Remove { element, given, .. } => {
                let element = given.text(&element)?;
                let removed = set.remove(&element).await?;
                let human = if removed { "removed" } else { "not found" };
                printer.line(human, &json!({"element": element, "removed": removed}))?;
                return Ok(found(removed));
            }
            Self::Contains { element, given, .. } => {
                let element = given.text(&element)?;
                let contains = set.contains(&element).await?;
                printer.line(contains.to_string(), &json!({"element": element, "contains": contains}))?;
                return Ok(found(contains));
            }
            Self::List { .. } => {
                return listed(context, set.elements().await?, |element| {
                    printer.line(show(element.as_bytes()), &json!({"element": element}))
                })
                .await;
            }
            Self::Size { .. } => {
                let size = set.size().await?;
                printer.line(size.to_string(), &json!({"size": size}))?;
            }
            Self::Clear { .. } => {
                set.clear().await?;
                printer.object(&json!({"cleared": true}))?;
            }
            Self::Watch { .. } => {
                return follow(set.events().await?, |event| match event {
                    Event::Added { element } => {
                        change(printer, "added", &[&element], json!({"element": element}))
                    }
                    Event::Removed { element, expired } => {
                        change(printer, removal(expired), &[&element], json!({"element": element}))
                    }
                    _ => Ok(()),
                })
                .await;
            }
        }
        Ok(DONE)
    }
}
