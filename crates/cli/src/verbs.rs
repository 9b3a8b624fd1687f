// SPDX-License-Identifier: Apache-2.0
//! The verbs of each command: their arguments, and what they do.

pub(crate) mod bench;
pub(crate) mod counter;
pub(crate) mod countermap;
pub(crate) mod election;
pub(crate) mod indexedmap;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod multimap;
pub(crate) mod route;
pub(crate) mod session;
pub(crate) mod set;
pub(crate) mod store;
pub(crate) mod topic;
pub(crate) mod value;

use std::process::ExitCode;
use std::time::Duration;

use atomix_client::{Subscription, Versioned, Written};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value as Json, json};

use crate::failure::{DONE, Failure};
use crate::output::Printer;
use crate::text::{parse_duration, put_value, show};

/// How long something is to live.
#[derive(Debug, Clone, Args)]
pub struct Ttl {
    /// Remove it after this time, such as 500ms, 10s, 1h
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    ttl: Option<Duration>,
}

/// At which version something has to be.
#[derive(Debug, Clone, Args)]
pub struct IfVersion {
    /// Only if it is at this version
    #[arg(long = "version", value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
}

/// Writes every message of a stream until it ends.
async fn follow<T>(
    mut stream: Subscription<T>,
    print: impl Fn(T) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    while let Some(item) = stream.next().await {
        print(item?)?;
    }
    Ok(DONE)
}

fn written(printer: Printer, key: Option<&str>, written: &Written<Bytes>) -> Result<ExitCode, Failure> {
    let mut object = json!({"version": written.version});
    if let Some(key) = key {
        object["key"] = json!(key);
    }
    if let Some(previous) = &written.previous {
        put_versioned(&mut object, "previous_value", "previous_version", previous);
    }
    printer.line(format!("version {}", written.version), &object)?;
    Ok(DONE)
}

fn put_versioned(object: &mut Json, value: &str, version: &str, versioned: &Versioned<Bytes>) {
    put_value(object, value, &versioned.value);
    object[version] = json!(versioned.version);
}

/// Writes a change on one line: its name, then `fields` with tabs between them.
fn change(printer: Printer, event: &str, fields: &[&str], mut object: Json) -> Result<(), Failure> {
    object["event"] = json!(event);
    let fields: Vec<String> = fields.iter().map(|field| show(field.as_bytes())).collect();
    printer.line(format!("{event}\t{}", fields.join("\t")), &object)
}

/// Returns the name of a removal.
fn removal(expired: bool) -> &'static str {
    if expired { "expired" } else { "removed" }
}
