// SPDX-License-Identifier: Apache-2.0
//! The verbs of each command: arguments and implementation.

pub(crate) mod bench;
pub(crate) mod counter;
pub(crate) mod countermap;
pub(crate) mod election;
pub(crate) mod health;
pub(crate) mod indexedmap;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod multimap;
pub(crate) mod primitive;
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
use futures::FutureExt;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{DONE, Failure};
use crate::input::read_value;
use crate::output::Printer;
use crate::text::{parse_duration, put_value, show};

/// The time to live of an entry.
#[derive(Debug, Clone, Args)]
pub struct Ttl {
    /// Remove it after this time, such as 500ms, 10s, 1h
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    ttl: Option<Duration>,
}

/// The expected version of an entry.
#[derive(Debug, Clone, Args)]
pub struct IfVersion {
    /// Only if it is at this version
    #[arg(long = "version", value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
}

/// The sources of values.
#[derive(Debug, Clone, Copy, Args)]
pub struct Given {
    /// Take values as they are: `-` and `@FILE` have no other meaning
    #[arg(long)]
    literal: bool,
}

/// The form of a written value.
#[derive(Debug, Clone, Copy, Args)]
pub struct Exact {
    /// Write the value byte for byte on a terminal as well, where a newline is added otherwise
    #[arg(long)]
    raw: bool,
}

// === impl Given ===

impl Given {
    /// Returns a value of any bytes.
    fn bytes(self, argument: &str) -> Result<Bytes, Failure> {
        if self.literal { Ok(Bytes::copy_from_slice(argument.as_bytes())) } else { read_value(argument) }
    }

    /// Returns a value that is text.
    fn text(self, argument: &str) -> Result<String, Failure> {
        String::from_utf8(self.bytes(argument)?.into()).map_err(|error| {
            Failure::Usage(format!("the value is no UTF-8 text: source=`{argument}` cause=`{error}`"))
        })
    }

    /// Returns several values that are text.
    fn texts(self, arguments: &[String]) -> Result<Vec<String>, Failure> {
        if !self.literal && arguments.iter().filter(|argument| *argument == "-").count() > 1 {
            return Err(Failure::Usage("standard input is one value: write `-` once".to_owned()));
        }
        arguments.iter().map(|argument| self.text(argument)).collect()
    }
}

/// Writes everything that there is. The server has the time of `--timeout` for all of it, and without that the usual time
/// for each message; the reader of our output may take longer.
async fn listed<T>(
    context: &Context,
    mut stream: Subscription<T>,
    print: impl Fn(T) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    const MESSAGE: Duration = Duration::from_secs(10);
    let mut left = context.limit();
    loop {
        // Most of a list is here already, and needs no timer.
        let next = if let Some(next) = stream.next().now_or_never() {
            next
        } else {
            let asked = context.env.now();
            let next = context.env.timeout(left.unwrap_or(MESSAGE), stream.next()).await;
            left = left.map(|left| left.saturating_sub(context.env.now() - asked));
            next.map_err(|_| Failure::Late("the list did not come to its end in time"))?
        };
        let Some(item) = next else { return Ok(DONE) };
        print(item?)?;
    }
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
fn change<F: AsRef<[u8]>>(
    printer: Printer,
    event: &str,
    fields: &[F],
    mut object: Json,
) -> Result<(), Failure> {
    object["event"] = json!(event);
    let fields: Vec<String> = fields.iter().map(|field| show(field.as_ref())).collect();
    printer.line(format!("{event}\t{}", fields.join("\t")), &object)
}

/// Returns the name of a removal.
fn removal(expired: bool) -> &'static str {
    if expired { "expired" } else { "removed" }
}
