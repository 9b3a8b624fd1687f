// SPDX-License-Identifier: Apache-2.0
//! `atomix serve`: parse, build, run, drain.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atomix_config::{
    Config, LaterRoute, Loaded, Loader, LogFormat, LogLevel, Routes as RouteConfig, StoreId,
};
use atomix_env::{Env, Machine, Shutdown, Workers, raise_open_files};
use atomix_primitives::{Error, Reason};
use atomix_runtime::{Routes, Runtime};
use atomix_server::{Bound, Server};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::drivers;

/// Serves primitives and control until SIGTERM or SIGINT.
///
/// Without any option: primitives on 127.0.0.1:5678, control on 127.0.0.1:5679, one memory store for everything. With
/// `--data DIR` one disk store instead, whose content survives.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration file, YAML or TOML by its extension.
    #[arg(long, env = "ATOMIX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keeps everything in this folder, durably: one disk store takes the place of the stores of the configuration.
    #[arg(long, env = "ATOMIX_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of the primitives, HOST:PORT or unix:PATH; may be given several times. [default: 127.0.0.1:5678]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Address of the control services; may be given several times. [default: 127.0.0.1:5679]
    #[arg(long, value_name = "ADDRESS")]
    control: Vec<String>,
    /// Any setting by its key, such as `--set limits.value-bytes-max=2MiB`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Checks the configuration and exits.
    #[arg(long)]
    check_config: bool,
    /// Prints the effective configuration with the origin of each value and exits.
    #[arg(long)]
    print_config: bool,
}

/// How long the start waits for stores that do not answer.
const STORES_PATIENCE: Duration = Duration::from_secs(2);

/// A wrong configuration, as sysexits.h has it.
const EXIT_CONFIG: u8 = 78;

// === impl Serve ===

impl Serve {
    /// Serves, or does what was asked for instead.
    #[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program's face")]
    pub(crate) async fn run(self) -> ExitCode {
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(EXIT_CONFIG);
            }
        };
        if self.print_config {
            print!("{}", loaded.render_with_origins());
            return ExitCode::SUCCESS;
        }
        let runtime = runtime(&loaded.config);
        let mistakes = mistakes(&loaded, &runtime);
        if !mistakes.is_empty() {
            eprintln!("{}", mistakes.join("\n"));
            return ExitCode::from(EXIT_CONFIG);
        }
        if self.check_config {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            println!("configuration is valid");
            return ExitCode::SUCCESS;
        }
        start_log(&loaded.config);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        match serve(loaded.config, runtime).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("atomix cannot serve: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn load(&self) -> Result<Loaded, atomix_config::Error> {
        let data = self.data.iter().map(|dir| {
            let driver = serde_json::json!({"name": "disk", "version": "v1"});
            serde_json::json!([{"name": "disk", "driver": driver, "config": {"dir": dir}}]).to_string()
        });
        // A limit that cannot be raised is warned of where it is too low.
        drop(raise_open_files());
        let machine = Machine::read();
        let mut loader = Loader::new()
            .env(std::env::vars_os())
            .reserve_env(crate::RESERVED_ENV)
            // What our own commands tell the programs that they run, of which this may be one.
            .reserve_env(atomix_cli::JOB_ENV)
            .flag("listen", "listen", self.listen.clone())
            .flag("control", "control", self.control.clone())
            .flag("data", "stores", data)
            .flags(self.set.clone())
            .machine(&machine);
        if let Some(file) = &self.config {
            loader = loader.file(file);
        }
        let mut loaded = loader.load()?;
        drivers::complete(&mut loaded.config.stores, &machine);
        Ok(loaded)
    }
}

/// Returns what drivers and routes refuse, a line each: the types of the configuration cannot know it.
fn mistakes(loaded: &Loaded, runtime: &Runtime) -> Vec<String> {
    let config = &loaded.config;
    let mut mistakes = Vec::new();
    for (index, store) in config.stores.iter().enumerate() {
        if let Err(error) = runtime.check_store(&store.driver, &store.config) {
            let part = if error.reason() == Reason::DriverUnknown { "driver" } else { "config" };
            mistakes.push((format!("stores[{index}].{part}"), error));
        }
    }
    mistakes.extend(routes(config).iter().flat_map(Routes::mistakes));
    let line = |(key, error): (String, Error)| format!("{error} key=`{key}`{}", loaded.origin(&key).fact());
    mistakes.into_iter().map(line).collect()
}

