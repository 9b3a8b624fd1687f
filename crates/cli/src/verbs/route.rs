// SPDX-License-Identifier: Apache-2.0
//! `atomix route`

use std::process::ExitCode;

use atomix_client::control::Route;
use atomix_client::inspect::{RouteStyle, Routes};
use clap::Subcommand;
use serde_json::json;

use crate::Context;
use crate::failure::{DONE, Failure, found};
use crate::verbs::store::read_json;

/// What to do with routes.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the routes in the order in which they are tried
    List,
    /// Print where a primitive would be placed and why; exit code 3 if nowhere. Tags are given with --tag
    Explain {
        #[arg(
            help = "The type: Counter, CounterMap, IndexedMap, LeaderElection, List, Lock, Map, MultiMap, Set, \
                      Topic, Value"
        )]
        kind: String,
        /// The name
        name: String,
    },
    /// Set all routes at once
    ///
    /// ROUTES is a JSON list: [{"store": {"namespace": "", "name": "a"}, "rules": [{"kind": "Map", "version": "v1",
    /// "names": ["*"], "tags": ["t"], "config": {}}]}]. What is left out of a rule does not matter to it. The type may be
    /// written as configuration files have it: "type": {"name": "Map", "version": "v1"}.
    Program {
        /// The routes, or `-` for standard input
        routes: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        match self {
            Self::List => list(context).await,
            Self::Explain { kind, name } => explain(context, &kind, &name).await,
            Self::Program { routes } => {
                let routes: Vec<Route> = read_json(&routes)?;
                let count = routes.len();
                context.control()?.control().program(routes).await.map_err(Failure::control)?;
                context.printer.object(&json!({"programmed": count}))?;
                Ok(DONE)
            }
        }
    }
}

async fn list(context: &Context) -> Result<ExitCode, Failure> {
    let routes = context.control()?.inspect().routes().await.map_err(Failure::control)?;
    context.printer.object(&routes)?;
    print(context, &routes)?;
    Ok(DONE)
}

/// Prints routes for people.
pub(crate) fn print(context: &Context, routes: &Routes) -> Result<(), Failure> {
    if !routes.programmed {
        return context.printer.human("no routes are programmed; primitives cannot be opened");
    }
    let style = match routes.style {
        RouteStyle::Seed => "the first route whose tags the primitive has",
        RouteStyle::Later => "rules by name, then tags, then type",
        RouteStyle::Unknown | _ => "a way that this program does not know",
    };
    context.printer.human(format!("chosen by: {style}"))?;
    for route in &routes.routes {
        context.printer.human(route.store.to_string())?;
        for line in route.rules.iter().chain(&route.services) {
            context.printer.human(format!("  {line}"))?;
        }
        if !route.tags.is_empty() {
            context.printer.human(format!("  tags: {}", route.tags.join(", ")))?;
        }
    }
    Ok(())
}

async fn explain(context: &Context, kind: &str, name: &str) -> Result<ExitCode, Failure> {
    let tags = context.options.tags.iter().cloned();
    let explanation =
        context.control()?.inspect().explain(kind, name, tags).await.map_err(Failure::control)?;
    context.printer.object(&explanation)?;
    for step in &explanation.steps {
        let note = if step.note.is_empty() { String::new() } else { format!(": {}", step.note) };
        context.printer.human(format!("{}{note}", step.name))?;
        for line in &step.remaining {
            context.printer.human(format!("  {line}"))?;
        }
    }
    match &explanation.store {
        Some(store) => context.printer.human(format!("=> {store}"))?,
        None => context.printer.human("=> no route")?,
    }
    if !explanation.config.is_empty() {
        context.printer.human(format!("   config {}", explanation.config))?;
    }
    Ok(found(explanation.store.is_some()))
}
