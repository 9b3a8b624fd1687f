// SPDX-License-Identifier: Apache-2.0
//! etcd: a member, or a cluster of several.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use futures::future::join_all;
use tempfile::TempDir;

use super::{Process, Waiting, free_port, http};

/// A member of an etcd cluster, mostly the only one. Its data are gone when this is dropped.
#[derive(Debug)]
pub struct Etcd {
    arguments: Vec<String>,
    port: u16,
    peer: u16,
    /// The user of the machine that it runs as, if not ours.
    user: Option<u32>,
    /// The address of health and metrics, without TLS and without a user.
    metrics: u16,
    process: Option<Process>,
    folder: TempDir,
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The members.
    pub members: Vec<Etcd>,
}

// === impl Etcd ===

impl Etcd {
    /// Starts a cluster of one member, with more `arguments` for the program, and waits until it answers.
    pub async fn start(arguments: &[&str]) -> Self {
        let peer = free_port();
        let cluster = format!("m0=http://127.0.0.1:{peer}");
        let mut etcd = Self::new("http", 0, peer, &cluster, arguments);
        etcd.restart().await;
        etcd
    }

    /// Starts a cluster of one member that speaks TLS to its clients; certificate and key are named in `arguments`.
    pub async fn start_secure(arguments: &[&str]) -> Self {
        let peer = free_port();
        let cluster = format!("m0=http://127.0.0.1:{peer}");
        let mut etcd = Self::new("https", 0, peer, &cluster, arguments);
        etcd.restart().await;
        etcd
    }

    fn new(scheme: &str, number: usize, peer: u16, cluster: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let (port, metrics) = (free_port(), free_port());
        let client = format!("{scheme}://127.0.0.1:{port}");
        let peers = format!("http://127.0.0.1:{peer}");
        let mut arguments = vec![
            format!("--name=m{number}"),
            format!("--data-dir={}", folder.path().display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster={cluster}"),
            format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"),
            "--log-level=error".to_owned(),
            "--logger=zap".to_owned(),
        ];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Self { arguments, port, peer, user: None, metrics, process: None, folder }
    }

    /// Returns where clients connect, as `127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the port for the other members.
    pub fn peer_port(&self) -> u16 {
        self.peer
    }

    /// Returns the user of the machine that it runs as, if not ours.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// Returns the folder with the data.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Returns the process, if the member runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Kills the member without a warning. Its data stay.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts the member again with its data, and waits until it answers.
    pub async fn restart(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Sends a request to the JSON side of the API, such as `/v3/kv/compaction`, and returns the answer. A cluster that
    /// changes its leader is retried.
    pub async fn post(&self, path: &str, body: &str) -> String {
        let (status, answer) = self.request(path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn request(&self, path: &str, body: &str) -> (u16, String) {
        let waiting = Waiting::new("the cluster");
        loop {
            let (status, answer) = http(self.port, "POST", path, body).await.expect("the member answers");
            // No leader, and no answer in time.
            if !matches!(status, 503 | 504) {
                return (status, answer);
            }
            waiting.pause().await;
        }
    }

    /// Returns the revision of the newest commit.
    pub async fn revision(&self) -> u64 {
        let answer = self.post("/v3/kv/range", r#"{"key":"AA==","limit":1}"#).await;
        let revision = answer.split("\"revision\":\"").nth(1).and_then(|rest| rest.split('"').next());
        revision.and_then(|revision| revision.parse().ok()).expect("an answer has the revision")
    }

    /// Forgets what was before `revision`, if that is not forgotten yet.
    pub async fn compact(&self, revision: u64) {
        let (status, answer) =
            self.request("/v3/kv/compaction", &format!("{{\"revision\":\"{revision}\"}}")).await;
        assert!(status == 200 || answer.contains("has been compacted"), "{answer}");
    }

    /// Takes back all alarms, as an operator does after making room.
    pub async fn disarm(&self) {
        let alarms = self.post("/v3/maintenance/alarm", r#"{"action":"GET"}"#).await;
        let members = alarms.split("\"memberID\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        for member in members {
            let disarm = format!(r#"{{"action":"DEACTIVATE","alarm":"NOSPACE","memberID":"{member}"}}"#);
            self.post("/v3/maintenance/alarm", &disarm).await;
        }
    }

    /// Returns whether the member leads its cluster.
    pub async fn leads(&self) -> bool {
        let metrics = http(self.metrics, "GET", "/metrics", "").await;
        metrics.is_ok_and(|(_, text)| text.contains("\netcd_server_is_leader 1\n"))
    }

    fn spawn(&mut self) {
        // The old one must be gone before its data are opened.
        self.process = None;
        let mut command = Command::new("etcd");
        command.args(&self.arguments);
        if let Some(user) = self.user {
            command.uid(user);
        }
        let process = Process::start_command(command);
        self.process = Some(process.unwrap_or_else(|error| panic!("{error}")));
    }

    async fn ready(&self) {
        let waiting = Waiting::new("etcd");
        loop {
            let health = http(self.metrics, "GET", "/health", "").await;
            if health.is_ok_and(|(status, body)| status == 200 && body.contains("\"true\"")) {
                return;
            }
            waiting.pause().await;
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts so many members and waits until all of them answer.
    pub async fn start(members: usize) -> Self {
        Self::start_as(members, None).await
    }

    /// As [`Cluster::start`] with a separate user for each member, from this one on, so that a firewall can
    /// distinguish them. Only root may do that.
    pub async fn start_as_users(members: usize, first: u32) -> Self {
        Self::start_as(members, Some(first)).await
    }

    async fn start_as(members: usize, first: Option<u32>) -> Self {
        let peers: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let named = peers.iter().enumerate().map(|(at, peer)| format!("m{at}=http://127.0.0.1:{peer}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let mut members: Vec<Etcd> = peers
            .iter()
            .enumerate()
            .map(|(at, peer)| {
                Etcd::new("http", at, *peer, &cluster, &["--heartbeat-interval=50", "--election-timeout=500"])
            })
            .collect();
        if let Some(first) = first {
            for (member, user) in members.iter_mut().zip(first..) {
                chown(member.folder(), Some(user), None).expect("only root may do that");
                member.user = Some(user);
            }
        }
        // A member answers only when a majority is there.
        members.iter_mut().for_each(Etcd::spawn);
        join_all(members.iter().map(Etcd::ready)).await;
        Self { members }
    }

    /// Starts these members again with their data, all at once, and waits until they answer.
    pub async fn restart(&mut self, members: &[usize]) {
        for member in members {
            self.members[*member].spawn();
        }
        join_all(members.iter().map(|member| self.members[*member].ready())).await;
    }

    /// Returns where clients connect to each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// Returns the number of the member that leads, and waits until there is one.
    pub async fn leader(&self) -> usize {
        let waiting = Waiting::new("a leader");
        loop {
            for (at, member) in self.members.iter().enumerate() {
                if member.process.is_some() && member.leads().await {
                    return at;
                }
            }
            waiting.pause().await;
        }
    }
}
