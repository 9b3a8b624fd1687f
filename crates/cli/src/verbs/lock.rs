// SPDX-License-Identifier: Apache-2.0
//! `atomix lock`

use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use futures::FutureExt;
use serde_json::json;

use crate::Context;
use crate::failure::{Failure, found};
use crate::held::{Job, Signals, release, signal_code};

/// What to do with a lock.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Hold the lock while a command runs
    ///
    /// Waits for the lock, at most for --timeout (exit code 4), and runs the command with ATOMIX_LOCK_NAME and the
    /// fencing token ATOMIX_LOCK_TOKEN in its environment. Signals are passed on. If the connection to the server
    /// is lost, and so the lock, the command gets SIGTERM. The exit code is that of the command, 128 and the number
    /// of the signal if one ended it.
    Run {
        /// The lock
        name: String,
        #[command(flatten)]
        job: Job,
    },
    /// Print the token of whoever holds the lock; exit code 3 if nobody does
    Status {
        /// The lock
        name: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        match self {
            Self::Run { name, job } => hold(context, name, job).await,
            Self::Status { name } => {
                let client = context.client().await?;
                let token = context.open(client.lock(&name)).await?.holder().await?;
                let human = token.map_or_else(|| "free".to_owned(), |token| format!("held, token {token}"));
                context
                    .printer
                    .line(human, &json!({"name": name, "held": token.is_some(), "token": token}))?;
                Ok(found(token.is_some()))
            }
        }
    }
}

async fn hold(context: &Context, name: String, job: Job) -> Result<ExitCode, Failure> {
    let mut signals = Signals::catch()?;
    let acquire = async {
        let client = context.patient_client().await?;
        let mut acquire = context.open(client.lock(&name)).await?.acquire();
        if let Some(timeout) = context.options.timeout {
            acquire = acquire.timeout(timeout);
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
    let environment = [("ATOMIX_LOCK_TOKEN", guard.token().to_string()), ("ATOMIX_LOCK_NAME", name)];
    let code = job.under(context, &mut signals, environment, lost.boxed().shared()).await?;
    if let Some(guard) = Arc::into_inner(guard) {
        release(context, guard.release().await);
    }
    Ok(code)
}
