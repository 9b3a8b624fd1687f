// SPDX-License-Identifier: Apache-2.0
//! `atomix inspect`

use std::process::ExitCode;
use std::time::SystemTime;

use atomix_client::StoreId;
use atomix_client::inspect::{
    Candidate, Driver, ElectionState, Holder, Host, LockState, Locks, Primitive, Session, UnansweredStore,
    Waiter,
};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure, UNAVAILABLE};
use crate::text::{ago, session, show, table};
use crate::verbs::{route, store};

/// The objects to show; all of them by default.
#[derive(Debug, Args)]
pub struct Inspect {
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// A member of a store.
#[derive(Debug, Serialize)]
struct HostRow<'a> {
    store: &'a StoreId,
    #[serde(flatten)]
    host: &'a Host,
    /// Whether this is the process that was asked, and its wall clock does not decide that entries have expired.
    clock_distrusted: bool,
}

/// The objects to show.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The drivers of the server, with the guarantees of their stores
    Drivers,
    /// The connected stores
    Stores,
    /// The members of shared stores, and the time since the last heartbeat of each
    Hosts,
    /// The open primitives
    Primitives {
        /// Only of this type, such as Map
        #[arg(long)]
        kind: Option<String>,
        /// Only in this store: NAME or NAMESPACE/NAME
        #[arg(long)]
        store: Option<StoreId>,
    },
    /// The clients, with their locks and candidacies
    Sessions,
    /// The owners and waiters of locks and elections; exit code 5 if a store did not answer
    Locks {
        #[arg(long, help = "Only of this type: Lock, Map, CounterMap, LeaderElection")]
        kind: Option<String>,
        /// Only of this name
        #[arg(long)]
        name: Option<String>,
    },
}

impl Inspect {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        match self.verb {
            Some(verb) => verb.run(context).await,
            None => everything(context).await,
        }
    }
}

impl Verb {
    async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        match self {
            Self::Drivers => drivers(context).await,
            Self::Stores => store::list(context).await,
            Self::Hosts => hosts(context).await,
            Self::Primitives { kind, store } => primitives(context, kind, store).await,
            Self::Sessions => sessions(context).await,
            Self::Locks { kind, name } => {
                locks(context, &kind.unwrap_or_default(), &name.unwrap_or_default()).await
            }
        }
    }
}

/// Prints all but the drivers, which do not change: for people one part after the other, for programs one object.
async fn everything(context: &Context) -> Result<ExitCode, Failure> {
    let inspect = context.control()?.inspect();
    let stores = inspect.stores().await.map_err(Failure::control)?;
    let routes = inspect.routes().await.map_err(Failure::control)?;
    let primitives = inspect.primitives("", None).await.map_err(Failure::control)?;
    let sessions = inspect.sessions().await.map_err(Failure::control)?;
    let locks = inspect.locks("", "").await.map_err(Failure::control)?;
    context.printer.object(&json!({
        "stores": stores,
        "routes": routes,
        "primitives": primitives,
        "sessions": sessions,
        "locks": locks.locks,
        "elections": locks.elections,
        "unanswered": locks.unanswered,
    }))?;
    if context.printer.is_human() {
        store::print(context, &stores)?;
        context.printer.human("")?;
        route::print(context, &routes)?;
        context.printer.human("")?;
        print_primitives(context, &primitives)?;
        context.printer.human("")?;
        print_sessions(context, &sessions)?;
        context.printer.human("")?;
        print_locks(context, &locks)?;
    }
    Ok(complete(&locks))
}

async fn drivers(context: &Context) -> Result<ExitCode, Failure> {
    let drivers = context.control()?.inspect().drivers().await.map_err(Failure::control)?;
    let header = ["DRIVER", "ALIASES", "CONSISTENCY", "DURABILITY", "FACTS", "DESCRIPTION"];
    context.printer.table("no drivers", &header, &drivers, |driver: &Driver| {
        let facts: Vec<_> =
            driver.profile.facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            driver.driver.to_string(),
            driver.aliases.join(", "),
            driver.profile.consistency.clone(),
            driver.profile.durability.clone(),
            facts.join(" "),
            driver.description.clone(),
        ]
    })?;
    Ok(DONE)
}

async fn hosts(context: &Context) -> Result<ExitCode, Failure> {
    let stores = context.control()?.inspect().stores().await.map_err(Failure::control)?;
    let hosts: Vec<_> = stores
        .iter()
        .flat_map(|store| {
            store.hosts.iter().map(|host| HostRow {
                store: &store.store,
                clock_distrusted: host.own && store.clock_distrusted,
                host,
            })
        })
        .collect();
    let header = ["STORE", "HOST", "HEARD", "TIMEOUT", "CLOCK", ""];
    context.printer.table("no store is shared", &header, &hosts, |row: &HostRow<'_>| {
        vec![
            row.store.to_string(),
            row.host.id.clone(),
            format!("{:.1}s ago", row.host.age.as_secs_f64()),
            format!("{}s", row.host.timeout.as_secs_f64()),
            match (row.host.clock_offset, row.host.clock_uncertainty) {
                (Some(offset), Some(uncertainty)) => format!("{offset:+.1}s ±{uncertainty:.1}s"),
                _ if row.host.own => String::new(),
                _ => "?".to_owned(),
            },
            match (row.host.own, row.clock_distrusted) {
                (false, _) => "",
                (true, false) => "this process",
                (true, true) => "this process, whose clock is ahead: it does not decide what has expired",
            }
            .to_owned(),
        ]
    })?;
    Ok(DONE)
}

