// SPDX-License-Identifier: Apache-2.0
//! The commands of `atomix`, all but the one that serves. They talk to a server through `atomix-client` only.
//!
//! A program embeds [`Options`] and [`Command`] in its own arguments and hands them to [`run`].

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "the comments of arguments are the help of the program, which is no Markdown"
)]

mod context;
mod failure;
mod held;
mod input;
mod output;
mod text;
mod verbs;

use std::ffi::OsString;
use std::process::ExitCode;

use atomix_client::fenced;
use atomix_env::Env;
use clap::Subcommand;
use futures::future::LocalBoxFuture;

pub use crate::context::{Found, Offline, Options};
pub use crate::held::JOB_ENV;

use crate::context::{Context, ours};
use crate::failure::Failure;
use crate::output::{Format, Printer};

/// The end of the help of the program: the exit codes.
pub const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  not found
  4  conflict: exists already, another version, lock not acquired
  5  server or store not available

A value that is written as `-` is read from standard input, one that is written as `@FILE` from that file, byte for
byte; `--literal` takes both as they are. A value that is read is written byte for byte as well, with a newline behind
it on a terminal only. With `--output json` every answer, message or change is one JSON object on a line of its own,
and so is an error on standard error.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A number
    #[command(subcommand)]
    Counter(verbs::counter::Verb),
    /// Numbers by key
    #[command(subcommand, name = "countermap")]
    CounterMap(verbs::countermap::Verb),
    /// Be a candidate in an election, and run a command only as the leader
    Elect(verbs::election::Elect),
    /// A leader election
    #[command(subcommand)]
    Election(verbs::election::Verb),
    /// A map whose entries have positions
    #[command(subcommand, name = "indexedmap")]
    IndexedMap(verbs::indexedmap::Verb),
    /// Values by position
    #[command(subcommand)]
    List(verbs::list::Verb),
    /// A lock for all processes
    #[command(subcommand)]
    Lock(verbs::lock::Verb),
    /// Values by key, with versions and times to live
    #[command(subcommand)]
    Map(verbs::map::Verb),
    /// Sets of text by key
    #[command(subcommand, name = "multimap")]
    MultiMap(verbs::multimap::Verb),
    /// A set of text
    #[command(subcommand)]
    Set(verbs::set::Verb),
    /// Publish and subscribe
    #[command(subcommand)]
    Topic(verbs::topic::Verb),
    /// One value with a version and a time to live
    #[command(subcommand)]
    Value(verbs::value::Verb),

    /// Connect, configure and disconnect stores
    #[command(subcommand)]
    Store(verbs::store::Verb),
    /// Show, explain and program routes
    #[command(subcommand)]
    Route(verbs::route::Verb),
    /// Show the state of the server; without a verb all of it
    Inspect(verbs::inspect::Inspect),
    /// Close and delete primitives as a whole
    #[command(subcommand)]
    Primitive(verbs::primitive::Verb),
    /// End the session of a client
    #[command(subcommand)]
    Session(verbs::session::Verb),
    /// Load the server and measure its answers
    Bench(verbs::bench::Bench),
    Health(verbs::health::Health),
    Wait(verbs::health::Wait),
    /// Print the version of this program
    Version,
    /// Become a command that ends with the process that holds something for it
    #[command(hide = true, name = held::TIED)]
    RunTied(held::Tied),
    /// Write a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs a command and returns the exit code of the process. Errors go to standard error.
