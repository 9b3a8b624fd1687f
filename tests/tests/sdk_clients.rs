// SPDX-License-Identifier: Apache-2.0
//! Runs the scenarios of `clients/` against the built program, on every store.
//!
//! On a store that runtimes share, each client of a scenario has a runtime of its own, as in the tests of the original.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use atomix_chaos::Server;
use atomix_chaos::foreign::{command, finish, is_there};
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;

/// As many clients as a scenario has at most.
const RUNTIMES: usize = 5;

/// The runtimes of a run, and what they work on.
struct Runtimes {
    store: &'static str,
    servers: Vec<Server>,
    /// Ends after the runtimes.
    _backend: Box<dyn Any>,
}

// === impl Runtimes ===

impl Runtimes {
    async fn memory() -> Self {
        Self::serve("memory", "v1", "", 1, Box::new(())).await
    }

    async fn disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(r#""dir":"{}""#, folder.path().display());
        Self::serve("disk", "v1", &config, 1, Box::new(folder)).await
    }

    async fn etcd() -> Self {
        let etcd = Etcd::start(&[]).await;
        let config = format!(r#""endpoints":["{}"]"#, etcd.endpoint());
        Self::serve("etcd", "v3", &config, RUNTIMES, Box::new(etcd)).await
    }

    async fn redis() -> Self {
        let redis = Redis::start(&[]).await;
        let config = format!(r#""address":"{}""#, redis.address());
        Self::serve("redis", "v1", &config, RUNTIMES, Box::new(redis)).await
    }

    /// Starts so many runtimes whose only store has the name of its driver, and waits until all of them have it.
    async fn serve(
        store: &'static str,
        version: &str,
        config: &str,
        runtimes: usize,
        backend: Box<dyn Any>,
    ) -> Self {
        let driver = format!(r#"{{"name":"{store}","version":"{version}"}}"#);
        let stores = format!(r#"stores=[{{"name":"{store}","driver":{driver},"config":{{{config}}}}}]"#);
        let arguments = ["--set", "log.level=warn", "--set", &stores];
        let servers: Vec<Server> = (0..runtimes).map(|_| Server::start_with(&arguments)).collect();
        for server in &servers {
            server.client().await.counter("ready").open().await.expect("the store is there");
        }
        Self { store, servers, _backend: backend }
    }

    /// Runs a tool in a folder of `clients/` against the runtimes.
    fn run(&self, tool: &Path, arguments: &[&str], folder: &str) {
        let addresses = |of: fn(&Server) -> &str| self.servers.iter().map(of).collect::<Vec<_>>().join(",");
        let mut command = command(tool, arguments, folder);
        command
            .env("ATOMIX_TEST_ADDRS", addresses(Server::listen))
            .env("ATOMIX_TEST_CONTROL", addresses(Server::control))
            .env("ATOMIX_TEST_STORE", self.store);
        finish(command);
    }
}

/// Returns the Go scenarios, compiled once. `None` without Go.
fn go_scenarios() -> Option<&'static Path> {
    static COMPILED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| {
        is_there("go", "version").then(|| {
            let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-scenarios");
            let arguments = ["test", "-c", "-o", program.to_str().expect("the path is text"), "."];
            finish(command(Path::new("go"), &arguments, "go"));
            program
        })
    });
    compiled.as_deref()
}

async fn run_go(runtimes: impl Future<Output = Runtimes>) {
    if let Some(scenarios) = go_scenarios() {
        runtimes.await.run(scenarios, &["-test.timeout=120s"], "go");
    }
}

async fn run_java(runtimes: impl Future<Output = Runtimes>) {
    // One at a time: they share a folder for what is compiled.
    static TURN: Mutex<()> = Mutex::new(());
    if is_there("mvn", "--version") {
        let runtimes = runtimes.await;
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        runtimes.run(Path::new("mvn"), &["-q", "-B", "test"], "java");
    }
}

#[tokio::test]
async fn the_go_sdk_works_in_memory() {
    run_go(Runtimes::memory()).await;
}

#[tokio::test]
async fn the_go_sdk_works_on_disk() {
    run_go(Runtimes::disk()).await;
}

#[tokio::test]
async fn the_go_sdk_works_on_etcd() {
    run_go(Runtimes::etcd()).await;
}

#[tokio::test]
async fn the_go_sdk_works_on_redis() {
    run_go(Runtimes::redis()).await;
}

#[tokio::test]
async fn the_java_calls_work_in_memory() {
    run_java(Runtimes::memory()).await;
}

#[tokio::test]
async fn the_java_calls_work_on_disk() {
    run_java(Runtimes::disk()).await;
}

#[tokio::test]
async fn the_java_calls_work_on_etcd() {
    run_java(Runtimes::etcd()).await;
}

#[tokio::test]
async fn the_java_calls_work_on_redis() {
    run_java(Runtimes::redis()).await;
}
