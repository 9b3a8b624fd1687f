// SPDX-License-Identifier: Apache-2.0
//! The same work on the stores themselves, without a runtime between.

use std::time::Duration;

use crate::etcd::{Etcd, events};
use anyhow::Context;
use atomix_env::Env;
use atomix_load::{Candidate, Channel, Contender, Failure, Feed, Stream, Target};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;

/// A command or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Get,
    Put,
    Increment,
}

/// Commands to Redis over one connection, which pipelines what arrives together.
pub(crate) struct ToRedis {
    connection: MultiplexedConnection,
    op: Op,
}

/// Requests to etcd over one connection.
pub(crate) struct ToEtcd {
    etcd: Etcd,
    op: Op,
    keys: u64,
    value: Bytes,
}

/// One who wants a lock of etcd's own.
pub(crate) struct EtcdWaiter {
    etcd: Etcd,
    lease: i64,
    held: tokio::sync::Mutex<Bytes>,
}

/// One who wants to lead an election of etcd's own.
pub(crate) struct EtcdEntrant {
    etcd: Etcd,
    env: Env,
    lease: i64,
    /// Gets the leader key.
    led: Option<oneshot::Receiver<Result<Bytes, Failure>>>,
    leader: Bytes,
}

/// A watch of all that is in etcd.
pub(crate) struct EtcdFeed(Stream);

/// As many keys as the runtime is loaded with, unless set otherwise.
pub(crate) const KEYS: u64 = 1000;
const VALUE: [u8; 100] = [b'v'; 100];
const LEASE_SECONDS: i64 = 60;

fn key(chance: u64, keys: u64) -> String {
    format!("key-{:012}", (chance >> 32) % keys)
}

// === impl ToRedis ===

impl ToRedis {
    /// Connects to `redis://host:port` or `unix:/path`, and puts what is got.
    pub(crate) async fn connect(url: &str, connections: usize, op: Op) -> anyhow::Result<Vec<Self>> {
        let client = redis::Client::open(url.replacen("unix:", "redis+unix://", 1))?;
        let mut all = Vec::new();
        for _ in 0..connections {
            let connection = client.get_multiplexed_async_connection().await?;
            all.push(Self { connection, op });
        }
        if op == Op::Get {
            for at in 0..KEYS {
                Self { connection: all[0].connection.clone(), op: Op::Put }.call(at << 32).await?;
            }
        }
        Ok(all)
    }
}

impl Target for ToRedis {
    async fn call(&self, chance: u64) -> Result<(), Failure> {
        let mut connection = self.connection.clone();
        let command = match self.op {
            Op::Get => redis::Cmd::get(key(chance, KEYS)),
            Op::Put => redis::Cmd::set(key(chance, KEYS), &VALUE[..]),
            Op::Increment => redis::Cmd::incr(format!("counter-{}", (chance >> 32) % KEYS), 1),
        };
        let outcome = command.query_async::<redis::Value>(&mut connection).await;
        outcome.map(drop).map_err(|error| Failure::Broken(error.to_string()))
    }
}

// === impl ToEtcd ===

impl ToEtcd {
    /// Connects to `host:port`, and puts what is got.
    pub(crate) async fn connect(
        env: &Env,
        server: &str,
        connections: usize,
        op: Op,
        keys: u64,
    ) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        for _ in 0..connections {
            let etcd = Etcd::new(Channel::connect(env, server).await?);
            all.push(Self { etcd, op, keys, value: Bytes::from_static(&VALUE) });
        }
        match op {
            Op::Put => {}
            Op::Get => {
                for at in 0..keys {
                    all[0].etcd.put(key(at << 32, keys).into(), all[0].value.clone()).await?;
                }
            }
            Op::Increment => all[0].etcd.put(COUNTER, "0".into()).await?,
        }
        Ok(all)
    }
}

const COUNTER: Bytes = Bytes::from_static(b"counter");

