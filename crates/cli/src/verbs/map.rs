// SPDX-License-Identifier: Apache-2.0
//! `atomix map`

use std::process::ExitCode;

use atomix_client::Versioned;
use atomix_client::map::{Committed, Event, Operation};
use bytes::Bytes;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::failure::{DONE, Failure, absent};
use crate::text::{parse_duration, put_value, show, value as read_value};
use crate::verbs::{IfVersion, Ttl, change, follow, put_versioned, removal, written};
use crate::{Context, held};

/// What to do with a map.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the value of a key
    Get {
        /// The map
        name: String,
        /// The key
        key: String,
    },
    /// Write a value and print its version
    Put {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The value, or `-` for standard input
        value: String,
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
        /// The value, or `-` for standard input
        value: String,
        #[command(flatten)]
        ttl: Ttl,
    },
    /// Write the value of a key that exists and print its version
    Update {
        /// The map
        name: String,
        /// The key
        key: String,
        /// The value, or `-` for standard input
        value: String,
        #[command(flatten)]
        ttl: Ttl,
        #[command(flatten)]
        check: IfVersion,
    },
    /// Remove a key and print its value
    Remove {
        /// The map
        name: String,
        /// The key
        key: String,
        #[command(flatten)]
        check: IfVersion,
    },
    /// Do several operations, all or none
    ///
    /// Each is a JSON object with one verb: {"put": {"key": "a", "value": "x", "ttl": "10s", "version": 3}}, and in
    /// the same way insert (no version), update, and remove (key and version). ttl and version may be left out.
    Commit {
        /// The map
        name: String,
        /// The operations
        #[arg(required = true, value_parser = parse_step)]
        operations: Vec<Step>,
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

fn parse_step(text: &str) -> Result<Step, String> {
    serde_json::from_str(text).map_err(|error| format!("operation is not understood: {error}"))
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
            let client = context.patient_client().await?;
            let map = context.open(client.map(&lock.name)).await?;
            return lock.run(context, |keys| map.lock(keys)).await;
        }
        let printer = context.printer;
        let client = context.client().await?;
        let map = context.open(client.map(self.name())).await?;
        match self {
            Self::Lock(_) => {}
            Self::Get { key, .. } => match map.get(&key).await? {
                Some(value) => printer.bytes(&value.value, &entry(&key, &value))?,
                None => return Err(absent(&key)),
            },
            Self::Put { key, value, ttl, check, .. } => {
                let mut put =
                    map.put(&key, &read_value(&value)?).if_version(check.version.unwrap_or_default());
                if let Some(ttl) = ttl.ttl {
                    put = put.ttl(ttl);
                }
                return written(printer, Some(&key), &put.await?);
            }
            Self::Insert { key, value, ttl, .. } => {
                let mut insert = map.insert(&key, &read_value(&value)?);
                if let Some(ttl) = ttl.ttl {
                    insert = insert.ttl(ttl);
                }
                let version = insert.await?;
                printer.line(format!("version {version}"), &json!({"key": key, "version": version}))?;
            }
            Self::Update { key, value, ttl, check, .. } => {
                let mut update =
                    map.update(&key, &read_value(&value)?).if_version(check.version.unwrap_or_default());
                if let Some(ttl) = ttl.ttl {
                    update = update.ttl(ttl);
                }
                return written(printer, Some(&key), &update.await?);
            }
            Self::Remove { key, check, .. } => {
                match map.remove(&key).if_version(check.version.unwrap_or_default()).await? {
                    Some(value) => printer.bytes(&value.value, &entry(&key, &value))?,
                    None => return Err(absent(&key)),
                }
            }
            Self::Commit { operations, .. } => {
                let operations: Vec<_> =
                    operations.into_iter().map(Step::operation).collect::<Result<_, _>>()?;
                for done in map.commit(operations).await? {
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
                return follow(map.entries().await?, |item| {
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
    let (shown, version) = (show(&value.value), value.version.to_string());
    change(context.printer, name, &[&key, &shown, &version], object)
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
