// SPDX-License-Identifier: Apache-2.0
//! Locks as queues.
//!
//! A lock is a queue of stamps; the owner of the oldest stamp holds it. A call acquires a lock by writing a stamp into the
//! queue and reading whether there are others: one round trip if there are none. A release, or a waiter that gives up,
//! deletes the stamp. So order is the order of arrival, every grant has a token that only grows (the revision of its stamp),
//! and a call that gave up is never granted. Several locks are asked for in one transaction, which puts all their stamps at one point
//! of the order: two such calls can never wait for each other.
//!
//! One watch per keyspace wakes all waiters, each only when it is granted.
//!
//! A stamp that this runtime wrote is owned here until the store has confirmed its deletion, and every deletion runs to
//! its end, also if its call is dropped. A stamp whose commit was never answered may still arrive: `sweep`
//! looks for it.

mod record;
mod sweep;
mod wait_queue;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_env::WallTime;
use atomix_store::{Entry, ErrorKind, Found, Guard, Order, Range, Read, Revision, Txn, WatchItem, Write};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use self::record::{StampRecord, readable};
use self::wait_queue::{Owned, Phase, Stamp, Stamped, State, WaitQueueView, Waiter};
use crate::error::{Error, Reason};
use crate::kit::backing::{Backing, ROUNDS_MAX, Retry, run_uncancellable};
use crate::kit::caller::{Caller, Owner};
use crate::kit::follow;
use crate::kit::keys::{self, Key, KeyKind};
use crate::kit::ownership::Ownership;
use crate::kit::stamp_owners::StampOwner;

/// The locks of one keyspace, each named by a key.
pub struct LockTable {
    shared: Arc<Shared>,
}

/// A lock with its holder and waiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// The key that is locked; empty for a [`crate::Lock`].
    pub key: String,
    /// The holder first, then the waiters in order.
    pub queue: Vec<Holding>,
}

/// An entry in the queue of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The session that owns the entry.
    pub owner: Owner,
    /// The token: grows from grant to grant.
    pub token: u64,
    /// When the entry was written, by the wall clock of its runtime.
    pub since: WallTime,
}

/// Locks that were granted to a call.
#[derive(Clone)]
pub struct Grant {
    shared: Arc<Shared>,
    owner: Owner,
    token: u64,
    stamps: Arc<[Stamped]>,
}

struct Shared {
    backing: Backing,
    state: Mutex<State>,
    /// Wakes the task that looks for orphans.
    suspicion: Arc<Notify>,
    /// The number of orphans that were deleted.
    swept: AtomicU64,
}

/// A call in its queues. Its stamps are deleted when this is dropped, unless it was granted.
struct Ticket {
    shared: Arc<Shared>,
    owner: Owner,
    nonce: u64,
    progress: Progress,
}

/// The progress of a [`Ticket`].
enum Progress {
    /// The store has not answered: the stamps may be there, or arrive later.
    Sent,
    /// The stamps are there.
    Stamped(Vec<Stamped>),
    /// There is nothing to delete.
    Done,
}

/// Stamps whose deletion a call waits for. If the call is dropped, the deletion goes on without it.
struct Unlock<'a> {
    shared: &'a Arc<Shared>,
    owner: Owner,
    stamps: Vec<Stamped>,
}

/// The time that the queues are still followed without waiters: long enough that a contended lock does not begin
/// to follow anew at every hand-over.
const LINGER: Duration = Duration::from_secs(5);
/// A call with a shorter timeout reads the queues itself and does not wait for the watch.
const BRIEF: Duration = Duration::from_millis(50);

// === impl LockTable ===

impl LockTable {
    /// Opens the locks. Releases what dead members left before it returns.
    pub(crate) async fn open(backing: Backing) -> Result<Self, Error> {
        let (suspicion, swept) = (Arc::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { backing, state: Mutex::default(), suspicion, swept });
        let owner: Weak<dyn StampOwner> = Arc::downgrade(&shared) as _;
        shared.backing.membership().stamp_owners().register(shared.backing.keyspace(), owner);
        let table = Self { shared };
        table.release_dead_owners().await?;
        Ok(table)
    }

