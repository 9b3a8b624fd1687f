// SPDX-License-Identifier: Apache-2.0
//! `atomix counter`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure};

/// The verbs of a counter. Every verb prints the value after it.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print the value
    Get {
        /// The counter
        name: String,
    },
    /// Set the value
    Set {
        /// The counter
        name: String,
        /// The value
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Add to the value
    Incr {
        /// The counter
        name: String,
        /// The amount
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
    },
    /// Subtract from the value
    Decr {
        /// The counter
        name: String,
        /// The amount
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
    },
    /// Set the value if it is CHECK
    Update {
        /// The counter
        name: String,
        /// The expected value
        #[arg(allow_negative_numbers = true)]
        check: i64,
        /// The new value
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let client = context.client().await?;
        let (Self::Get { name }
        | Self::Set { name, .. }
        | Self::Incr { name, .. }
        | Self::Decr { name, .. }
        | Self::Update { name, .. }) = &self;
        let counter = context.open(client.counter(name)).await?;
        let value = match self {
            Self::Get { .. } => counter.get().await?,
            Self::Set { value, .. } => counter.set(value).await?,
            Self::Incr { delta, .. } => counter.increment(delta).await?,
            Self::Decr { delta, .. } => counter.decrement(delta).await?,
            Self::Update { check, value, .. } => counter.update(check, value).await?,
        };
        context.printer.line(value.to_string(), &json!({"value": value}))?;
        Ok(DONE)
    }
}
