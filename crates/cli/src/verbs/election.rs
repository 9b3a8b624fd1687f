// SPDX-License-Identifier: Apache-2.0
//! `atomix election` and `atomix elect`

use std::process::ExitCode;

use atomix_client::election::{Candidacy, Term};
use atomix_client::{Client, Fence};
use clap::{Args, Subcommand};
use futures::FutureExt;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use crate::context::{Context, GUARD};
use crate::failure::{CONFLICT, DONE, Failure, NOT_FOUND};
use crate::held::{self, Job, Signals, release, signal_code};
use crate::text::show;
use crate::verbs::follow;

/// The verbs of an election. Every verb but watch prints the term after it; the exit code is 3 if the candidate is not
/// in the election.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Be a candidate until interrupted, and print every term
    Enter {
        /// The election
        name: String,
        /// The beginning of the candidate's name; the command adds and prints a random suffix
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
    /// Remove a candidate of any session
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
    #[command(alias = "tail")]
    Watch {
        /// The election
        name: String,
    },
}

/// Be a candidate in an election, and run a command only as the leader.
///
/// Waits to be the leader, at most for --timeout (exit code 4), and runs the command with ATOMIX_ELECTION,
/// ATOMIX_CANDIDATE, the number of the term ATOMIX_TERM and ATOMIX_GUARD in its environment: changes that `atomix`
/// commands in it make are refused once a later leader has changed the same primitive. If the lead is lost, or the
/// connection to the server, the command gets SIGTERM; on Linux also if this process is killed. Signals are passed
/// on. The exit code is that of the command, 128 and the number of the signal if one ended it; when it has ended the
/// candidate withdraws.
#[derive(Debug, Args)]
pub struct Elect {
    /// The election
    name: String,
    /// The beginning of the candidate's name; a random suffix keeps the names of two processes apart
    /// [default: the host and the process id]
    #[arg(long, value_name = "NAME")]
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
        match &self {
            Self::Term { .. } => print(context, &election.term().await?)?,
            Self::Watch { .. } => return follow(election.watch().await?, |term| print(context, &term)).await,
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
            Self::Withdraw { candidate, .. }
            | Self::Anoint { candidate, .. }
            | Self::Promote { candidate, .. }
            | Self::Demote { candidate, .. }
            | Self::Evict { candidate, .. } => {
                // The calls answer with the term after them whether they changed anything or not.
                let before = election.term().await?;
                let after = match &self {
                    Self::Withdraw { .. } => election.withdraw(candidate).await?,
                    Self::Anoint { .. } => election.anoint(candidate).await?,
                    Self::Promote { .. } => election.promote(candidate).await?,
                    Self::Demote { .. } => election.demote(candidate).await?,
                    Self::Enter { .. } | Self::Evict { .. } | Self::Term { .. } | Self::Watch { .. } => {
                        election.evict(candidate).await?
                    }
                };
                print(context, &after)?;
                if let Some((why, code)) = self.idle(candidate, &before, &after) {
                    let candidate = show(candidate.as_bytes());
                    context.printer.note(&format!("nothing changed: candidate {candidate} {why}"));
                    return Ok(code);
                }
            }
        }
        Ok(DONE)
    }

    /// Returns the reason if the verb changed nothing, and the exit code: 0 if the term is as requested.
    fn idle(&self, candidate: &str, before: &Term, after: &Term) -> Option<(&'static str, ExitCode)> {
        if !before.stands(candidate) && !after.stands(candidate) {
            return Some(("is not in the election", ExitCode::from(NOT_FOUND)));
        }
        if before != after {
            return None;
        }
        let leads = after.leader.as_deref() == Some(candidate);
        if let Self::Withdraw { .. } = self {
            Some(("belongs to another session, only evict removes it", ExitCode::from(CONFLICT)))
        } else if leads {
            Some(("leads already", DONE))
        } else if let Self::Demote { .. } = self {
            Some(("is the last one already", DONE))
        } else {
            Some(("is where it was", ExitCode::from(CONFLICT)))
        }
    }
}

fn print(context: &Context, term: &Term) -> Result<(), Failure> {
    context.printer.line(human(term), &object(term))
}

