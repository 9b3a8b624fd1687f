// SPDX-License-Identifier: Apache-2.0
//! Redis: one server, a master with replica and sentinels, a cluster.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Process, START_TIMEOUT, eventually, free_port};

/// A separate server. Killed when dropped.
#[derive(Debug)]
pub struct Redis {
    /// Whether it is a sentinel, which has its arguments in a file.
    sentinel: bool,
    arguments: Vec<String>,
    port: u16,
    folder: TempDir,
    process: Option<Process>,
}

/// A master, a replica, and three sentinels that watch over them.
#[derive(Debug)]
pub struct Sentinels {
    /// The first one begins as the master.
    pub servers: Vec<Redis>,
    /// The sentinels.
    pub sentinels: Vec<Redis>,
}

/// Three masters without replicas, each with a third of the slots.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Redis>,
}

// === impl Redis ===

impl Redis {
    /// Starts a server with these arguments, such as `["--appendonly", "yes"]`, and waits until it answers. Without arguments
    /// it keeps nothing on disk.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_on(free_port(), arguments).await
    }

    /// As [`Redis::start`] on a port that was published before.
    pub async fn start_on(port: u16, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary folders");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self { sentinel: false, arguments, port, folder, process: None };
        redis.restart().await;
        redis
    }

    /// Starts the server again, with the data that it left behind, after [`Redis::kill`].
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "it is running");
        let (port, folder) = (self.port.to_string(), self.folder.path().display().to_string());
        let mut arguments: Vec<String> = if self.sentinel {
            vec![format!("{folder}/sentinel.conf"), "--sentinel".to_owned()]
        } else {
            let fixed = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", &folder];
            let more = ["--logfile", "log", "--enable-debug-command", "local"];
            fixed.into_iter().chain(more).map(str::to_owned).collect()
        };
        arguments.extend(self.arguments.iter().cloned());
        self.process = Some(Process::start("redis-server", &arguments).expect("the server is installed"));
        eventually(START_TIMEOUT, "a redis server answers", || {
            let answer = self.ask(&["PING"]);
            answer.starts_with("PONG") || answer.starts_with("NOAUTH")
        })
        .await;
    }

    /// Returns `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder with the server's data and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Asks the server through its own client, and returns what that prints; empty if it cannot connect.
    pub fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output();
        let output = output.expect("the client is installed");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Kills the server at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the server where it is (SIGSTOP), until [`Redis::resume`].
    pub fn pause(&self) {
        self.running().pause();
    }

    /// Lets the server go on.
    pub fn resume(&self) {
        self.running().resume();
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("it is running")
    }
}

// === impl Sentinels ===

impl Sentinels {
    /// The name under which the sentinels know the master.
    pub const MASTER: &'static str = "atomix";

    /// Starts all of them, and waits until the sentinels know the replica and each other.
    pub async fn start(arguments: &[&str]) -> Self {
        let master = Redis::start(arguments).await;
        let port = master.port().to_string();
        let replica = Redis::start(&[arguments, &["--replicaof", "127.0.0.1", &port]].concat()).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Redis::start_sentinel(&port).await);
        }
        let all = Self { servers: vec![master, replica], sentinels };
        eventually(START_TIMEOUT, "the sentinels know all servers", || {
            all.sentinels.iter().all(|sentinel| {
                let facts = sentinel.ask(&["SENTINEL", "MASTER", Self::MASTER]);
                let fact = |name| facts.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                fact("num-slaves").as_deref() == Some("1")
                    && fact("num-other-sentinels").as_deref() == Some("2")
            })
        })
        .await;
        eventually(START_TIMEOUT, "the replica has caught up", || {
            all.servers[1].ask(&["INFO", "replication"]).contains("master_link_status:up")
        })
        .await;
        all
    }

    /// Returns the port of the master as the sentinels see it.
    pub fn master_port(&self) -> Option<u16> {
        let answer = self.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER]);
        answer.lines().nth(1)?.parse().ok()
    }
}

impl Redis {
    async fn start_sentinel(master: &str) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("there is room for temporary folders"));
        let (dir, name) = (folder.path().display(), Sentinels::MASTER);
        let configuration = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\nlogfile log\nsentinel monitor {name} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n"
        );
        std::fs::write(folder.path().join("sentinel.conf"), configuration).expect("the folder is ours");
        let mut redis = Self { sentinel: true, arguments: Vec::new(), port, folder, process: None };
        redis.restart().await;
        redis
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts three nodes and waits until each of them serves its slots and knows the others.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port().to_string();
            let cluster =
                ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
            let node = Redis::start(&[&cluster[..], arguments].concat()).await;
            nodes.push((node, bus));
        }
        let third = 16_384 / 3 + 1;
        for (at, (node, _)) in nodes.iter().enumerate() {
            let (first, last) = (at * third, ((at + 1) * third).min(16_384) - 1);
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            let (other, bus) = &nodes[(at + 1) % 3];
            node.ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), bus]);
        }
        let cluster = Self { nodes: nodes.into_iter().map(|(node, _)| node).collect() };
        eventually(START_TIMEOUT, "the cluster serves all slots", || {
            cluster.nodes.iter().all(|node| {
                let facts = node.ask(&["CLUSTER", "INFO"]);
                facts.contains("cluster_state:ok") && facts.contains("cluster_known_nodes:3")
            })
        })
        .await;
        cluster
    }
}
