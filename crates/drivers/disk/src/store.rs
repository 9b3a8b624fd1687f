// SPDX-License-Identifier: Apache-2.0
//! Hosts the engine; answers only after the commit is on the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atomix_engine::{Engine, Rotation, max_growth};
use atomix_env::{Env, Policy};
use atomix_store::{
    BackupStream, Commit, Consistency, Durability, Error, ErrorKind, Health, HistoryBudget, JsonObject,
    Keyspace, Limits, Outcome, Profile, Read, Reconfigured, Snapshot, Store, Txn, WatchFrom, WatchStream,
};
use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Settings, Tuning};
use crate::core::Core;
use crate::files::Files;
use crate::journal::{Journal, Verdict};
use crate::keeper;
use crate::record::StoredCommit;
use crate::recover::{Recovered, recover};
use crate::snapshot::{self, Sink};
use crate::writer::Writer;

/// Keeps all keyspaces in memory and every commit on the disk.
#[derive(Debug)]
pub struct DiskStore {
    profile: Profile,
    env: Env,
    settings: Mutex<Settings>,
    journal: Arc<Journal>,
    rotation: Rotation,
    /// Ends when the writer has ended.
    done: Mutex<Option<oneshot::Receiver<()>>>,
}

/// The progress of a transaction.
enum Step {
    /// It has changed nothing, and what it shows is on the disk.
    Done(Outcome),
    /// It has changed nothing, but shows what is not on the disk yet.
    Seen(Outcome, oneshot::Receiver<Verdict>),
    /// The keyspace was given back in this very moment.
    Again,
    /// It is on its way.
    Sent(Outcome, oneshot::Receiver<Verdict>),
}

/// Pieces of a backup that wait for their reader.
const PIECES: usize = 4;
/// Timeout of the reader of a backup, for each piece. No snapshot is made meanwhile, and the log grows.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

struct StreamSink {
    sender: mpsc::Sender<Result<Bytes, Error>>,
}

// === impl DiskStore ===

impl DiskStore {
    /// Reads the store from its folder and begins to work. Blocks for as long as reading takes.
    pub(crate) fn open(files: Arc<dyn Files>, settings: Settings, env: Env) -> Result<Self, Error> {
        let limits = Limits::default();
        let tuning = settings.tuning();
        let histories = HistoryBudget::new(settings.histories_bytes_max);
        let core = Core::new(&tuning, histories, env.machine());
        let Recovered { core, store, next, logs, log_bytes, last, snapshot, obsolete } =
            recover(files.as_ref(), core)?;
        if let Some(snapshot) = snapshot {
            tracing::info!(dir = %settings.dir, snapshot, logs = logs.len(), "store was read");
        }
        if let Some(excess) = core.budget.excess(tuning.bytes_max) {
            let (bytes, memory) = (core.budget.bytes(), env.machine().memory);
            tracing::warn!(
                dir = %settings.dir, bytes, bytes_max = tuning.bytes_max, excess, memory_limit = memory.bytes,
                source = %memory.source,
                "the store has more content than may be kept here: deletes work, writes are refused until `bytes-max` \
                 or the memory of the process is raised"
            );
        }
        for file in obsolete {
            // A file that cannot be removed is not read either.
            drop(files.remove(&file));
        }
        let store = store.unwrap_or_else(|| u128::from(env.random()) << 64 | u128::from(env.random()));
        let interval = settings.interval();
        let journal = Arc::new(Journal::new(
            env.clone(),
            settings.dir.clone(),
            files,
            store,
            core,
            tuning,
            interval,
            next,
            (logs, log_bytes),
        ));
        let (sender, done) = oneshot::channel();
        let begin = |error| {
            let message =
                format!("a log cannot be begun: free disk space or repair the disk: dir=`{}`", settings.dir);
            Error::unavailable(message).caused_by(error)
        };
        let writer = Writer::new(Arc::clone(&journal), next, last, sender).map_err(begin)?;
        let mut writer = Some(writer);
        // After a panic of the writer the outcome of its batch is unknown: only recovery can find it.
        let write = move || writer.take().into_iter().for_each(Writer::run);
        env.supervise_thread("disk-writer", Policy::Fail, write).map_err(begin)?;
        let keeper = Arc::clone(&journal);
        env.supervise_thread("disk-keeper", Policy::Restart, move || keeper::run(&keeper)).map_err(begin)?;
        if log_bytes > tuning.log_bytes_max || journal.full.load(Ordering::Acquire) {
            journal.want_snapshot();
        }
        let durability = interval.map_or(Durability::Disk, Durability::Interval);
        let profile = Profile { consistency: Consistency::Linearizable, durability, shared: false, limits };
        let (settings, done) = (Mutex::new(settings), Mutex::new(Some(done)));
        let rotation = Rotation::new(env.clone());
        Ok(Self { profile, env, settings, journal, rotation, done })
    }