///
/// `program` describes all arguments, for completion scripts. Needs a tokio runtime with its drivers on. Not cancel
/// safe: a change that the command began may be applied.
pub fn run(
    program: clap::Command,
    options: Options,
    offline: Offline,
    command: Command,
) -> LocalBoxFuture<'static, ExitCode> {
    // Boxed here, so that it is compiled with this crate, for size.
    Box::pin(async move {
        let printer = Printer::new(options.output);
        // A program may have our commands elsewhere in its arguments, where we would not find them again.
        let ties = cfg!(target_os = "linux") && program.find_subcommand(held::TIED).is_some();
        let options = options.without_empty(|name| std::env::var_os(name));
        let context = Context { options, offline, printer, env: Env::real(), ties };
        let fences = match context.options.fences() {
            Ok(fences) => fences,
            Err(failure) => return context.printer.fail(&failure),
        };
        match Box::pin(fenced(fences, dispatch(&context, program, command))).await {
            Ok(code) => code,
            Err(failure) => context.printer.fail(&failure),
        }
    })
}

/// Runs the command that was parsed.
async fn dispatch(context: &Context, program: clap::Command, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Counter(verb) => verb.run(context).await,
        Command::CounterMap(verb) => verb.run(context).await,
        Command::Elect(elect) => elect.run(context).await,
        Command::Election(verb) => verb.run(context).await,
        Command::IndexedMap(verb) => verb.run(context).await,
        Command::List(verb) => verb.run(context).await,
        Command::Lock(verb) => verb.run(context).await,
        Command::Map(verb) => verb.run(context).await,
        Command::MultiMap(verb) => verb.run(context).await,
        Command::Set(verb) => verb.run(context).await,
        Command::Topic(verb) => verb.run(context).await,
        Command::Value(verb) => verb.run(context).await,
        Command::Store(verb) => verb.run(context).await,
        Command::Route(verb) => verb.run(context).await,
        Command::Inspect(inspect) => inspect.run(context).await,
        Command::Primitive(verb) => verb.run(context).await,
        Command::Session(verb) => verb.run(context).await,
        Command::Bench(bench) => bench.run(context).await,
        Command::RunTied(tied) => Ok(tied.run(context)),
        Command::Health(health) => health.run(context).await,
        Command::Wait(wait) => wait.run(context).await,
        Command::Version => verbs::health::version(context, &program),
        Command::Completions { shell } => output::completions(&program, shell),
    }
}

