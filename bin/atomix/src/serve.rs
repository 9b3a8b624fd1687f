// SPDX-License-Identifier: Apache-2.0
//! `atomix serve`: parse, build, run, drain.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atomix_config::{Config, Loaded, Loader, LogFormat, StoreSpec};
use atomix_env::{Env, Machine, Shutdown, Workers, raise_open_files};
use atomix_grpc::{Bound, Server};
use atomix_runtime::Runtime;
use clap::Args;
use clap::builder::{OsStringValueParser, StringValueParser, TypedValueParser};
use futures::FutureExt;
use futures::future::{join, select};

use crate::check::{mistakes, routes};
use crate::drivers;
use crate::log::{Log, Output};
use crate::notify::Manager;
use crate::reload::Reload;
use crate::signals::{Signal, Signals};

/// Serves primitives and control until SIGTERM, SIGINT or SIGQUIT. SIGHUP reads the configuration again.
///
/// Without any option: primitives on 127.0.0.1:5678, control on 127.0.0.1:5679, one memory store for everything. With
/// `--data DIR` one disk store instead, whose content survives.
#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    /// Configuration file, YAML or TOML by its extension.
    #[arg(long, env = "ATOMIX_CONFIG", value_name = "FILE", value_parser = path())]
    config: Option<PathBuf>,
    /// Keeps everything in this folder, durably: one disk store takes the place of the stores of the configuration.
    #[arg(long, env = "ATOMIX_DATA", value_name = "DIR", value_parser = path())]
    data: Option<PathBuf>,
    /// Address of the primitives, HOST:PORT (IPv6 in brackets) or unix:PATH; may be given several times. [default: 127.0.0.1:5678]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Address of the control services; may be given several times. [default: 127.0.0.1:5679]
    #[arg(long, value_name = "ADDRESS")]
    control: Vec<String>,
    /// Any setting by its key, such as `--set limits.value-bytes-max=2MiB`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// The least severe level that is logged, as `--set log.level=LEVEL`; the names of the original are understood too.
    #[arg(long, short, value_name = "LEVEL", value_parser = log_level())]
    log_level: Option<String>,
    /// Makes a variable ATOMIX_... that is no setting an error; without it, it is a warning.
    #[arg(long)]
    strict: bool,
    /// Checks the configuration and exits.
    #[arg(long)]
    check_config: bool,
    /// Prints the effective configuration with the origin of each value and exits.
    #[arg(long)]
    print_config: bool,
}

/// Variables that this program reads itself; the settings of the server have all others of their prefix.
const RESERVED_ENV: [&str; 4] = ["ATOMIX_CONFIG", "ATOMIX_DATA", "ATOMIX_SERVER", "ATOMIX_CONTROL_SERVER"];

/// The time that the start waits for stores that do not answer.
const STORES_TIMEOUT: Duration = Duration::from_secs(2);

/// The least time that the stores get to close after the drain, beside twice the grace.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A wrong configuration, as sysexits.h has it.
const EXIT_CONFIG: u8 = 78;
/// A defect of the program, as sysexits.h has it.
const EXIT_SOFTWARE: u8 = 70;

/// Mistakes of the configuration that were found when its stores were connected, a line each.
#[derive(Debug)]
struct Misconfigured(String);

// === impl Misconfigured ===

impl std::fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misconfigured {}

// === impl Serve ===

impl Serve {
    /// Serves, or does what was asked for instead.
    pub(crate) async fn run(self) -> ExitCode {
        let loaded = self.load();
        let format = loaded.as_ref().map_or(LogFormat::Text, |loaded| loaded.config.log.format);
        let env = Env::real();
        let output = Output::start(&env, format);
        if let Some(option) = self.empty_path() {
            output.complain(&format!("path is empty, give one or leave the option out: flag=`--{option}`"));
            output.flush();
            return ExitCode::from(EXIT_CONFIG);
        }
        let code = match loaded {
            Ok(loaded) => self.run_with(loaded, &env, &output).await,
            Err(error) => {
                output.complain(&error.to_string());
                ExitCode::from(EXIT_CONFIG)
            }
        };
        output.flush();
        code
    }

