// SPDX-License-Identifier: Apache-2.0
//! The servers that are measured: each on free ports of the loopback and a Unix socket, with a fresh folder, ended by
//! its own process id.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use atomix_env::Env;
use atomix_load::{Channel, Method};
use atomix_servers::{Process, free_port};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// The folders of the programs and of the data of servers.
#[derive(Debug)]
pub(crate) struct TestEnv {
    /// The folder of our programs.
    pub(crate) programs: PathBuf,
    /// A folder on the disk.
    pub(crate) disk: PathBuf,
}

/// A folder whose content stays in memory.
const MEMORY: &str = "/dev/shm";

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    /// The `host:port` that clients connect to.
    pub(crate) tcp: String,
    /// `unix:/path`
    pub(crate) unix: String,
    /// From its start to its first answer.
    pub(crate) started: Duration,
    folder: Option<TempDir>,
}

/// Ticks of a second in `/proc`: a constant of the kernel, whatever its timer does.
const TICKS: u64 = 100;

/// How long a server may take to start.
const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

// === impl TestEnv ===

impl TestEnv {
    /// Starts a bare server; `more` are its arguments.
    pub(crate) fn baseline(&self, more: &[&str]) -> anyhow::Result<Server> {
        let (port, folder) = (free_port().to_string(), tempfile::tempdir_in(MEMORY)?);
        let unix = folder.path().join("s").display().to_string();
        let program = self.programs.join("atomix-bench");
        let arguments = [&["baseline", "--port", &port, "--unix", &unix], more].concat();
        start(&program, &arguments, &format!("127.0.0.1:{port}"), folder, Ready::Counter)
    }

    /// Starts the runtime with one store, whose files, if it has any, are on the disk.
    pub(crate) fn atomix(&self, driver: &str, config: Json) -> anyhow::Result<Server> {
        self.atomix_with(driver, config, &[])
    }

    /// As [`TestEnv::atomix`], with `settings` of its own.
    pub(crate) fn atomix_with(
        &self,
        driver: &str,
        config: Json,
        settings: &[&str],
    ) -> anyhow::Result<Server> {
        self.serve(driver, config, settings, tempfile::tempdir_in(&self.disk)?)
    }

    /// As [`TestEnv::atomix`], in a folder that has been used before.
    pub(crate) fn atomix_in(&self, driver: &str, config: Json, folder: TempDir) -> anyhow::Result<Server> {
        self.serve(driver, config, &[], folder)
    }

    fn serve(
        &self,
        driver: &str,
        mut config: Json,
        settings: &[&str],
        folder: TempDir,
    ) -> anyhow::Result<Server> {
        let (port, control) = (free_port(), free_port());
        let tcp = format!("127.0.0.1:{port}");
        // Not in the folder of the files, whose path may be too long for a socket.
        let sockets = tempfile::tempdir_in(MEMORY)?;
        let unix = format!("unix:{}", sockets.path().join("s").display());
        if driver == "disk" {
            config["dir"] = json!(folder.path().join("data"));
        }
        let version = if driver == "etcd" { "v3" } else { "v1" };
        let stores =
            json!([{"name": driver, "driver": {"name": driver, "version": version}, "config": config}]);
        let control = format!("--control=127.0.0.1:{control}");
        let (listen, listen_unix) = (format!("--listen={tcp}"), format!("--listen={unix}"));
        let stores = format!("stores={stores}");
        let mut arguments = vec![
            "serve",
            &listen,
            &listen_unix,
            &control,
            "--set",
            &stores,
            "--set",
            "log.level=error",
            // The generator is one peer, and opens more connections than one may.
            "--set",
            "limits.connections-max=20000",
            "--set",
            "limits.connections-per-peer-max=20000",
        ];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let mut server = start(&self.programs.join("atomix"), &arguments, &tcp, sockets, Ready::Counter)?;
        server.unix = unix;
        if driver == "disk" {
            server.folder = Some(folder);
        }
        Ok(server)
    }

    /// Starts a process that enters an election of a runtime.
    pub(crate) fn candidate(&self, server: &Server, election: &str, name: &str) -> anyhow::Result<Process> {
        let program = self.programs.join("atomix-bench").display().to_string();
        let arguments = ["candidate", "--server", &server.tcp, "--election", election, "--name", name];
        Ok(Process::start(&program, arguments)?)
    }

