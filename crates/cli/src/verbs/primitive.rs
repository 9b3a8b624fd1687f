// SPDX-License-Identifier: Apache-2.0
//! `atomix primitive`

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use atomix_client::StoreId;
use atomix_client::inspect::{Delete, PrimitiveUse};
use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure};
use crate::text::show as escaped;

/// Longer than a server waits for the calls that run and for what sessions own: twice its `drain.grace` of 10 s by default.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The verbs of primitives as a whole. KIND is a type such as Map or LeaderElection, or the name of its command.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Close a primitive for all sessions of the server; its content stays
    ///
    /// Its watches and waiting calls end, its locks and candidacies are released, and the connections of sessions that own a
    /// lock there close. Calls do not find it until a client creates it again. Other processes on the same store continue.
    Close {
        /// The type
        kind: String,
        /// The name
        name: String,
    },
    /// Close a primitive and delete its content from the store
    ///
    /// All of the content is deleted in one step, or nothing. Refused without --force if it has content or users, and also
    /// with --force if sessions of other processes own locks or candidacies there: end those first. Clients of other processes see the
    /// content go. The terms of an election begin at 1 again; tokens of locks and versions go on.
    Delete {
        /// The type
        kind: String,
        /// The name
        name: String,
        /// The store that has the content, if neither the primitive is open nor its tags lead there
        #[arg(long, value_name = "STORE")]
        store: Option<StoreId>,
        /// Delete it although it has content or users
        #[arg(long)]
        force: bool,
        /// Show what would be deleted, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let inspect = context.control_with_timeout(CALL_TIMEOUT)?.inspect();
        match self {
            Self::Close { kind, name } => {
                let usage = inspect.close_primitive(&kind, &name).await.map_err(Failure::control)?;
                show(context, &kind, &name, "closed", &usage)?;
            }
            Self::Delete { kind, name, store, force, dry_run } => {
                let options = Delete { store, tags: context.options.tags.clone(), force, dry_run };
                let deleted = inspect.delete_primitive(&kind, &name, options).await;
                let usage = deleted.map_err(|error| Failure::control_forced(error, force || dry_run))?;
                show(context, &kind, &name, if dry_run { "would_be_deleted" } else { "deleted" }, &usage)?;
            }
        }
        Ok(DONE)
    }
}

fn show(context: &Context, kind: &str, name: &str, done: &str, usage: &PrimitiveUse) -> Result<(), Failure> {
    let counts = [
        ("entries", usage.entries),
        ("sessions", usage.sessions),
        ("streams", usage.streams),
        ("waiters", usage.waiters),
        ("other_processes", usage.other_processes),
    ];
    let mut shown = json!({"kind": kind, "name": name, done: true, "store": usage.store});
    let mut text =
        format!("{}: {kind} {} store={}", done.replace('_', " "), escaped(name.as_bytes()), usage.store);
    for (count, number) in counts {
        shown[count] = number.into();
        write!(text, " {count}={number}").ok();
    }
    context.printer.line(text, &shown)
}
