// SPDX-License-Identifier: Apache-2.0
//! The thread that writes batches.
//!
//! After a failed write or sync the content of the log is unknown, so it is never written again: the batches
//! that were not synced go into a new log, which by its number replaces the rest of the old one. If that
//! fails as well the batch is refused, and so are the following ones, until a new log can be begun.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atomix_env::Instant;
use atomix_store::ErrorKind;
use tokio::sync::oneshot;

use crate::error::is_full;
use crate::frame;
use crate::journal::{Batch, Journal, Refusal, Rolled};
use crate::reserve;
use crate::segment::Segment;

/// Writes what the journal collects.
#[derive(Debug)]
pub(crate) struct Writer {
    journal: Arc<Journal>,
    /// `None` after a failure.
    segment: Option<Segment>,
    /// Batches that were written and may still be lost. Without an interval that is the one being written.
    unsynced: Vec<(u64, Vec<u8>)>,
    unsynced_bytes: usize,
    /// The number of the next batch.
    next: u64,
    synced: Instant,
    /// The time and the reason of the last failure to begin a log.
    failed: Option<(Instant, Refusal)>,
    /// The disk has failed since the last request for a snapshot.
    suspect: bool,
    /// Dropped when the thread ends.
    _done: oneshot::Sender<()>,
}

/// Room in the log that is kept for deletions when the disk is full, beside the reserves of `reserve.rs`.
const RESERVE: u64 = if cfg!(test) { 5 << 10 } else { 1280 << 10 };
/// Unsynced bytes after which a sync does not wait for its interval.
const UNSYNCED_MAX: usize = 16 << 20;
/// Pause between attempts on a disk that has failed.
const RETRY: Duration = Duration::from_millis(200);

// === impl Writer ===

impl Writer {
    /// Makes the writer and the first log of this process. What went wrong here is nothing that a caller has seen.
    /// `last` is the log that was read last.
    pub(crate) fn new(
        journal: Arc<Journal>,
        next: u64,
        last: Option<Segment>,
        done: oneshot::Sender<()>,
    ) -> io::Result<Self> {
        let synced = journal.env.now();
        let mut writer = Self {
            journal,
            segment: last,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            next,
            synced,
            failed: None,
            suspect: false,
            _done: done,
        };
        match writer.begin(false) {
            Err(error) if is_full(&error) => writer.begin_on_full_disk()?,
            begun => begun?,
        }
        // Trouble is dealt with as later.
        drop(writer.make_room(0, true));
        Ok(writer)
    }

    /// Begins the first log with the room that the last one does not need, or with the reserve. If there is none the store
    /// is read all the same, and refuses every write until there is room.
    fn begin_on_full_disk(&mut self) -> io::Result<()> {
        self.journal.full.store(true, Ordering::Release);
        if let Some(last) = &mut self.segment {
            last.release()?;
        }
        match self.begin(true) {
            Err(error) if is_full(&error) => {
                self.segment = None;
                // This notes why, and writes it into the log of the process.
                drop(self.reopen_log());
                Ok(())
            }
            begun => begun,
        }
    }

    /// Works until the store is closed and everything is written.
    pub(crate) fn run(mut self) {
        let journal = Arc::clone(&self.journal);
        loop {
            journal.env.step("disk-writer");
            let mut queue = journal.queue.lock();
            let idle =
                queue.open_batch.applied.is_empty() && queue.rolls.is_empty() && queue.syncs.is_empty();
            if idle && !queue.stop {
                match self.pause() {
                    Some(pause) => drop(journal.work.wait_for(&mut queue, pause)),
                    None => journal.work.wait(&mut queue),
                }
            }
            let batch = journal.take(&mut queue);
            let (rolls, syncs) = (std::mem::take(&mut queue.rolls), std::mem::take(&mut queue.syncs));
            let stop = queue.stop;
            drop(queue);
            if let Some((number, batch)) = batch {
                self.write(number, batch);
            }
            self.sync_if_due(!syncs.is_empty() || !rolls.is_empty() || stop);
            let failure = || journal.queue.lock().failure.clone().unwrap_or_default();
            for sync in syncs {
                let synced = self.unsynced.is_empty().then_some(());
                drop(sync.send(synced.ok_or_else(|| atomix_store::Error::unavailable(failure()))));
            }
            if !rolls.is_empty() {
                let rolled = self.roll();
                for roll in rolls {
                    let rolled = rolled.as_ref().copied().map_err(|error| {
                        atomix_store::Error::unavailable(format!("a new log cannot be begun: {error}"))
                    });
                    drop(roll.send(rolled));
                }
            }
            if stop {
                // Calls that have begun put their commits into the queue before they release the gate.
                drop(journal.gate.write());
                let queue = journal.queue.lock();
                if queue.open_batch.applied.is_empty() {
                    return;
                }
            }
        }
    }

