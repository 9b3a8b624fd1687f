// SPDX-License-Identifier: Apache-2.0
//! `atomix election` and `atomix elect`

use std::process::ExitCode;

use atomix_client::election::{Candidacy, Term};
use clap::{Args, Subcommand};
use futures::FutureExt;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use crate::Context;
use crate::failure::{CONFLICT, DONE, Failure};
use crate::held::{self, Job, Signals, release, signal_code};
use crate::text::show;
use crate::verbs::follow;

/// What to do with an election. Every verb but watch prints the term after it.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Stand as a candidate until interrupted, and print every term
    Enter {
        /// The election
        name: String,
        /// The candidate, which nobody else may use
        candidate: String,
    },
    /// Withdraw a candidate; only useful on a server that gives all its clients one session
    Withdraw {
        /// The election
        name: String,
        /// The candidate
        candidate: String,
    },
    /// Make a waiting candidate the leader
    Anoint {
        /// The election
        name: String,
        /// The candidate
        candidate: String,
    },
    /// Move a waiting candidate one place forward
    Promote {
        /// The election
        name: String,
        /// The candidate
        candidate: String,
    },
    /// Move a candidate one place back
    Demote {
        /// The election
        name: String,
        /// The candidate
        candidate: String,
    },
    /// Remove a candidate, whoever owns it
    Evict {
        /// The election
        name: String,
        /// The candidate
        candidate: String,
    },
    /// Print the current term
    Term {
        /// The election
        name: String,
    },
    /// Print the current term and every later one
    Watch {
        /// The election
        name: String,
    },
}

/// Stand in an election while a command runs, and run it only as the leader.
///
/// Waits to be the leader, at most for --timeout (exit code 4), and runs the command with ATOMIX_ELECTION,
/// ATOMIX_CANDIDATE and the number of the term ATOMIX_TERM in its environment. If the lead is lost, or the
/// connection to the server, the command gets SIGTERM; on Linux also if this process is killed. Signals are passed
/// on. The exit code is that of the command, 128 and the number of the signal if one ended it; when it has ended the
/// candidate withdraws.
#[derive(Debug, Args)]
pub struct Elect {
    /// The election
    name: String,
    /// The candidate, which nobody else may use [default: made from host, process and chance]
    #[arg(long, value_name = "ID")]
    candidate: Option<String>,
    #[command(flatten)]
    job: Job,
}

impl Verb {
    fn name(&self) -> &str {
        let (Self::Enter { name, .. }
        | Self::Withdraw { name, .. }
        | Self::Anoint { name, .. }
        | Self::Promote { name, .. }
        | Self::Demote { name, .. }
        | Self::Evict { name, .. }
        | Self::Term { name }
        | Self::Watch { name }) = self;
        name
    }

    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let client = context.client().await?;
        let election = context.open(client.election(self.name())).await?;
        let term = match self {
            Self::Enter { candidate, .. } => {
                let mut candidacy = election.candidacy(candidate).await?;
                print(context, candidacy.term())?;
                loop {
                    let term = candidacy.changed().await?;
                    print(context, &term)?;
                    if !term.stands(candidacy.candidate()) {
                        context.printer.note("the candidate was evicted");
                        return Ok(ExitCode::from(CONFLICT));
                    }
                }
            }
            Self::Withdraw { candidate, .. } => election.withdraw(candidate).await?,
            Self::Anoint { candidate, .. } => election.anoint(candidate).await?,
            Self::Promote { candidate, .. } => election.promote(candidate).await?,
            Self::Demote { candidate, .. } => election.demote(candidate).await?,
            Self::Evict { candidate, .. } => election.evict(candidate).await?,
            Self::Term { .. } => election.term().await?,
            Self::Watch { .. } => return follow(election.watch().await?, |term| print(context, &term)).await,
        };
        print(context, &term)?;
        Ok(DONE)
    }
}

fn print(context: &Context, term: &Term) -> Result<(), Failure> {
    context.printer.line(human(term), &object(term))
}

fn human(term: &Term) -> String {
    let leader = term.leader.as_ref().map_or_else(|| "nobody".to_owned(), |leader| show(leader.as_bytes()));
    let waiting: Vec<_> = term.candidates.iter().map(|candidate| show(candidate.as_bytes())).collect();
    let waiting =
        if waiting.is_empty() { String::new() } else { format!("; waiting: {}", waiting.join(", ")) };
    format!("term {}: {leader} leads{waiting}", term.number)
}

fn object(term: &Term) -> Json {
    json!({"term": term.number, "leader": term.leader, "candidates": term.candidates})
}

impl Elect {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let Self { name, candidate, job } = self;
        let candidate = candidate.unwrap_or_else(|| default_candidate(context));
        let mut signals = Signals::catch()?;
        let lead = async {
            let client = context.patient_client().await?;
            let mut candidacy = context.open(client.election(&name)).await?.candidacy(&candidate).await?;
            let term = match context.options.timeout {
                None => candidacy.elected().await?,
                Some(timeout) => match context.env.timeout(timeout, candidacy.elected()).await {
                    Ok(term) => term?,
                    Err(_) => return Ok(None),
                },
            };
            Ok::<_, Failure>(Some((candidacy, term)))
        };
        let lead = tokio::select! {
            lead = lead => lead?,
            signal = signals.next() => return Ok(signal_code(signal)),
        };
        let Some((candidacy, term)) = lead else {
            context.printer.note("the candidate was not elected in time");
            return Ok(ExitCode::from(CONFLICT));
        };
        let environment =
            [(held::ELECTION, name), (held::CANDIDATE, candidate), (held::TERM, term.number.to_string())];
        let (stop, stopped) = oneshot::channel();
        let (give, returned) = oneshot::channel();
        let lost = watch(candidacy, stopped, give).boxed().shared();
        let code = job.under(context, &mut signals, environment, lost.clone()).await?;
        // The watcher owns the candidacy; it hands it back when it is told to stop.
        drop(stop);
        let why = lost.await;
        if why.is_empty()
            && let Ok(candidacy) = returned.await
        {
            release(context, candidacy.withdraw().await.map(|_| ()));
        }
        Ok(code)
    }
}

/// Waits until the candidate does not lead any more, and says why; or until `stopped`, and gives the candidacy back.
async fn watch(
    mut candidacy: Candidacy,
    stopped: oneshot::Receiver<()>,
    give: oneshot::Sender<Candidacy>,
) -> String {
    let why = tokio::select! {
        deposed = candidacy.deposed() => match deposed {
            Ok(term) => format!("the lead was lost, {}", human(&term)),
            Err(error) => format!("the lead was lost: {error}"),
        },
        // The sender is only ever dropped.
        _ = stopped => String::new(),
    };
    // Nobody takes it if the process is ending.
    drop(give.send(candidacy));
    why
}

/// Makes a name that no other process has, and that tells an operator where the candidate runs.
fn default_candidate(context: &Context) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}-{:08x}", std::process::id(), context.env.random() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_one_line() {
        let mut term = Term::default();
        assert_eq!(human(&term), "term 0: nobody leads");
        term.number = 3;
        term.leader = Some("a".into());
        term.candidates = vec!["b".into(), "c\n".into()];
        assert_eq!(human(&term), "term 3: a leads; waiting: b, c\\n");
        assert_eq!(object(&term), json!({"term": 3, "leader": "a", "candidates": ["b", "c\n"]}));
    }
}