    #[cfg(test)]
    pub(crate) fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }

    /// Forgets the named requests that are old enough, once a minute.
    fn rotate_named(&self) {
        let Core { spaces, budget, .. } = &self.journal.core;
        if self.rotation.due() && budget.named_bytes() > 0 {
            for space in spaces.all() {
                budget.track(&mut space.engine.lock(), Engine::rotate_named);
            }
        }
    }

    /// Applies a transaction in memory and sends what it changes on its way.
    fn apply(&self, keyspace: &Keyspace, txn: &Txn) -> Result<Step, Error> {
        let journal = &self.journal;
        let _gate = journal.gate.read();
        journal.check_open()?;
        let Tuning { bytes_max, retention, .. } = *journal.tuning.read();
        journal.check_disk()?;
        let grows = max_growth(txn) > 0;
        let disk_full = journal.full.load(Ordering::Acquire);
        let full =
            if grows && disk_full { Some(journal.no_room().into()) } else { self.full(txn, bytes_max) };
        let space = match (full.is_some(), journal.core.spaces.find(keyspace)) {
            (_, Some(space)) => space,
            (false, None) => journal.core.open(keyspace),
            // An absent keyspace cannot become smaller, and would itself take room.
            (true, None) => return Err(full.unwrap_or_else(Error::closed)),
        };
        let mut engine = space.engine.lock();
        if space.is_gone() {
            return Ok(Step::Again);
        }
        let repeated = txn.once.as_ref().is_some_and(|name| engine.remembers(name));
        let limits = &self.profile.limits;
        let grows = grows && full.is_none();
        let (outcome, changes) = journal.core.budget.apply(&mut engine, txn, limits, bytes_max, full)?;
        let named = txn.once.as_ref().filter(|_| !repeated);
        if changes.is_empty() && named.is_none() {
            return Ok(match journal.pending(space.batch()) {
                None => Step::Done(outcome),
                Some(verdict) => Step::Seen(outcome, verdict),
            });
        }
        let commit = Commit { revision: outcome.revision, changes };
        let mut record = Vec::with_capacity(256);
        let lean = disk_full || previous_bytes(&commit) > PREVIOUS_MAX;
        StoredCommit::put(&mut record, keyspace, &commit, named.map(|name| (name, &outcome)), lean);
        let verdict = journal.push(&space, commit, named.cloned(), &record, grows);
        drop(engine);
        space.history.trim(retention);
        Ok(Step::Sent(outcome, verdict))
    }

    /// Returns the refusal of what does not fit. Empty keyspaces are given back before that, if enough were made since the last
    /// time. Called under the gate.
    fn full(&self, txn: &Txn, bytes_max: usize) -> Option<Error> {
        let core = &self.journal.core;
        let full = core.budget.full(txn, bytes_max)?;
        if !core.may_sweep() {
            return Some(full);
        }
        core.sweep(self.journal.durable());
        core.budget.full(txn, bytes_max)
    }

    /// Reads, and returns the batch that has to be on the disk before the result is shown.
    fn look(
        &self,
        keyspace: &Keyspace,
        reads: &[Read],
    ) -> Result<(Snapshot, Option<oneshot::Receiver<Verdict>>), Error> {
        let journal = &self.journal;
        let _gate = journal.gate.read();
        journal.check_open()?;
        let limits = &self.profile.limits;
        let Some(space) = journal.core.spaces.find(keyspace) else {
            return Ok((journal.core.empty().read(reads, limits)?, None));
        };
        let engine = space.engine.lock();
        if space.is_gone() {
            return Ok((journal.core.empty().read(reads, limits)?, None));
        }
        Ok((engine.read(reads, limits)?, journal.pending(space.batch())))
    }
}

