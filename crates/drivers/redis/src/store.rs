// SPDX-License-Identifier: Apache-2.0
//! A store whose keyspaces are in Redis.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::{Policy, Shutdown};
use atomix_store::{
    Error, Health, Keyspace, Outcome, Profile, Read, Reconfigured, Revision, Snapshot, Store, StoreConfig,
    Txn, WatchFrom, WatchStream,
};
use futures::future::BoxFuture;
use redis::Value;
use tokio::sync::Notify;

use crate::commit_queue::{Admission, CommitQueues, QueueKey};
use crate::cursor::{Cursor, damaged};
use crate::dial::Dialer;
use crate::error::{Asked, same, unanswered};
use crate::follow::KeyspaceWatches;
use crate::frame::Nonce;
use crate::names::{INDEX, Names, ORDER, OUTCOMES, RECORDS, STREAM};
use crate::nodes::Nodes;
use crate::server::Server;
use crate::{Settings, program};

/// Keeps all keyspaces in Redis.
pub struct RedisStore {
    core: Arc<Core>,
    profile: Profile,
    /// Stops the keeper of the watches.
    stop: Shutdown,
}

/// State that calls, and the tasks that serve them, share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) nodes: Nodes,
    commit_queues: CommitQueues,
    watches: KeyspaceWatches,
    nonce: AtomicU64,
    closed: AtomicBool,
    running: AtomicUsize,
    /// Notified when the last call has ended.
    idle: Notify,
}

/// A call that runs. Closing waits for it.
struct Running<'a>(&'a Core);

/// A running sender. `key` is taken out when it ends normally.
struct QueueSender<'a> {
    queues: &'a CommitQueues,
    key: Option<&'a QueueKey>,
}

/// A direct call. Dropping it ends the call in the queue, whatever the result.
struct DirectCall<'a> {
    queues: &'a CommitQueues,
    key: &'a QueueKey,
}

// === impl RedisStore ===

impl RedisStore {
    /// Connects, and checks that Redis is what we need and lets us do what we do.
    pub(crate) async fn connect(settings: Settings, env: atomix_env::Env) -> Result<Self, Error> {
        let settings = Arc::new(settings);
        let nodes = Nodes::new(Dialer::new(env, Arc::clone(&settings)).await?);
        let probe = Names::probe(&settings.key_prefix);
        let link = nodes.route(probe.slot).await?;
        let server = Server::ask(&link).await?;
        server.check(&settings)?;
        let profile = server.profile(&settings, nodes.may_fail_over());
        let core = Arc::new(Core {
            commit_queues: CommitQueues::default(),
            watches: KeyspaceWatches::new(settings.histories_bytes_max),
            nonce: AtomicU64::new(nodes.dialer.env.random()),
            closed: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
            nodes,
        });
        core.try_out(&probe, &profile).await?;
        let stop = Shutdown::new();
        let (keeper, stopped) = (Arc::clone(&core), stop.clone());
        core.nodes.dialer.env.supervise("redis-watches", Policy::Restart, move || {
            let (core, stop) = (Arc::clone(&keeper), stopped.clone());
            async move { core.watches.keep(&core, &stop).await }
        });
        Ok(Self { core, profile, stop })
    }

    fn check_keyspace(&self, keyspace: &Keyspace) -> Result<(), Error> {
        let (bytes, max) = (keyspace.as_bytes().len(), self.profile.limits.key_bytes_max);
        if !(1..=max).contains(&bytes) {
            return Err(Error::invalid(format!(
                "keyspace out of bounds: bytes=`{bytes}` bounds=`1 to {max}`"
            )));
        }
        Ok(())
    }
}