fn human(term: &Term) -> String {
    let leader = match &term.leader {
        Some(leader) => format!("{} leads", show(leader.as_bytes())),
        None => "no leader".to_owned(),
    };
    let waiting: Vec<_> = term.candidates.iter().map(|candidate| show(candidate.as_bytes())).collect();
    let waiting =
        if waiting.is_empty() { String::new() } else { format!("; waiting: {}", waiting.join(", ")) };
    format!("term {}: {leader}{waiting}", term.number)
}

fn object(term: &Term) -> Json {
    json!({"term": term.number, "leader": term.leader, "candidates": term.candidates})
}

impl Elect {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let codes = self.job.codes();
        self.lead(context).await.map_err(|failure| codes.of(failure))
    }

    async fn lead(self, context: &Context) -> Result<ExitCode, Failure> {
        let Self { name, candidate, job } = self;
        let candidate = candidate.unwrap_or_else(default_candidate);
        let mut signals = Signals::catch()?;
        let lead = async {
            let begun = context.env.now();
            let enter = |client: Client| async {
                let client = client;
                let election = context.open(client.election(&name)).await?;
                Ok(election.candidacy(&candidate).await?)
            };
            let mut candidacy = context.opened(enter).await?;
            context.printer.note(&format!(
                "candidate {} of election {}",
                show(candidacy.candidate().as_bytes()),
                show(name.as_bytes())
            ));
            let term = match context.left(begun) {
                None => candidacy.elected().await?,
                Some(left) => match context.env.timeout(left, candidacy.elected()).await {
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
            return Ok(ExitCode::from(job.codes().conflict));
        };
        let environment = [
            (GUARD, context.options.guard_with(&Fence::election(&name, term.number))),
            (held::ELECTION, name),
            (held::CANDIDATE, candidacy.candidate().to_owned()),
            (held::TERM, term.number.to_string()),
        ];
        let (stop, stopped) = oneshot::channel();
        let (give, returned) = oneshot::channel();
        let lost = watch(candidacy, stopped, give).boxed().shared();
        let code = job.under(context, &mut signals, environment, lost.clone()).await?;
        // The watcher owns the candidacy and returns it on `stop`.
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

/// Waits until the candidate no longer leads, and returns the reason; or until `stopped`, and returns the candidacy.
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
    // The receiver is gone if the process is ending.
    drop(give.send(candidacy));
    why
}

/// Makes a name that shows an operator where the candidate runs.
fn default_candidate() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(number: u64, leader: &str, candidates: &[&str]) -> Term {
        Term {
            number,
            leader: Some(leader.to_owned()),
            candidates: candidates.iter().map(|&candidate| candidate.to_owned()).collect(),
        }
    }

    #[test]
    fn a_verb_that_changes_nothing_says_so() {
        let (name, candidate) = (String::new(), String::new());
        let anoint = Verb::Anoint { name: name.clone(), candidate: candidate.clone() };
        let withdraw = Verb::Withdraw { name: name.clone(), candidate: candidate.clone() };
        let demote = Verb::Demote { name, candidate };
        let led = term(3, "a", &["b"]);
        let code = |verb: &Verb, candidate: &str, after: &Term| {
            verb.idle(candidate, &led, after).map(|(_, code)| format!("{code:?}"))
        };
        let of = |code: u8| Some(format!("{:?}", ExitCode::from(code)));
        assert_eq!(code(&anoint, "nosuch", &led), of(3));
        assert_eq!(code(&anoint, "a", &led), of(0));
        assert_eq!(code(&anoint, "b", &term(4, "b", &["a"])), None);
        assert_eq!(code(&withdraw, "b", &led), of(4));
        assert_eq!(code(&withdraw, "b", &term(3, "a", &[])), None);
        assert_eq!(code(&demote, "b", &led), of(0));
    }

    #[test]
    fn a_term_is_one_line() {
        let mut term = Term::default();
        assert_eq!(human(&term), "term 0: no leader");
        term.number = 3;
        term.leader = Some("a".into());
        term.candidates = vec!["b".into(), "c\n".into()];
        assert_eq!(human(&term), "term 3: a leads; waiting: b, c\\n");
        assert_eq!(object(&term), json!({"term": 3, "leader": "a", "candidates": ["b", "c\n"]}));
    }
}
