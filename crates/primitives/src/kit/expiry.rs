// SPDX-License-Identifier: Apache-2.0
//! Expiry is a write.
//!
//! An item that expires is called a *subject*: a key, an element, an index. A subject with a TTL has a deadline key beside it.
//! A deadline counts as long as the entry of its subject was not written after it: a write without a TTL need not look for
//! one. When the time has come, one transaction deletes both under the guard that both are as they were timed, so a renewed
//! subject stays. That transaction also writes the key [`Key::Expired`], by which watches tell an
//! expiry from a removal. So an expiry has its place in the order of commits, like every other change.
//!
//! Timers run on the monotonic clock: a jump of the wall clock neither shortens nor lengthens a TTL. A deadline is kept by both
//! clocks. Where it is read again, because the keyspace was closed in between or history was missed, the runtime that wrote it goes by
//! its monotonic clock; another one, or the same one after a restart, by the wall clock, and then at most for the TTL itself.
//!
//! A write may be applied although its caller never learns of it, and others write too. So every runtime that has
//! the keyspace open follows its deadlines, and times what it did not know of from the moment that it sees it: never too
//! early, independent of the wall clocks of the machines. (A store that goes with its process has neither.) The writer of a deadline reaps
//! it on time; the others wait [`FOREIGN_REAP_DELAY`] longer and usually find nothing left to do. So an entry is served at most
//! that long, and a round trip, after its time, as long as the store answers and one runtime has the keyspace open.
//! Only a deadline of another runtime that is *read* depends on two wall clocks agreeing: it is early or late by as much as they
//! differ, late at most by the TTL. A runtime whose wall clock is ahead of that of another one by more than a bound
//! ([`Membership::trusts_clock`](crate::Membership::trusts_clock)) lets such deadlines count in full from then on, and reads them again when the
//! clocks agree.

mod deadline;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomix_env::{Instant, Policy, Shutdown};
use atomix_store::{
    Ask, Commit, Entry, ErrorKind, Guard, Outcome, Read, Revision, Txn, WatchFrom, WatchItem, WatchStream,
    Write,
};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;

use self::deadline::Deadline;
use crate::error::{Error, Reason};
use crate::kit::backing::{Backing, Retry};
use crate::kit::codec::Decoder;
use crate::kit::follow;
use crate::kit::keys::{EXPIRED, Key, KeyKind};

/// Lets subjects of one keyspace expire.
pub(crate) struct Expiry {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    backing: Backing,
    keys: SubjectKeys,
    timers: Mutex<Timers>,
    changed: Notify,
    /// Whether deadlines were read while the wall clock was not trusted, and have to be read again.
    distrusted: AtomicBool,
    stop: Shutdown,
}

#[derive(Default)]
struct Timers {
    subjects: HashMap<Bytes, (Instant, Revision)>,
    queue: BTreeMap<(Instant, Bytes), Revision>,
    running: bool,
}

/// The change that a transaction makes to the time to live of its subject, to be noted when it has been applied.
#[must_use]
pub(crate) struct PendingTtl<'a> {
    expiry: &'a Expiry,
    subject: &'a [u8],
    ttl: Option<Duration>,
    /// Whether the deadline is written or deleted. If not, one that came meanwhile is left to its timer.
    deadline: bool,
}

/// Returns the keys that are deleted with a subject, the first of which is that of its entry. An error for bytes that name
/// no subject.
pub(crate) type SubjectKeys = fn(&[u8]) -> Result<Vec<Bytes>, Error>;

/// The writer of a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// This runtime.
    Own,
    /// A runtime that may be dead.
    Unknown,
    /// Another runtime, which reaps it on time if it lives.
    Foreign,
}

/// The delay after which a subject of another runtime is reaped.
const FOREIGN_REAP_DELAY: Duration = Duration::from_millis(250);

// === impl Expiry ===

