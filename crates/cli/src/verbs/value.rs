// SPDX-License-Identifier: Apache-2.0
//! `atomix value`

use std::process::ExitCode;

use atomix_client::Versioned;
use atomix_client::value::Event;
use bytes::Bytes;
use clap::Subcommand;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{DONE, Failure};
use crate::text::put_value;
use crate::verbs::{Exact, Given, IfVersion, Ttl, change, follow, put_versioned, written};

/// The verbs of a value.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the value
    Get {
        /// The name
        name: String,
        #[command(flatten)]
        exact: Exact,
    },
    /// Write the value and print its version
    Set {
        /// The name
        name: String,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
        #[command(flatten)]
        ttl: Ttl,
    },
    /// Write the value if none is set, and print its version
    Insert {
        /// The name
        name: String,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
        #[command(flatten)]
        ttl: Ttl,
    },
    /// Write the value if one is set, and print its version
    Update {
        /// The name
        name: String,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
        #[command(flatten)]
        ttl: Ttl,
        #[command(flatten)]
        check: IfVersion,
    },
    /// Unset the value and print the former one
    #[command(alias = "remove")]
    Delete {
        /// The name
        name: String,
        #[command(flatten)]
        check: IfVersion,
        #[command(flatten)]
        exact: Exact,
    },
    /// Print every change from now on
    #[command(alias = "tail")]
    Watch {
        /// The name
        name: String,
    },
}

impl Verb {
    fn name(&self) -> &str {
        let (Self::Get { name, .. }
        | Self::Set { name, .. }
        | Self::Insert { name, .. }
        | Self::Update { name, .. }
        | Self::Delete { name, .. }
        | Self::Watch { name }) = self;
        name
    }

    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let printer = context.printer;
        let client = context.client().await?;
        let cell = context.open(client.value(self.name())).await?;
        match self {
            Self::Get { exact, .. } => match cell.get().await? {
                Some(value) => printer.value(&value.value, exact.raw, &object(&value))?,
                None => return Err(Failure::Absent("the value is not set".to_owned(), "VALUE_NOT_SET")),
            },
            Self::Set { value, given, ttl, .. } => {
                let mut set = cell.set(&given.bytes(&value)?);
                if let Some(ttl) = ttl.ttl {
                    set = set.ttl(ttl);
                }
                return written(printer, None, &set.await?);
            }
            Self::Insert { value, given, ttl, .. } => {
                let mut insert = cell.insert(&given.bytes(&value)?);
                if let Some(ttl) = ttl.ttl {
                    insert = insert.ttl(ttl);
                }
                let version = insert.await?;
                printer.line(format!("version {version}"), &json!({"version": version}))?;
            }
            Self::Update { value, given, ttl, check, .. } => {
                let mut update =
                    cell.update(&given.bytes(&value)?).if_version(check.version.unwrap_or_default());
                if let Some(ttl) = ttl.ttl {
                    update = update.ttl(ttl);
                }
                return written(printer, None, &update.await?);
            }
            Self::Delete { check, exact, .. } => {
                match cell.delete().if_version(check.version.unwrap_or_default()).await? {
                    Some(value) => printer.value(&value.value, exact.raw, &object(&value))?,
                    None => return Err(Failure::Absent("the value is not set".to_owned(), "VALUE_NOT_SET")),
                }
            }
            Self::Watch { .. } => {
                return follow(cell.events().await?, |event| watched(context, event)).await;
            }
        }
        Ok(DONE)
    }
}

fn object(value: &Versioned<Bytes>) -> Json {
    let mut object = json!({"version": value.version});
    put_value(&mut object, "value", &value.value);
    object
}

fn watched(context: &Context, event: Event<Bytes>) -> Result<(), Failure> {
    let (name, value, previous) = match event {
        Event::Created { value } => ("created", value, None),
        Event::Updated { value, previous } => ("updated", value, previous),
        Event::Deleted { value, expired } => (if expired { "expired" } else { "deleted" }, value, None),
        _ => return Ok(()),
    };
    let mut object = object(&value);
    if let Some(previous) = &previous {
        put_versioned(&mut object, "previous_value", "previous_version", previous);
    }
    change(context.printer, name, &[&value.value[..], value.version.to_string().as_bytes()], object)
}