async fn serve(config: Config, runtime: Arc<Runtime>) -> anyhow::Result<()> {
    let bound = bind(&config, &runtime).await?;
    let shutdown = Shutdown::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let env = Env::real();
    let stop = shutdown.clone();
    env.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining: no new calls, running ones may finish");
        stop.cancel();
    });
    greet(&runtime, &bound);
    let drained = bound.run(shutdown).await;
    runtime.shut_down().await;
    if drained.cut > 0 {
        tracing::warn!(connections = drained.cut, "connections were cut after the grace");
    }
    tracing::info!("stopped");
    Ok(())
}

fn runtime(config: &Config) -> Arc<Runtime> {
    Runtime::new(atomix_runtime::Settings::new(config, Env::real(), drivers::all()))
}

/// Gives the runtime its stores and routes, and binds the ports.
async fn bind(config: &Config, runtime: &Arc<Runtime>) -> anyhow::Result<Bound> {
    for store in &config.stores {
        let connected = runtime.connect(store.id(), store.driver.clone(), store.config.clone()).await;
        connected.with_context(|| format!("store `{}` of the configuration", store.id()))?;
    }
    // A store that is there answers before the first call; one that is not is tried on while others are served.
    runtime.stores_tried(STORES_PATIENCE).await;
    if let Some(routes) = routes(config) {
        runtime.program(routes).context("routes of the configuration")?;
    }
    let workers = workers(config.workers).context("cannot start the threads of `workers`")?;
    let settings = atomix_server::Settings::new(config, Some(workers));
    Ok(Server::new(Arc::clone(runtime), settings).bind().await?)
}

/// Without routes in the configuration everything goes to the first store.
fn routes(config: &Config) -> Option<Routes> {
    match &config.routes {
        RouteConfig::Absent => {
            let store: StoreId = config.stores.first()?.id();
            Some(Routes::Later(vec![LaterRoute { store, rules: Vec::new() }]))
        }
        RouteConfig::Seed(routes) => Some(Routes::Seed(routes.clone())),
        RouteConfig::Later(routes) => Some(Routes::Later(routes.clone())),
    }
}

/// Starts the threads that serve connections.
fn workers(count: u32) -> std::io::Result<Workers> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Workers::start(if count == 0 { cores() } else { count as usize })
}

#[allow(clippy::print_stdout, reason = "the first thing that a newcomer sees")]
fn greet(runtime: &Runtime, bound: &Bound) {
    println!("atomix {} is ready", env!("CARGO_PKG_VERSION"));
    println!("  primitives  {}", bound.listen().join(", "));
    println!("  control     {}", bound.control().join(", "));
    for store in runtime.stores() {
        let durability = store
            .profile
            .map_or_else(|| "not reached yet".to_owned(), |profile| profile.durability.to_string());
        println!("  store       {} ({}), durability {durability}", store.id, store.driver);
    }
    let first = |addresses: Vec<String>| addresses.first().map(|address| reached_at(address));
    // What is printed must work as it is, here and in another terminal.
    let variables = [
        ("ATOMIX_SERVER", first(bound.listen()), "http://127.0.0.1:5678"),
        ("ATOMIX_CONTROL_SERVER", first(bound.control()), "http://127.0.0.1:5679"),
    ];
    let elsewhere: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, url, usual)| Some(format!("{name}={}", quoted(&url.filter(|url| url != usual)?))))
        .collect();
    if elsewhere.is_empty() {
        println!("try: atomix counter incr hits");
    } else {
        println!("try: export {}", elsewhere.join(" "));
        println!("     atomix counter incr hits");
    }
    println!(
        "     atomix map put users alice '{{\"age\":7}}', and in another terminal: atomix map watch users"
    );
    println!("     atomix inspect, atomix help");
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

fn start_log(config: &Config) {
    let level = match config.log.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    // An embedding program may have a log of its own.
    drop(started);
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
        let all = |loaded: &Loaded| mistakes(loaded, &runtime(&loaded.config));
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
}
