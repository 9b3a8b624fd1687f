// SPDX-License-Identifier: Apache-2.0
//! `atomix route`

use std::process::ExitCode;

use atomix_client::control::{Route, Rule};
use atomix_client::inspect::{RouteStyle, RouteText, Routes};
use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure, found};
use crate::input::read_json;

/// The verbs of routes.
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
    ///
    /// They are in force until the server ends: routes that are to be there after a restart belong into the configuration
    /// of `atomix serve`. A primitive that is open stays where it is.
    Program {
        /// The routes, `-` for standard input, or `@FILE`
        routes: String,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Take all routes away as well, which is what [] means: no primitive can be created then
        #[arg(long)]
        force: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        match self {
            Self::List => list(context).await,
            Self::Explain { kind, name } => explain(context, &kind, &name).await,
            Self::Program { routes, dry_run, force } => {
                program(context, read_json(&routes)?, dry_run, force).await
            }
        }
    }
}

async fn program(
    context: &Context,
    routes: Vec<Route>,
    dry_run: bool,
    force: bool,
) -> Result<ExitCode, Failure> {
    let control = context.control()?;
    let stores = control.inspect().stores().await.map_err(Failure::control)?;
    for route in &routes {
        if !stores.iter().any(|store| store.store == route.store) {
            context.printer.note(&format!(
                "store {} is not connected: what is routed there is refused until it is",
                route.store
            ));
        }
    }
    if dry_run {
        let current = control.inspect().routes().await.map_err(Failure::control)?;
        let (before, after) = (current.routes.iter().flat_map(lines), routes.iter().flat_map(planned));
        let (before, after): (Vec<_>, Vec<_>) = (before.collect(), after.collect());
        let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        let ordered = gone.is_empty() && new.is_empty() && before != after;
        context.printer.object(&json!({"removed": gone, "added": new, "reordered": ordered}))?;
        gone.iter().try_for_each(|line| context.printer.human(format!("- {line}")))?;
        new.iter().try_for_each(|line| context.printer.human(format!("+ {line}")))?;
        if ordered {
            context.printer.human("the same routes in another order")?;
        } else if before == after {
            context.printer.human("nothing would change")?;
        }
        return Ok(DONE);
    }
    if routes.is_empty() && !force {
        return Err(Failure::Refused(
            "no routes: no primitive could be created any more".to_owned(),
            "repeat it with --force to take all routes away",
        ));
    }
    let count = routes.len();
    control.control().program(routes).await.map_err(Failure::control)?;
    context.printer.object(&json!({"programmed": count}))?;
    context.printer.note(if count == 0 {
        "there are no routes until others are programmed, or until the server starts again with those of its configuration"
    } else {
        "the routes are in force until the server ends; to keep them, write them into `routes` of the configuration"
    });
    Ok(DONE)
}

/// Describes a route of the server: a line for each rule.
fn lines(route: &RouteText) -> Vec<String> {
    let mut rules: Vec<_> = route.rules.iter().chain(&route.services).cloned().collect();
    if !route.tags.is_empty() {
        rules.push(format!("tags {}", route.tags.join(", ")));
    }
    if rules.is_empty() {
        rules.push(EVERYTHING.to_owned());
    }
    rules.iter().map(|rule| format!("{}: {rule}", route.store)).collect()
}

/// Describes a route that is to be, as the server would.
fn planned(route: &Route) -> Vec<String> {
    let rules = if route.rules.is_empty() { vec![Rule::default()] } else { route.rules.clone() };
    rules.iter().map(|rule| format!("{}: {}", route.store, rule_line(rule))).collect()
}

const EVERYTHING: &str = "everything";

fn rule_line(rule: &Rule) -> String {
    let mut parts = Vec::new();
    if !rule.kind.is_empty() {
        let version = if rule.version.is_empty() { String::new() } else { format!("/{}", rule.version) };
        parts.push(format!("type {}{version}", rule.kind));
    }
    if !rule.names.is_empty() {
        parts.push(format!("names {}", rule.names.join(", ")));
    }
    if !rule.tags.is_empty() {
        parts.push(format!("tags {}", rule.tags.join(", ")));
    }
    let parts = if parts.is_empty() { EVERYTHING.to_owned() } else { parts.join(", ") };
    let config = if rule.config.is_null() { String::new() } else { format!(", config {}", rule.config) };
    format!("{parts}{config}")
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
