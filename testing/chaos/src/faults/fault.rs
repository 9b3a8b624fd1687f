// SPDX-License-Identifier: Apache-2.0
//! The kinds of faults, and how they are injected and repaired.

use std::fmt;
use std::time::Duration;

use atomix_servers::proxy::{Half, Proxy};

use super::deployment::{Backend, Deployment};
use super::network::{Loss, Member};
use crate::disks::{Disk, Shim};
use atomix_conformance::Dice;

/// A fault that is injected and repaired after a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// These servers of the store are killed, and started again.
    Killed(Vec<usize>),
    /// These servers of the store are paused.
    Paused(Vec<usize>),
    /// The network loses what is sent to the servers of the store.
    RequestsLost,
    /// The network loses what the servers of the store send.
    AnswersLost,
    /// Both.
    Partitioned,
    /// A member of the store's cluster and the others cannot reach each other. Clients reach all.
    Isolated(usize),
    /// The other members of the cluster receive nothing from this one; it receives from them.
    Muted(usize),
    /// The etcd is compacted, at the injection and at the repair.
    Compacted,
    /// The link from a runtime to the store is faulty.
    StoreLink(usize, NetworkFault),
    /// The link from clients to a runtime is faulty.
    ClientLink(usize, NetworkFault),
    /// A runtime is killed, and started again.
    RuntimeKilled(usize),
    /// A runtime is paused.
    RuntimePaused(usize),
    /// Syncs of the disk fail.
    SyncsFail,
    /// Syncs of the disk take so many milliseconds longer.
    SyncsSlow(u64),
    /// The disk is full.
    DiskFull,
    /// The power of the disk is cut, and the runtime with it.
    PowerCut,
}

/// A fault of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFault {
    /// Requests and answers arrive so many milliseconds later.
    Slow(u64, u64),
    /// One direction stalls.
    Stalled(Half),
    /// Nothing gets through.
    BlackHole,
    /// All connections end, and new ones are refused.
    Refused,
    /// All connections end.
    Cut,
    /// One connection ends in the middle of what it carries, after so many bytes.
    CutAfter(Half, u64),
}

// === impl Fault ===

impl Fault {
    /// Draws a fault that can be injected here.
    pub fn draw(dice: &mut Dice, deployment: &Deployment) -> Self {
        let all = Self::all(dice, deployment);
        all[dice.index(all.len())].clone()
    }

    /// Lists the faults that can be injected here, each with drawn parameters.
    fn all(dice: &mut Dice, deployment: &Deployment) -> Vec<Self> {
        let runtime = dice.index(deployment.runtimes.len());
        let mut all = vec![
            Self::RuntimePaused(runtime),
            Self::ClientLink(runtime, NetworkFault::draw(dice)),
            Self::ClientLink(dice.index(deployment.runtimes.len()), NetworkFault::draw(dice)),
        ];
        let servers = deployment.ports().len();
        if servers > 0 {
            let (one, every): (usize, Vec<usize>) = (dice.index(servers), (0..servers).collect());
            let proxied = 1 + dice.index(deployment.runtimes.len() - 1);
            all.extend([
                Self::Killed(vec![one]),
                Self::Killed(every.clone()),
                Self::Paused(vec![one]),
                Self::Paused(every),
                Self::StoreLink(proxied, NetworkFault::draw(dice)),
                Self::StoreLink(proxied, NetworkFault::draw(dice)),
                Self::RuntimeKilled(runtime),
            ]);
            if deployment.firewall.is_some() {
                all.extend([Self::RequestsLost, Self::AnswersLost, Self::Partitioned]);
                if servers > 1 {
                    all.extend([Self::Isolated(one), Self::Muted(one)]);
                }
            }
        }
        if let Backend::Etcd(_) = deployment.backend {
            all.push(Self::Compacted);
        }
        if let Backend::Disk { disk, .. } = &deployment.backend {
            all.extend([Self::SyncsFail, Self::SyncsSlow(5 + dice.roll(200)), Self::RuntimeKilled(runtime)]);
            if disk.is_some() {
                all.extend([Self::DiskFull, Self::PowerCut, Self::PowerCut]);
            }
        }
        all
    }

