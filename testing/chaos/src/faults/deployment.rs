// SPDX-License-Identifier: Apache-2.0
//! A store with its servers, the runtimes on it, and the links between them: the target of faults.
#![allow(clippy::disallowed_methods, reason = "servers are real, and awaited in real time")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use atomix_client::Client;
use atomix_servers::proxy::Proxy;
use atomix_servers::redis::Redis;
use atomix_servers::{etcd, free_port};
use std::time::Duration;
use tempfile::TempDir;

use super::network::Firewall;
use crate::disks::{Disk, Shim};
use crate::{Server, program};

/// A store under test, with runtimes on it.
#[derive(Debug)]
pub struct Deployment {
    /// Its servers, or what it has instead.
    pub backend: Backend,
    /// The processes.
    pub runtimes: Vec<Runtime>,
    /// Present if the test has a network of its own.
    pub firewall: Option<Firewall>,
}

/// The part that keeps the content of a store.
#[derive(Debug)]
pub enum Backend {
    /// The runtime itself.
    Memory,
    /// A folder, which lies on a disk of its own where disks can be mounted, and a library that lets syncs fail.
    Disk {
        /// The place of the folder without a disk of its own.
        folder: TempDir,
        /// The disk.
        disk: Option<Disk>,
        /// The library.
        shim: Shim,
    },
    /// Three members, or one.
    Etcd(etcd::Cluster),
    /// One server, with an append-only file.
    Redis(Redis),
}

/// A process of the program.
#[derive(Debug)]
pub struct Runtime {
    server: Option<Server>,
    settings: Vec<String>,
    log: Option<PathBuf>,
    listen: u16,
    control: u16,
    /// The link from clients to it.
    pub client_link: Proxy,
    /// The links from it to the servers of the store; empty if it connects directly.
    pub store_links: Vec<Proxy>,
}

/// The names of stores, as `FAULT_STORE` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// See [`Backend::Memory`].
    Memory,
    /// See [`Backend::Disk`].
    Disk,
    /// See [`Backend::Etcd`].
    Etcd,
    /// The same with one member.
    EtcdAlone,
    /// See [`Backend::Redis`].
    Redis,
}

/// The session timeout: a runtime without heartbeats for longer is taken for dead.
pub const SESSIONS: Duration = Duration::from_secs(1);
/// The tag of a second store, in memory, which no fault affects.
pub const HEALTHY_TAG: &str = "healthy";
/// Users of the machine for the members of an etcd.
const USERS: u32 = 61_000;

// === impl Kind ===

impl Kind {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "memory" => Self::Memory,
            "disk" => Self::Disk,
            "etcd" => Self::Etcd,
            "etcd-alone" => Self::EtcdAlone,
            "redis" => Self::Redis,
            _ => return None,
        })
    }

    /// Returns whether several runtimes can share the store.
    pub fn shared(self) -> bool {
        matches!(self, Self::Etcd | Self::EtcdAlone | Self::Redis)
    }
}

// === impl Deployment ===

impl Deployment {
    /// Starts the servers of a store, and so many runtimes on it. The first reaches the store directly, the others through
    /// proxies.
    pub async fn start(kind: Kind, runtimes: usize, firewall: Option<Firewall>) -> Self {
        let backend = match kind {
            Kind::Memory => Backend::Memory,
            Kind::Disk => Backend::Disk {
                folder: tempfile::tempdir().expect("there is room for a folder"),
                disk: Disk::mount(192).ok(),
                shim: Shim::build().expect("there is a C compiler"),
            },
            Kind::Etcd if firewall.is_some() => Backend::Etcd(etcd::Cluster::start_as_users(3, USERS).await),
            Kind::Etcd => Backend::Etcd(etcd::Cluster::start(3).await),
            Kind::EtcdAlone => Backend::Etcd(etcd::Cluster::start(1).await),
            // With `everysec` a killed server loses what it had answered while a slow sync was under way.
            Kind::Redis => {
                Backend::Redis(Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await)
            }
        };
        let mut deployment = Self { backend, runtimes: Vec::new(), firewall };
        for _ in 0..runtimes {
            deployment.add_runtime().await;
        }
        deployment
    }

    /// Starts one more runtime.
    pub async fn add_runtime(&mut self) {
        let number = self.runtimes.len();
        self.runtimes.push(Runtime::prepare(&self.backend, number > 0).await);
        self.start_runtime(number);
    }