    async fn run_with(self, loaded: Loaded, env: &Env, output: &Output) -> ExitCode {
        let runtime = runtime(&loaded.config, env);
        if self.print_config {
            let show = |store: &StoreSpec| runtime.shown_config(&store.driver, &store.config);
            return print(&loaded.render_with_origins(show));
        }
        let mistakes = mistakes(&loaded, &runtime);
        if !mistakes.is_empty() {
            output.complain(&mistakes.join("\n"));
            return ExitCode::from(EXIT_CONFIG);
        }
        if self.check_config {
            for warning in &loaded.warnings {
                output.complain(&format!("warning: {warning}"));
            }
            return print("configuration is valid\n");
        }
        let log = Log::start(loaded.config.log.level, loaded.config.log.format, &output.err);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let load = move || self.load().map_err(|error| error.to_string());
        let reload = Reload::new(Arc::new(load), loaded.config, Arc::clone(&runtime), log);
        // The panic hook has logged it.
        match AssertUnwindSafe(serve(reload, &runtime, env, output)).catch_unwind().await {
            Ok(Ok(code)) => code,
            Ok(Err(error)) if error.is::<Misconfigured>() => {
                output.complain(&error.to_string());
                ExitCode::from(EXIT_CONFIG)
            }
            Ok(Err(error)) => {
                output.complain(&format!("atomix cannot serve: {error:#}"));
                ExitCode::FAILURE
            }
            Err(_) => {
                output.complain("atomix has ended because of a defect");
                ExitCode::from(EXIT_SOFTWARE)
            }
        }
    }

    /// Returns the option that was given an empty path. An empty variable is as one that is not set; an empty argument is
    /// most likely a mistake of a script.
    fn empty_path(&self) -> Option<&'static str> {
        let options = [("config", &self.config, "ATOMIX_CONFIG"), ("data", &self.data, "ATOMIX_DATA")];
        let wrong = options.into_iter().find(|(_, path, variable)| {
            let is_empty = path.as_ref().is_some_and(|path| path.as_os_str().is_empty());
            is_empty && std::env::var_os(variable).is_none_or(|value| !value.is_empty())
        });
        wrong.map(|(option, ..)| option)
    }

    fn load(&self) -> Result<Loaded, atomix_config::Error> {
        let data = self.data.iter().filter(|dir| !dir.as_os_str().is_empty()).map(|dir| {
            let driver = serde_json::json!({"name": "disk", "version": "v1"});
            serde_json::json!([{"name": "disk", "driver": driver, "config": {"dir": dir}}]).to_string()
        });
        // A limit that cannot be raised is warned of where it is too low.
        drop(raise_open_files());
        let machine = Machine::read();
        let mut loader = Loader::new()
            .env(std::env::vars_os())
            .reserve_env(RESERVED_ENV)
            // The variables that `lock run` and `elect` set for their command, which may be this process.
            .reserve_env(atomix_cli::JOB_ENV)
            .flag("listen", "listen", self.listen.clone())
            .flag("control", "control", self.control.clone())
            .flag("data", "stores", data)
            .flag("log-level", "log.level", self.log_level.clone())
            .flags(self.set.clone())
            .strict(self.strict)
            .machine(&machine);
        if let Some(file) = self.config.as_ref().filter(|file| !file.as_os_str().is_empty()) {
            loader = loader.file(file);
        }
        let mut all = loader.load()?;
        drivers::complete(&mut all.config.stores, &machine);
        Ok(all)
    }
}

async fn serve(
    mut reload: Reload,
    runtime: &Arc<Runtime>,
    env: &Env,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let manager = Manager::find(|name| std::env::var_os(name));
    let grace = reload.config().drain.grace.get();
    let bound = tokio::select! {
        bound = bind(reload.config(), runtime) => bound?,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before it was ready");
            close(runtime, env, grace).await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    greet(output, runtime, &bound);
    manager.ready();
    let shutdown = Shutdown::new();
    let control = async {
        let (code, why) = control(&mut reload, &mut signals, &manager, env).await;
        manager.stopping(&why);
        tracing::info!(why, "draining: no new calls, running ones may finish");
        shutdown.cancel();
        code
    };
    let serving = std::pin::pin!(join(bound.run(shutdown.clone()), control));
    let alive = std::pin::pin!(manager.keep_alive(env));
    let (drained, code) = match select(serving, alive).await {
        futures::future::Either::Left((ended, _)) => ended,
        futures::future::Either::Right(((), serving)) => serving.await,
    };
    close(runtime, env, grace).await;
    if drained.cut > 0 {
        tracing::warn!(connections = drained.cut, "connections were cut after the grace");
    }
    tracing::info!("stopped");
    Ok(code)
}

/// Does what signals ask for until the process has to end; returns its exit code, and why.
async fn control(
    reload: &mut Reload,
    signals: &mut Signals,
    manager: &Manager,
    env: &Env,
) -> (ExitCode, String) {
    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            why = env.failed() => return (ExitCode::from(EXIT_SOFTWARE), why),
        };
        match signal {
            Signal::Stop(name) => return (ExitCode::SUCCESS, name.to_owned()),
            Signal::Reload(name) => {
                tracing::info!(signal = name, "reading the configuration again");
                manager.reloading();
                tokio::select! {
                    () = reload.run(env) => {}
                    name = signals.stop() => return (ExitCode::SUCCESS, name.to_owned()),
                }
                manager.ready();
            }
            Signal::Ignored(name) => tracing::info!(signal = name, "a signal without a meaning is ignored"),
        }
    }
}