impl Store for DiskStore {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            loop {
                let (snapshot, pending) = self.look(keyspace, &reads)?;
                if shown(pending).await? {
                    return Ok(snapshot);
                }
            }
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            loop {
                match self.apply(keyspace, &txn)? {
                    Step::Done(outcome) => return Ok(outcome),
                    Step::Again => {}
                    Step::Seen(outcome, verdict) => {
                        if shown(Some(verdict)).await? {
                            return Ok(outcome);
                        }
                    }
                    Step::Sent(outcome, verdict) => {
                        return match verdict.await {
                            Ok(Ok(())) => Ok(outcome),
                            Ok(Err(refusal)) => Err(refusal.into()),
                            Err(_) => {
                                let message = "the store ended before the commit was on the disk";
                                Err(Error::new(ErrorKind::OutcomeUnknown, message))
                            }
                        };
                    }
                }
            }
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        let stream = self.journal.check_open().and_then(|()| {
            loop {
                let space = self.journal.core.open(keyspace);
                // A keyspace that is followed under this lock is not given back.
                let _engine = space.engine.lock();
                if !space.is_gone() {
                    return space.history.follow(from);
                }
            }
        });
        Box::pin(ready(stream))
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        let journal = &self.journal;
        let reclaimed = journal.check_open().map(|()| {
            // No batch is taken back meanwhile.
            let _gate = journal.gate.read();
            journal.core.reclaim(keyspace, journal.durable());
        });
        Box::pin(ready(reclaimed))
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        let journal = &self.journal;
        self.rotate_named();
        let health = journal.check_open().and_then(|()| {
            let queue = journal.queue.lock();
            if journal.full.load(Ordering::Acquire) {
                return Err(journal.no_room().into());
            }
            if let Some(failure) = &queue.failure {
                return Err(Error::unavailable(failure.clone()));
            }
            Ok(Health {
                facts: vec![
                    ("dir", journal.dir.clone()),
                    ("keyspaces", journal.core.spaces.len().to_string()),
                    ("bytes", journal.core.budget.bytes().to_string()),
                    ("bytes-max", journal.tuning.read().bytes_max.to_string()),
                    ("named-bytes", journal.core.budget.named_bytes().to_string()),
                    ("histories-bytes", journal.core.histories.bytes().to_string()),
                    ("log-bytes", queue.log_bytes.to_string()),
                    ("batches", journal.durable().to_string()),
                ],
            })
        });
        Box::pin(ready(health))
    }

    fn reconfigure<'a>(&'a self, config: &'a JsonObject) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        let reconfigured = self.journal.check_open().and_then(|()| Settings::read(config)).and_then(|new| {
            let mut settings = self.settings.lock();
            if new.dir != settings.dir {
                return Err(Error::location_change("`dir`"));
            }
            if new.interval() != settings.interval() {
                return Err(Error::config(
                    "`durability` and `sync-interval` cannot change while the store is connected: disconnect it first",
                ));
            }
            let tuning = new.tuning();
            *self.journal.tuning.write() = tuning;
            self.journal.core.histories.set_bytes_max(new.histories_bytes_max);
            *settings = new;
            for space in self.journal.core.spaces.all() {
                space.history.trim(tuning.retention);
            }
            Ok(Reconfigured::InPlace)
        });
        Box::pin(ready(reconfigured))
    }

    fn backup(&self) -> BoxFuture<'_, Result<BackupStream, Error>> {
        let (sender, made) = mpsc::channel(1);
        let (taken, receiver) = mpsc::channel(PIECES);
        let journal = Arc::clone(&self.journal);
        let env = self.env.clone();
        self.env.detach(async move { pump_backup(&env, made, taken).await });
        let started = self.journal.check_open().and_then(|()| {
            let copy = move || {
                let mut sink = StreamSink { sender: sender.clone() };
                let copied = catch_unwind(AssertUnwindSafe(|| snapshot::backup(&journal, &mut sink)));
                let defect = |_| Err(Error::new(ErrorKind::Internal, "the copy ended by a defect"));
                if let Err(error) = copied.unwrap_or_else(defect) {
                    // The receiver is gone, or gets this error.
                    drop(sender.blocking_send(Err(error)));
                }
            };
            self.env
                .thread("atomix-backup", copy)
                .map_err(|error| Error::unavailable("a backup cannot be started").caused_by(error))
        });
        let pieces = stream::unfold(receiver, |mut receiver| async move {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        });
        let stream: BackupStream = Box::pin(pieces);
        Box::pin(ready(started.map(|()| stream)))
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.journal.stop();
        let done = self.done.lock().take();
        Box::pin(async move {
            if let Some(done) = done {
                // The sender is dropped when the writer ends. A disk that stands still is not waited for.
                drop(self.env.timeout(grace.max(CLOSE_MIN), done).await);
            }
            for space in self.journal.core.spaces.all() {
                space.history.close();
            }
        })
    }
}