impl Expiry {
    /// Makes the expiry of a keyspace and removes what is overdue, so that nothing is served after its time.
    pub(crate) async fn open(backing: &Backing, keys: SubjectKeys) -> Result<Self, Error> {
        let stop = Shutdown::new();
        let shared = Arc::new(Shared {
            backing: backing.clone(),
            keys,
            timers: Mutex::default(),
            changed: Notify::new(),
            distrusted: AtomicBool::new(false),
            stop: stop.clone(),
        });
        let expiry = Self { shared, _stop: stop.drop_guard() };
        let shared = &expiry.shared;
        if backing.membership().outlives() {
            let watch = shared.begin().await?;
            let follower = Arc::clone(shared);
            let mut first = Some(watch);
            shared.background("ttl-watch", move || {
                let (shared, watch) = (Arc::clone(&follower), first.take());
                async move { shared.follow(watch).await }
            });
        } else {
            shared.load().await?;
        }
        Ok(expiry)
    }

    /// Puts `value` under `key`, the entry of `subject`, for `ttl` or without expiry, if `guards` hold. The one read of a
    /// refusal is the entry.
    pub(crate) async fn put(
        &self,
        key: &Bytes,
        subject: &[u8],
        value: Bytes,
        guards: Vec<Guard>,
        ttl: Option<Duration>,
    ) -> Result<Outcome, Error> {
        let (writes, pending_ttl) = self.writes(Write::Put { key: key.clone(), value }, subject, ttl);
        let reads = vec![Read::Get { key: key.clone() }];
        let txn = Txn { guards, writes, reads, ask: Ask::IfRefused, once: None };
        let outcome = self.shared.backing.commit(txn).await?;
        if outcome.applied {
            pending_ttl.begin(outcome.revision).await;
        }
        Ok(outcome)
    }

    /// Returns the write or deletion of the entry of `subject`, and the write that gives it the time to live `ttl` from now.
    /// Without one there is usually nothing to add, because an older deadline ends when the entry is written.
    pub(crate) fn writes<'a>(
        &'a self,
        entry: Write,
        subject: &'a [u8],
        ttl: Option<Duration>,
    ) -> (Vec<Write>, PendingTtl<'a>) {
        let mut writes = Vec::with_capacity(2);
        writes.push(entry);
        let deadline = ttl.is_some() || self.shared.timers.lock().subjects.contains_key(subject);
        if deadline {
            writes.push(self.deadline(subject, ttl));
        }
        (writes, PendingTtl { expiry: self, subject, ttl, deadline })
    }

    /// Returns the write that gives `subject` the time to live `ttl` from now, or none, where its entry stays as it is.
    pub(crate) fn renewal<'a>(&'a self, subject: &'a [u8], ttl: Option<Duration>) -> (Write, PendingTtl<'a>) {
        (self.deadline(subject, ttl), PendingTtl { expiry: self, subject, ttl, deadline: true })
    }

    fn deadline(&self, subject: &[u8], ttl: Option<Duration>) -> Write {
        let key = Key::Deadline { subject }.encode();
        let Some(ttl) = ttl else {
            return Write::Delete { key };
        };
        let (backing, membership) = (&self.shared.backing, self.shared.backing.membership());
        let deadline = Deadline {
            wall: millis(backing.env().wall().since_unix().saturating_add(ttl)),
            ttl: millis(ttl),
            writer: Some(deadline::Writer {
                member: membership.id(),
                monotonic: millis(membership.elapsed().saturating_add(ttl)),
            }),
        };
        Write::Put { key, value: deadline.encode() }
    }

    /// Deletes all keys of `kinds`, whose subjects these are, and all deadlines, in one step.
    pub(crate) async fn clear(&self, kinds: &[KeyKind]) -> Result<(), Error> {
        let ranges = kinds.iter().chain(&[KeyKind::Deadline]).map(|kind| kind.range());
        let writes = ranges.map(|range| Write::DeleteRange { range }).collect();
        let outcome = self.shared.backing.commit(Txn { writes, ..Txn::default() }).await?;
        self.cleared(outcome.revision);
        Ok(())
    }

    /// Takes note that no subject has a TTL since `revision`, unless a later write gave it one.
    pub(crate) fn cleared(&self, revision: Revision) {
        let mut timers = self.shared.timers.lock();
        timers.subjects.retain(|_, (_, timed)| *timed > revision);
        timers.queue.retain(|_, timed| *timed > revision);
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiry")
            .field("timers", &self.shared.timers.lock().queue.len())
            .finish_non_exhaustive()
    }
}

