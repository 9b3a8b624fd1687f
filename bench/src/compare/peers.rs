// SPDX-License-Identifier: Apache-2.0
//! The same work on the stores themselves, without a runtime between.

use crate::etcd::{Etcd, events};
use anyhow::Context;
use atomix_env::Env;
use atomix_load::{Channel, Contender, Failure, Feed, Stream, Target};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;

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
    value: Bytes,
}

/// One who wants a lock of etcd's own.
pub(crate) struct EtcdWaiter {
    etcd: Etcd,
    lease: i64,
    held: tokio::sync::Mutex<Bytes>,
}

/// A watch of all that is in etcd.
pub(crate) struct EtcdFeed(Stream);

/// As many keys as the runtime is loaded with.
const KEYS: u64 = 1000;
const VALUE: [u8; 100] = [b'v'; 100];
const LEASE_SECONDS: i64 = 60;

fn key(chance: u64) -> String {
    format!("key-{:012}", (chance >> 32) % KEYS)
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
            Op::Get => redis::Cmd::get(key(chance)),
            Op::Put => redis::Cmd::set(key(chance), &VALUE[..]),
            Op::Increment => redis::Cmd::incr("counter", 1),
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
    ) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        for _ in 0..connections {
            let etcd = Etcd::new(Channel::connect(env, server).await?);
            all.push(Self { etcd, op, value: Bytes::from_static(&VALUE) });
        }
        match op {
            Op::Put => {}
            Op::Get => {
                for at in 0..KEYS {
                    all[0].etcd.put(key(at << 32).into(), all[0].value.clone()).await?;
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
            Op::Get => self.etcd.get(key(chance).into()).await.map(drop),
            Op::Put => self.etcd.put(key(chance).into(), self.value.clone()).await,
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