    /// Returns whether it affects a minority of a cluster, so that the rest goes on.
    #[allow(clippy::wildcard_enum_match_arm, reason = "only some faults affect a single member")]
    pub fn leaves_majority(&self, servers: usize) -> bool {
        match self {
            Self::Killed(hit) | Self::Paused(hit) => 2 * hit.len() < servers,
            Self::Isolated(_) | Self::Muted(_) => true,
            _ => false,
        }
    }

    /// Injects it.
    pub async fn inject(&self, deployment: &mut Deployment) {
        match self {
            Self::Killed(servers) => match &mut deployment.backend {
                Backend::Etcd(cluster) => {
                    for server in servers {
                        cluster.members[*server].kill();
                    }
                }
                Backend::Redis(redis) => redis.kill(),
                Backend::Memory | Backend::Disk { .. } => {}
            },
            Self::Paused(servers) => {
                for server in servers {
                    deployment.pause_server(*server);
                }
            }
            Self::RequestsLost => deployment.lose(&[Loss::To(deployment.ports())]),
            Self::AnswersLost => deployment.lose(&[Loss::From(deployment.ports())]),
            Self::Partitioned => {
                deployment.lose(&[Loss::To(deployment.ports()), Loss::From(deployment.ports())]);
            }
            Self::Isolated(member) => deployment.lose(&[Loss::Between(deployment.member(*member))]),
            Self::Muted(member) => deployment.lose(&[Loss::FromMember(deployment.member(*member))]),
            Self::Compacted => deployment.compact().await,
            Self::StoreLink(runtime, fault) => {
                for link in &deployment.runtimes[*runtime].store_links {
                    fault.apply(link);
                }
            }
            Self::ClientLink(runtime, fault) => fault.apply(&deployment.runtimes[*runtime].client_link),
            Self::RuntimeKilled(runtime) => deployment.kill_runtime(*runtime),
            Self::RuntimePaused(runtime) => deployment.runtimes[*runtime].server().pause(),
            Self::SyncsFail => deployment.shim().fail(),
            Self::SyncsSlow(millis) => deployment.shim().delay(*millis),
            Self::DiskFull => deployment.disk().fill().expect("the disk is there"),
            Self::PowerCut => {
                deployment.kill_runtime(0);
                deployment.disk().cut_power().expect("the disk can be mounted again");
            }
        }
    }

    /// Repairs it, and returns when the repaired part works.
    pub async fn repair(&self, deployment: &mut Deployment) {
        match self {
            Self::Killed(servers) => match &mut deployment.backend {
                Backend::Etcd(cluster) => cluster.restart(servers).await,
                Backend::Redis(redis) => redis.restart().await,
                Backend::Memory | Backend::Disk { .. } => {}
            },
            Self::Paused(servers) => {
                for server in servers {
                    deployment.resume_server(*server);
                }
            }
            Self::RequestsLost
            | Self::AnswersLost
            | Self::Partitioned
            | Self::Isolated(_)
            | Self::Muted(_) => deployment.lose(&[]),
            Self::Compacted => deployment.compact().await,
            Self::StoreLink(runtime, _) => {
                for link in &deployment.runtimes[*runtime].store_links {
                    link.pass();
                }
            }
            Self::ClientLink(runtime, _) => deployment.runtimes[*runtime].client_link.pass(),
            Self::RuntimeKilled(runtime) => deployment.start_runtime(*runtime),
            Self::RuntimePaused(runtime) => deployment.runtimes[*runtime].server().resume(),
            Self::SyncsFail | Self::SyncsSlow(_) => deployment.shim().work(),
            Self::DiskFull => deployment.disk().make_room().expect("it was filled"),
            Self::PowerCut => deployment.start_runtime(0),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(servers) => write!(f, "servers {servers:?} killed"),
            Self::Paused(servers) => write!(f, "servers {servers:?} paused"),
            Self::RequestsLost => f.write_str("requests to the store lost"),
            Self::AnswersLost => f.write_str("answers of the store lost"),
            Self::Partitioned => f.write_str("store partitioned away"),
            Self::Isolated(member) => write!(f, "member {member} isolated from the others"),
            Self::Muted(member) => write!(f, "nothing received from member {member}"),
            Self::Compacted => f.write_str("etcd compacted"),
            Self::StoreLink(runtime, fault) => write!(f, "link of runtime {runtime} to the store {fault}"),
            Self::ClientLink(runtime, fault) => write!(f, "link of clients to runtime {runtime} {fault}"),
            Self::RuntimeKilled(runtime) => write!(f, "runtime {runtime} killed"),
            Self::RuntimePaused(runtime) => write!(f, "runtime {runtime} paused"),
            Self::SyncsFail => f.write_str("syncs fail"),
            Self::SyncsSlow(millis) => write!(f, "syncs {millis} ms slower"),
            Self::DiskFull => f.write_str("disk full"),
            Self::PowerCut => f.write_str("power cut"),
        }
    }
}

