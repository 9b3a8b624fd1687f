// SPDX-License-Identifier: Apache-2.0
//! The state that calls and the tasks that serve them share: reads and commits, and the count of running calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_store::{Error, Keyspace, Outcome, Profile, Read, Snapshot, Txn};
use tokio::sync::Notify;

use crate::commit_queue::{Admission, CommitQueues, QueueKey};
use crate::cursor::damaged;
use crate::error::{Asked, unanswered};
use crate::frame::Nonces;
use crate::names::{INDEX, Names, ORDER, OUTCOMES, RECORDS, STREAM};
use crate::nodes::Nodes;
use crate::program;

/// State that calls, and the tasks that serve them, share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) nodes: Arc<Nodes>,
    commit_queues: CommitQueues,
    pub(crate) nonces: Arc<Nonces>,
    closed: AtomicBool,
    running: AtomicUsize,
    /// Notified when the last call has ended.
    idle: Notify,
}

/// A call that runs. Closing waits for it.
pub(crate) struct Running<'a>(&'a Core);

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

// === impl Core ===

impl Core {
    pub(crate) fn new(nodes: Arc<Nodes>, nonces: Arc<Nonces>) -> Self {
        Self {
            nodes,
            commit_queues: CommitQueues::default(),
            nonces,
            closed: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    /// Refuses new calls.
    pub(crate) fn refuse_calls(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until the calls that run have ended, for `grace` at most. Those that are still running then lose the
    /// connection and fail with that error.
    pub(crate) async fn close(&self, grace: Duration) {
        let rest = async {
            loop {
                let idle = self.idle.notified();
                if self.running.load(Ordering::SeqCst) == 0 {
                    return;
                }
                idle.await;
            }
        };
        self.nodes.dialer.env.timeout(grace, rest).await.ok();
        self.nodes.close();
    }

    pub(crate) fn names(&self, keyspace: &Keyspace) -> Names {
        Names::new(&self.nodes.dialer.settings.key_prefix, keyspace)
    }

    /// Counts a call. Fails with [`atomix_store::ErrorKind::Closed`] after [`Core::refuse_calls`].
    pub(crate) fn enter(&self) -> Result<Running<'_>, Error> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(self);
        if self.closed.load(Ordering::SeqCst) { Err(Error::closed()) } else { Ok(running) }
    }

    pub(crate) async fn read(&self, names: &Names, reads: &[Read]) -> Result<Snapshot, Error> {
        let cmd = program::read(&self.nodes.library.read, names, reads);
        let (answer, link) = self.nodes.call(names.slot, &cmd, Asked::Read).await?;
        let snapshot = program::snapshot(reads, answer)?;
        link.replicated(Asked::Read).await?;
        Ok(snapshot)
    }

    pub(crate) async fn commit(self: &Arc<Self>, keyspace: &Keyspace, txn: Txn) -> Result<Outcome, Error> {
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
        let cmd = program::commit(function, names, self.nonces.next(), txns);
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
                Err(error) => batch.txns.iter().map(|_| Err(error.clone())).collect(),
            };
            batch.answer(outcomes);
        }
    }

    /// Runs every command once on separate keys, so that a missing permission shows now and never in the middle of a
    /// transaction.
    pub(crate) async fn try_out(&self, probe: &Names, profile: &Profile) -> Result<(), Error> {
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
        let name = self.nonces.next();
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