    /// Takes the locks of all `keys`, or none. Waits in the order of arrival for at most `timeout`, else
    /// [`Reason::LockTimeout`]; without a `timeout` until the deadline of the caller, if it has one; with zero not at all.
    /// Grants nothing after the deadline of the caller. [`Reason::HostLost`] if other members expired this one meanwhile:
    /// nothing is granted then, independent of the queues.
    ///
    /// Cancel safe: a dropped call leaves the queues and keeps nothing.
    pub async fn acquire(
        &self,
        caller: &Caller,
        keys: &[String],
        timeout: Option<Duration>,
    ) -> Result<Grant, Error> {
        let queues = self.queues(keys)?;
        let shared = &self.shared;
        let env = shared.backing.env();
        let (membership, member) = (shared.backing.membership(), caller.owner.member);
        let lost = membership.lost(member);
        membership.confirm(member).await?;
        if timeout == Some(Duration::ZERO) && shared.heads(&queues).await?.iter().any(Option::is_some) {
            return Err(not_obtained());
        }
        let nonce = env.random();
        let ask = {
            let mut state = shared.state.lock();
            state.pending.insert(nonce);
            // If the view already shows a holder, skip the extra range read: the watch will show its release, and on etcd
            // the read also scans tombstones. A call with a brief timeout may not have the time for that.
            timeout.is_some_and(|timeout| timeout < BRIEF) || !state.is_taken(&queues)
        };
        let mut ticket =
            Ticket { shared: Arc::clone(shared), owner: caller.owner, nonce, progress: Progress::Sent };
        let enqueueing = async move {
            let enqueued = ticket.enqueue(&queues, ask).await?;
            Ok((ticket, enqueued))
        };
        let (ticket, (revision, stamps, first)) = run_uncancellable(env, enqueueing).await?;
        if caller.closed.is_cancelled() {
            return Err(Error::closed());
        }
        if first {
            membership.confirm(member).await?;
            return ticket.grant(caller, revision).await;
        }
        if timeout == Some(Duration::ZERO) {
            ticket.leave().await;
            return Err(not_obtained());
        }
        let max = shared.backing.limits().waiters_max;
        if shared.state.lock().waiting.len() >= max {
            ticket.leave().await;
            return Err(Error::new(Reason::WaitersFull, format!("too many calls wait: max=`{max}`")));
        }
        let mut turn = shared.wait(stamps, revision);
        let timer = async {
            let timeout = timeout.map(|timeout| env.now() + timeout);
            match timeout.into_iter().chain(caller.deadline).min() {
                Some(end) => env.clock().sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let granted = tokio::select! {
            biased;
            granted = &mut turn => granted,
            () = caller.closed.cancelled() => Ok(Err(Error::closed())),
            () = lost.cancelled() => return Err(Error::host_lost()),
            // The grant may have come in the very moment.
            () = timer => turn.try_recv().map_or_else(|_| Ok(Err(not_obtained())), Ok),
        };
        match granted {
            Ok(Ok(())) => {
                membership.confirm(member).await?;
                ticket.grant(caller, revision).await
            }
            Ok(Err(error)) => {
                if error.reason() == Reason::Closed {
                    // Other members delete stamps only of a member that they expired.
                    membership.ask(member).await?;
                }
                ticket.leave().await;
                Err(error)
            }
            // The waiter owns the sender, and is removed only after it was resolved.
            Err(_) => Err(Error::new(Reason::Internal, "a waiting call was forgotten")),
        }
    }

    /// Releases the locks of all `keys`, or none and [`Reason::LockNotHeld`] if the caller does not hold one of them. The
    /// release goes on if the call is dropped while the store answers.
    pub async fn release(&self, caller: &Caller, keys: &[String]) -> Result<(), Error> {
        let queues = self.queues(keys)?;
        let (shared, owner) = (&self.shared, caller.owner);
        let mut held = shared.state.lock().held(owner, &queues);
        for _ in 0..ROUNDS_MAX {
            let stamps = match held.take() {
                Some(stamps) => stamps,
                None => shared.held(owner, &queues).await?,
            };
            let mut unlock = Unlock { shared, owner, stamps };
            let outcome = shared.backing.commit(removal(&unlock.stamps)).await;
            let stamps = std::mem::take(&mut unlock.stamps);
            if outcome?.applied {
                let mut state = shared.state.lock();
                state.disown_held(owner, &queues);
                state.on_released(&stamps);
                return Ok(());
            }
        }
        Err(Error::contention())
    }

    /// Releases all that `owner` holds and waits for. Does not return before the store has confirmed it or was closed;
    /// goes on if this call is dropped.
    pub async fn release_all(&self, owner: Owner) {
        let stamps = self.shared.state.lock().leave_all(owner);
        self.shared.delete_uncancellable(owner, stamps).await;
    }

    /// Deletes the stamps of dead members, whether they held or waited, and looks for orphans of this one.
    pub async fn release_dead_owners(&self) -> Result<(), Error> {
        let backing = &self.shared.backing;
        if !backing.membership().outlives() {
            return Ok(());
        }
        let mut damaged = Ok(());
        let mut pages = backing.scan_all(KeyKind::Stamp.range(), false);
        while let Some(page) = pages.next().await? {
            let stamps = readable(&page.entries, &mut damaged);
            let members = stamps.iter().map(|(_, stamp)| stamp.owner.member).collect();
            let dead = backing.membership().dead(members).await?;
            let left = stamps.iter().filter(|(_, stamp)| dead.contains(&stamp.owner.member));
            self.shared.remove(&left.map(|(entry, _)| Stamped::of(entry)).collect::<Vec<_>>()).await?;
            self.shared.state.lock().disown_all(&dead);
            self.shared.suspect(&page.entries);
        }
        damaged
    }

    /// Returns how many stamps of this runtime were found in the store that belonged to no call and no session, and were
    /// deleted.
    pub fn orphans_swept(&self) -> u64 {
        self.shared.swept.load(Ordering::Relaxed)
    }

    /// Deletes all stamps of `owner`, a session that has ended, as an operator requested. Returns how many there were.
    pub async fn remove_owner(&self, owner: Owner) -> Result<usize, Error> {
        let (mut removed, mut damaged) = (0, Ok(()));
        let mut pages = self.shared.backing.scan_all(KeyKind::Stamp.range(), false);
        while let Some(page) = pages.next().await? {
            let stamps = readable(&page.entries, &mut damaged);
            let theirs = stamps.iter().filter(|(_, stamp)| stamp.owner == owner);
            let theirs: Vec<Stamped> = theirs.map(|(entry, _)| Stamped::of(entry)).collect();
            for chunk in theirs.chunks(self.shared.backing.writes_at_once()) {
                removed += self.shared.remove(chunk).await?;
                self.shared.state.lock().disown(owner, chunk);
            }
        }
        damaged.map(|()| removed)
    }

    /// Counts the other runtimes that are alive and have entries in the queues.
    pub async fn elsewhere(&self) -> Result<usize, Error> {
        let backing = &self.shared.backing;
        let mut found = BTreeSet::new();
        let mut pages = backing.scan_all(KeyKind::Stamp.range(), false);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                found.insert(StampRecord::decode(&entry.value)?.owner.member);
            }
        }
        Ok(backing.membership().alive_elsewhere(found).await?.len())
    }

