// SPDX-License-Identifier: Apache-2.0
//! The kinds of trouble, and how they are made and ended.

use std::fmt;
use std::time::Duration;

use atomix_servers::proxy::{Half, Proxy};

use super::network::{Loss, Member};
use super::stand::{Backend, Stand};
use crate::disks::{Disk, Shim};
use atomix_conformance::Dice;

/// Something that goes wrong, and is mended after a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// These servers of the store are killed, and started again.
    Killed(Vec<usize>),
    /// These servers of the store stand still.
    Paused(Vec<usize>),
    /// The network loses what is sent to the servers of the store.
    RequestsLost,
    /// The network loses what the servers of the store send.
    AnswersLost,
    /// Both.
    Partitioned,
    /// A member of the store's cluster and the others cannot reach each other. Clients reach all.
    Isolated(usize),
    /// A member of the store's cluster is not heard by the others, and hears them.
    Muted(usize),
    /// The etcd forgets its past, in the beginning and in the end.
    Compacted,
    /// The way of a runtime to the store is bad.
    Way(usize, Bad),
    /// The way of clients to a runtime is bad.
    Front(usize, Bad),
    /// A runtime is killed, and started again.
    RuntimeKilled(usize),
    /// A runtime stands still.
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

/// What is bad about a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Requests and answers arrive so many milliseconds later.
    Slow(u64, u64),
    /// One direction waits.
    Stalled(Half),
    /// Nothing comes through.
    BlackHole,
    /// All connections end, and new ones are refused.
    Refused,
    /// All connections end.
    Cut,
    /// One connection ends in the middle of what it carries, after so many bytes.
    CutAfter(Half, u64),
}

// === impl Trouble ===

impl Trouble {
    /// Draws one of those that can be made here.
    pub fn draw(dice: &mut Dice, stand: &Stand) -> Self {
        let all = Self::all(dice, stand);
        all[dice.index(all.len())].clone()
    }

    /// Lists what can be made here, each with its details drawn.
    fn all(dice: &mut Dice, stand: &Stand) -> Vec<Self> {
        let runtime = dice.index(stand.runtimes.len());
        let mut all = vec![
            Self::RuntimePaused(runtime),
            Self::Front(runtime, Bad::draw(dice)),
            Self::Front(dice.index(stand.runtimes.len()), Bad::draw(dice)),
        ];
        let servers = stand.ports().len();
        if servers > 0 {
            let (one, every): (usize, Vec<usize>) = (dice.index(servers), (0..servers).collect());
            let proxied = 1 + dice.index(stand.runtimes.len() - 1);
            all.extend([
                Self::Killed(vec![one]),
                Self::Killed(every.clone()),
                Self::Paused(vec![one]),
                Self::Paused(every),
                Self::Way(proxied, Bad::draw(dice)),
                Self::Way(proxied, Bad::draw(dice)),
                Self::RuntimeKilled(runtime),
            ]);
            if stand.firewall.is_some() {
                all.extend([Self::RequestsLost, Self::AnswersLost, Self::Partitioned]);
                if servers > 1 {
                    all.extend([Self::Isolated(one), Self::Muted(one)]);
                }
            }
        }
        if let Backend::Etcd(_) = stand.backend {
            all.push(Self::Compacted);
        }
        if let Backend::Disk { disk, .. } = &stand.backend {
            all.extend([Self::SyncsFail, Self::SyncsSlow(5 + dice.roll(200)), Self::RuntimeKilled(runtime)]);
            if disk.is_some() {
                all.extend([Self::DiskFull, Self::PowerCut, Self::PowerCut]);
            }
        }
        all
    }

    /// Tells whether it hits one member of a cluster whose others go on without it.
    #[allow(clippy::wildcard_enum_match_arm, reason = "of all trouble only some hits one member")]
    pub fn leaves_a_majority(&self, servers: usize) -> bool {
        match self {
            Self::Killed(hit) | Self::Paused(hit) => 2 * hit.len() < servers,
            Self::Isolated(_) | Self::Muted(_) => true,
            _ => false,
        }
    }

