// SPDX-License-Identifier: Apache-2.0
//! `atomix session`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure};

/// The verbs of sessions.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// End a session: its connection closes and its locks and candidacies are released
    End {
        /// The session; `atomix inspect sessions` lists them
        id: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let Self::End { id } = self;
        context.control()?.inspect().end_session(&id).await.map_err(Failure::control)?;
        context.printer.object(&json!({"session": id, "ended": true}))?;
        Ok(DONE)
    }
}
