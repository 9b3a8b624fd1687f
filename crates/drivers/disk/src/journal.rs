// SPDX-License-Identifier: Apache-2.0
//! The path of a commit to the disk.
//!
//! A commit is applied in memory and put into the open batch. One thread
//! (`writer.rs`) takes the batch, writes it, syncs, and only then answers; later commits fill the next batch.
//! Readers of data that is not on the disk yet wait for the same sync. A batch that cannot be stored is
//! rolled back in memory, with everything after it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::Env;
use atomix_store::{Commit, Error, ErrorKind, Retention};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::oneshot;

use crate::config::Tuning;
use crate::core::Core;
use crate::files::Files;
use crate::frame;
use crate::space::Space;

/// State that callers and the threads of a store share.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) env: Env,
    /// For messages.
    pub(crate) dir: String,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) store: u128,
    pub(crate) core: Core,
    pub(crate) tuning: RwLock<Tuning>,
    /// `None`: every batch is synced before it is answered.
    pub(crate) interval: Option<Duration>,
    /// Held for reading while a commit is applied, for writing while commits are taken back.
    pub(crate) gate: RwLock<()>,
    pub(crate) closed: AtomicBool,
    /// The disk has no room: what grows is refused.
    pub(crate) full: AtomicBool,
    /// A reserve was used and has to be set aside again before anything that grows is taken.
    pub(crate) reserve_used: AtomicBool,
    durable: AtomicU64,
    backlog: AtomicUsize,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) work: Condvar,
    pub(crate) checkpoint: Mutex<CheckpointRequest>,
    pub(crate) checkpoint_wanted: Condvar,
    /// Held while a snapshot or a backup is made: the logs that it needs stay.
    pub(crate) copying: Mutex<()>,
}

/// Requests to the writer.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The number of the open batch.
    pub(crate) number: u64,
    pub(crate) open_batch: Batch,
    /// Waiting callers of the batch that is being written.
    pub(crate) in_flight: Vec<oneshot::Sender<Verdict>>,
    /// Callers that wait for a new log.
    pub(crate) rolls: Vec<oneshot::Sender<Result<Rolled, Error>>>,
    /// Callers that wait until all batches are on the disk.
    pub(crate) syncs: Vec<oneshot::Sender<Result<(), Error>>>,
    pub(crate) stop: bool,
    /// The writer has ended: requests get no answer any more.
    pub(crate) ended: bool,
    /// The number of rollbacks. A copy that was made across one may hold commits that were rolled back.
    pub(crate) rollbacks: u64,
    /// The failure of the last batch; `None` if it was stored.
    pub(crate) failure: Option<String>,
    /// The first batches of the logs that are needed, and their bytes.
    pub(crate) logs: VecDeque<u64>,
    pub(crate) log_bytes: u64,
}

/// The position at which a copy of everything begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rolled {
    /// The number of the next batch.
    pub(crate) base: u64,
    /// The number of the first batch of the log in which it will be.
    pub(crate) log: u64,
    /// The bytes of the logs before that one.
    pub(crate) bytes_before: u64,
}

/// Requests to the checkpoint thread (`keeper.rs`).
#[derive(Debug, Default)]
pub(crate) struct CheckpointRequest {
    pub(crate) wanted: bool,
    pub(crate) stop: bool,
}

/// Commits that share a sync.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) payload: Vec<u8>,
    pub(crate) applied: Vec<Applied>,
    /// Whether any of them may grow the store.
    pub(crate) grows: bool,
    /// Callers that have read the changes of the batch.
    pub(crate) readers: Vec<oneshot::Sender<Verdict>>,
}

/// A commit that was applied in memory.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) space: Arc<Space>,
    pub(crate) commit: Commit,
    pub(crate) named: Option<Bytes>,
    pub(crate) answer: oneshot::Sender<Verdict>,
}

/// Whether a batch is on the disk.
pub(crate) type Verdict = Result<(), Refusal>;

/// The reason why a batch was not stored.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    pub(crate) message: Arc<str>,
}

/// Maximum of bytes that wait for the writer. More means that the disk does not respond.
const BACKLOG_MAX: usize = 64 << 20;