async fn primitives(
    context: &Context,
    kind: Option<String>,
    store: Option<StoreId>,
) -> Result<ExitCode, Failure> {
    let kind = kind.unwrap_or_default();
    let inspect = context.control()?.inspect();
    let primitives = inspect.primitives(&kind, store.as_ref()).await.map_err(Failure::control)?;
    print_primitives(context, &primitives)?;
    Ok(DONE)
}

fn print_primitives(context: &Context, primitives: &[Primitive]) -> Result<(), Failure> {
    let header = ["KIND", "NAME", "STORE", "TAGS", "SESSIONS", "STREAMS", "WAITERS"];
    context.printer.table("no primitive is open", &header, primitives, |primitive: &Primitive| {
        vec![
            primitive.kind.clone(),
            show(primitive.name.as_bytes()),
            primitive.store.to_string(),
            primitive.tags.join(", "),
            primitive.sessions.to_string(),
            primitive.streams.to_string(),
            primitive.waiters.to_string(),
        ]
    })
}

async fn sessions(context: &Context) -> Result<ExitCode, Failure> {
    let sessions = context.control()?.inspect().sessions().await.map_err(Failure::control)?;
    print_sessions(context, &sessions)?;
    Ok(DONE)
}

fn print_sessions(context: &Context, sessions: &[Session]) -> Result<(), Failure> {
    let now = context.wall();
    let header = ["SESSION", "CLIENT", "CONNECTED", "PRIMITIVES", "CALLS", "WAITS+STREAMS", "HOLDS"];
    context.printer.table("no client is connected", &header, sessions, |session: &Session| {
        let holdings: Vec<_> = session
            .holdings
            .iter()
            .map(|holding| {
                let key = if holding.key.is_empty() { String::new() } else { format!("/{}", holding.key) };
                show(format!("{} {}{key} #{}", holding.kind, holding.name, holding.token).as_bytes())
            })
            .collect();
        vec![
            session.id.clone(),
            session.peer.clone(),
            ago(session.connected, now),
            session.primitives.to_string(),
            session.calls_in_flight.to_string(),
            format!("{}/{}", session.long_calls, session.long_calls_max),
            holdings.join(", "),
        ]
    })
}

async fn locks(context: &Context, kind: &str, name: &str) -> Result<ExitCode, Failure> {
    let all = context.control()?.inspect().locks(kind, name).await.map_err(Failure::control)?;
    print_locks(context, &all)?;
    Ok(complete(&all))
}

/// Returns the exit code: an incomplete list must not look complete.
fn complete(all: &Locks) -> ExitCode {
    if all.unanswered.is_empty() { DONE } else { ExitCode::from(UNAVAILABLE) }
}

fn print_locks(context: &Context, all: &Locks) -> Result<(), Failure> {
    let (printer, now) = (context.printer, context.wall());
    all.locks.iter().try_for_each(|lock| printer.object(lock))?;
    all.elections.iter().try_for_each(|election| printer.object(election))?;
    all.unanswered.iter().try_for_each(|store| printer.object(store))?;
    if all.locks.is_empty() && all.elections.is_empty() && all.unanswered.is_empty() {
        printer.human("no lock or election is open")?;
    }
    if !all.locks.is_empty() {
        let rows: Vec<_> = all.locks.iter().map(|lock| lock_row(lock, now)).collect();
        printer.human(table(&["KIND", "NAME", "KEY", "HOLDER", "TOKEN", "SINCE", "WAITERS"], &rows))?;
    }
    if !all.elections.is_empty() {
        let rows: Vec<_> = all.elections.iter().map(election_row).collect();
        printer.human(table(&["ELECTION", "TERM", "LEADER", "CANDIDATES"], &rows))?;
    }
    for UnansweredStore { store, error, primitives, .. } in &all.unanswered {
        printer.human(format!("store {store} gave no answer about {primitives} primitives: {error}"))?;
    }
    Ok(())
}

fn lock_row(lock: &LockState, now: SystemTime) -> Vec<String> {
    let holder = |fact: &dyn Fn(&Holder) -> String| lock.holder.as_ref().map_or_else(|| "-".to_owned(), fact);
    let waiter = |waiter: &Waiter| match waiter.since {
        Some(since) => format!("{} ({})", session(&waiter.session, waiter.session_ended), ago(since, now)),
        None => session(&waiter.session, waiter.session_ended),
    };
    let waiters: Vec<_> = lock.waiters.iter().map(waiter).collect();
    vec![
        lock.kind.clone(),
        show(lock.name.as_bytes()),
        show(lock.key.as_bytes()),
        holder(&|holder| session(&holder.session, holder.session_ended)),
        holder(&|holder| holder.token.to_string()),
        holder(&|holder| holder.since.map_or_else(|| "?".to_owned(), |since| ago(since, now))),
        waiters.join(", "),
    ]
}

fn election_row(election: &ElectionState) -> Vec<String> {
    let candidate = |one: &Candidate| {
        format!("{} ({})", show(one.candidate.as_bytes()), session(&one.session, one.session_ended))
    };
    let candidates: Vec<_> = election.candidates.iter().map(candidate).collect();
    vec![
        show(election.name.as_bytes()),
        election.term.to_string(),
        election.leader.as_ref().map_or_else(|| "-".to_owned(), candidate),
        candidates.join(", "),
    ]
}
