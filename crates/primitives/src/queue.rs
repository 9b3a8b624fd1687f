// SPDX-License-Identifier: Apache-2.0
//! Locks as queues.
//!
//! A lock is a queue of stamps; the oldest stamp holds it. To ask for a lock is to stamp the queue and look whether anybody
//! else is there: one round trip if not. To give it back, or up, is to delete the stamp. So order is the
//! order of arrival, every grant has a token that only grows (the revision of its stamp), and nobody can be granted
//! what they have given up. Several locks are asked for in one transaction, which puts all their stamps at one point
//! of the order: two such calls can never wait for each other.
//!
//! Who waits is woken by one watch per keyspace, whatever their number, and only when its turn has come.

mod mirror;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::WallTime;
use atomix_kv::{Entry, ErrorKind, Found, Guard, Order, Range, Read, Revision, Txn, WatchItem, Write};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::mirror::{Mirror, Owned, Stamp, Stamped, State, Waiter};
use crate::backing::{PAGE, ROUNDS_MAX, Retry, to_the_end};
use crate::{Backing, Caller, Error, Owner, Reason, follow, keys};

/// The locks of one keyspace, each named by a key.
pub struct Queues {
    shared: Arc<Shared>,
}

/// A lock and who wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// The key that is locked; empty for a [`crate::Lock`].
    pub key: String,
    /// The holder first, then the waiters in order.
    pub queue: Vec<Holding>,
}

/// A place in the queue of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The session that has the place.
    pub owner: Owner,
    /// The token: grows from grant to grant.
    pub token: u64,
    /// When the place was taken, by the wall clock of its runtime.
    pub since: WallTime,
}

struct Shared {
    backing: Backing,
    state: Mutex<State>,
}

/// A place in queues that is given up when this is dropped, unless it was kept.
struct Place {
    shared: Arc<Shared>,
    owner: Owner,
    nonce: u64,
    /// `None` until the store has told the keys.
    stamps: Option<Vec<Stamped>>,
    kept: bool,
}

/// How long the queues are still followed when nobody waits any more: long enough that a contended lock does not begin
/// to follow anew at every hand-over.
const LINGER: Duration = Duration::from_secs(5);
/// How long a call has to be ready to wait for news that it could also ask for.
const BRIEF: Duration = Duration::from_millis(50);
/// When a stamp whose answer was lost is looked for again, if it is not there: what a broken connection has sent may be
/// applied as late as this.
const LATE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

// === impl Queues ===

impl Queues {
    /// Opens the locks. Gives back what dead hosts left before it returns.
    pub(crate) async fn open(backing: Backing) -> Result<Self, Error> {
        let queues = Self { shared: Arc::new(Shared { backing, state: Mutex::default() }) };
        queues.bury().await?;
        Ok(queues)
    }

