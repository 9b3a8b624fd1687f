// SPDX-License-Identifier: Apache-2.0
//! A network for one test: a separate loopback that drops packets as ordered.
//!
//! Making it needs root, `ip` and `nft`. Threads and processes that are started inside stay inside.
#![allow(clippy::disallowed_methods, reason = "a name space belongs to threads, and servers are real")]

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network name space. It is gone when this is dropped and all who live in it have ended.
#[derive(Debug)]
pub struct Network {
    /// Keeps the name space until its input ends.
    holder: Child,
}

/// The firewall of the network that the caller is in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Firewall;

/// The packets that are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Packets to these ports: servers there receive nothing.
    To(Vec<u16>),
    /// Packets from these ports: clients receive nothing from the servers there.
    From(Vec<u16>),
    /// Packets between a member of a cluster and the others.
    Between(Member),
    /// Packets from a member of a cluster to the others. It receives theirs.
    FromMember(Member),
}

/// A member of a cluster, as a firewall knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The user as which it runs.
    pub user: u32,
    /// Its port for the others.
    pub port: u16,
    /// Their ports.
    pub others: Vec<u16>,
}

// === impl Network ===

impl Network {
    /// Makes a network. The error names what is missing on this machine.
    pub fn new() -> io::Result<Self> {
        // The output of the last command shows that all of them have worked.
        let script = "ip link set lo up && nft add table inet faults && echo up && read -r _";
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut output = [0; 2];
        if holder.stdout.as_mut().expect("piped").read_exact(&mut output).is_ok() {
            return Ok(Self { holder });
        }
        let mut error = String::new();
        holder.stderr.as_mut().expect("piped").read_to_string(&mut error)?;
        holder.wait()?;
        Err(io::Error::other(error.trim().to_owned()))
    }

    /// Makes a network; if that does not work here, prints that `what` is skipped.
    #[allow(clippy::print_stdout, reason = "a test that is skipped prints the reason")]
    pub fn or_skip(what: &str) -> Option<Self> {
        Self::new().inspect_err(|error| println!("{what}: skipped, needs root, ip and nft: {error}")).ok()
    }

    /// Runs `work` inside, on threads of its own.
    pub fn run<F: Future<Output = ()>>(&self, work: impl FnOnce(Firewall) -> F + Send) {
        let space = File::open(format!("/proc/{}/ns/net", self.holder.id())).expect("its holder runs");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("the name space is ours");
                // Its threads are started from here, so they are inside as well.
                let mut runtime = tokio::runtime::Builder::new_multi_thread();
                let runtime = runtime.worker_threads(2).enable_all().build();
                runtime.expect("threads can be started").block_on(work(Firewall));
            });
            if let Err(panic) = inside.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It ends with its input.
        drop(self.holder.wait());
    }
}

// === impl Firewall ===

impl Firewall {
    /// Loses this, and nothing else any more.
    pub fn lose(self, losses: &[Loss]) {
        let rules: String = losses.iter().map(Loss::to_string).collect();
        nft(&format!(
            "flush table inet faults\n\
             add chain inet faults sent {{ type filter hook output priority 0; }}\n{rules}"
        ));
    }

    /// Loses nothing any more.
    pub fn clear(self) {
        self.lose(&[]);
    }
}

/// Writes the rules, each as a line.
impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rule = |text: String| writeln!(f, "add rule inet faults sent {text}");
        let set = |ports: &[u16]| {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("{{ {} }}", ports.join(", "))
        };
        match self {
            Self::To(ports) => rule(format!("tcp dport {} drop", set(ports))),
            Self::From(ports) => rule(format!("tcp sport {} drop", set(ports))),
            Self::Between(Member { user, port, others }) => {
                // Which connections it has opened is remembered at what it sends on them.
                rule(format!("meta skuid {user} tcp dport {} ct mark set {user}", set(others)))?;
                rule(format!("ct mark {user} drop"))?;
                rule(format!("tcp dport {port} drop"))?;
                rule(format!("tcp sport {port} drop"))
            }
            Self::FromMember(Member { user, port, others }) => {
                rule(format!("meta skuid {user} tcp dport {} drop", set(others)))?;
                rule(format!("tcp sport {port} drop"))
            }
        }
    }
}

fn nft(rules: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was there a moment ago");
    child.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("nft reads its input");
    let output = child.wait_with_output().expect("the child is ours");
    assert!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
}
