// SPDX-License-Identifier: Apache-2.0
//! `atomix indexedmap`

use std::process::ExitCode;

use atomix_client::Versioned;
use atomix_client::indexedmap::{At, Entry, Event};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{DONE, Failure};
use crate::text::{put_value, show};
use crate::verbs::{Exact, Given, IfVersion, Ttl, change, follow, listed, put_versioned, removal};

/// The verbs of an indexed map. The first entry has index 1.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Append an entry with a new key and print it
    Append {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The value, `-` for standard input, or `@FILE`
        value: String,
        #[command(flatten)]
        given: Given,
        #[command(flatten)]
        ttl: Ttl,
    },
    /// Write the value of an entry and print the entry
    Update {
        /// The map
        name: String,
        #[command(flatten)]
        target: Target,
        /// The value, `-` for standard input, or `@FILE`
        #[arg(long)]
        value: String,
        #[command(flatten)]
        given: Given,
        #[command(flatten)]
        ttl: Ttl,
        #[command(flatten)]
        check: IfVersion,
    },
    /// Print the value of an entry
    Get {
        /// The map
        name: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        exact: Exact,
    },
    /// Print the entry with the lowest index
    First {
        /// The map
        name: String,
    },
    /// Print the entry with the highest index
    Last {
        /// The map
        name: String,
    },
    /// Print the entry behind an index
    Next {
        /// The map
        name: String,
        /// The index
        index: u64,
    },
    /// Print the entry before an index
    Previous {
        /// The map
        name: String,
        /// The index
        index: u64,
    },
    /// Remove an entry and print it
    #[command(alias = "delete")]
    Remove {
        /// The map
        name: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        check: IfVersion,
    },
    /// Print how many entries there are
    Size {
        /// The map
        name: String,
    },
    /// Remove all entries
    Clear {
        /// The map
        name: String,
    },
    /// Print all entries: index, key, value, version
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

/// Which entry.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// The key
    key: Option<String>,
    /// The index instead of a key
    #[arg(long)]
    index: Option<u64>,
}

impl Target {
    fn at(self) -> At {
        match (self.key, self.index) {
            (Some(key), _) => At::Key(key),
            (None, index) => At::Index(index.unwrap_or_default()),
        }
    }
}

impl Verb {
    fn name(&self) -> &str {
        let (Self::Append { name, .. }
        | Self::Update { name, .. }
        | Self::Get { name, .. }
        | Self::First { name }
        | Self::Last { name }
        | Self::Next { name, .. }
        | Self::Previous { name, .. }
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
        let map = context.open(client.indexed_map(self.name())).await?;
        let one = |entry: &Entry<Bytes>| {
            let (key, value) = (show(entry.key.as_bytes()), show(&entry.value.value));
            let human = format!("{}\t{key}\t{value}\t{}", entry.index, entry.value.version);
            printer.line(human, &object(&entry.key, entry.index, &entry.value))
        };
        let maybe = |entry: Option<Entry<Bytes>>| match entry {
            Some(entry) => one(&entry).map(|()| DONE),
            None => Err(nothing()),
        };
        match self {
            Self::Append { key, value, given, ttl, .. } => {
                let mut append = map.append(&key, &given.bytes(&value)?);
                if let Some(ttl) = ttl.ttl {
                    append = append.ttl(ttl);
                }
                one(&append.await?)?;
            }
            Self::Update { target, value, given, ttl, check, .. } => {
                let version = check.version.unwrap_or_default();
                let mut update = map.update(target.at(), &given.bytes(&value)?).if_version(version);
                if let Some(ttl) = ttl.ttl {
                    update = update.ttl(ttl);
                }
                one(&update.await?)?;
            }
            Self::Get { target, exact, .. } => match map.get(target.at()).await? {
                Some(entry) => {
                    let object = object(&entry.key, entry.index, &entry.value);
                    printer.value(&entry.value.value, exact.raw, &object)?;
                }
                None => return Err(nothing()),
            },
            Self::First { .. } => return maybe(map.first().await?),
            Self::Last { .. } => return maybe(map.last().await?),
            Self::Next { index, .. } => return maybe(map.next(index).await?),
            Self::Previous { index, .. } => return maybe(map.previous(index).await?),
            Self::Remove { target, check, .. } => {
                return maybe(map.remove(target.at()).if_version(check.version.unwrap_or_default()).await?);
            }
            Self::Size { .. } => {
                let size = map.size().await?;
                printer.line(size.to_string(), &json!({"size": size}))?;
            }
            Self::Clear { .. } => {
                map.clear().await?;
                printer.object(&json!({"cleared": true}))?;
            }
            Self::List { .. } => return listed(context, map.entries().await?, |entry| one(&entry)).await,
            Self::Watch { key, .. } => {
                let changes = map.events().key(key.unwrap_or_default()).await?;
                return follow(changes, |event| watched(context, event)).await;
            }
        }
        Ok(DONE)
    }
}

fn nothing() -> Failure {
    Failure::Absent("no such entry".to_owned(), "KEY_NOT_FOUND")
}

fn object(key: &str, index: u64, value: &Versioned<Bytes>) -> Json {
    let mut object = json!({"key": key, "index": index, "version": value.version});
    put_value(&mut object, "value", &value.value);
    object
}

fn watched(context: &Context, event: Event<Bytes>) -> Result<(), Failure> {
    let (name, key, index, value, previous) = match event {
        Event::Inserted { key, index, value } => ("inserted", key, index, value, None),
        Event::Updated { key, index, value, previous } => ("updated", key, index, value, previous),
        Event::Removed { key, index, value, expired } => (removal(expired), key, index, value, None),
        _ => return Ok(()),
    };
    let mut object = object(&key, index, &value);
    if let Some(previous) = &previous {
        put_versioned(&mut object, "previous_value", "previous_version", previous);
    }
    let (index, version) = (index.to_string(), value.version.to_string());
    let fields = [index.as_bytes(), key.as_bytes(), &value.value[..], version.as_bytes()];
    change(context.printer, name, &fields, object)
}
