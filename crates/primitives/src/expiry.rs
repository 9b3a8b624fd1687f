// SPDX-License-Identifier: Apache-2.0
//! Expiry is a write.
//!
//! What expires is called a *subject*: a key, an element, an index. A subject with a TTL has a deadline key beside it.
//! When the time has come, one transaction deletes both under the guard that the deadline key is the one that was
//! timed, so a renewed subject stays. That transaction also writes the key [`keys::EXPIRED`], by which watches tell an
//! expiry from a removal. So an expiry has its place in the order of commits, like every other change.
//!
//! Timers run on the monotonic clock: a jump of the wall clock neither shortens nor lengthens a TTL. The wall deadline
//! in the store counts only when the keyspace is opened, and then at most for the TTL itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Instant, Shutdown};
use atomix_kv::{Commit, Entry, ErrorKind, Guard, Order, Read, Revision, Txn, Write};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;

use crate::backing::{PAGE, Retry};
use crate::{Backing, Error, keys};

/// Lets subjects of one keyspace expire.
pub(crate) struct Expiry {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    backing: Backing,
    /// The writes that delete a subject.
    remove: fn(&Bytes) -> Vec<Write>,
    timers: Mutex<Timers>,
    changed: Notify,
    stop: Shutdown,
}

#[derive(Default)]
struct Timers {
    subjects: HashMap<Bytes, (Instant, Revision)>,
    queue: BTreeMap<(Instant, Bytes), Revision>,
    running: bool,
}

// === impl Expiry ===

impl Expiry {
    /// Makes the expiry of a keyspace and removes what is overdue, so that nothing is served after its time.
    pub(crate) async fn open(backing: &Backing, remove: fn(&Bytes) -> Vec<Write>) -> Result<Self, Error> {
        let stop = Shutdown::new();
        let shared = Arc::new(Shared {
            backing: backing.clone(),
            remove,
            timers: Mutex::default(),
            changed: Notify::new(),
            stop: stop.clone(),
        });
        let expiry = Self { shared, _stop: stop.drop_guard() };
        expiry.load().await?;
        Ok(expiry)
    }

