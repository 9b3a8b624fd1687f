// SPDX-License-Identifier: Apache-2.0
//! `atomix topic`

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::failure::{DONE, Failure};
use crate::text::{put_value, show};
use crate::verbs::{Given, follow};

/// The verbs of a topic.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Publish a message
    Publish {
        /// The topic
        name: String,
        /// The message, `-` for standard input, or `@FILE`
        message: String,
        #[command(flatten)]
        given: Given,
    },
    /// Print every message from now on: offset and message
    #[command(alias = "watch")]
    Tail {
        /// The topic
        name: String,
        /// Write the bytes of the messages only, without offsets, escapes and newlines
        #[arg(long)]
        raw: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let printer = context.printer;
        let client = context.client().await?;
        let (Self::Publish { name, .. } | Self::Tail { name, .. }) = &self;
        let topic = context.open(client.topic(name)).await?;
        match self {
            Self::Publish { message, given, .. } => {
                topic.publish(&given.bytes(&message)?).await?;
                printer.object(&json!({"published": true}))?;
                Ok(DONE)
            }
            Self::Tail { raw, .. } => {
                follow(topic.subscribe().await?, |message| {
                    let published =
                        message.published.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    let mut object = json!({"offset": message.offset, "published": published.as_secs_f64()});
                    put_value(&mut object, "payload", &message.payload);
                    if raw {
                        return printer.value(&message.payload, raw, &object);
                    }
                    printer.line(format!("{}\t{}", message.offset, show(&message.payload)), &object)
                })
                .await
            }
        }
    }
}