// === impl Journal ===

impl Journal {
    #[allow(clippy::too_many_arguments, reason = "one caller, which has just read all of it from the folder")]
    pub(crate) fn new(
        env: Env,
        dir: String,
        files: Arc<dyn Files>,
        store: u128,
        core: Core,
        tuning: Tuning,
        interval: Option<Duration>,
        next: u64,
        logs: (Vec<u64>, u64),
    ) -> Self {
        let queue = Queue {
            number: next,
            open_batch: Batch::default(),
            in_flight: Vec::new(),
            rolls: Vec::new(),
            syncs: Vec::new(),
            stop: false,
            ended: false,
            rollbacks: 0,
            failure: None,
            logs: logs.0.into(),
            log_bytes: logs.1,
        };
        Self {
            env,
            dir,
            files,
            store,
            core,
            tuning: RwLock::new(tuning),
            interval,
            gate: RwLock::new(()),
            closed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            reserve_used: AtomicBool::new(true),
            durable: AtomicU64::new(next - 1),
            backlog: AtomicUsize::new(0),
            queue: Mutex::new(queue),
            work: Condvar::new(),
            checkpoint: Mutex::default(),
            checkpoint_wanted: Condvar::new(),
            copying: Mutex::new(()),
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed()) } else { Ok(()) }
    }

    /// Refuses a commit before it is applied if too many bytes wait for the disk.
    pub(crate) fn check_disk(&self) -> Result<(), Error> {
        let backlog = self.backlog.load(Ordering::Relaxed);
        if backlog > BACKLOG_MAX {
            return Err(Error::unavailable(format!(
                "the disk does not keep up: dir=`{}` waiting-bytes=`{backlog}` max=`{BACKLOG_MAX}`",
                self.dir
            )));
        }
        Ok(())
    }

    pub(crate) fn no_room(&self) -> Refusal {
        let message = format!(
            "disk is full: make room or delete entries, writes go on by themselves then: dir=`{}`",
            self.dir
        );
        Refusal { kind: ErrorKind::Full, message: message.into() }
    }

    /// Puts a commit into the open batch. Called under the lock of the engine, so that the commits of a
    /// keyspace are in order.
    pub(crate) fn push(
        &self,
        space: &Arc<Space>,
        commit: Commit,
        named: Option<Bytes>,
        record: &[u8],
        grows: bool,
    ) -> oneshot::Receiver<Verdict> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.queue.lock();
        space.set_batch(queue.number);
        let first = queue.open_batch.applied.is_empty();
        queue.open_batch.payload.extend_from_slice(record);
        queue.open_batch.grows |= grows;
        queue.open_batch.applied.push(Applied { space: Arc::clone(space), commit, named, answer });
        // Before the writer can take it off again.
        self.backlog.fetch_add(record.len(), Ordering::Relaxed);
        drop(queue);
        if first {
            self.work.notify_one();
        }
        receiver
    }

    /// Returns what to wait for before a state may be shown that `batch` has changed; `None` if it is on the disk. Called
    /// under the gate under which the state was read: a batch that is taken back gives its number to the next one.
    pub(crate) fn pending(&self, batch: u64) -> Option<oneshot::Receiver<Verdict>> {
        if batch <= self.durable() {
            return None;
        }
        let mut queue = self.queue.lock();
        if batch <= self.durable() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        if batch == queue.number {
            queue.open_batch.readers.push(sender);
        } else {
            queue.in_flight.push(sender);
        }
        Some(receiver)
    }

    /// Returns the number of the last batch that may be shown.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Takes the open batch.
    pub(crate) fn take(&self, queue: &mut Queue) -> Option<(u64, Batch)> {
        if queue.open_batch.applied.is_empty() {
            return None;
        }
        let mut batch = std::mem::take(&mut queue.open_batch);
        self.backlog.fetch_sub(batch.payload.len(), Ordering::Relaxed);
        queue.in_flight = std::mem::take(&mut batch.readers);
        let number = queue.number;
        queue.number += 1;
        Some((number, batch))
    }

    /// Publishes a batch that is on the disk: to watches, then to its callers.
    pub(crate) fn publish(&self, number: u64, batch: Batch, bytes: usize) {
        // Committing threads trim the history (`DiskStore::apply`), and this one only if they do not keep up:
        // memory that one thread always allocates and another one always frees makes both contend in the
        // allocator.
        let Retention { commits_max, bytes_max } = self.tuning.read().retention;
        let retention =
            Retention { commits_max: commits_max.saturating_mul(2), bytes_max: bytes_max.saturating_mul(2) };
        let mut answers = Vec::with_capacity(batch.applied.len());
        for applied in batch.applied {
            if !applied.commit.changes.is_empty() {
                applied.space.history.push(applied.commit, retention);
            }
            answers.push(applied.answer);
        }
        let mut queue = self.queue.lock();
        self.durable.store(number, Ordering::Release);
        queue.failure = None;
        queue.log_bytes += frame::room(bytes) as u64;
        answers.append(&mut queue.in_flight);
        drop(queue);
        for answer in answers {
            // A caller that is gone has its commit all the same.
            drop(answer.send(Ok(())));
        }
    }

    /// Rolls back a batch that could not be stored, and the commits after it.
    pub(crate) fn roll_back(&self, number: u64, batch: Batch, refusal: &Refusal) {
        let gate = self.gate.write();
        let mut queue = self.queue.lock();
        let later = std::mem::take(&mut queue.open_batch);
        self.backlog.fetch_sub(later.payload.len(), Ordering::Relaxed);
        let readers: Vec<_> = queue.in_flight.drain(..).chain(later.readers).chain(batch.readers).collect();
        queue.number = number;
        queue.rollbacks += 1;
        queue.failure = Some(refusal.message.to_string());
        drop(queue);
        for applied in batch.applied.iter().chain(&later.applied).rev() {
            applied.space.undo(&applied.commit, applied.named.as_ref(), &self.core.budget);
        }
        drop(gate);
        // Commits that were never written are certainly not applied.
        let kind =
            if refusal.kind == ErrorKind::OutcomeUnknown { ErrorKind::Unavailable } else { refusal.kind };
        let never = Refusal { kind, message: Arc::clone(&refusal.message) };
        for (applied, refusal) in batch
            .applied
            .into_iter()
            .zip(std::iter::repeat(refusal))
            .chain(later.applied.into_iter().zip(std::iter::repeat(&never)))
        {
            drop(applied.answer.send(Err(refusal.clone())));
        }
        for reader in readers {
            drop(reader.send(Err(refusal.clone())));
        }
    }

    /// Begins a new log. On a full disk the current log continues. Blocks.
    pub(crate) fn roll(&self) -> Result<Rolled, Error> {
        self.ask(|queue, sender| queue.rolls.push(sender))
    }

    /// Waits until everything that was applied before is on the disk. Blocks.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        self.ask(|queue, sender| queue.syncs.push(sender))
    }

    fn ask<T>(&self, put: impl FnOnce(&mut Queue, oneshot::Sender<Result<T, Error>>)) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            if queue.ended {
                return Err(Error::closed());
            }
            put(&mut queue, sender);
        }
        self.work.notify_one();
        receiver.blocking_recv().unwrap_or_else(|_| Err(Error::closed()))
    }

    /// Requests a snapshot, soon.
    pub(crate) fn want_snapshot(&self) {
        self.checkpoint.lock().wanted = true;
        self.checkpoint_wanted.notify_one();
    }

    /// Drops all waiting callers: no batch will be written any more.
    pub(crate) fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
        let _gate = self.gate.write();
        let mut queue = self.queue.lock();
        queue.ended = true;
        queue.open_batch = Batch::default();
        queue.in_flight.clear();
        queue.rolls.clear();
        queue.syncs.clear();
    }

    /// Stops the threads once everything is written.
    pub(crate) fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        self.queue.lock().stop = true;
        self.work.notify_one();
        self.checkpoint.lock().stop = true;
        self.checkpoint_wanted.notify_one();
    }
}

// === impl Refusal ===

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind, refusal.message.to_string())
    }
}