    async fn load(&self) -> Result<(), Error> {
        let mut range = keys::all(keys::DEADLINE);
        loop {
            let scan = Read::Scan { range: range.clone(), order: Order::Key, limit: PAGE, keys_only: false };
            let snapshot = self.shared.backing.read(vec![scan]).await?;
            let entries = snapshot.reads[0].entries();
            for entry in entries {
                let subject =
                    keys::rest(keys::DEADLINE, &entry.key).ok_or_else(|| Error::damaged("deadline"))?;
                let left = self.shared.left(entry)?;
                if left.is_zero() {
                    self.shared.reap(&subject, entry.modified).await?;
                } else {
                    self.schedule(subject, left, entry.modified);
                }
            }
            match entries.last() {
                Some(last) if snapshot.reads[0].more() => range = range.after(&last.key),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// The write that gives `subject` the time to live `ttl` from now, or takes away what it had.
    pub(crate) fn write(&self, subject: &[u8], ttl: Option<Duration>) -> Write {
        let key = keys::key(keys::DEADLINE, subject);
        let Some(ttl) = ttl else {
            return Write::Delete { key };
        };
        let deadline = self.shared.backing.env().wall().since_unix().saturating_add(ttl);
        let mut value = BytesMut::with_capacity(16);
        value.put_u64(millis(deadline));
        value.put_u64(millis(ttl));
        Write::Put { key, value: value.freeze() }
    }

    /// Takes note of a commit at `revision` that contained [`Expiry::write`] with the same arguments. A TTL of zero
    /// has expired when this returns.
    pub(crate) async fn written(&self, subject: &[u8], ttl: Option<Duration>, revision: Revision) {
        match ttl {
            // A failure leaves it to the timer, which tries again.
            Some(Duration::ZERO)
                if self.shared.reap(&Bytes::copy_from_slice(subject), revision).await.is_ok() => {}
            Some(ttl) => self.schedule(Bytes::copy_from_slice(subject), ttl, revision),
            None => self.removed(subject, revision),
        }
    }

    /// Takes note that `subject` has no TTL since `revision`.
    pub(crate) fn removed(&self, subject: &[u8], revision: Revision) {
        let mut timers = self.shared.timers.lock();
        // Calls may take note out of order: a later write may have timed the subject again.
        if timers.subjects.get(subject).is_some_and(|(_, timed)| *timed <= revision) {
            timers.forget(subject);
        }
    }

    /// Deletes all keys of `kinds`, whose subjects these are, and all deadlines, in one step.
    pub(crate) async fn clear(&self, kinds: &[u8]) -> Result<(), Error> {
        let ranges = kinds.iter().chain(&[keys::DEADLINE]).map(|kind| keys::all(*kind));
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

    fn schedule(&self, subject: Bytes, left: Duration, revision: Revision) {
        self.shared.schedule(subject, left, revision);
        let start = !std::mem::replace(&mut self.shared.timers.lock().running, true);
        if start {
            let shared = Arc::clone(&self.shared);
            self.shared.backing.env().spawn(async move {
                let stop = shared.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = shared.run() => {}
                }
            });
        } else {
            self.shared.changed.notify_one();
        }
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiry")
            .field("timers", &self.shared.timers.lock().queue.len())
            .finish_non_exhaustive()
    }
}

/// Tells whether a commit is an expiry, so that the removals in it are shown as expired.
pub(crate) fn is_expiry(commit: &Commit) -> bool {
    commit.changes.iter().any(|change| change.key == keys::EXPIRED)
}

// === impl Shared ===

impl Shared {
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
                    tracing::warn!(%error, "an entry cannot expire, trying again");
                    retry.pause(env).await;
                }
            }
        }
    }

    /// Removes `subject` if its deadline is still the one of `revision`; else times the new one.
    async fn reap(&self, subject: &Bytes, revision: Revision) -> Result<(), atomix_kv::Error> {
        let key = keys::key(keys::DEADLINE, subject);
        let mut writes = (self.remove)(subject);
        writes.push(Write::Delete { key: key.clone() });
        writes.push(Write::Put { key: keys::EXPIRED.into(), value: Bytes::new() });
        let txn = Txn {
            guards: vec![Guard::ModifiedAt { key: key.clone(), revision }],
            writes,
            reads: vec![Read::Get { key }],
            once: None,
        };
        let outcome = self.backing.commit_raw(txn).await?;
        let renewed = outcome.reads[0].entry();
        {
            let mut timers = self.timers.lock();
            if timers.subjects.get(subject).is_some_and(|(_, timed)| *timed == revision) {
                timers.forget(subject);
            }
        }
        if let Some(entry) = renewed {
            let left = self.left(entry).unwrap_or_default();
            self.schedule(subject.clone(), left, entry.modified);
        }
        Ok(())
    }

    fn schedule(&self, subject: Bytes, left: Duration, revision: Revision) {
        let at = self.backing.env().now() + left;
        let mut timers = self.timers.lock();
        if timers.subjects.get(&subject).is_some_and(|(_, timed)| *timed > revision) {
            // Calls may take note out of order; the younger deadline counts.
            return;
        }
        timers.forget(&subject);
        timers.subjects.insert(subject.clone(), (at, revision));
        timers.queue.insert((at, subject), revision);
    }

    /// Returns how long a deadline key that was just read has to go.
    fn left(&self, entry: &Entry) -> Result<Duration, Error> {
        let number = |at: usize| Some(u64::from_be_bytes(entry.value.get(at..at + 8)?.try_into().ok()?));
        let (Some(deadline), Some(ttl)) = (number(0), number(8)) else {
            return Err(Error::damaged("deadline"));
        };
        let now = millis(self.backing.env().wall().since_unix());
        Ok(Duration::from_millis(deadline.saturating_sub(now).min(ttl)))
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

    fn forget(&mut self, subject: &[u8]) {
        if let Some((subject, (at, _))) = self.subjects.remove_entry(subject) {
            self.queue.remove(&(at, subject));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    // Rounded up, so that a TTL of a microsecond is not one of zero.
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