    /// Makes it.
    pub async fn begin(&self, stand: &mut Stand) {
        match self {
            Self::Killed(servers) => match &mut stand.backend {
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
                    stand.pause_server(*server);
                }
            }
            Self::RequestsLost => stand.lose(&[Loss::To(stand.ports())]),
            Self::AnswersLost => stand.lose(&[Loss::From(stand.ports())]),
            Self::Partitioned => stand.lose(&[Loss::To(stand.ports()), Loss::From(stand.ports())]),
            Self::Isolated(member) => stand.lose(&[Loss::Between(stand.member(*member))]),
            Self::Muted(member) => stand.lose(&[Loss::FromMember(stand.member(*member))]),
            Self::Compacted => stand.compact().await,
            Self::Way(runtime, bad) => {
                for way in &stand.runtimes[*runtime].ways {
                    bad.make(way);
                }
            }
            Self::Front(runtime, bad) => bad.make(&stand.runtimes[*runtime].front),
            Self::RuntimeKilled(runtime) => stand.kill_runtime(*runtime),
            Self::RuntimePaused(runtime) => stand.runtimes[*runtime].server().pause(),
            Self::SyncsFail => stand.shim().fail(),
            Self::SyncsSlow(millis) => stand.shim().delay(*millis),
            Self::DiskFull => stand.disk().fill().expect("the disk is there"),
            Self::PowerCut => {
                stand.kill_runtime(0);
                stand.disk().cut_power().expect("the disk can be mounted again");
            }
        }
    }

    /// Mends it, and returns when what was mended says that it works.
    pub async fn end(&self, stand: &mut Stand) {
        match self {
            Self::Killed(servers) => match &mut stand.backend {
                Backend::Etcd(cluster) => cluster.restart(servers).await,
                Backend::Redis(redis) => redis.restart().await,
                Backend::Memory | Backend::Disk { .. } => {}
            },
            Self::Paused(servers) => {
                for server in servers {
                    stand.resume_server(*server);
                }
            }
            Self::RequestsLost
            | Self::AnswersLost
            | Self::Partitioned
            | Self::Isolated(_)
            | Self::Muted(_) => stand.lose(&[]),
            Self::Compacted => stand.compact().await,
            Self::Way(runtime, _) => {
                for way in &stand.runtimes[*runtime].ways {
                    way.pass();
                }
            }
            Self::Front(runtime, _) => stand.runtimes[*runtime].front.pass(),
            Self::RuntimeKilled(runtime) => stand.start_runtime(*runtime),
            Self::RuntimePaused(runtime) => stand.runtimes[*runtime].server().resume(),
            Self::SyncsFail | Self::SyncsSlow(_) => stand.shim().work(),
            Self::DiskFull => stand.disk().make_room().expect("it was filled"),
            Self::PowerCut => stand.start_runtime(0),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(servers) => write!(f, "servers {servers:?} killed"),
            Self::Paused(servers) => write!(f, "servers {servers:?} paused"),
            Self::RequestsLost => f.write_str("requests to the store lost"),
            Self::AnswersLost => f.write_str("answers of the store lost"),
            Self::Partitioned => f.write_str("store partitioned away"),
            Self::Isolated(member) => write!(f, "member {member} isolated from the others"),
            Self::Muted(member) => write!(f, "member {member} not heard by the others"),
            Self::Compacted => f.write_str("etcd compacted"),
            Self::Way(runtime, bad) => write!(f, "way of runtime {runtime} to the store {bad}"),
            Self::Front(runtime, bad) => write!(f, "way of clients to runtime {runtime} {bad}"),
            Self::RuntimeKilled(runtime) => write!(f, "runtime {runtime} killed"),
            Self::RuntimePaused(runtime) => write!(f, "runtime {runtime} paused"),
            Self::SyncsFail => f.write_str("syncs fail"),
            Self::SyncsSlow(millis) => write!(f, "syncs {millis} ms slower"),
            Self::DiskFull => f.write_str("disk full"),
            Self::PowerCut => f.write_str("power cut"),
        }
    }
}

// === impl Bad ===

impl Bad {
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

    fn make(self, way: &Proxy) {
        match self {
            Self::Slow(requests, answers) => {
                way.delay(Half::Requests, Duration::from_millis(requests));
                way.delay(Half::Answers, Duration::from_millis(answers));
            }
            Self::Stalled(half) => way.stall(half),
            Self::BlackHole => way.black_hole(),
            Self::Refused => way.refuse(),
            Self::Cut => way.cut(),
            Self::CutAfter(half, bytes) => way.cut_after(half, bytes),
        }
    }
}

impl fmt::Display for Bad {
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

// === impl Stand ===

impl Stand {
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