    /// Returns the time until the next work without a request.
    fn pause(&self) -> Option<Duration> {
        if self.segment.is_none() || self.journal.full.load(Ordering::Acquire) {
            return Some(RETRY);
        }
        let interval = self.journal.interval.filter(|_| !self.unsynced.is_empty())?;
        Some(interval.saturating_sub(self.journal.env.now().since(self.synced)))
    }

    fn write(&mut self, number: u64, mut batch: Batch) {
        debug_assert_eq!(number, self.next, "batches are numbered without a gap");
        let payload = std::mem::take(&mut batch.payload);
        let bytes = payload.len();
        match self.store(number, payload, batch.grows) {
            Ok(()) => {
                self.next = number + 1;
                self.journal.publish(number, batch, bytes);
                if self.log_is_long() {
                    self.journal.want_snapshot();
                }
            }
            Err(refusal) => self.journal.roll_back(number, batch, &refusal),
        }
    }

    /// Stores a batch, or refuses it with the information whether it may be in the log nevertheless.
    fn store(&mut self, number: u64, payload: Vec<u8>, grows: bool) -> Result<(), Refusal> {
        if self.segment.is_none() {
            self.reopen_log()?;
        }
        let len = payload.len();
        self.make_room(frame::room(len) as u64, grows)?;
        let sync = self.journal.interval.is_none();
        let written = self.segment.as_mut().map_or(Ok(()), |segment| {
            segment.append(&payload)?;
            if sync { segment.sync() } else { Ok(()) }
        });
        if sync && written.is_ok() {
            self.synced = self.journal.env.now();
            return Ok(());
        }
        self.unsynced.push((number, payload));
        self.unsynced_bytes += len;
        let Err(error) = written else { return Ok(()) };
        self.abandon_log(&error);
        self.reopen_log().map_err(|refusal| {
            self.unsynced.pop();
            self.unsynced_bytes -= len;
            Refusal { kind: ErrorKind::OutcomeUnknown, ..refusal }
        })
    }