// === impl PendingTtl ===

impl PendingTtl<'_> {
    /// Takes note that the transaction was applied at `revision`. A TTL of zero has expired when this returns.
    pub(crate) async fn begin(self, revision: Revision) {
        let shared = &self.expiry.shared;
        let subject = || Bytes::copy_from_slice(self.subject);
        match self.ttl {
            // A failure leaves it to the timer, which tries again.
            Some(Duration::ZERO) if shared.reap(&subject(), revision).await.is_ok() => {}
            Some(ttl) => shared.time(subject(), ttl, revision, Writer::Own),
            None if self.deadline => shared.removed(self.subject, revision),
            None => {}
        }
    }
}

/// Returns whether a commit is an expiry, so that the removals in it are shown as expired.
pub(crate) fn is_expiry(commit: &Commit) -> bool {
    commit.changes.iter().any(|change| change.key == EXPIRED)
}

// === impl Shared ===

impl Shared {
    /// Times all deadlines that are in the store, and reaps what is overdue. Fails after that if one cannot be read.
    async fn load(self: &Arc<Self>) -> Result<(), Error> {
        let mut damaged = Ok(());
        let mut pages = self.backing.scan_all(KeyKind::Deadline.range(), false);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let (subject, deadline) = match self.decode(entry) {
                    Ok(decoded) => decoded,
                    Err(error) => {
                        damaged = Err(error);
                        continue;
                    }
                };
                let left = self.left(deadline);
                if left.is_zero() {
                    self.reap(&subject, entry.modified).await?;
                } else {
                    self.time(subject, left, entry.modified, Writer::Unknown);
                }
            }
        }
        damaged
    }

    /// Decodes a deadline, of a subject that this primitive may have.
    fn decode(&self, entry: &Entry) -> Result<(Bytes, Deadline), Error> {
        let Key::Deadline { subject } = Key::decode(&entry.key)? else {
            return Err(Error::damaged("deadline"));
        };
        (self.keys)(subject)?;
        Ok((entry.key.slice_ref(subject), Deadline::decode(&entry.value)?))
    }

    /// Begins to follow what other runtimes write of deadlines, and times what they wrote before.
    async fn begin(self: &Arc<Self>) -> Result<WatchStream, Error> {
        let deadlines = self.backing.watch_range(KeyKind::Deadline.range(), WatchFrom::Now).await?;
        let (watch, _) = follow::registered(deadlines).await?;
        // All there is comes now: from what is read, or from the watch. What is known may be younger by its revision than
        // anything that the store has, if it lost what it had.
        self.timers.lock().clear();
        self.distrusted.store(false, Ordering::Relaxed);
        self.load().await?;
        Ok(watch)
    }

    /// Times what other runtimes write. Ends only when the store is closed.
    async fn follow(self: &Arc<Self>, watch: Option<WatchStream>) {
        let mut retry = Retry::default();
        // Without a watch, after a panic, everything is read again.
        let mut watch = watch.unwrap_or_else(|| stream::empty().boxed());
        loop {
            let item = tokio::select! {
                item = watch.next() => item,
                // As after a watch that ended: everything is read again.
                () = self.backing.membership().clock_trusted(), if self.distrusted.load(Ordering::Relaxed) => None,
            };
            match item {
                Some(Ok(WatchItem::Commit(commit))) => self.note(&commit),
                Some(Ok(WatchItem::Progress(_))) => {}
                Some(Err(error)) if error.kind() == ErrorKind::Closed => return,
                Some(Err(_)) | None => loop {
                    match self.begin().await {
                        Ok(again) => {
                            (watch, retry) = (again, Retry::default());
                            break;
                        }
                        Err(error) if error.reason() == Reason::StoreClosed => return,
                        Err(error) => {
                            tracing::warn!(%error, "failed to follow times to live, trying again");
                            retry.pause(self.backing.env()).await;
                        }
                    }
                },
            }
        }
    }

    /// Takes note of the deadlines in a commit of any runtime.
    fn note(self: &Arc<Self>, commit: &Commit) {
        for change in &commit.changes {
            let Ok(Key::Deadline { subject }) = Key::decode(&change.key) else { continue };
            let Some(entry) = &change.current else {
                self.removed(subject, commit.revision);
                continue;
            };
            match Deadline::decode(&entry.value) {
                // From now on: the deadline is by the wall clock of another machine.
                Ok(deadline) => {
                    let subject = change.key.slice_ref(subject);
                    self.time(subject, deadline.ttl(), entry.modified, Writer::Foreign);
                }
                Err(_) => warn_of_damage(),
            }
        }
    }

    fn removed(&self, subject: &[u8], revision: Revision) {
        let mut timers = self.timers.lock();
        // Notes may be taken out of order: a later write may have timed the subject again.
        if timers.subjects.get(subject).is_some_and(|(_, timed)| *timed <= revision) {
            timers.forget(subject);
        }
    }

    /// Reaps `subject` when `left` is over.
    fn time(self: &Arc<Self>, subject: Bytes, left: Duration, revision: Revision, by: Writer) {
        self.schedule(subject, left, revision, by);
        let start = !std::mem::replace(&mut self.timers.lock().running, true);
        if start {
            let shared = Arc::clone(self);
            self.background("ttl-reaper", move || {
                let shared = Arc::clone(&shared);
                async move { shared.run().await }
            });
        } else {
            self.changed.notify_one();
        }
    }

    /// Runs `work` in the background until the keyspace is closed here.
    fn background<F>(&self, name: &'static str, mut work: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.backing.env().supervise(name, Policy::Restart, move || {
            let (stop, work) = (stop.clone(), work());
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = work => {}
                }
            }
        });
    }

    /// Reaps what is due until nothing is timed any more.
    async fn run(&self) {
        let env = self.backing.env();
        let mut retry = Retry::default();
        loop {
            let Some((at, subject, revision)) = self.timers.lock().first() else { return };
            if at > env.now() {
                tokio::select! {
                    () = env.clock().sleep_until(at) => {}
                    () = self.changed.notified() => {}
                }
                continue;
            }
            match self.reap(&subject, revision).await {
                Ok(()) => retry = Retry::default(),
                Err(error) if error.kind() == ErrorKind::Closed => return,
                Err(error) => {
                    tracing::warn!(%error, "failed to expire an entry, trying again");
                    retry.pause(env).await;
                }
            }
        }
    }

    /// Removes `subject` if its deadline is still the one of `revision` and its entry was not written since; else times the
    /// new one.
    async fn reap(&self, subject: &Bytes, revision: Revision) -> Result<(), atomix_store::Error> {
        let deadline = Key::Deadline { subject }.encode();
        let Ok(keys) = (self.keys)(subject) else {
            warn_of_damage();
            self.timers.lock().forget(subject);
            return Ok(());
        };
        // Usually both were written together.
        let mut written = Some(revision);
        let renewed = loop {
            let mut txn = Txn::new()
                .guard(Guard::ModifiedAt { key: deadline.clone(), revision })
                .write(Write::Delete { key: deadline.clone() })
                .read(Read::Get { key: deadline.clone() })
                .read(Read::Get { key: keys[0].clone() })
                .if_refused();
            if let Some(at) = written.filter(|at| *at <= revision) {
                txn = txn.guard(Guard::ModifiedAt { key: keys[0].clone(), revision: at });
                txn.writes.extend(keys.iter().map(|key| Write::Delete { key: key.clone() }));
                txn = txn.write(Write::Put { key: Key::Expired.encode(), value: Bytes::new() });
            }
            let outcome = self.backing.commit_raw(txn).await?;
            if outcome.applied {
                break None;
            }
            match outcome.reads[0].entry() {
                Some(same) if same.modified == revision => {
                    written = outcome.reads[1].entry().map(|entry| entry.modified);
                }
                other => break other.cloned(),
            }
        };
        {
            let mut timers = self.timers.lock();
            if timers.subjects.get(subject).is_some_and(|(_, timed)| *timed == revision) {
                timers.forget(subject);
            }
        }
        if let Some(entry) = renewed {
            let Ok(deadline) = Deadline::decode(&entry.value) else {
                warn_of_damage();
                return Ok(());
            };
            let (left, by) = if self.backing.membership().shared() {
                (deadline.ttl(), Writer::Foreign)
            } else {
                (self.left(deadline), Writer::Unknown)
            };
            self.schedule(subject.clone(), left, entry.modified, by);
        }
        Ok(())
    }

    fn schedule(&self, subject: Bytes, left: Duration, revision: Revision, by: Writer) {
        let env = self.backing.env();
        let at = match by {
            Writer::Own | Writer::Unknown => env.now() + left,
            Writer::Foreign => env.now() + left + env.jitter(FOREIGN_REAP_DELAY),
        };
        let mut timers = self.timers.lock();
        if let Some((_, timed)) = timers.subjects.get(&subject)
            && (*timed > revision || (*timed == revision && by != Writer::Own))
        {
            // Notes may be taken out of order; the younger deadline counts, and its writer knows it best.
            return;
        }
        timers.forget(&subject);
        timers.subjects.insert(subject.clone(), (at, revision));
        timers.queue.insert((at, subject), revision);
    }

    /// Returns how long a deadline that was just read has to go.
    fn left(&self, deadline: Deadline) -> Duration {
        let membership = self.backing.membership();
        let (at, now) = match deadline.writer {
            Some(writer) if writer.member == membership.id() => (writer.monotonic, membership.elapsed()),
            _ if membership.trusts_clock() => (deadline.wall, self.backing.env().wall().since_unix()),
            _ => {
                self.distrusted.store(true, Ordering::Relaxed);
                return deadline.ttl();
            }
        };
        Duration::from_millis(at).saturating_sub(now).min(deadline.ttl())
    }
}

// === impl Timers ===

impl Timers {
    /// Returns what is due first. With nothing left the task that asks has to end.
    fn first(&mut self) -> Option<(Instant, Bytes, Revision)> {
        let first = self.queue.first_key_value();
        self.running = first.is_some();
        first.map(|((at, subject), revision)| (*at, subject.clone(), *revision))
    }

    fn clear(&mut self) {
        self.subjects.clear();
        self.queue.clear();
    }

    fn forget(&mut self, subject: &[u8]) {
        if let Some((subject, (at, _))) = self.subjects.remove_entry(subject) {
            self.queue.remove(&(at, subject));
        }
    }
}

/// The [`SubjectKeys`] of a primitive whose subjects are the keys of its entries.
pub(crate) fn entry_keys(subject: &[u8]) -> Result<Vec<Bytes>, Error> {
    Ok(vec![Key::Entry(Decoder::new("deadline", subject).rest_text()?).encode()])
}

fn warn_of_damage() {
    tracing::warn!("a deadline record is damaged: its subject will not expire");
}

fn millis(duration: Duration) -> u64 {
    // Rounded up, so that a TTL of a microsecond is not one of zero.
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