impl Store for RedisStore {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            self.profile.limits.check_reads(&reads)?;
            self.core.read(&self.core.names(keyspace), &reads).await
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            txn.check(&self.profile.limits)?;
            self.core.commit(keyspace, txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            self.core.watches.watch(&self.core, keyspace, from).await
        })
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            let core = &self.core;
            if !core.watches.drop_unwatched(keyspace).await {
                return Ok(());
            }
            let (names, library) = (core.names(keyspace), &core.nodes.library);
            let channel = names.channel(&library.channel);
            let cmd = program::reclaim(&library.reclaim, &names, &channel);
            core.nodes.call(names.slot, &cmd, Asked::Write).await.map(drop)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            let nodes = &self.core.nodes;
            let probe = Names::probe(&nodes.dialer.settings.key_prefix);
            self.core.state(&probe).await?;
            let link = nodes.route(probe.slot).await?;
            Ok(Server::ask(&link).await?.health(&nodes.dialer.settings, &link.address))
        })
    }

    fn reconfigure<'a>(&'a self, config: &'a StoreConfig) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        let reconfigured =
            self.core.enter().and_then(|_running| Settings::read(config)).and_then(|settings| {
                let now = &self.core.nodes.dialer.settings;
                if (settings.database, &settings.key_prefix) != (now.database, &now.key_prefix) {
                    return Err(Error::location_change("`database` or `key-prefix`"));
                }
                Ok(if settings == **now { Reconfigured::InPlace } else { Reconfigured::Connect })
            });
        Box::pin(std::future::ready(reconfigured))
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let core = &self.core;
            core.closed.store(true, Ordering::SeqCst);
            self.stop.cancel();
            core.watches.close();
            let rest = async {
                loop {
                    let idle = core.idle.notified();
                    if core.running.load(Ordering::SeqCst) == 0 {
                        return;
                    }
                    idle.await;
                }
            };
            // Calls that are still running after the grace lose the connection and fail with that error.
            core.nodes.dialer.env.timeout(grace, rest).await.ok();
            core.nodes.close();
        })
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.stop.cancel();
        self.core.watches.close();
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("profile", &self.profile).finish_non_exhaustive()
    }
}

// === impl Core ===

impl Core {
    pub(crate) fn names(&self, keyspace: &Keyspace) -> Names {
        Names::new(&self.nodes.dialer.settings.key_prefix, keyspace)
    }

    /// The revision of a keyspace, and the nonce of the commit that made it.
    pub(crate) async fn state(&self, names: &Names) -> Result<(Revision, Nonce), Error> {
        let cmd = program::read(&self.nodes.library.read, names, &[]);
        let (answer, _) = self.nodes.call(names.slot, &cmd, Asked::Read).await?;
        let Value::Array(mut answer) = answer else { return Err(damaged()) };
        match answer.pop() {
            Some(Value::Nil) => Ok((Revision(0), Nonce::default())),
            Some(Value::BulkString(state)) => {
                let mut cursor = Cursor::new(state);
                Ok((Revision(cursor.number()?), cursor.number()?.to_be_bytes()))
            }
            _ => Err(damaged()),
        }
    }

    /// As [`Core::state`], of a keyspace that is followed: it has a state from now on.
    pub(crate) async fn found(&self, names: &Names) -> Result<(Revision, Nonce), Error> {
        let cmd = program::begin(&self.nodes.library.found, names, self.nonce());
        let (answer, _) = self.nodes.call(names.slot, &cmd, Asked::Write).await?;
        let Value::BulkString(state) = answer else { return Err(damaged()) };
        let mut cursor = Cursor::new(state);
        Ok((Revision(cursor.number()?), cursor.number()?.to_be_bytes()))
    }

