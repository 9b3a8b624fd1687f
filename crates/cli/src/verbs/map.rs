// SPDX-License-Identifier: Apache-2.0
//! `atomix map`

use std::process::ExitCode;

use atomix_client::map::{Committed, Event, Operation};
use atomix_client::{Client, Map, Versioned};
use bytes::Bytes;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{DONE, Failure, absent};
use crate::held;
use crate::input::read_value;
use crate::text::{parse_duration, put_value, show};
use crate::verbs::{Exact, Given, IfVersion, Ttl, change, follow, listed, put_versioned, removal, written};

/// The verbs of a map.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the value of a key
    Get {
        /// The map
        name: String,
        /// The key
        key: String,
        #[command(flatten)]
        exact: Exact,
    },
    /// Write a value and print its version
    Put {
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
        #[command(flatten)]
        check: IfVersion,
    },
    /// Write the value of a new key and print its version
    Insert {
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
    /// Write the value of a key that exists and print its version
    Update {
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
        #[command(flatten)]
        check: IfVersion,
    },
    /// Remove a key and print its value
    #[command(alias = "delete")]
    Remove {
        /// The map
        name: String,
        /// The key
        key: String,
        #[command(flatten)]
        check: IfVersion,
        #[command(flatten)]
        exact: Exact,
    },
    /// Do several operations, all or none
    ///
    /// Each is a JSON object with one verb: {"put": {"key": "a", "value": "x", "ttl": "10s", "version": 3}}, and in
    /// the same way insert (no version), update, and remove (key and version). ttl and version may be left out. `-` and
    /// `@FILE` stand for the operations in standard input or in a file.
    Commit {
        /// The map
        name: String,
        /// The operations
        #[arg(required = true, value_parser = parse_steps)]
        operations: Vec<Steps>,
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
    /// Print all keys with their values and versions
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

/// One operation of a commit.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Write a value.
    Put(Written),
    /// Write the value of a new key.
    Insert(Inserted),
    /// Write the value of a key that exists.
    Update(Written),
    /// Remove a key.
    Remove(Removed),
}

/// A value to write.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    key: String,
    value: String,
    ttl: Option<String>,
    #[serde(default)]
    version: u64,
}

/// A value of a new key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inserted {
    key: String,
    value: String,
    ttl: Option<String>,
}

/// A key to remove.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removed {
    key: String,
    #[serde(default)]
    version: u64,
}

/// Operations of a commit, or where they are.
#[derive(Debug, Clone)]
pub enum Steps {
    /// One operation.
    One(Step),
    /// Standard input or a file, as [`read_value`] takes it.
    From(String),
}

fn parse_step(text: &str) -> Result<Step, String> {
    serde_json::from_str(text).map_err(|error| format!("operation is not understood: {error}"))
}

fn parse_steps(text: &str) -> Result<Steps, String> {
    if text == "-" || text.starts_with('@') {
        return Ok(Steps::From(text.to_owned()));
    }
    parse_step(text).map(Steps::One)
}

impl Steps {
    fn read(self) -> Result<Vec<Step>, Failure> {
        match self {
            Self::One(step) => Ok(vec![step]),
            Self::From(source) => serde_json::Deserializer::from_slice(&read_value(&source)?)
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(|error| {
                    Failure::Usage(format!(
                        "operations are not understood: source=`{}` cause=`{error}`",
                        show(source.as_bytes())
                    ))
                }),
        }
    }
}

impl Step {
    fn operation(self) -> Result<Operation<Bytes>, Failure> {
        let (operation, ttl) = match self {
            Self::Put(step) => {
                (Operation::put(step.key, Bytes::from(step.value)).if_version(step.version), step.ttl)
            }
            Self::Insert(step) => (Operation::insert(step.key, Bytes::from(step.value)), step.ttl),
            Self::Update(step) => {
                (Operation::update(step.key, Bytes::from(step.value)).if_version(step.version), step.ttl)
            }
            Self::Remove(step) => (Operation::remove(step.key).if_version(step.version), None),
        };
        match ttl {
            None => Ok(operation),
            Some(ttl) => Ok(operation.ttl(parse_duration(&ttl).map_err(Failure::Usage)?)),
        }
    }
}