    /// Starts a member of etcd that is alone, with its data in memory or on the disk.
    pub(crate) fn etcd(&self, on_disk: bool) -> anyhow::Result<Server> {
        let folder = if on_disk { tempfile::tempdir_in(&self.disk)? } else { tempfile::tempdir_in(MEMORY)? };
        let tcp = format!("127.0.0.1:{}", free_port());
        let (client, peer) = (format!("http://{tcp}"), format!("http://127.0.0.1:{}", free_port()));
        let arguments = [
            format!("--data-dir={}", folder.path().join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--log-level=error".to_owned(),
            "--logger=zap".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        start(Path::new("etcd"), &arguments, &tcp, folder, Ready::Etcd)
    }

    /// Starts a Redis that keeps nothing on the disk.
    #[allow(clippy::unused_self, reason = "all servers come from the ground")]
    pub(crate) fn redis(&self) -> anyhow::Result<Server> {
        let (port, folder) = (free_port().to_string(), tempfile::tempdir_in(MEMORY)?);
        let (socket, dir) =
            (folder.path().join("s").display().to_string(), folder.path().display().to_string());
        let arguments =
            ["--port", &port, "--bind", "127.0.0.1", "--unixsocket", &socket, "--save", "", "--dir", &dir];
        start(Path::new("redis-server"), &arguments, &format!("127.0.0.1:{port}"), folder, Ready::Ping)
    }

    /// Returns the bytes of one of our programs.
    pub(crate) fn size(&self, program: &str) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(self.programs.join(program))?.len())
    }
}

/// The answer of a server that has started.
#[derive(Debug, Clone, Copy)]
enum Ready {
    /// The creation of a counter.
    Counter,
    /// A read.
    Etcd,
    /// PING
    Ping,
}

impl Ready {
    async fn ask(self, env: &Env, tcp: &str) -> anyhow::Result<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let (path, message): (&str, &[u8]) = match self {
            Self::Counter => ("/atomix.runtime.counter.v1.Counter/Create", b"\0\0\0\0\x05\x0a\x03\x0a\x01k"),
            // The key or name "k".
            Self::Etcd => ("/etcdserverpb.KV/Range", b"\0\0\0\0\x03\x0a\x01k"),
            Self::Ping => {
                let mut socket = TcpStream::connect(tcp).await?;
                socket.write_all(b"PING\r\n").await?;
                let mut answer = [0; 7];
                socket.read_exact(&mut answer).await?;
                anyhow::ensure!(&answer == b"+PONG\r\n", "no pong");
                return Ok(());
            }
        };
        let channel = Channel::connect(env, tcp).await?;
        channel.unary(&Method::new(path), bytes::Bytes::from_static(message)).await?;
        Ok(())
    }
}

fn start(
    program: &Path,
    arguments: &[&str],
    tcp: &str,
    folder: TempDir,
    ready: Ready,
) -> anyhow::Result<Server> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let env = runtime.block_on(async { Env::real() });
    let name = program.display().to_string();
    let begin = env.now();
    let process = Process::start(&name, arguments)?;
    loop {
        let asked = runtime.block_on(async { env.timeout(WAIT_TIMEOUT, ready.ask(&env, tcp)).await });
        match asked {
            Ok(Ok(())) => break,
            Ok(Err(error)) if env.now() - begin > WAIT_TIMEOUT => {
                return Err(error).with_context(|| format!("{name} does not answer"));
            }
            Ok(Err(_)) => pause(Duration::from_micros(100)),
            Err(_) => anyhow::bail!("{name} does not answer"),
        }
    }
    let started = env.now() - begin;
    let unix = format!("unix:{}", folder.path().join("s").display());
    Ok(Server { process, tcp: tcp.to_owned(), unix, started, folder: Some(folder) })
}

/// Waits on this thread. Timers of tokio go by whole milliseconds.
#[allow(clippy::disallowed_methods, reason = "a start is measured more exactly than in milliseconds")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

// === impl Server ===

impl Server {
    /// Returns the processor time that the server has used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        // The name of the program, in brackets, may hold spaces. User and system time are fields 14 and 15.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// Returns the bytes of memory that the server uses.
    pub(crate) fn memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// Kills the server and returns the folder of its data.
    pub(crate) fn kill(mut self) -> Option<TempDir> {
        self.process.kill();
        self.folder
    }
}