    /// Returns the owners in this runtime that were granted a lock, some more than once.
    pub fn holders(&self) -> Vec<Owner> {
        self.shared.state.lock().holders()
    }

    /// Returns how many calls of this runtime wait.
    pub fn waiters(&self) -> usize {
        let state = self.shared.state.lock();
        let calls: HashSet<*const Waiter> = state.waiting.values().map(Arc::as_ptr).collect();
        calls.len()
    }

    /// Returns the holder of the lock of `key` and the first waiters, at most `max` in all.
    pub(crate) async fn state(&self, key: &str, max: usize) -> Result<Vec<Holding>, Error> {
        let range = Range::prefix(keys::queue(key));
        let scan = Read::Scan { range, order: Order::Created, limit: max, keys_only: false };
        let snapshot = self.shared.backing.read(vec![scan]).await?;
        snapshot.reads[0].entries().iter().map(holding).collect()
    }

    /// Lists locks with their holders and waiters, at most `max` locks and as many entries of each queue.
    pub async fn list(&self, max: usize) -> Result<Vec<QueueState>, Error> {
        let mut found = Vec::new();
        let mut range = KeyKind::Stamp.range();
        while found.len() < max {
            let scan = Read::Scan { range: range.clone(), order: Order::Key, limit: 1, keys_only: true };
            let snapshot = self.shared.backing.read(vec![scan]).await?;
            let Some(first) = snapshot.reads[0].entries().first() else {
                break;
            };
            let Key::Stamp { name, .. } = Key::decode(&first.key)? else {
                return Err(Error::damaged("lock"));
            };
            found.push(QueueState { queue: self.state(name, max).await?, key: name.to_owned() });
            match Range::prefix(keys::queue(name)).end {
                Some(end) => range.start = end,
                None => break,
            }
        }
        Ok(found)
    }