/// Gives back what sessions own and closes the stores. One that does not answer is not waited for without end.
async fn close(runtime: &Runtime, env: &Env, grace: Duration) {
    if env.timeout(grace * 2 + CLOSE_TIMEOUT, runtime.shut_down()).await.is_err() {
        tracing::warn!("a store did not close in time: what its sessions own is given back by other members");
    }
}

fn runtime(config: &Config, env: &Env) -> Arc<Runtime> {
    Runtime::new(atomix_runtime::Settings::new(config, env.clone(), drivers::all()))
}

/// Returns what connecting a store of the configuration has found wrong on this machine, which checks without a side effect
/// cannot find.
fn mistake(runtime: &Runtime, store: &StoreSpec) -> Option<String> {
    let slot = runtime.store(&store.id()).filter(|slot| slot.is_misconfigured())?;
    let (_, error, _) = slot.status();
    Some(format!("{error} store=`{}`", store.id()))
}

/// Gives the runtime its stores and routes, and binds the ports.
async fn bind(config: &Config, runtime: &Arc<Runtime>) -> anyhow::Result<Bound> {
    for store in &config.stores {
        let connected = runtime.connect(store.id(), store.driver.clone(), store.config.clone()).await;
        connected.with_context(|| format!("store `{}` of the configuration", store.id()))?;
    }
    // A store that is there answers before the first call; one that is not is tried on while others are served.
    runtime.stores_tried(STORES_TIMEOUT).await;
    let mistakes: Vec<String> = config.stores.iter().filter_map(|store| mistake(runtime, store)).collect();
    if !mistakes.is_empty() {
        return Err(Misconfigured(mistakes.join("\n")).into());
    }
    if let Some(routes) = routes(config) {
        runtime.program(routes).context("routes of the configuration")?;
    }
    let workers = workers(config.workers).context("cannot start the threads of `workers`")?;
    let settings = atomix_grpc::Settings::new(config, Some(workers));
    Ok(Server::new(Arc::clone(runtime), settings).bind().await?)
}

/// Starts the threads that serve connections.
fn workers(count: u32) -> std::io::Result<Workers> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Workers::start(if count == 0 { cores() } else { count as usize })
}

/// Writes the first thing that a newcomer sees.
fn greet(output: &Output, runtime: &Runtime, bound: &Bound) {
    let mut lines = vec![
        format!("atomix {} is ready", env!("CARGO_PKG_VERSION")),
        format!("  primitives  {}", bound.listen().join(", ")),
        format!("  control     {}", bound.control().join(", ")),
    ];
    lines.extend(runtime.stores().into_iter().map(|store| {
        let durability = store
            .profile
            .map_or_else(|| "not reached yet".to_owned(), |profile| profile.durability.to_string());
        format!("  store       {} ({}), durability {durability}", store.id, store.driver)
    }));
    let first = |addresses: Vec<String>| addresses.first().map(|address| reached_at(address));
    // The printed lines must work unchanged, here and in another terminal.
    let variables = [
        ("ATOMIX_SERVER", first(bound.listen()), "http://127.0.0.1:5678"),
        ("ATOMIX_CONTROL_SERVER", first(bound.control()), "http://127.0.0.1:5679"),
    ];
    let elsewhere: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, url, usual)| Some(format!("{name}={}", quoted(&url.filter(|url| url != usual)?))))
        .collect();
    if elsewhere.is_empty() {
        lines.push("try: atomix counter incr hits".to_owned());
    } else {
        lines.push(format!("try: export {}", elsewhere.join(" ")));
        lines.push("     atomix counter incr hits".to_owned());
    }
    lines.extend(
        [
            "     atomix map put users alice '{\"age\":7}', and in another terminal: atomix map watch users",
            "     atomix inspect, atomix help",
            "",
        ]
        .map(str::to_owned),
    );
    output.out.write(lines.join("\n").as_bytes());
}

