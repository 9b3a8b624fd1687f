// SPDX-License-Identifier: Apache-2.0
//! `atomix lock`

use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use futures::FutureExt;
use serde_json::json;

use crate::context::{Context, GUARD};
use crate::failure::{Failure, found};
use crate::held::{self, Job, Signals, release, signal_code};
use crate::text::{ago, session};

/// The verbs of a lock.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Hold the lock while a command runs
    ///
    /// Waits for the lock, at most for --timeout (exit code 4), and runs the command with ATOMIX_LOCK_NAME, the
    /// fencing token ATOMIX_LOCK_TOKEN and ATOMIX_GUARD in its environment: changes that `atomix` commands in it make
    /// are refused once a later holder has changed the same primitive. Signals are passed on. If the connection to the server
    /// is lost, and so the lock, the command gets SIGTERM; on Linux also if this process is killed. The exit code is
    /// that of the command, 128 and the number of the signal if one ended it; -E makes 4 another code.
    Run {
        /// The lock
        name: String,
        #[command(flatten)]
        job: Job,
    },
    /// Print the owner of the lock; exit code 3 if it is free
    Status {
        /// The lock
        name: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        match self {
            Self::Run { name, job } => {
                let codes = job.codes();
                hold(context, name, job).await.map_err(|failure| codes.of(failure))
            }
            Self::Status { name } => status(context, &name).await,
        }
    }
}

async fn status(context: &Context, name: &str) -> Result<ExitCode, Failure> {
    let client = context.client().await?;
    let token = context.open(client.lock(name)).await?.holder().await?;
    // Only the control service knows the holder and the waiters, and it may be unreachable.
    let locks = context.control()?.inspect().locks("Lock", name).await.map(|locks| locks.locks);
    let known = locks.unwrap_or_default().into_iter().find(|lock| lock.name == name);
    let mut human = vec![token.map_or_else(|| "free".to_owned(), |token| format!("held, token {token}"))];
    let mut object = json!({"name": name, "held": token.is_some(), "token": token});
    if let Some(lock) = known {
        if let Some(holder) = lock.holder.as_ref().filter(|holder| Some(holder.token) == token) {
            human.push(format!("session {}", session(&holder.session, holder.session_ended)));
            human.extend(holder.since.map(|since| format!("since {}", ago(since, context.wall()))));
        }
        human.push(format!("{} waiting", lock.waiters.len()));
        object["holder"] = json!(lock.holder);
        object["waiters"] = json!(lock.waiters);
    }
    context.printer.line(human.join(", "), &object)?;
    Ok(found(token.is_some()))
}

async fn hold(context: &Context, name: String, job: Job) -> Result<ExitCode, Failure> {
    let mut signals = Signals::catch()?;
    let lock_name = name.as_str();
    let acquire = async {
        let begun = context.env.now();
        let lock = context.opened(|client| async move { context.open(client.lock(lock_name)).await }).await?;
        let mut acquire = lock.acquire();
        if let Some(left) = context.left(begun) {
            acquire = acquire.timeout(left);
        }
        Ok::<_, Failure>(Arc::new(acquire.await?))
    };
    let guard = tokio::select! {
        guard = acquire => guard?,
        signal = signals.next() => return Ok(signal_code(signal)),
    };
    let lost = {
        let (guard, name) = (Arc::clone(&guard), name.clone());
        async move {
            guard.lost().await;
            format!("lock {name} was lost with the connection")
        }
    };
    let environment = [
        (held::LOCK_TOKEN, guard.token().to_string()),
        (held::LOCK_NAME, name),
        (GUARD, context.options.guard_with(&guard.fence())),
    ];
    let code = job.under(context, &mut signals, environment, lost.boxed().shared()).await?;
    if let Some(guard) = Arc::into_inner(guard) {
        release(context, guard.release().await);
    }
    Ok(code)
}
