// SPDX-License-Identifier: Apache-2.0
//! The program: `serve`, and the commands that talk to a server.

mod check;
mod drivers;
mod log;
mod notify;
mod output;
mod reload;
mod serve;
mod signals;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

/// Distributed primitives over gRPC, on the store of your choice.
#[derive(Debug, Parser)]
#[command(name = "atomix", version, after_help = atomix_cli::AFTER_HELP)]
struct Program {
    #[command(flatten)]
    options: atomix_cli::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(flatten)]
    Client(atomix_cli::Command),
}

/// The time that the end of the process waits for work that blocks a thread, such as a DNS look-up.
const END_TIMEOUT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => return atomix_cli::refuse(&error, std::env::args_os()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return serve::cannot_begin(&error),
    };
    let code = runtime.block_on(async {
        match program.command {
            Command::Serve(serve) => serve.run().await,
            Command::Client(command) => {
                let options = program.options.with_all_tags(std::env::args_os());
                atomix_cli::run(Program::command(), options, drivers::OFFLINE, command).await
            }
        }
    });
    runtime.shutdown_timeout(END_TIMEOUT);
    code
}
