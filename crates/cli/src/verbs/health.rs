// SPDX-License-Identifier: Apache-2.0
//! `atomix health`, `atomix wait` and `atomix version`

use std::process::ExitCode;
use std::time::Duration;

use atomix_client::{Kind, StoreId};
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure, Side, UNAVAILABLE};

/// Print whether the server is healthy; exit code 5 if not
#[derive(Debug, Args)]
pub struct Health {
    /// Ask for this store, NAME or NAMESPACE/NAME, instead of the process; exit code 3 if it is not connected
    #[arg(long)]
    store: Option<StoreId>,
    /// Wait until it is healthy, at most for --timeout
    #[arg(long)]
    wait: bool,
}

/// Wait until the server is healthy, at most for --timeout; short for `health --wait`
#[derive(Debug, Args)]
pub struct Wait {
    /// Wait for this store, NAME or NAMESPACE/NAME, instead of the process
    #[arg(long)]
    store: Option<StoreId>,
}

/// The pause after a failure before the next question to the server.
const PAUSE: Duration = Duration::from_millis(100);

impl Wait {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        Health { store: self.store, wait: true }.run(context).await
    }
}

impl Health {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        // The name of a store in the health service of the server.
        let service = self
            .store
            .as_ref()
            .map_or_else(String::new, |store| format!("store:{}/{}", store.namespace, store.name));
        let begun = context.env.now();
        let serving = loop {
            let answer = self.ask(context, &service).await;
            let left = context.limit().map(|limit| limit.saturating_sub(context.env.now() - begun));
            let over = !self.wait || left.is_some_and(|left| left.is_zero());
            match answer {
                Ok(true) => break true,
                Ok(false) if over => break false,
                Err(failure) if over || !may_pass(&failure) => return Err(failure),
                Ok(false) | Err(_) => context.env.sleep(left.map_or(PAUSE, |left| left.min(PAUSE))).await,
            }
        };
        let human = if serving { "healthy" } else { "not healthy" };
        context.printer.line(human, &json!({"service": service, "healthy": serving}))?;
        Ok(if serving { DONE } else { ExitCode::from(UNAVAILABLE) })
    }

    async fn ask(&self, context: &Context, service: &str) -> Result<bool, Failure> {
        let client = context.builder().retry_budget(Duration::ZERO).connect().await;
        let client = client.map_err(|error| Failure::Call(error, Side::Primitives))?;
        Ok(client.health(service).await?)
    }
}

/// Returns whether waiting helps: the server may start, and the store may be connected.
fn may_pass(failure: &Failure) -> bool {
    let Failure::Call(error, _) = failure else { return false };
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::NotFound)
}

/// Prints the version of this program.
pub(crate) fn version(context: &Context, program: &clap::Command) -> Result<ExitCode, Failure> {
    let version = program.get_version().unwrap_or(env!("CARGO_PKG_VERSION"));
    context.printer.line(format!("atomix {version}"), &json!({"version": version}))?;
    Ok(DONE)
}
