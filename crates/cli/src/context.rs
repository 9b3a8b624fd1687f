// SPDX-License-Identifier: Apache-2.0
//! The options of every command, and the environment in which a command runs.

#![allow(
    clippy::doc_markdown,
    reason = "the comments of arguments are the help of the program, which is no Markdown"
)]

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime};

use atomix_client::{Client, Fence, OpenRequest};
use atomix_env::{Env, Instant};
use clap::Args;

use crate::failure::{Failure, Side};
use crate::output::{Format, Printer};
use crate::text::parse_duration;

/// The variables that stand for options, and the defaults.
const SERVER: &str = "ATOMIX_SERVER";
const DEFAULT_SERVER: &str = "http://127.0.0.1:5678";
const CONTROL_SERVER: &str = "ATOMIX_CONTROL_SERVER";
/// The variable with the guards of a command that runs under a lock or a lead.
pub(crate) const GUARD: &str = "ATOMIX_GUARD";
const DEFAULT_CONTROL_SERVER: &str = "http://127.0.0.1:5679";

/// The options of every command, which may stand before and behind it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Options {
    /// The address of the primitives: http://host:port or unix:/path
    #[arg(
        long,
        global = true,
        env = SERVER,
        default_value = DEFAULT_SERVER,
        value_name = "URL"
    )]
    pub server: String,

    /// The address of stores, routes and inspection: http://host:port or unix:/path
    #[arg(
        long,
        global = true,
        env = CONTROL_SERVER,
        default_value = DEFAULT_CONTROL_SERVER,
        value_name = "URL"
    )]
    pub control_server: String,

    /// The form of answers
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Human)]
    pub output: Format,

    /// A tag of the primitive, for routes that look at tags; may be repeated
    #[arg(long = "tag", global = true, value_name = "TAG")]
    pub tags: Vec<String>,

    /// Fencing tokens that every change presents: lock=NAME,token=N or election=NAME,token=N, several separated by
    /// ';', NAME percent-encoded. A primitive refuses them once it has accepted a greater token (exit code 4).
    /// `lock run` and `elect` set the variable for their command
    #[arg(long, global = true, env = GUARD, value_name = "GUARD", hide_env_values = true)]
    pub guard: Option<String>,

    /// The limit of a call, or of a whole list, such as 500ms or 10s; for locks, elections and `wait` the limit of the
    /// wait [default: 10s, and without limit where it is a wait]
    #[arg(long, global = true, value_parser = parse_duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
}

/// The content of the files of a store, or the reason that it is not readable.
pub type Found = Result<String, Box<dyn Error>>;

/// The operations of the program on the files of a store without a server.
#[derive(Debug, Clone, Copy)]
pub struct Offline {
    /// Reads a backup or the folder of a store.
    pub verify: fn(&Path) -> Found,
    /// Makes the folder of a store from a backup.
    pub restore: fn(&Path, &Path) -> Found,
}

impl Offline {
    /// The operations of a program without a driver with files.
    pub const NOTHING: Self = Self { verify: |_| Err(NO_FILES.into()), restore: |_, _| Err(NO_FILES.into()) };
}

const NO_FILES: &str = "this program was built without a driver that keeps files";

/// The environment of a running command.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) options: Options,
    pub(crate) offline: Offline,
    pub(crate) printer: Printer,
    pub(crate) env: Env,
    /// Whether this program can start itself to tie a command to this process.
    pub(crate) ties: bool,
}

// === impl Options ===

impl Options {
    /// Puts the default in the place of an address that is empty because its `variable` is: that counts as not set. An empty
    /// argument is a mistake, most likely of a script, and stays.
    pub(crate) fn without_empty(mut self, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let empty = |name| variable(name).is_some_and(|value| value.is_empty());
        if self.server.is_empty() && empty(SERVER) {
            DEFAULT_SERVER.clone_into(&mut self.server);
        }
        if self.control_server.is_empty() && empty(CONTROL_SERVER) {
            DEFAULT_CONTROL_SERVER.clone_into(&mut self.control_server);
        }
        self
    }

    /// Reads the guards. Empty counts as none, as for the addresses.
    pub(crate) fn fences(&self) -> Result<Vec<Fence>, Failure> {
        let guards = self.guard.iter().flat_map(|guards| guards.split(';')).map(str::trim);
        let fences = guards.filter(|guard| !guard.is_empty()).map(str::parse);
        Ok(fences.collect::<Result<_, atomix_client::Error>>()?)
    }

