// SPDX-License-Identifier: Apache-2.0
//! The program: `serve`, and the commands that talk to a server.

mod drivers;
mod serve;

use std::process::ExitCode;

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

/// Variables that this program reads itself; the settings of the server have all others of their prefix.
const RESERVED_ENV: [&str; 4] = ["ATOMIX_CONFIG", "ATOMIX_DATA", "ATOMIX_SERVER", "ATOMIX_CONTROL_SERVER"];

#[tokio::main]
async fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => return atomix_cli::refuse(&error, std::env::args_os()),
    };
    match program.command {
        Command::Serve(serve) => serve.run().await,
        Command::Client(command) => {
            let options = program.options.with_all_tags(std::env::args_os());
            atomix_cli::run(Program::command(), options, drivers::OFFLINE, command).await
        }
    }
}