impl Verb {
    fn name(&self) -> &str {
        match self {
            Self::Get { name, .. }
            | Self::Put { name, .. }
            | Self::Insert { name, .. }
            | Self::Update { name, .. }
            | Self::Remove { name, .. }
            | Self::Commit { name, .. }
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
            let map = |client: Client| async move { context.open(client.map(name)).await };
            return lock.run(context, map, Map::lock).await;
        }
        let printer = context.printer;
        let client = context.client().await?;
        let map = context.open(client.map(self.name())).await?;
        match self {
            Self::Lock(_) => {}
            Self::Get { key, exact, .. } => match map.get(&key).await? {
                Some(value) => printer.value(&value.value, exact.raw, &entry(&key, &value))?,
                None => return Err(absent(&key)),
            },
            Self::Put { key, value, given, ttl, check, .. } => {
                let mut put =
                    map.put(&key, &given.bytes(&value)?).if_version(check.version.unwrap_or_default());
                if let Some(ttl) = ttl.ttl {
                    put = put.ttl(ttl);
                }
                return written(printer, Some(&key), &put.await?);
            }
            Self::Insert { key, value, given, ttl, .. } => {
                let mut insert = map.insert(&key, &given.bytes(&value)?);
                if let Some(ttl) = ttl.ttl {
                    insert = insert.ttl(ttl);
                }
                let version = insert.await?;
                printer.line(format!("version {version}"), &json!({"key": key, "version": version}))?;
            }
            Self::Update { key, value, given, ttl, check, .. } => {
                let mut update =
                    map.update(&key, &given.bytes(&value)?).if_version(check.version.unwrap_or_default());
                if let Some(ttl) = ttl.ttl {
                    update = update.ttl(ttl);
                }
                return written(printer, Some(&key), &update.await?);
            }
            Self::Remove { key, check, exact, .. } => {
                match map.remove(&key).if_version(check.version.unwrap_or_default()).await? {
                    Some(value) => printer.value(&value.value, exact.raw, &entry(&key, &value))?,
                    None => return Err(absent(&key)),
                }
            }
            Self::Commit { operations, .. } => {
                let mut steps = Vec::new();
                for operations in operations {
                    for step in operations.read()? {
                        steps.push(step.operation()?);
                    }
                }
                for done in map.commit(steps).await? {
                    committed(context, done)?;
                }
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
                return listed(context, map.entries().await?, |item| {
                    let human = format!(
                        "{}\t{}\t{}",
                        show(item.key.as_bytes()),
                        show(&item.value.value),
                        item.value.version
                    );
                    printer.line(human, &entry(&item.key, &item.value))
                })
                .await;
            }
            Self::Watch { key, .. } => {
                let changes = map.events().key(key.unwrap_or_default()).await?;
                return follow(changes, |event| watched(context, event)).await;
            }
            Self::Unlock { keys, .. } => {
                map.unlock(&keys).await?;
                printer.object(&json!({"unlocked": keys}))?;
            }
        }
        Ok(DONE)
    }
}

fn entry(key: &str, value: &Versioned<Bytes>) -> Json {
    let mut object = json!({"key": key, "version": value.version});
    put_value(&mut object, "value", &value.value);
    object
}

fn committed(context: &Context, done: Committed<Bytes>) -> Result<(), Failure> {
    match done {
        Committed::Put(done) | Committed::Update(done) => written(context.printer, None, &done).map(|_| ()),
        Committed::Insert(version) => {
            context.printer.line(format!("version {version}"), &json!({"version": version}))
        }
        Committed::Remove(value) => {
            let mut object = json!({});
            put_versioned(&mut object, "previous_value", "previous_version", &value);
            context.printer.line(format!("removed {}", show(&value.value)), &object)
        }
        _ => Ok(()),
    }
}

fn watched(context: &Context, event: Event<Bytes>) -> Result<(), Failure> {
    let (name, key, value, previous) = match event {
        Event::Inserted { key, value } => ("inserted", key, value, None),
        Event::Updated { key, value, previous } => ("updated", key, value, previous),
        Event::Removed { key, value, expired } => (removal(expired), key, value, None),
        _ => return Ok(()),
    };
    let mut object = entry(&key, &value);
    if let Some(previous) = &previous {
        put_versioned(&mut object, "previous_value", "previous_version", previous);
    }
    let version = value.version.to_string();
    change(context.printer, name, &[key.as_bytes(), &value.value[..], version.as_bytes()], object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_an_object_with_one_verb() {
        assert!(parse_step(r#"{"put": {"key": "a", "value": "x", "ttl": "10s", "version": 3}}"#).is_ok());
        assert!(parse_step(r#"{"remove": {"key": "a"}}"#).is_ok());
        for wrong in [
            r#"{"put": {"key": "a"}}"#,
            r#"{"move": {"key": "a"}}"#,
            r#"{"remove": {"key": "a", "ttl": "1s"}}"#,
        ] {
            assert!(parse_step(wrong).is_err(), "{wrong}");
        }
        let step = parse_step(r#"{"insert": {"key": "a", "value": "x", "ttl": "soon"}}"#).unwrap();
        assert_eq!(step.operation().unwrap_err().code(), 2);
    }
}