    /// Returns the value of `ATOMIX_GUARD` for a command that runs under `fence` as well.
    pub(crate) fn guard_with(&self, fence: &Fence) -> String {
        let outer = self.guard.iter().filter(|guards| !guards.is_empty());
        outer.cloned().chain([fence.to_string()]).collect::<Vec<_>>().join(";")
    }

    /// Takes the tags before the command as well as those behind it from `arguments`, those of the process; the parser
    /// keeps only one place of an option.
    #[must_use]
    pub fn with_all_tags(mut self, arguments: impl IntoIterator<Item = OsString>) -> Self {
        let mut tags = Vec::new();
        let mut arguments = ours(arguments);
        while let Some(argument) = arguments.next() {
            if argument == "--tag" {
                tags.extend(arguments.next());
            } else if let Some(tag) = argument.strip_prefix("--tag=") {
                tags.push(tag.to_owned());
            }
        }
        self.tags = tags;
        self
    }
}

/// Returns the arguments before `--`: what follows is not for this program.
pub(crate) fn ours(arguments: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = String> {
    let text = |argument: OsString| argument.to_string_lossy().into_owned();
    arguments.into_iter().map(text).take_while(|argument| argument != "--")
}

// === impl Context ===

impl Context {
    pub(crate) fn builder(&self) -> atomix_client::Builder {
        let builder = Client::builder().endpoint(&self.options.server).control(&self.options.control_server);
        match self.limit() {
            Some(limit) => builder.call_timeout(limit).retry_budget(limit).connect_timeout(limit),
            None => builder,
        }
    }

    /// Connects to the primitives. Tries once, because a person waits.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        self.builder().connect().await.map_err(|error| Failure::Call(error, Side::Primitives))
    }

    /// Connects for a command that waits for `--timeout`, so that its single calls have their usual time limit.
    pub(crate) async fn waiting_client(&self) -> Result<Client, Failure> {
        let builder = Client::builder().endpoint(&self.options.server).control(&self.options.control_server);
        builder.connect().await.map_err(|error| Failure::Call(error, Side::Primitives))
    }

    /// Returns `--timeout` unless it is zero, which only locks and elections understand: try once.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.options.timeout.filter(|timeout| !timeout.is_zero())
    }

    /// Returns what is left of `--timeout` for a command that has `begun` to wait.
    pub(crate) fn left(&self, begun: Instant) -> Option<Duration> {
        self.options.timeout.map(|timeout| timeout.saturating_sub(self.env.now() - begun))
    }

    /// Connects for a command that waits, and opens what it waits for, within `--timeout`.
    pub(crate) async fn opened<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        open: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure> {
        let opening = async { open(self.waiting_client().await?).await };
        match self.limit() {
            None => opening.await,
            Some(limit) => self
                .env
                .timeout(limit, opening)
                .await
                .map_err(|_| Failure::Late("the server did not answer in time"))?,
        }
    }

    /// Returns the wall time, for messages.
    pub(crate) fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.env.wall().since_unix()
    }

    /// Makes a client for the control services.
    pub(crate) fn control(&self) -> Result<Client, Failure> {
        connect_control(self.builder())
    }

    /// Makes a client for a call to the control services that takes this long if the store behind does not answer.
    pub(crate) fn control_with_timeout(&self, timeout: Duration) -> Result<Client, Failure> {
        let builder = self.builder();
        connect_control(if self.options.timeout.is_none() { builder.call_timeout(timeout) } else { builder })
    }

    pub(crate) async fn open<P>(&self, open: OpenRequest<P>) -> Result<P, Failure> {
        Ok(open.tags(&self.options.tags).open().await?)
    }
}

fn connect_control(builder: atomix_client::Builder) -> Result<Client, Failure> {
    builder.retry_budget(Duration::ZERO).connect_lazy().map_err(|error| Failure::Call(error, Side::Control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let options = || Options {
            server: String::new(),
            control_server: DEFAULT_CONTROL_SERVER.to_owned(),
            output: Format::Human,
            tags: Vec::new(),
            timeout: None,
            guard: None,
        };
        let settled = options().without_empty(|name| (name == SERVER).then(OsString::new));
        assert_eq!(settled.server, DEFAULT_SERVER);
        let settled = options().without_empty(|_| None);
        assert_eq!(settled.server, "", "an empty argument is a mistake");
        let settled = options().without_empty(|_| Some("unix:/x".into()));
        assert_eq!(settled.server, "");
    }
}