    /// Names the queue of each key once, in the order of their names.
    fn queues(&self, keys: &[String]) -> Result<Vec<Bytes>, Error> {
        self.shared.backing.check_batch(keys.len())?;
        if keys.is_empty() {
            return Err(Error::invalid("no keys were named"));
        }
        for key in keys {
            self.shared.backing.check_key(key)?;
        }
        let mut queues: Vec<Bytes> = keys.iter().map(|key| keys::queue(key)).collect();
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }
}

impl Ownership for LockTable {
    fn release_all(&self, owner: Owner) -> BoxFuture<'_, ()> {
        Box::pin(self.release_all(owner))
    }

    fn remove_owner(&self, owner: Owner) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(self.remove_owner(owner))
    }

    fn release_dead_owners(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.release_dead_owners())
    }

    fn elsewhere(&self) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(self.elsewhere())
    }

    fn holders(&self) -> Vec<Owner> {
        self.holders()
    }

    fn waiters(&self) -> usize {
        self.waiters()
    }

    fn orphans_swept(&self) -> u64 {
        self.orphans_swept()
    }
}

impl fmt::Debug for LockTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockTable")
            .field("waiting", &self.shared.state.lock().waiting.len())
            .finish_non_exhaustive()
    }
}

// === impl Grant ===

impl Grant {
    /// Returns the fencing token.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Returns whether a part of the grant was not released yet.
    pub fn is_held(&self) -> bool {
        self.shared.state.lock().holds_any(self.owner, &self.stamps)
    }