/// Bytes of deleted values that a commit has in the log. The log of one that deletes more has none of them.
const PREVIOUS_MAX: usize = 64 << 10;

/// Returns the bytes of the values that a commit deletes.
fn previous_bytes(commit: &Commit) -> usize {
    let deleted = commit.changes.iter().filter(|change| change.current.is_none());
    deleted.filter_map(|change| change.previous.as_ref()).map(|entry| entry.value.len()).sum()
}

/// The least time that closing waits for the last sync.
const CLOSE_MIN: Duration = Duration::from_secs(2);

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.journal.stop();
    }
}

impl Sink for StreamSink {
    fn take(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        self.sender.blocking_send(Ok(bytes.into())).map_err(|_| unread())
    }
}

/// Passes the pieces of a backup to its reader until that takes too long. The thread that makes them notices
/// it by the end of `made`: a thread has no timers.
async fn pump_backup(
    env: &Env,
    mut made: mpsc::Receiver<Result<Bytes, Error>>,
    taken: mpsc::Sender<Result<Bytes, Error>>,
) {
    while let Some(piece) = made.recv().await {
        match env.timeout(READER_TIMEOUT, taken.send(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                drop(made);
                // A reader that comes back later gets an error: the backup is not complete.
                drop(taken.send(Err(unread())).await);
                return;
            }
        }
    }
}

fn unread() -> Error {
    Error::unavailable("backup ended because its reader is gone or too slow: try again")
}

/// Waits until what was read is on the disk. False if it was taken back: then it has to be read again.
async fn shown(pending: Option<oneshot::Receiver<Verdict>>) -> Result<bool, Error> {
    match pending {
        None => Ok(true),
        Some(verdict) => verdict.await.map(|verdict| verdict.is_ok()).map_err(|_| Error::closed()),
    }
}

#[cfg(test)]
mod tests {
    use atomix_env::{ManualClock, TaskFaults};
    use atomix_store::Write;
    use futures::StreamExt;

    use super::*;
    use crate::crashes::settings;
    use crate::sim::Disk;