    /// Starts a runtime that does not run.
    pub fn start_runtime(&mut self, number: usize) {
        let runtime = &mut self.runtimes[number];
        assert!(runtime.server.is_none(), "it runs");
        let mut command = Command::new(program());
        let listen = |port| format!("127.0.0.1:{port}");
        command.args(["serve", "--listen", &listen(runtime.listen), "--control", &listen(runtime.control)]);
        for setting in &runtime.settings {
            command.args(["--set", setting]);
        }
        if let Some(log) = &runtime.log {
            let log = File::options().create(true).append(true).open(log).expect("the folder is there");
            command.stderr(log);
        }
        if let Backend::Disk { shim, .. } = &self.backend {
            shim.preload(&mut command);
        }
        runtime.server = Some(Server::start_command(command));
    }

    /// Kills a runtime.
    pub fn kill_runtime(&mut self, number: usize) {
        if let Some(mut server) = self.runtimes[number].server.take() {
            server.kill();
        }
    }

    /// Returns the ports on which the servers of the store listen for clients.
    pub fn ports(&self) -> Vec<u16> {
        self.backend.ports()
    }
}

// === impl Backend ===

impl Backend {
    fn ports(&self) -> Vec<u16> {
        match self {
            Self::Memory | Self::Disk { .. } => Vec::new(),
            Self::Etcd(cluster) => cluster.members.iter().map(etcd::Etcd::port).collect(),
            Self::Redis(redis) => vec![redis.port()],
        }
    }

    /// Returns the configuration of a runtime's store whose servers are at these addresses.
    fn store(&self, addresses: &[String]) -> String {
        let (driver, version, config) = match self {
            Self::Memory => ("memory", "v1", String::new()),
            Self::Disk { folder, disk, .. } => {
                let dir = disk.as_ref().map_or_else(|| folder.path(), Disk::path).join("store");
                ("disk", "v1", format!(r#""dir":"{}","log-bytes-max":1048576"#, dir.display()))
            }
            // Time-outs that fit into a short test; everything else is as it comes.
            Self::Etcd(_) => {
                let timeouts = r#""request-timeout":"1s","dial-timeout":"500ms","dial-keep-alive-time":"1s","dial-keep-alive-timeout":"1s""#;
                ("etcd", "v3", format!(r#""endpoints":{addresses:?},{timeouts}"#))
            }
            Self::Redis(_) => {
                let timeouts = r#""response-timeout":"1s","connect-timeout":"500ms""#;
                ("redis", "v1", format!(r#""address":{:?},{timeouts}"#, addresses[0]))
            }
        };
        format!(
            r#"{{"name":"tested","driver":{{"name":"{driver}","version":"{version}"}},"config":{{{config}}}}}"#
        )
    }
}

// === impl Runtime ===

impl Runtime {
    async fn prepare(backend: &Backend, through_proxies: bool) -> Self {
        let (listen, control) = (free_port(), free_port());
        let (mut store_links, mut addresses) = (Vec::new(), Vec::new());
        for port in backend.ports() {
            let mut address = format!("127.0.0.1:{port}");
            if through_proxies {
                let link = Proxy::start(address).await;
                address = link.address();
                store_links.push(link);
            }
            addresses.push(address);
        }
        // The log of a runtime is kept beside wrong histories.
        let log = std::env::var_os("ATOMIX_HISTORY_DIR")
            .map(|folder| Path::new(&folder).join(format!("runtime-{listen}.log")));
        let healthy = r#"{"name":"healthy","driver":{"name":"memory","version":"v1"}}"#;
        let settings = vec![
            format!("log.level={}", if log.is_some() { "warn" } else { "off" }),
            format!("sessions.timeout={}ms", SESSIONS.as_millis()),
            format!("stores=[{},{healthy}]", backend.store(&addresses)),
            format!(
                r#"routes=[{{"store":{{"name":"healthy"}},"tags":["{HEALTHY_TAG}"]}},{{"store":{{"name":"tested"}}}}]"#
            ),
        ];
        let client_link = Proxy::start(format!("127.0.0.1:{listen}")).await;
        Self { server: None, settings, log, listen, control, client_link, store_links }
    }

    /// Returns the process.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    /// Returns a client with a separate connection and session, which tries every call once. Faults of the client link
    /// affect it.
    pub fn client(&self, call_timeout: Duration) -> Client {
        self.client_at(&self.client_link.address(), call_timeout)
    }

    /// As [`Runtime::client`], not affected by faults of the client link.
    pub fn direct_client(&self, call_timeout: Duration) -> Client {
        self.client_at(&self.listen(), call_timeout)
    }

    /// Returns where the primitives are served, as `host:port`, without a proxy.
    pub fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.listen)
    }

    fn client_at(&self, address: &str, call_timeout: Duration) -> Client {
        let client = Client::builder()
            .endpoint(format!("http://{address}"))
            .control(format!("http://127.0.0.1:{}", self.control))
            .call_timeout(call_timeout)
            .retry_budget(Duration::ZERO);
        client.connect_lazy().expect("the address is one")
    }
}