    /// Releases what was granted, as far as it was not released yet. A later grant of the same session is left alone.
    /// Returns at once; the deletion runs to its end in the background.
    pub fn revoke(&self) {
        let stamps = self.shared.state.lock().leave(self.owner, &self.stamps);
        self.shared.delete_in_background(self.owner, stamps);
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("owner", &self.owner)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

// === impl Ticket ===

impl Ticket {
    /// Stamps all `queues`. Returns the commit, the stamps, and, if `ask`, whether all of them are first.
    async fn enqueue(&mut self, queues: &[Bytes], ask: bool) -> Result<(Revision, Vec<Stamp>, bool), Error> {
        let since = self.shared.backing.env().wall().since_unix();
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let value = StampRecord { owner: self.owner, nonce: self.nonce, since }.encode();
        let mut txn = Txn::new();
        for queue in queues {
            txn.writes.push(Write::Stamp { prefix: queue.clone(), value: value.clone() });
        }
        if ask {
            txn.reads.extend(queues.iter().map(contenders));
        }
        let outcome = match self.shared.backing.commit(txn).await {
            Ok(outcome) => outcome,
            Err(error) => {
                if error.reason() != Reason::OutcomeUnknown {
                    self.shared.state.lock().pending.remove(&self.nonce);
                    self.progress = Progress::Done;
                }
                return Err(error);
            }
        };
        let mut stamps = Vec::with_capacity(queues.len());
        for (queue, written) in queues.iter().zip(&outcome.writes) {
            let atomix_store::Written::Stamped { key } = written else {
                return Err(Error::new(Reason::Internal, "a stamp was answered as another write"));
            };
            stamps.push(Stamp { queue: queue.clone(), key: key.clone() });
        }
        // All other stamps in a queue came before.
        let alone = |(stamp, found): (&Stamp, &Found)| {
            !found.more() && found.entries().iter().all(|entry| entry.key == stamp.key)
        };
        let first = ask && stamps.iter().zip(&outcome.reads).all(alone);
        let mut state = self.shared.state.lock();
        for stamp in &stamps {
            let owned = Owned { value: value.clone(), phase: Phase::Waiting };
            state.owned.insert((self.owner, stamp.key.clone()), owned);
        }
        state.pending.remove(&self.nonce);
        drop(state);
        let stamped = |stamp: &Stamp| Stamped { key: stamp.key.clone(), value: value.clone() };
        self.progress = Progress::Stamped(stamps.iter().map(stamped).collect());
        Ok((outcome.revision, stamps, first))
    }

    /// Turns the ticket into a grant: its session holds the locks. Not if the session ended meanwhile, and not after the
    /// deadline of the caller, which may have given up by the time of the answer.
    async fn grant(mut self, caller: &Caller, revision: Revision) -> Result<Grant, Error> {
        if caller.deadline.is_some_and(|deadline| self.shared.backing.env().now() >= deadline) {
            self.leave().await;
            return Err(not_obtained());
        }
        let Progress::Stamped(stamps) = &mut self.progress else {
            return Err(Error::new(Reason::Internal, "a call was granted a lock that it did not request"));
        };
        if !self.shared.state.lock().hold(self.owner, stamps) {
            return Err(Error::closed());
        }
        let stamps = std::mem::take(stamps).into();
        self.progress = Progress::Done;
        Ok(Grant { shared: Arc::clone(&self.shared), owner: self.owner, token: revision.0, stamps })
    }

    /// Deletes the stamps and waits for that. The deletion goes on if this is dropped.
    async fn leave(mut self) {
        if let Progress::Stamped(stamps) = std::mem::replace(&mut self.progress, Progress::Done) {
            let stamps = self.shared.state.lock().leave(self.owner, &stamps);
            self.shared.delete_uncancellable(self.owner, stamps).await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.progress, Progress::Done) {
            Progress::Done => {}
            Progress::Sent => self.shared.mark_lost(self.nonce),
            Progress::Stamped(stamps) => {
                // The waiter is removed now, so that it is not counted and not granted any more.
                let stamps = self.shared.state.lock().leave(self.owner, &stamps);
                self.shared.delete_in_background(self.owner, stamps);
            }
        }
    }
}

// === impl Unlock ===

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        if !self.stamps.is_empty() {
            let stamps = std::mem::take(&mut self.stamps);
            self.shared.state.lock().leave(self.owner, &stamps);
            // Also those that are not known here: the store said that this session holds them.
            self.shared.delete_in_background(self.owner, stamps);
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn heads(self: &Arc<Self>, queues: &[Bytes]) -> Result<Vec<Option<Entry>>, Error> {
        let snapshot = self.backing.read(queues.iter().map(head).collect()).await?;
        let heads: Vec<_> = snapshot.reads.iter().map(|found| found.entries().first().cloned()).collect();
        self.suspect(heads.iter().flatten());
        Ok(heads)
    }

    /// Asks the store for the stamps with which `owner` holds `queues`.
    async fn held(self: &Arc<Self>, owner: Owner, queues: &[Bytes]) -> Result<Vec<Stamped>, Error> {
        let heads = self.heads(queues).await?;
        let state = self.state.lock();
        let held = |head: &Option<Entry>| {
            let head = head.as_ref().ok_or_else(not_held)?;
            if StampRecord::decode(&head.value)?.owner != owner {
                return Err(not_held());
            }
            let stamp = Stamped::of(head);
            // A stamp that came first is no grant before its call was resolved.
            let known = state.owned.get(&(owner, stamp.key.clone()));
            if known.is_some_and(|owned| owned.phase != Phase::Held) { Err(not_held()) } else { Ok(stamp) }
        };
        heads.iter().map(held).collect()
    }

    /// Deletes stamps and waits for that. The deletion goes on if this is dropped.
    async fn delete_uncancellable(self: &Arc<Self>, owner: Owner, stamps: Vec<Stamped>) {
        let shared = Arc::clone(self);
        let deleting = async move {
            shared.delete(owner, &stamps).await;
            Ok(())
        };
        // It fails only when the process ends.
        drop(run_uncancellable(self.backing.env(), deleting).await);
    }

    fn delete_in_background(self: &Arc<Self>, owner: Owner, stamps: Vec<Stamped>) {
        if !stamps.is_empty() {
            let shared = Arc::clone(self);
            self.backing.env().detach(async move { shared.delete(owner, &stamps).await });
        }
    }

    /// Deletes stamps, however often the store has to be asked, and disowns them when it has confirmed that.
    async fn delete(&self, owner: Owner, stamps: &[Stamped]) {
        for chunk in stamps.chunks(self.backing.writes_at_once()) {
            let mut retry = Retry::default();
            loop {
                match self.remove(chunk).await {
                    Ok(_) => {
                        self.state.lock().disown(owner, chunk);
                        break;
                    }
                    Err(error) if error.kind() == ErrorKind::Closed => return,
                    Err(error) => {
                        tracing::warn!(%error, "failed to release a lock, trying again");
                        retry.pause(self.backing.env()).await;
                    }
                }
            }
        }
    }

    /// Deletes those of some stamps that are still there and returns their number.
    async fn remove(&self, stamps: &[Stamped]) -> Result<usize, atomix_store::Error> {
        if stamps.is_empty() {
            return Ok(0);
        }
        if self.backing.commit_raw(removal(stamps)).await?.applied {
            self.state.lock().on_released(stamps);
            return Ok(stamps.len());
        }
        let mut removed = 0;
        if stamps.len() > 1 {
            for stamp in stamps.chunks(1) {
                if self.backing.commit_raw(removal(stamp)).await?.applied {
                    self.state.lock().on_released(stamp);
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Registers a waiting call and makes sure that the queues are followed.
    fn wait(
        self: &Arc<Self>,
        stamps: Vec<Stamp>,
        revision: Revision,
    ) -> oneshot::Receiver<Result<(), Error>> {
        let (sender, receiver) = oneshot::channel();
        let waiter = Arc::new(Waiter { stamps, revision, grant: Mutex::new(Some(sender)) });
        let mut state = self.state.lock();
        for stamp in &waiter.stamps {
            state.waiting.insert(stamp.key.clone(), Arc::clone(&waiter));
        }
        state.try_grant(&waiter);
        if !std::mem::replace(&mut state.following, true) {
            let shared = Arc::clone(self);
            self.backing.env().spawn(async move { shared.follow().await });
        }
        receiver
    }

    /// Follows the queues until there were no waiters for a while.
    async fn follow(self: &Arc<Self>) {
        let mut retry = Retry::default();
        loop {
            match self.follow_queues().await {
                Ok(()) => return,
                Err(error) if error.reason() == Reason::WatchOverrun => retry = Retry::default(),
                Err(error) if error.reason() == Reason::StoreClosed => {
                    return self.state.lock().fail_waiters(&error);
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to follow the queues of a lock, trying again");
                    retry.pause(self.backing.env()).await;
                }
            }
            let mut state = self.state.lock();
            state.view = None;
            if state.waiting.is_empty() {
                state.following = false;
                return;
            }
        }
    }

    /// Reads the queues and follows them. Ends without an error when there are no waiters any more.
    async fn follow_queues(self: &Arc<Self>) -> Result<(), Error> {
        let (mut watch, _) = follow::begin(&self.backing).await?;
        let view = self.load().await?;
        self.state.lock().install(view);
        loop {
            let linger = self.backing.env().sleep(LINGER);
            tokio::select! {
                biased;
                item = watch.next() => self.advance(item)?,
                () = linger => {
                    let mut state = self.state.lock();
                    if state.waiting.is_empty() {
                        state.view = None;
                        state.following = false;
                        return Ok(());
                    }
                }
            }
        }
    }

    fn advance(self: &Arc<Self>, item: Option<Result<WatchItem, atomix_store::Error>>) -> Result<(), Error> {
        let ended = || Error::new(Reason::StoreUnavailable, "the watch of the queues ended");
        if let WatchItem::Commit(commit) = item.ok_or_else(ended)?? {
            let unknown = self.state.lock().apply(&commit)?;
            self.suspect(unknown);
        }
        Ok(())
    }

    /// Reads all queues at one moment.
    async fn load(self: &Arc<Self>) -> Result<WaitQueueView, Error> {
        let mut retry = Retry::default();
        'again: loop {
            let mut pages = self.backing.scan_all(KeyKind::Stamp.range(), false);
            let mut view: Option<WaitQueueView> = None;
            while let Some(page) = pages.next().await? {
                let view = view
                    .get_or_insert_with(|| WaitQueueView { revision: page.revision, queues: HashMap::new() });
                if view.revision != page.revision {
                    // Pages of different moments are no state of the queues.
                    retry.pause(self.backing.env()).await;
                    continue 'again;
                }
                for entry in &page.entries {
                    view.insert(entry)?;
                }
                self.suspect(&page.entries);
            }
            if let Some(view) = view {
                return Ok(view);
            }
        }
    }
}

impl StampOwner for Shared {
    fn owns(&self, entry: &Entry) -> bool {
        self.state.lock().owns(entry)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.backing.membership().stamp_owners().forget(self.backing.keyspace());
    }
}

/// Deletes all of these stamps or none. A store that lost what it had gives the same keys again, so the value shows
/// the owner of a stamp.
fn removal(stamps: &[Stamped]) -> Txn {
    let mut txn = Txn::new();
    for Stamped { key, value } in stamps {
        txn.guards.push(Guard::ValueIs { key: key.clone(), value: value.clone() });
        txn.writes.push(Write::Delete { key: key.clone() });
    }
    txn
}

fn head(queue: &Bytes) -> Read {
    Read::Scan { range: Range::prefix(queue.clone()), order: Order::Created, limit: 1, keys_only: false }
}

/// Returns the read that finds whether a queue has more than one entry. Cheaper than the head, for which some stores sort.
fn contenders(queue: &Bytes) -> Read {
    Read::Scan { range: Range::prefix(queue.clone()), order: Order::Key, limit: 2, keys_only: true }
}

fn holding(entry: &Entry) -> Result<Holding, Error> {
    let StampRecord { owner, since, .. } = StampRecord::decode(&entry.value)?;
    let since = WallTime::from_unix(Duration::from_millis(since));
    Ok(Holding { owner, token: entry.created.0, since })
}

fn not_obtained() -> Error {
    Error::new(Reason::LockTimeout, "lock already held")
}

fn not_held() -> Error {
    Error::new(Reason::LockNotHeld, "lock not held by client")
}