/// Writes the error of the parser for `arguments` that it rejected, as `--output` has it if that is among them, and
/// returns the exit code: 2, or 0 for the help that was asked for.
pub fn refuse(error: &clap::Error, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<String> = ours(arguments).collect();
    let json =
        arguments.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json")
            || arguments.iter().any(|one| matches!(one.as_str(), "-ojson" | "-o=json" | "--output=json"));
    if json && error.use_stderr() {
        let text = error.render().to_string();
        let message = text.split("\n\nUsage:").next().unwrap_or_default().trim();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        return Printer::new(Format::Json).fail(&Failure::Usage(message.to_owned()));
    }
    // A failed write is ignored, as the parser itself does.
    error.print().ok();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    #[command(name = "atomix", version = "0")]
    struct Program {
        #[command(flatten)]
        options: Options,
        #[command(subcommand)]
        command: All,
    }

    /// As a program does that has commands of its own.
    #[derive(Debug, Subcommand)]
    enum All {
        /// Serve
        Serve,
        #[command(flatten)]
        Ours(Command),
    }

    fn parse(line: &str) -> Result<Program, clap::Error> {
        Program::try_parse_from(std::iter::once("atomix").chain(line.split_whitespace()))
    }

    #[test]
    fn the_arguments_are_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn every_verb_is_understood() {
        let lines = "
            counter get hits
            counter incr hits
            counter incr hits -5
            counter decr hits 3
            counter set hits -1
            counter update hits -1 2
            countermap incr c k
            countermap remove c k --check -2
            countermap lock c a b -- true
            countermap unlock c a
            elect leader --candidate me -- sh -c true
            election enter e me
            election demote e me
            election watch e
            indexedmap append i k v --ttl 1h
            indexedmap update i k --value v --version 3
            indexedmap get i --index 4
            indexedmap previous i 4
            list insert l 0 v
            list watch l --replay
            lock run nightly --timeout 5s -- sh -c exit
            lock run nightly -E 77 --unavailable-exit-code 78 -- sh -c exit
            map delete users a --raw
            list delete l 0
            value remove v
            topic watch news --raw
            map tail users
            set add s --literal @x
            multimap put m k - @file
            map commit users @file
            health --store prod/orders
            health --wait --timeout 5s
            wait
            version
            store disconnect orders --force
            route program [] --force
            route program --dry-run @file
            lock status nightly
            map put users alice admin --ttl 5s --version 7
            map put --ttl 5s users alice -- -v
            map insert users alice -
            map watch users --key alice --output json
            map lock users a b --kill-after 1s -- true --flag
            multimap put m k a b c
            multimap replace m k
            set add s e --ttl 500ms
            topic tail news
            topic publish news hello
            value set v x
            value delete v --version 2
            store connect prod/orders memory
            store connect orders etcd/v1 {}
            store configure orders {}
            store disconnect orders
            store list
            store backup disk /tmp/file
            store restore /tmp/file /tmp/dir
            store verify /tmp/dir
            route list
            route explain Map users --tag durable --tag fast
            route program []
            inspect
            inspect drivers
            inspect primitives --kind Map --store prod/orders
            inspect locks --kind Lock --name a
            inspect sessions
            primitive close Map users
            primitive delete lock door --force
            primitive delete Map users --store prod/orders --dry-run --tag fast
            session end 1
            bench counter --connections 8 --callers 64 --seconds 0.5
            bench get --rate 1000 --keys 100000
            bench mix get=9,put=1 --value-bytes 1000 --threads 2 -o json
            bench lock --contenders 64
            bench watch --watchers 10 --stalled 1 --tag fast
            completions bash
            serve
            --server unix:/run/atomix map size users
            map size users --server http://127.0.0.1:1 -o json --tag a
        ";
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_usage_is_refused_with_code_two() {
        let lines = [
            "",
            "map",
            "map put users alice",
            "map put users alice v --version 0",
            "map put users alice v --ttl soon",
            "counter incr hits many",
            "indexedmap get i",
            "indexedmap get i k --index 4",
            "list get l -1",
            "lock run nightly",
            "multimap put m k",
            "map commit users {}",
            "route explain Map",
            "store connect a /v1",
            "map get users alice --timeout 5",
            "bench mix take=1",
            "bench put --callers 8 --rate 1000",
        ];
        for line in lines {
            match parse(line) {
                Ok(program) => panic!("{line}: {program:?}"),
                Err(error) => assert_eq!(error.exit_code(), 2, "{line}"),
            }
        }
    }

    #[test]
    fn the_tags_of_all_places_count() {
        let line = "--tag a map size users --tag=b";
        let program = parse(line).unwrap();
        assert_eq!(program.options.output, Format::Human);
        let words = |line: &'static str| line.split_whitespace().map(OsString::from);
        assert_eq!(program.options.with_all_tags(words(line)).tags, ["a", "b"]);
        let line = "lock run l --tag a -- job --tag b";
        assert_eq!(parse(line).unwrap().options.with_all_tags(words(line)).tags, ["a"]);
    }

    #[test]
    fn completions_offer_what_help_shows() {
        let mut script = Vec::new();
        let mut program = output::visible(&Program::command());
        clap_complete::generate(clap_complete::Shell::Bash, &mut program, "atomix", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("countermap") && script.contains("--control-server"));
        assert!(!script.contains(held::TIED), "run-tied is offered");
    }

    #[tokio::test]
    async fn an_unreachable_server_is_code_five() {
        let folder = std::env::temp_dir().join("atomix-no-such-socket");
        let program = parse(&format!("--server unix:{} map size users", folder.display())).unwrap();
        let All::Ours(command) = program.command else { panic!("serve") };
        let code = run(Program::command(), program.options, Offline::NOTHING, command).await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(5)));
    }
}