    /// Makes sure that a frame of `need` bytes fits into the log, and that there is room for deletions after it, unless
    /// the frame is one that does not grow the store.
    fn make_room(&mut self, need: u64, grows: bool) -> Result<(), Refusal> {
        let full = self.journal.full.load(Ordering::Acquire);
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let used = self.journal.reserve_used.swap(false, Ordering::AcqRel);
        let enough = segment.room() >= need + RESERVE;
        if enough && !full && !used {
            return Ok(());
        }
        let files = self.journal.files.as_ref();
        let mut made = if full || used { reserve::keep(files) } else { Ok(()) };
        if full || !enough {
            // Also on a disk that seems to have room again: some of it has to be left after this.
            made = made.and_then(|()| segment.extend(need + RESERVE));
        }
        if made.as_ref().is_err_and(is_full) {
            made = segment.fill(need + RESERVE).and(made);
        }
        match made {
            Ok(()) => {
                if used {
                    let bytes = self.journal.core.budget.bytes() as u64;
                    let max = self.journal.tuning.read().log_bytes_max;
                    reserve::grow(files, bytes.saturating_mul(5) / 4, max);
                }
                self.journal.full.store(false, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                self.journal.reserve_used.fetch_or(used, Ordering::AcqRel);
                self.without_room(&error, need, grows)
            }
        }
    }

    /// Goes on in the room that there is, after more of it could not be had.
    fn without_room(&mut self, error: &io::Error, need: u64, grows: bool) -> Result<(), Refusal> {
        if !is_full(error) {
            self.abandon_log(error);
            return self.reopen_log();
        }
        if !self.journal.full.swap(true, Ordering::AcqRel) {
            tracing::warn!(dir = %self.journal.dir, "disk is full: only deletions are taken");
            // A snapshot frees the space of deleted and replaced entries.
            self.journal.want_snapshot();
        }
        let room = self.segment.as_ref().map_or(0, Segment::room);
        let kept = if grows { RESERVE } else { 0 };
        if room >= need + kept { Ok(()) } else { Err(self.journal.no_room()) }
    }

    /// Begins a new log for a copy of everything. On a full disk the copy begins in the middle of the one that there is.
    fn roll(&mut self) -> io::Result<Rolled> {
        let bytes_before = self.journal.queue.lock().log_bytes;
        // The reserve comes back when the snapshot replaces the old logs, so it is used when the snapshot will fit.
        let fits =
            self.journal.core.budget.bytes() as u64 <= reserve::for_snapshot(self.journal.files.as_ref());
        match self.begin(fits) {
            Ok(()) => {}
            Err(error) if is_full(&error) && self.segment.is_some() && self.unsynced.is_empty() => {}
            Err(error) => return Err(error),
        }
        let Some(segment) = &self.segment else { return Err(io::ErrorKind::NotFound.into()) };
        let kept = if segment.first() == self.next { 0 } else { segment.at() };
        Ok(Rolled { base: self.next, log: segment.first(), bytes_before: bytes_before.saturating_sub(kept) })
    }

    /// Syncs if it is due, and retries a disk that has failed.
    fn sync_if_due(&mut self, now: bool) {
        if self.segment.is_none() && self.reopen_log().is_err() {
            return;
        }
        let due = self.journal.interval.is_some_and(|interval| {
            self.journal.env.now().since(self.synced) >= interval || self.unsynced_bytes > UNSYNCED_MAX
        });
        if !self.unsynced.is_empty() && (due || now) {
            match self.segment.as_mut().map_or(Ok(()), Segment::sync) {
                Ok(()) => self.forget_unsynced(),
                Err(error) => {
                    self.abandon_log(&error);
                    // The next round tries again.
                    drop(self.reopen_log());
                }
            }
        }
        if self.journal.full.load(Ordering::Acquire) || self.journal.reserve_used.load(Ordering::Acquire) {
            drop(self.make_room(0, true));
        }
    }

    /// Gives the log up after an error.
    fn abandon_log(&mut self, error: &io::Error) {
        tracing::error!(dir = %self.journal.dir, %error, "the disk has failed, a new log is begun");
        self.segment = None;
        self.suspect = true;
    }

    /// Begins a new log after failure, unless that was tried a moment ago.
    fn reopen_log(&mut self) -> Result<(), Refusal> {
        let now = self.journal.env.now();
        if let Some((failed, refusal)) = &self.failed
            && now.since(*failed) < RETRY
        {
            return Err(refusal.clone());
        }
        self.begin(true).map_err(|error| {
            let refusal = if is_full(&error) {
                self.journal.no_room()
            } else {
                let message = format!("the disk does not work: dir=`{}` error=`{error}`", self.journal.dir);
                Refusal { kind: ErrorKind::Unavailable, message: message.into() }
            };
            if self.failed.is_none() {
                tracing::error!(error = %refusal.message, "writes are refused until the disk works again");
            }
            self.journal.queue.lock().failure = Some(refusal.message.to_string());
            self.failed = Some((now, refusal.clone()));
            refusal
        })
    }

    /// Begins a new log with the batches that were not synced; with `reserve` in the room that is set aside for it, if
    /// there is no other. The old one, if there is one, stays in use when not even a file can be made.
    fn begin(&mut self, reserve: bool) -> io::Result<()> {
        let first = self.unsynced.first().map_or(self.next, |(number, _)| *number);
        let files = Arc::clone(&self.journal.files);
        let mut segment = Segment::prepare(files.as_ref(), self.journal.store, first, reserve)?;
        for (_, payload) in &self.unsynced {
            let need = frame::room(payload.len()) as u64;
            if segment.room() < need {
                segment.extend(need)?;
            }
            segment.append(payload)?;
        }
        segment.sync()?;
        // Only now: a kill must not find it in the place of those batches without them.
        let old = self.segment.take();
        segment.adopt(files.as_ref())?;
        if let Some(mut old) = old {
            // Best effort: the note is for a day on which a file is missing.
            drop(old.close(first));
        }
        let mut queue = self.journal.queue.lock();
        if reserve {
            self.journal.reserve_used.store(true, Ordering::Release);
        }
        if queue.logs.back() != Some(&first) {
            queue.logs.push_back(first);
        }
        queue.log_bytes += segment.at();
        queue.failure = None;
        drop(queue);
        self.segment = Some(segment);
        self.failed = None;
        self.forget_unsynced();
        if std::mem::take(&mut self.suspect) {
            // A disk that has failed once is not trusted with what is older either: all of it is written anew.
            self.journal.want_snapshot();
        }
        Ok(())
    }

    fn forget_unsynced(&mut self) {
        self.unsynced.clear();
        self.unsynced_bytes = 0;
        self.synced = self.journal.env.now();
    }

    fn log_is_long(&self) -> bool {
        self.journal.queue.lock().log_bytes > self.journal.tuning.read().log_bytes_max
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Also after a panic of the thread: its callers must not wait for ever.
        self.journal.abandon();
    }
}