    /// Takes the locks of all `keys` and returns the token. Waits for at most `timeout`, else
    /// [`Reason::LockTimeout`]; without a `timeout` for ever; with zero not at all. [`Reason::HostLost`] if others took
    /// this host for dead meanwhile: nothing is granted then, whatever the queues said.
    pub(crate) async fn acquire(
        &self,
        caller: &Caller,
        keys: &[String],
        timeout: Option<Duration>,
    ) -> Result<u64, Error> {
        let queues = self.queues(keys)?;
        let shared = &self.shared;
        let (hosts, host) = (shared.backing.hosts(), caller.owner.host);
        let lost = hosts.lost(host);
        hosts.confirm(host).await?;
        if timeout == Some(Duration::ZERO) && shared.heads(&queues).await?.iter().any(Option::is_some) {
            return Err(not_obtained());
        }
        let nonce = shared.backing.env().random();
        let mut place =
            Place { shared: Arc::clone(shared), owner: caller.owner, nonce, stamps: None, kept: false };
        // Who is there already will be seen to go. To ask again would be one more question for the store at every hand-over,
        // and to etcd one that also finds what was deleted. A brief call may not have the time to see.
        let ask = timeout.is_some_and(|timeout| timeout < BRIEF) || !shared.state.lock().is_taken(&queues);
        let standing = async move {
            let stood = place.stand(&queues, ask).await?;
            Ok((place, stood))
        };
        let (mut place, (revision, stamps, first)) = to_the_end(shared.backing.env(), standing).await?;
        if caller.closed.is_cancelled() {
            return Err(Error::closed());
        }
        if first {
            hosts.confirm(host).await?;
            place.keep();
            return Ok(revision.0);
        }
        if timeout == Some(Duration::ZERO) {
            place.leave().await;
            return Err(not_obtained());
        }
        let max = shared.backing.limits().waiters_max;
        if shared.state.lock().waiting.len() >= max {
            place.leave().await;
            return Err(Error::new(Reason::WaitersFull, format!("too many calls wait: max=`{max}`")));
        }
        let mut grant = shared.wait(stamps, revision);
        let env = shared.backing.env();
        let timer = async {
            match timeout {
                Some(timeout) => env.sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let granted = tokio::select! {
            biased;
            granted = &mut grant => granted,
            () = caller.closed.cancelled() => Ok(Err(Error::closed())),
            () = lost.cancelled() => return Err(Error::host_lost()),
            // The turn may have come in the very moment.
            () = timer => grant.try_recv().map_or_else(|_| Ok(Err(not_obtained())), Ok),
        };
        match granted {
            Ok(Ok(())) => {
                hosts.confirm(host).await?;
                place.keep();
                Ok(revision.0)
            }
            Ok(Err(error)) => {
                if error.reason() == Reason::Closed {
                    // Others take a place away only from a host that they took for dead.
                    hosts.ask(host).await?;
                }
                place.leave().await;
                Err(error)
            }
            // The sender lives in the waiter, which is removed only after it was told.
            Err(_) => Err(Error::new(Reason::Internal, "a waiting call was forgotten")),
        }
    }

    /// Gives back the locks of all `keys`, or none and [`Reason::LockNotHeld`].
    pub(crate) async fn release(&self, owner: Owner, keys: &[String]) -> Result<(), Error> {
        let queues = self.queues(keys)?;
        let shared = &self.shared;
        let mut held = shared.state.lock().held(owner, &queues);
        for _ in 0..ROUNDS_MAX {
            let stamps = match held.take() {
                Some(stamps) => stamps,
                None => shared.held(owner, &queues).await?,
            };
            if shared.backing.commit(removal(&stamps)).await?.applied {
                let mut state = shared.state.lock();
                state.released(owner, &queues);
                state.gone(&stamps);
                return Ok(());
            }
        }
        Err(Error::contention())
    }

    /// Gives back whatever `owner` holds. Does not return before the store has confirmed it or was closed.
    pub async fn release_all(&self, owner: Owner) {
        let stamps = self.shared.state.lock().disown_session(owner);
        self.shared.delete(&stamps).await;
    }

    /// Deletes the places of dead hosts, whether they held or waited.
    pub async fn bury(&self) -> Result<(), Error> {
        let backing = &self.shared.backing;
        if !backing.hosts().outlives() {
            return Ok(());
        }
        let mut range = keys::all(keys::QUEUE);
        loop {
            let scan = Read::Scan { range: range.clone(), order: Order::Key, limit: PAGE, keys_only: false };
            let snapshot = backing.read(vec![scan]).await?;
            let entries = snapshot.reads[0].entries();
            let host = |entry: &Entry| Owner::decode(&entry.value).map(|owner| owner.host);
            let dead = backing.hosts().dead(entries.iter().filter_map(host).collect()).await?;
            let left = entries.iter().filter(|entry| host(entry).is_some_and(|host| dead.contains(&host)));
            self.shared.remove(&left.map(Stamped::of).collect::<Vec<_>>()).await?;
            self.shared.state.lock().disown_all(&dead);
            match entries.last() {
                Some(last) if snapshot.reads[0].more() => range = range.after(&last.key),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Returns the owners in this runtime that were told that they hold something, some more than once.
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
        let range = Range::prefix(queue(key));
        let scan = Read::Scan { range, order: Order::Created, limit: max, keys_only: false };
        let snapshot = self.shared.backing.read(vec![scan]).await?;
        snapshot.reads[0].entries().iter().map(holding).collect()
    }

    /// Lists locks, at most `max` of them and as many waiters of each.
    pub(crate) async fn list(&self, max: usize) -> Result<Vec<QueueState>, Error> {
        let mut found = Vec::new();
        let mut range = keys::all(keys::QUEUE);
        while found.len() < max {
            let scan = Read::Scan { range: range.clone(), order: Order::Key, limit: 1, keys_only: true };
            let snapshot = self.shared.backing.read(vec![scan]).await?;
            let Some(first) = snapshot.reads[0].entries().first() else {
                break;
            };
            let (queue, key) = split(&first.key).ok_or_else(|| Error::damaged("lock"))?;
            found.push(QueueState { queue: self.state(&key, max).await?, key });
            match Range::prefix(queue).end {
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
        let mut queues: Vec<Bytes> = keys.iter().map(|key| queue(key)).collect();
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues")
            .field("waiting", &self.shared.state.lock().waiting.len())
            .finish_non_exhaustive()
    }
}

// === impl Place ===

impl Place {
    /// Stamps all `queues` and tells the commit, the stamps, and whether all of them are first, if that is to be asked.
    async fn stand(&mut self, queues: &[Bytes], ask: bool) -> Result<(Revision, Vec<Stamp>, bool), Error> {
        let since = self.shared.backing.env().wall().since_unix();
        let mut value = BytesMut::with_capacity(Owner::BYTES + 16);
        value.put_slice(&self.owner.encode());
        value.put_u64(self.nonce);
        value.put_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let value = value.freeze();
        let mut txn = Txn::new();
        for queue in queues {
            txn.writes.push(Write::Stamp { prefix: queue.clone(), value: value.clone() });
        }
        if ask {
            txn.reads.extend(queues.iter().map(company));
        }
        let outcome = match self.shared.backing.commit_raw(txn).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // Only a stamp that may be there needs to be looked for.
                self.kept = error.kind() != ErrorKind::OutcomeUnknown;
                return Err(error.into());
            }
        };
        let mut stamps = Vec::with_capacity(queues.len());
        for (queue, written) in queues.iter().zip(&outcome.writes) {
            let atomix_kv::Written::Stamped { key } = written else {
                return Err(Error::new(Reason::Internal, "a stamp was answered as another write"));
            };
            stamps.push(Stamp { queue: queue.clone(), key: key.clone() });
        }
        // Whoever else is in a queue came before.
        let alone = |(stamp, found): (&Stamp, &Found)| {
            !found.more() && found.entries().iter().all(|entry| entry.key == stamp.key)
        };
        let first = ask && stamps.iter().zip(&outcome.reads).all(alone);
        let mut state = self.shared.state.lock();
        for stamp in &stamps {
            let place = Owned { value: value.clone(), held: false };
            state.owned.insert((self.owner, stamp.key.clone()), place);
        }
        drop(state);
        let stamped = |stamp: &Stamp| Stamped { key: stamp.key.clone(), value: value.clone() };
        self.stamps = Some(stamps.iter().map(stamped).collect());
        Ok((outcome.revision, stamps, first))
    }

    /// Keeps the place after this value is gone: its owner holds the locks.
    fn keep(&mut self) {
        self.kept = true;
        let mut state = self.shared.state.lock();
        for stamp in self.stamps.iter().flatten() {
            // A session that ended meanwhile owns nothing any more.
            if let Some(owned) = state.owned.get_mut(&(self.owner, stamp.key.clone())) {
                owned.held = true;
            }
        }
    }

    /// Gives the place up and waits until that is done.
    async fn leave(mut self) {
        self.kept = true;
        self.shared.leave(self.owner, self.nonce, self.stamps.take()).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (owner, nonce, stamps) = (self.owner, self.nonce, self.stamps.take());
        let shared = Arc::clone(&self.shared);
        // The waiter goes at once, so that it is not counted and not granted any more.
        shared.state.lock().unwait(stamps.iter().flatten().map(|stamp| &stamp.key));
        let env = shared.backing.env().clone();
        env.spawn(async move { shared.leave(owner, nonce, stamps).await });
    }
}

// === impl Shared ===

impl Shared {
    async fn heads(&self, queues: &[Bytes]) -> Result<Vec<Option<Entry>>, Error> {
        let snapshot = self.backing.read(queues.iter().map(head).collect()).await?;
        Ok(snapshot.reads.iter().map(|found| found.entries().first().cloned()).collect())
    }

    /// Asks the store for the stamps with which `owner` holds `queues`.
    async fn held(&self, owner: Owner, queues: &[Bytes]) -> Result<Vec<Stamped>, Error> {
        let heads = self.heads(queues).await?;
        let state = self.state.lock();
        let held = |head: &Option<Entry>| {
            let mine = head.as_ref().filter(|head| Owner::decode(&head.value) == Some(owner));
            let stamp = Stamped::of(mine.ok_or_else(not_held)?);
            // A turn that has come is no grant before its call was told.
            let untold = state.owned.get(&(owner, stamp.key.clone())).is_some_and(|owned| !owned.held);
            if untold { Err(not_held()) } else { Ok(stamp) }
        };
        heads.iter().map(held).collect()
    }

    /// Deletes a place. Without `stamps` it is looked for by its nonce.
    async fn leave(&self, owner: Owner, nonce: u64, stamps: Option<Vec<Stamped>>) {
        let stamps = match stamps {
            Some(stamps) => stamps,
            None => self.find(owner, nonce).await,
        };
        {
            let mut state = self.state.lock();
            state.unwait(stamps.iter().map(|stamp| &stamp.key));
            state.disown(owner, stamps.iter().map(|stamp| &stamp.key));
        }
        self.delete(&stamps).await;
    }

    /// Finds the stamps of a place whose commit was not answered. They may come a while after the answer was lost.
    async fn find(&self, owner: Owner, nonce: u64) -> Vec<Stamped> {
        for pause in LATE {
            let found = self.look_for(owner, nonce).await;
            if !found.is_empty() {
                return found;
            }
            self.backing.env().sleep(pause).await;
        }
        self.look_for(owner, nonce).await
    }

    async fn look_for(&self, owner: Owner, nonce: u64) -> Vec<Stamped> {
        let mut retry = Retry::default();
        let mut range = keys::all(keys::QUEUE);
        let mut found = Vec::new();
        loop {
            let scan = Read::Scan { range: range.clone(), order: Order::Key, limit: PAGE, keys_only: false };
            match self.backing.read_raw(vec![scan]).await {
                Ok(snapshot) => {
                    let entries = snapshot.reads[0].entries();
                    let mine = |entry: &&Entry| {
                        Owner::decode(&entry.value) == Some(owner)
                            && entry.value.get(Owner::BYTES..Owner::BYTES + 8)
                                == Some(&nonce.to_be_bytes()[..])
                    };
                    found.extend(entries.iter().filter(mine).map(Stamped::of));
                    match entries.last() {
                        Some(last) if snapshot.reads[0].more() => range = range.after(&last.key),
                        Some(_) | None => return found,
                    }
                }
                Err(error) if error.kind() == ErrorKind::Closed => return found,
                Err(_) => retry.pause(self.backing.env()).await,
            }
        }
    }

    /// Deletes stamps, however often the store has to be asked.
    async fn delete(&self, stamps: &[Stamped]) {
        for chunk in stamps.chunks(self.backing.writes_at_once()) {
            let mut retry = Retry::default();
            loop {
                match self.remove(chunk).await {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::Closed => return,
                    Err(error) => {
                        tracing::warn!(%error, "a lock cannot be given back, trying again");
                        retry.pause(self.backing.env()).await;
                    }
                }
            }
        }
    }

    /// Deletes those of some stamps that are still there.
    async fn remove(&self, stamps: &[Stamped]) -> Result<(), atomix_kv::Error> {
        if stamps.is_empty() {
            return Ok(());
        }
        if self.backing.commit_raw(removal(stamps)).await?.applied {
            self.state.lock().gone(stamps);
        } else if stamps.len() > 1 {
            for stamp in stamps.chunks(1) {
                if self.backing.commit_raw(removal(stamp)).await?.applied {
                    self.state.lock().gone(stamp);
                }
            }
        }
        Ok(())
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
        state.look(&waiter);
        if !std::mem::replace(&mut state.following, true) {
            let shared = Arc::clone(self);
            self.backing.env().spawn(async move { shared.follow().await });
        }
        receiver
    }

    /// Follows the queues until nobody has waited for a while.
    async fn follow(&self) {
        let mut retry = Retry::default();
        loop {
            match self.mirror().await {
                Ok(()) => return,
                Err(error) if error.reason() == Reason::WatchOverrun => retry = Retry::default(),
                Err(error) if error.reason() == Reason::StoreClosed => {
                    return self.state.lock().give_up(&error);
                }
                Err(error) => {
                    tracing::warn!(%error, "the queues of a lock cannot be followed, trying again");
                    retry.pause(self.backing.env()).await;
                }
            }
            let mut state = self.state.lock();
            state.mirror = None;
            if state.waiting.is_empty() {
                state.following = false;
                return;
            }
        }
    }

    /// Reads the queues and follows them. Ends without an error when nobody waits any more.
    async fn mirror(&self) -> Result<(), Error> {
        let (mut watch, _) = follow::begin(&self.backing).await?;
        let mirror = self.load().await?;
        self.state.lock().install(mirror);
        loop {
            let linger = self.backing.env().sleep(LINGER);
            tokio::select! {
                biased;
                item = watch.next() => self.advance(item)?,
                () = linger => {
                    let mut state = self.state.lock();
                    if state.waiting.is_empty() {
                        state.mirror = None;
                        state.following = false;
                        return Ok(());
                    }
                }
            }
        }
    }

    fn advance(&self, item: Option<Result<WatchItem, atomix_kv::Error>>) -> Result<(), Error> {
        let ended = || Error::new(Reason::StoreUnavailable, "the watch of the queues ended");
        if let WatchItem::Commit(commit) = item.ok_or_else(ended)?? {
            self.state.lock().apply(&commit);
        }
        Ok(())
    }

    /// Reads all queues at one moment.
    async fn load(&self) -> Result<Mirror, Error> {
        let mut retry = Retry::default();
        'again: loop {
            let mut range = keys::all(keys::QUEUE);
            let mut mirror: Option<Mirror> = None;
            loop {
                let scan = Read::Scan {
                    range: range.clone(),
                    order: Order::Key,
                    limit: usize::MAX,
                    keys_only: true,
                };
                let snapshot = self.backing.read(vec![scan]).await?;
                let mirror = mirror
                    .get_or_insert_with(|| Mirror { revision: snapshot.revision, queues: HashMap::new() });
                if mirror.revision != snapshot.revision {
                    // Pages of different moments are no state of the queues.
                    retry.pause(self.backing.env()).await;
                    continue 'again;
                }
                let entries = snapshot.reads[0].entries();
                for entry in entries {
                    mirror.insert(entry)?;
                }
                match entries.last() {
                    Some(last) if snapshot.reads[0].more() => range = range.after(&last.key),
                    Some(_) | None => break,
                }
            }
            if let Some(mirror) = mirror {
                return Ok(mirror);
            }
        }
    }
}

/// Returns the prefix of the stamps of the lock of `key`. No such prefix is the beginning of another.
fn queue(key: &str) -> Bytes {
    let mut prefix = BytesMut::with_capacity(5 + key.len());
    prefix.put_u8(keys::QUEUE);
    prefix.put_u32(u32::try_from(key.len()).expect("keys are bounded"));
    prefix.put_slice(key.as_bytes());
    prefix.freeze()
}

/// Splits the key of a stamp into the prefix of its queue and the key that is locked.
fn split(stamp: &Bytes) -> Option<(Bytes, String)> {
    let (len, rest) =
        keys::rest(keys::QUEUE, stamp)?.split_first_chunk().map(|(len, rest)| (*len, rest.len()))?;
    let len = u32::from_be_bytes(len) as usize;
    (rest >= len).then_some(())?;
    let key = String::from_utf8(stamp[5..5 + len].to_vec()).ok()?;
    Some((stamp.slice(..5 + len), key))
}

/// Deletes all of these stamps or none. A store that lost what it had gives the same keys again, so the value tells whose
/// a stamp is.
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

/// Asks who is in a queue, as far as to know whether it is more than one. Cheaper than the head, for which some stores sort.
fn company(queue: &Bytes) -> Read {
    Read::Scan { range: Range::prefix(queue.clone()), order: Order::Key, limit: 2, keys_only: true }
}

fn holding(entry: &Entry) -> Result<Holding, Error> {
    let owner = Owner::decode(&entry.value).ok_or_else(|| Error::damaged("lock"))?;
    let since = entry.value.get(Owner::BYTES + 8..).and_then(|rest| rest.first_chunk()).copied();
    let since = Duration::from_millis(u64::from_be_bytes(since.ok_or_else(|| Error::damaged("lock"))?));
    Ok(Holding { owner, token: entry.created.0, since: WallTime::from_unix(since) })
}

fn not_obtained() -> Error {
    Error::new(Reason::LockTimeout, "the lock was not obtained in time")
}

fn not_held() -> Error {
    Error::new(Reason::LockNotHeld, "this session does not hold the lock")
}