impl Target for ToEtcd {
    async fn call(&self, chance: u64) -> Result<(), Failure> {
        match self.op {
            Op::Get => self.etcd.get(key(chance, self.keys).into()).await.map(drop),
            Op::Put => self.etcd.put(key(chance, self.keys).into(), self.value.clone()).await,
            Op::Increment => self.etcd.increment(COUNTER).await,
        }
    }
}

// === impl EtcdWaiter ===

impl EtcdWaiter {
    /// Connects as many who want the same lock, each with a lease.
    pub(crate) async fn connect(env: &Env, server: &str, waiters: usize) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        for _ in 0..waiters {
            let etcd = Etcd::new(Channel::connect(env, server).await?);
            let lease = etcd.grant(LEASE_SECONDS).await.context("etcd grants no lease")?;
            all.push(Self { etcd, lease, held: tokio::sync::Mutex::default() });
        }
        Ok(all)
    }
}

impl Contender for EtcdWaiter {
    async fn acquire(&self) -> Result<(), Failure> {
        let key = self.etcd.lock("lock", self.lease).await?;
        *self.held.lock().await = key;
        Ok(())
    }

    async fn release(&self) -> Result<(), Failure> {
        let key = std::mem::take(&mut *self.held.lock().await);
        self.etcd.unlock(key).await
    }
}

// === impl EtcdEntrant ===

const ELECTION: &str = "election";
/// etcd lets new watches catch up every 100 ms, that of a candidate for its predecessor among them. Leaders last longer, and
/// a resignation before that would wait for it.
const SETTLED: Duration = Duration::from_millis(150);

impl EtcdEntrant {
    /// Connects one, with a lease.
    pub(crate) async fn connect(env: &Env, server: &str) -> anyhow::Result<Self> {
        let etcd = Etcd::new(Channel::connect(env, server).await?);
        let lease = etcd.grant(LEASE_SECONDS).await.context("etcd grants no lease")?;
        Ok(Self { etcd, env: env.clone(), lease, led: None, leader: Bytes::new() })
    }
}

impl Candidate for EtcdEntrant {
    async fn enter(&mut self) -> Result<(), Failure> {
        let (etcd, lease, (leads, led)) = (self.etcd.clone(), self.lease, oneshot::channel());
        // One call enters, waits and leads.
        self.env.detach(async move { drop(leads.send(etcd.campaign(ELECTION, lease).await)) });
        self.led = Some(led);
        // A candidate has its place when its key is there.
        let key = Bytes::from(format!("{ELECTION}/{lease:x}"));
        while self.etcd.get(key.clone()).await?.is_none() {}
        self.env.sleep(SETTLED).await;
        Ok(())
    }

    async fn lead(&mut self) -> Result<(), Failure> {
        let led = self.led.take().expect("who leads has entered").await;
        self.leader = led.expect("a candidate gets the outcome of its entry")?;
        Ok(())
    }

    async fn withdraw(&mut self) -> Result<(), Failure> {
        self.etcd.resign(std::mem::take(&mut self.leader)).await
    }
}

// === impl EtcdFeed ===

impl EtcdFeed {
    /// Opens watches, shared out among the connections.
    pub(crate) async fn connect(
        env: &Env,
        server: &str,
        connections: usize,
        feeds: usize,
    ) -> anyhow::Result<Vec<Self>> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(Etcd::new(Channel::connect(env, server).await?));
        }
        let mut all = Vec::new();
        for at in 0..feeds {
            all.push(Self(channels[at % connections].watch().await?));
        }
        Ok(all)
    }
}

impl Feed for EtcdFeed {
    async fn next(&mut self) -> Result<usize, Failure> {
        let (mut answers, mut arrived) = (1, 0);
        // An answer may be without events, and tell of progress only.
        while arrived == 0 && answers > 0 {
            answers = 0;
            self.0
                .read(|answer| {
                    answers += 1;
                    arrived += events(answer);
                })
                .await?;
        }
        Ok(arrived)
    }
}