    #[tokio::test]
    async fn a_backup_that_nobody_reads_does_not_stop_snapshots_for_ever() {
        let settings = Settings {
            bytes_max: 64 << 20,
            history_commits_max: 1,
            history_bytes_max: 1,
            ..settings(64 << 20)
        };
        let clock = ManualClock::new();
        let env = Env::simulated(Arc::clone(&clock), 1);
        let store = DiskStore::open(Arc::new(Disk::default()), settings, env).unwrap();
        let keyspace = Keyspace::new("map/it");
        // More than waits for a reader.
        for at in 0..64 {
            let value = Bytes::from(vec![b'.'; 64 << 10]);
            let put = Write::Put { key: format!("{at}").into(), value };
            store.commit(&keyspace, Txn::new().write(put)).await.unwrap();
        }
        let mut pieces = store.backup().await.unwrap();
        pieces.next().await.unwrap().unwrap();
        let journal = store.journal();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        clock.advance(READER_TIMEOUT / 2);
        assert!(journal.copying.try_lock().is_none(), "a reader may be slow");
        while journal.copying.try_lock().is_none() {
            clock.advance(READER_TIMEOUT);
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = pieces.collect().await;
        let (last, before) = rest.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok));
        assert_eq!(last.as_ref().unwrap_err().message(), unread().message());
        // The reader gets all of it.
        let all: Vec<_> = store.backup().await.unwrap().collect().await;
        assert!(all.iter().all(Result::is_ok) && all.len() > rest.len() + 1);
    }

    /// A store whose threads can be made to panic.
    fn haunted(disk: &Disk, faults: &Arc<TaskFaults>) -> (DiskStore, Env) {
        let settings = settings(1 << 20);
        let env = Env::real().with_faults(Arc::clone(faults));
        (DiskStore::open(Arc::new(disk.clone()), settings, env.clone()).unwrap(), env)
    }

    async fn put(store: &DiskStore, key: &str, bytes: usize) -> Result<Outcome, Error> {
        let put = Write::Put { key: key.to_owned().into(), value: vec![b'.'; bytes].into() };
        store.commit(&Keyspace::new("map/it"), Txn::new().write(put)).await
    }

    #[tokio::test]
    async fn a_keeper_that_panics_makes_its_snapshot_all_the_same() {
        let (disk, faults) = (Disk::default(), Arc::new(TaskFaults::default()));
        // Before the thread begins, so that it cannot make the snapshot before it panics.
        faults.kill("disk-keeper");
        let (store, env) = haunted(&disk, &faults);
        for at in 0..40 {
            put(&store, &format!("{}", at % 8), 64 << 10).await.unwrap();
        }
        let journal = store.journal();
        while !journal.files.list().unwrap().iter().any(|file| file.starts_with("snapshot")) {
            env.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(env.restarts(), [("disk-keeper", 1)]);
    }

    #[tokio::test]
    async fn a_writer_that_panics_fails_the_process_and_loses_nothing() {
        let (disk, faults) = (Disk::default(), Arc::new(TaskFaults::default()));
        let (store, env) = haunted(&disk, &faults);
        put(&store, "before", 1).await.unwrap();
        faults.kill("disk-writer");
        // It panics before it takes this one, or after it has answered it.
        let during = put(&store, "during", 1).await.is_ok();
        let message = env.failed().await;
        assert!(message.contains("`disk-writer`"), "{message}");
        assert_eq!(put(&store, "after", 1).await.unwrap_err().kind(), ErrorKind::Closed);
        drop(store);
        let (store, _env) = haunted(&disk, &Arc::default());
        let reads = ["before", "during", "after"].map(|key| Read::Get { key: key.into() });
        let found = store.read(&Keyspace::new("map/it"), reads.to_vec()).await.unwrap();
        let there = |at: usize| found.reads[at].entry().is_some();
        assert_eq!((there(0), there(1) || !during, there(2)), (true, true, false));
    }
}