// === impl NetworkFault ===

impl NetworkFault {
    fn draw(dice: &mut Dice) -> Self {
        let half = if dice.roll(2) == 0 { Half::Requests } else { Half::Answers };
        match dice.roll(6) {
            0 => Self::Slow(dice.roll(150), dice.roll(150)),
            1 => Self::Stalled(half),
            2 => Self::BlackHole,
            3 => Self::Refused,
            4 => Self::Cut,
            _ => Self::CutAfter(half, 1 + dice.roll(5000)),
        }
    }

    fn apply(self, link: &Proxy) {
        match self {
            Self::Slow(requests, answers) => {
                link.delay(Half::Requests, Duration::from_millis(requests));
                link.delay(Half::Answers, Duration::from_millis(answers));
            }
            Self::Stalled(half) => link.stall(half),
            Self::BlackHole => link.black_hole(),
            Self::Refused => link.refuse(),
            Self::Cut => link.cut(),
            Self::CutAfter(half, bytes) => link.cut_after(half, bytes),
        }
    }
}

impl fmt::Display for NetworkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = |half: &Half| match half {
            Half::Requests => "requests",
            Half::Answers => "answers",
        };
        match self {
            Self::Slow(requests, answers) => {
                write!(f, "slow: requests {requests} ms, answers {answers} ms later")
            }
            Self::Stalled(half) => write!(f, "stalled: {} wait", direction(half)),
            Self::BlackHole => f.write_str("a black hole"),
            Self::Refused => f.write_str("refused"),
            Self::Cut => f.write_str("cut once"),
            Self::CutAfter(half, bytes) => write!(f, "cut after {bytes} bytes of {}", direction(half)),
        }
    }
}

// === impl Deployment ===

impl Deployment {
    fn pause_server(&self, server: usize) {
        match &self.backend {
            Backend::Etcd(cluster) => cluster.members[server].process().expect("it runs").pause(),
            Backend::Redis(redis) => redis.pause(),
            Backend::Memory | Backend::Disk { .. } => {}
        }
    }

    fn resume_server(&self, server: usize) {
        match &self.backend {
            Backend::Etcd(cluster) => cluster.members[server].process().expect("it runs").resume(),
            Backend::Redis(redis) => redis.resume(),
            Backend::Memory | Backend::Disk { .. } => {}
        }
    }

    async fn compact(&self) {
        let Backend::Etcd(cluster) = &self.backend else { panic!("only etcd is compacted") };
        let member = &cluster.members[0];
        member.compact(member.revision().await).await;
    }

    fn shim(&self) -> &Shim {
        let Backend::Disk { shim, .. } = &self.backend else { panic!("only disks are synced") };
        shim
    }

    fn disk(&mut self) -> &mut Disk {
        let Backend::Disk { disk: Some(disk), .. } = &mut self.backend else { panic!("there is no disk") };
        disk
    }

    fn lose(&self, losses: &[Loss]) {
        self.firewall.expect("it is drawn only with a network of its own").lose(losses);
    }

    fn member(&self, number: usize) -> Member {
        let Backend::Etcd(cluster) = &self.backend else { panic!("only etcd has members") };
        let others = cluster.members.iter().enumerate().filter(|(at, _)| *at != number);
        Member {
            user: cluster.members[number].user().expect("each has a user of its own"),
            port: cluster.members[number].peer_port(),
            others: others.map(|(_, member)| member.peer_port()).collect(),
        }
    }
}