    fn enter(&self) -> Result<Running<'_>, Error> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(self);
        if self.closed.load(Ordering::SeqCst) { Err(Error::closed()) } else { Ok(running) }
    }

    fn nonce(&self) -> Nonce {
        // An odd step visits every number before it repeats one.
        self.nonce.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_be_bytes()
    }

    async fn read(&self, names: &Names, reads: &[Read]) -> Result<Snapshot, Error> {
        let cmd = program::read(&self.nodes.library.read, names, reads);
        let (answer, link) = self.nodes.call(names.slot, &cmd, Asked::Read).await?;
        let snapshot = program::snapshot(reads, answer)?;
        link.replicated(Asked::Read).await?;
        Ok(snapshot)
    }

    async fn commit(self: &Arc<Self>, keyspace: &Keyspace, txn: Txn) -> Result<Outcome, Error> {
        let key = QueueKey { keyspace: keyspace.clone(), shrinks: program::shrinks(&txn) };
        match self.commit_queues.admit(&key, txn) {
            Admission::Direct(txn) => {
                let _direct = DirectCall { queues: &self.commit_queues, key: &key };
                let outcomes =
                    self.send(&self.names(keyspace), key.shrinks, std::slice::from_ref(&txn)).await;
                outcomes?.pop().unwrap_or_else(|| Err(damaged()))
            }
            Admission::Queued { answer, start_sender } => {
                if start_sender {
                    self.nodes.dialer.env.detach(Arc::clone(self).send_queued(key));
                }
                answer.await.unwrap_or_else(|_| Err(unanswered(Asked::Write)))
            }
        }
    }

    /// Applies transactions of one keyspace in one call.
    async fn send(
        &self,
        names: &Names,
        shrinks: bool,
        txns: &[Txn],
    ) -> Result<Vec<Result<Outcome, Error>>, Error> {
        let library = &self.nodes.library;
        let function = if shrinks { &library.shrink } else { &library.commit };
        let cmd = program::commit(function, names, self.nonce(), txns);
        let (answer, link) = self.nodes.call(names.slot, &cmd, Asked::Write).await?;
        let outcomes = program::outcomes(txns, answer)?;
        // A refusal reveals what it was decided on, so it waits as well.
        link.replicated(Asked::Write).await?;
        Ok(outcomes)
    }

    /// Sends the waiting transactions of a queue until it is empty.
    async fn send_queued(self: Arc<Self>, key: QueueKey) {
        let names = self.names(&key.keyspace);
        let mut sender = QueueSender { queues: &self.commit_queues, key: Some(&key) };
        loop {
            let batch = self.commit_queues.next(&key);
            if batch.txns.is_empty() {
                sender.key = None;
                return;
            }
            let outcomes = match self.send(&names, key.shrinks, &batch.txns).await {
                Ok(outcomes) => outcomes,
                Err(error) => batch.txns.iter().map(|_| Err(same(&error))).collect(),
            };
            batch.answer(outcomes);
        }
    }

    /// Runs every command once on separate keys, so that a missing permission shows now and never in the middle of a
    /// transaction.
    async fn try_out(&self, probe: &Names, profile: &Profile) -> Result<(), Error> {
        use atomix_store::{Order, Range, Write};
        let key = |key: &'static str| bytes::Bytes::from_static(key.as_bytes());
        let range = Range::prefix("");
        let scan = |order| Read::Scan { range: range.clone(), order, limit: 1, keys_only: true };
        let reads = vec![
            scan(Order::Key),
            scan(Order::KeyDescending),
            Read::Count { range: range.clone() },
            Read::Get { key: key("k") },
        ];
        let mut clean = redis::cmd("DEL");
        probe.pass(&mut clean, &[RECORDS, INDEX, STREAM, OUTCOMES, ORDER]);
        // A run without the permission may have left a part of this behind.
        self.nodes.call(probe.slot, &clean, Asked::Write).await?;
        let name = self.nonce();
        let txns = [
            Txn {
                writes: vec![
                    Write::Put { key: key("k"), value: key("v") },
                    Write::Stamp { prefix: key("s"), value: key("v") },
                ],
                reads: reads.clone(),
                ..Txn::new()
            }
            .once(name.to_vec()),
            Txn::new().write(Write::DeleteRange { range: range.clone() }),
        ];
        for txn in txns {
            txn.check(&profile.limits)?;
            // As what shrinks: a Redis that is full can be connected to, to make room.
            for outcome in self.send(probe, true, &[txn]).await? {
                outcome?;
            }
        }
        self.read(probe, &reads).await?;
        self.nodes.call(probe.slot, &clean, Asked::Write).await.map(drop)
    }
}

// === impl Running ===

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

// === impl DirectCall, QueueSender ===

impl Drop for DirectCall<'_> {
    fn drop(&mut self) {
        self.queues.direct_call_ended(self.key);
    }
}

impl Drop for QueueSender<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.queues.sender_dropped(key);
        }
    }
}