/// Returns the URL by which a client on this machine reaches a bound address.
fn reached_at(address: &str) -> String {
    if address.starts_with("unix:") {
        return address.to_owned();
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "5678"));
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    format!("http://{host}:{port}")
}

/// Quotes a word for a shell if it needs that.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-".contains(c);
    if word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes an answer to standard output. A reader that has seen enough is no failure, as with `head`.
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error the exit code is all there is.
            writeln!(std::io::stderr(), "atomix cannot write: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// Reports that the process could not start.
pub(crate) fn cannot_begin(error: &std::io::Error) -> ExitCode {
    writeln!(std::io::stderr(), "atomix cannot begin: {error}").ok();
    ExitCode::FAILURE
}

/// Takes a path, also an empty one: see [`Serve::run`].
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Takes the name of a level: those of the original beyond `error` end its process, and are `error` here.
fn log_level() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().map(|text| {
        let level = text.to_ascii_lowercase();
        if matches!(level.as_str(), "dpanic" | "panic" | "fatal") { "error".to_owned() } else { level }
    })
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_names_addresses_that_a_client_can_use() {
        assert_eq!(reached_at("127.0.0.1:4000"), "http://127.0.0.1:4000");
        assert_eq!(reached_at("0.0.0.0:5678"), "http://127.0.0.1:5678");
        assert_eq!(reached_at("[::]:5678"), "http://[::1]:5678");
        assert_eq!(quoted(&reached_at("unix:/run/a b'c")), r"'unix:/run/a b'\''c'");
        assert_eq!(quoted("http://[::1]:5678"), "'http://[::1]:5678'");
    }

    #[cfg(feature = "driver-memory")]
    #[test]
    fn every_mistake_of_stores_and_routes_is_named() {
        let stores = r#"[{"name": "a", "driver": {"name": "memory", "version": "v1"}},
            {"name": "b", "driver": {"name": "memory", "version": "v1"}, "config": {"byts-max": 1}},
            {"name": "c", "driver": {"name": "cassandra", "version": "v1"}}]"#;
        let routes = r#"[{"store": {"name": "a"}, "rules": [{"type": {"name": "Bogus"}}]}]"#;
        let loaded = Loader::new().flags([("stores", stores), ("routes", routes)]).load().unwrap();
        let all = |loaded: &Loaded| mistakes(loaded, &runtime(&loaded.config, &Env::real()));
        let named = all(&loaded);
        let expected = [
            ("byts-max", "key=`stores[1].config` flag=`--set stores`"),
            ("cassandra/v1", "key=`stores[2].driver` flag=`--set stores`"),
            ("Bogus", "key=`routes[0].rules[0].type.name` flag=`--set routes`"),
        ];
        assert_eq!(named.len(), expected.len(), "{named:?}");
        for (mistake, (what, place)) in named.iter().zip(expected) {
            assert!(mistake.contains(what) && mistake.ends_with(place), "{mistake}");
        }
        assert!(all(&Loader::new().load().unwrap()).is_empty());
    }

    #[tokio::test]
    async fn a_task_that_cannot_be_started_again_ends_the_process_with_its_name() {
        let env = Env::real();
        let config = Loader::new().load().unwrap().config;
        let runtime = runtime(&config, &env);
        let output = Output::start(&env, LogFormat::Text);
        let log = Log::start(config.log.level, config.log.format, &output.err);
        let serve = Serve {
            config: None,
            data: None,
            listen: Vec::new(),
            control: Vec::new(),
            set: Vec::new(),
            log_level: None,
            strict: false,
            check_config: false,
            print_config: false,
        };
        let load = move || serve.load().map_err(|error| error.to_string());
        let mut reload = Reload::new(Arc::new(load), config, runtime, log);
        let mut signals = Signals::catch().unwrap();
        env.fail("disk-writer", "a defect");
        let (code, why) = control(&mut reload, &mut signals, &Manager::find(|_| None), &env).await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(EXIT_SOFTWARE)));
        assert!(why.contains("`disk-writer`") && why.contains("a defect"), "{why}");
    }
}
