// SPDX-License-Identifier: Apache-2.0
//! Membership: the runtimes that work on a store, and which of them are dead.
//!
//! Locks and candidacies carry the member that took them. Live members release what a dead member left: when a
//! primitive is opened, and when a member failure is found.
//!
//! A store that one runtime has for itself needs no record of that: every other member came before and is dead. On a
//! shared store each member has a record, written before it owns anything and renewed every sixth of its timeout.
//! **A member is dead when it has no record.** So the deletion of the record is the failure: it has one place in the
//! order of commits, and a member whose record is gone never comes back under that name. Other members delete a record only
//! under a guard on its revision, and only after it stayed the same for the whole timeout (and a tenth, because clocks
//! do not run at quite the same rate) on their own monotonic clock, while they watched it. Wall clocks do not matter for that.
//!
//! A member that was stopped does not know how long. So every call that reports ownership of a session first makes
//! sure ([`Membership::confirm`]) that the last renewal was begun less than a timeout ago; if not, it renews, and that finds the
//! record or finds it gone. Gone means that all is lost which this member owned here: it begins again under a new name.
//!
//! The records also show how far the wall clocks of the members are apart, see [`clocks`](crate::kit::clocks). That decides whether
//! [`expiry`](crate::kit::expiry) trusts the wall clock of this member.
//!
//! The keyspace is `host`: [`Key::Member`] and [`Record`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_env::{Env, Instant, Shutdown};
use atomix_store::{
    Durability, Entry, ErrorKind, Guard, Keyspace, Order, Outcome, Read, Revision, Store, Txn, Write,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify, watch};

use crate::error::{Error, Reason};
use crate::kit::clocks::{Base, ClockOffset, Clocks};
use crate::kit::codec::{Decoder, Encoder};
use crate::kit::keys::{Key, KeyKind};
use crate::kit::reads::{PAGE, Reads};
use crate::kit::stamp_owners::StampRegistry;

/// The members of one store, as one of them sees them.
pub struct Membership {
    /// Weak, because the store's place in the runtime keeps this.
    store: Weak<dyn Store>,
    env: Env,
    keyspace: Keyspace,
    peers: Peers,
    timeout: Duration,
    /// When this was made: the beginning of the monotonic time that bases and deadlines count in.
    origin: Instant,
    state: Mutex<State>,
    /// Whether the wall clock of this member may decide that something is overdue, by the last answer.
    trusted: watch::Sender<bool>,
    /// Held while the record is written: calls that need a renewal share one.
    turn: tokio::sync::Mutex<()>,
    /// Notified when a member failure was found.
    failures: Notify,
    /// The stamps that this member owns; all others under its name are orphans.
    stamp_owners: StampRegistry,
}

/// A member, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDetails {
    /// The name that its sessions have in common.
    pub id: u64,
    /// Whether it is the one that was asked.
    pub own: bool,
    /// The time since this member saw its last renewal.
    pub age: Duration,
    /// The time that it may be silent.
    pub timeout: Duration,
    /// The difference by which its wall clock is ahead of that of this member, once its record was seen to change.
    pub clock: Option<ClockOffset>,
}

/// The other members that may have left something in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peers {
    /// None: the content goes with the process.
    None,
    /// Members before this one, all of them dead.
    Earlier,
    /// Members beside this one.
    Concurrent,
}

/// The number of times that a record is renewed in its timeout, and those of the others are read. A dead member is found after 1.1 timeouts
/// and at most one such pause.
const RENEWALS: u32 = 6;

struct State {
    id: u64,
    /// Fires when the member loses this `id`.
    lost: Shutdown,
    /// When the last renewal that succeeded was begun; none before the first record.
    renewed: Option<Instant>,
    /// When the records of the others were read.
    checked_at: Instant,
    /// When the last check was begun, by the monotonic time since the origin, and the wall clock of this member then.
    last_check: (i64, Base),
    clocks: Clocks,
    peers: BTreeMap<u64, PeerRecord>,
    /// The keys of records that cannot be read, as of the last check.
    damaged: BTreeSet<Bytes>,
    /// Whether this member has gone by itself.
    left: bool,
}

/// The record of another member.
#[derive(Debug, Clone, Copy)]
struct PeerRecord {
    revision: Revision,
    /// Since when it has been seen unchanged.
    since: Instant,
    timeout: Duration,
    /// By its wall clock when the record was renewed.
    clock: Base,
    /// Whether it changed since it was first seen. If not, the member may be long dead, and its clock unknown.
    changed: bool,
}

/// The value of a record: timeout (8, milliseconds), time of the renewal (8, wall milliseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// In milliseconds.
    timeout: u64,
    /// By the wall clock of the member, in milliseconds.
    wall: u64,
}

// === impl Membership ===

impl Membership {
    /// Makes the view that the member named `id` has of `store`. The name must never have been used before. `timeout` is how
    /// long this member may be silent before the others expire it, `skew_max` the difference of wall clocks above which the
    /// one that is ahead is not trusted. Writes nothing.
    pub fn new(
        store: &Arc<dyn Store>,
        env: Env,
        id: u64,
        timeout: Duration,
        skew_max: Duration,
    ) -> Arc<Self> {
        let profile = store.profile();
        let peers = if profile.shared {
            Peers::Concurrent
        } else if profile.durability == Durability::Process {
            Peers::None
        } else {
            Peers::Earlier
        };
        let state = State {
            id,
            lost: Shutdown::new(),
            renewed: None,
            checked_at: env.now(),
            last_check: (0, Base::exact(millis(env.wall().since_unix()), 0)),
            clocks: Clocks::new(skew_max),
            peers: BTreeMap::new(),
            damaged: BTreeSet::new(),
            left: false,
        };
        Arc::new(Self {
            store: Arc::downgrade(store),
            origin: env.now(),
            trusted: watch::Sender::new(true),
            env,
            keyspace: Keyspace::new("host"),
            peers,
            timeout,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            failures: Notify::new(),
            stamp_owners: StampRegistry::default(),
        })
    }

    /// Returns the name of this member. It changes when the member loses what it owned.
    pub fn id(&self) -> u64 {
        self.state.lock().id
    }

    pub(crate) fn stamp_owners(&self) -> &StampRegistry {
        &self.stamp_owners
    }

    /// Returns how long this member may be silent before the others expire it.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns whether several members work on the store at the same time.
    pub fn shared(&self) -> bool {
        self.peers == Peers::Concurrent
    }

    /// Returns whether the store may hold what other members left.
    pub fn outlives(&self) -> bool {
        self.peers != Peers::None
    }

    /// Makes sure that this member has a record, so that it may own something.
    ///
    /// Cancel safe. Fails like a commit when the store cannot be asked.
    pub async fn join(&self) -> Result<(), Error> {
        loop {
            match self.confirm(self.id()).await {
                Err(error) if error.reason() == Reason::HostLost => {}
                joined => return joined,
            }
        }
    }

    /// Makes sure that the member is alive under the name `id`, as far as that can be known: what its sessions own is
    /// theirs. [`Reason::HostLost`] if it is not; [`Reason::StoreUnavailable`] if the store cannot be asked.
    ///
    /// Asks the store only if the last renewal is too old. Cancel safe.
    pub async fn confirm(&self, id: u64) -> Result<(), Error> {
        if self.confirmed(id)? {
            return Ok(());
        }
        let turn = self.turn.lock().await;
        if self.confirmed(id)? {
            return Ok(());
        }
        self.asked(id, turn).await
    }

    /// Makes sure of the same, and does not trust the last renewal.
    pub(crate) async fn ask(&self, id: u64) -> Result<(), Error> {
        if !self.shared() {
            return self.confirm(id).await;
        }
        self.asked(id, self.turn.lock().await).await
    }

    async fn asked(&self, id: u64, _turn: MutexGuard<'_, ()>) -> Result<(), Error> {
        match self.renew().await {
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error.into()),
            // Nothing that the caller asked for was sent: also when the fate of the renewal is not known.
            Err(error) => return Err(unavailable().caused_by(error).into()),
            Ok(()) => {}
        }
        if self.confirmed(id)? { Ok(()) } else { Err(unavailable().into()) }
    }

    /// Returns the signal that the member has lost the name `id`.
    pub(crate) fn lost(&self, id: u64) -> Shutdown {
        let state = self.state.lock();
        if state.id == id {
            return state.lost.clone();
        }
        let lost = Shutdown::new();
        lost.cancel();
        lost
    }

    /// Returns those of `found` that are dead. A dead member stays dead.
    pub async fn dead(&self, mut found: BTreeSet<u64>) -> Result<BTreeSet<u64>, atomix_store::Error> {
        {
            let state = self.state.lock();
            // One that was seen may have died since; then its failure will be found, and this asked again.
            found.retain(|id| *id != state.id && !state.peers.contains_key(id));
        }
        match self.peers {
            Peers::None => return Ok(BTreeSet::new()),
            Peers::Earlier => return Ok(found),
            Peers::Concurrent if found.is_empty() => return Ok(found),
            Peers::Concurrent => {}
        }
        let keys: Vec<Bytes> = found.iter().map(|id| key(*id)).collect();
        let store = self.store()?;
        let records = Reads::new(&*store, &self.keyspace).get_all(&keys).await?;
        Ok(found.into_iter().zip(records).filter(|(_, record)| record.is_none()).map(|(id, _)| id).collect())
    }

    /// Returns those of `found` that are alive, without this one.
    pub(crate) async fn alive_elsewhere(
        &self,
        mut found: BTreeSet<u64>,
    ) -> Result<BTreeSet<u64>, atomix_store::Error> {
        let dead = self.dead(found.clone()).await?;
        let own = self.id();
        found.retain(|id| *id != own && !dead.contains(id));
        Ok(found)
    }

    /// Renews the record and watches the others, until the store is gone or the member has left. Never ends before that.
    pub async fn run_heartbeats(&self) {
        if !self.shared() {
            return;
        }
        let mut renewal = self.env.now();
        loop {
            if self.env.now() >= renewal {
                let _turn = self.turn.lock().await;
                renewal = self.env.now() + self.timeout / RENEWALS;
                match self.renew().await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::Closed && self.has_ended() => return,
                    Err(error) => {
                        // Closed may be the connection alone, when another one takes its place.
                        tracing::warn!(%error, "failed to renew the record of this member, trying again");
                        renewal = self.env.now() + self.timeout / 16;
                    }
                }
            }
            for (id, revision) in self.overdue() {
                if let Err(error) = self.expire_member(id, revision).await {
                    tracing::warn!(%error, "failed to confirm the failure of a member, trying again");
                    break;
                }
            }
            let now = self.env.now();
            let due = self.state.lock().peers.values().map(PeerRecord::due).filter(|due| *due > now).min();
            self.env.clock().sleep_until(due.map_or(renewal, |due| due.min(renewal))).await;
        }
    }

    /// Returns whether there is nothing left to renew: this member has left, or the store is gone.
    fn has_ended(&self) -> bool {
        self.state.lock().left || self.store.strong_count() == 0
    }

    /// Waits until a member was found dead since the last call. Cancel safe.
    pub async fn member_failed(&self) {
        self.failures.notified().await;
    }

    /// Deletes the record of this member, which ends it like a failure: to be called when its sessions have released
    /// everything. Later calls are refused.
    pub async fn leave(&self) {
        let (id, joined) = {
            let mut state = self.state.lock();
            (state.id, !std::mem::replace(&mut state.left, true) && state.renewed.is_some())
        };
        if joined {
            // If the deletion fails, the other members expire the record after its timeout.
            let _turn = self.turn.lock().await;
            let txn = Txn::new().write(Write::Delete { key: key(id) });
            if let Err(error) = self.commit(txn).await {
                tracing::warn!(%error, "failed to delete the record of this member");
            }
        }
    }

    /// Returns the monotonic time since this view was made. It goes on while the wall clock jumps.
    pub(crate) fn elapsed(&self) -> Duration {
        self.env.now().since(self.origin)
    }

    /// Returns whether the wall clock of this member may decide that something is overdue: it is not ahead of that of another
    /// member. So is one that does not know another clock.
    pub fn trusts_clock(&self) -> bool {
        self.update_trust(&self.state.lock())
    }

    /// Waits until the wall clock is trusted again. Cancel safe.
    pub(crate) async fn clock_trusted(&self) {
        // The sender is part of this.
        self.trusted.subscribe().wait_for(|trusted| *trusted).await.map(drop).ok();
    }

    fn update_trust(&self, state: &State) -> bool {
        let (own, others) = (self.own_clock(), state.peers.values().map(|seen| seen.clock));
        let trusted = state.clocks.trust(own, others);
        self.trusted.send_if_modified(|known| std::mem::replace(known, trusted) != trusted);
        trusted
    }

    fn own_clock(&self) -> Base {
        Base::exact(millis(self.env.wall().since_unix()), signed_millis(self.elapsed()))
    }

    /// Returns the members that work on the store; none if it is not shared.
    pub fn list(&self) -> Vec<MemberDetails> {
        let clock = self.own_clock();
        let (now, state) = (self.env.now(), self.state.lock());
        let own = state.renewed.map(|renewed| MemberDetails {
            id: state.id,
            own: true,
            age: now.since(renewed),
            timeout: self.timeout,
            clock: None,
        });
        let seen = state.peers.iter().map(|(id, seen)| MemberDetails {
            id: *id,
            own: false,
            age: now.since(seen.since),
            timeout: seen.timeout,
            clock: seen.changed.then(|| seen.clock.offset(clock)),
        });
        own.into_iter().chain(seen).collect()
    }

    /// Returns whether the member certainly has the name `id`.
    fn confirmed(&self, id: u64) -> Result<bool, Error> {
        let state = self.state.lock();
        if state.id != id {
            return Err(Error::host_lost());
        }
        if state.left {
            return Err(Error::from(atomix_store::Error::closed()));
        }
        let fresh = |renewed| self.env.now().since(renewed) < self.timeout;
        Ok(!self.shared() || state.renewed.is_some_and(fresh))
    }

    /// Writes the record, or finds out that it is gone, and looks at those of the others. The caller has the turn.
    async fn renew(&self) -> Result<(), atomix_store::Error> {
        let (begun, elapsed) = (self.env.now(), self.elapsed());
        let (id, joined) = {
            let state = self.state.lock();
            if state.left {
                return Err(atomix_store::Error::closed());
            }
            (state.id, state.renewed.is_some())
        };
        let record = Record { timeout: millis(self.timeout), wall: millis(self.env.wall().since_unix()) };
        let range = KeyKind::Member.range();
        let all = Read::Scan { range: range.clone(), order: Order::Key, limit: PAGE, keys_only: false };
        let mut txn = Txn::new().write(Write::Put { key: key(id), value: record.encode() }).read(all);
        if joined {
            // Only this member writes the record: if it is there, it was there all the time.
            txn = txn.guard(Guard::Present { key: key(id) });
        }
        let outcome = self.commit(txn).await?;
        if outcome.applied {
            self.state.lock().renewed = Some(begun);
        } else {
            self.reset_identity();
        }
        let found = &outcome.reads[0];
        let mut entries = found.entries().to_vec();
        if let Some(last) = entries.last().filter(|_| found.more()) {
            let (store, rest) = (self.store()?, range.after(&last.key));
            let mut pages = Reads::new(&*store, &self.keyspace).scan_all(rest, false);
            while let Some(page) = pages.next().await? {
                entries.extend(page.entries);
            }
        }
        self.compare_records(&entries, signed_millis(elapsed));
        Ok(())
    }

    /// Begins again under a new name.
    fn reset_identity(&self) {
        let old = {
            let mut state = self.state.lock();
            let fresh = (self.env.random(), Shutdown::new());
            let (id, lost) =
                (std::mem::replace(&mut state.id, fresh.0), std::mem::replace(&mut state.lost, fresh.1));
            state.renewed = None;
            lost.cancel();
            id
        };
        tracing::warn!(
            member = format!("{old:016x}"),
            "other members expired this member because it did not renew its record in time: its sessions lost their locks"
        );
        self.failures.notify_one();
    }

    /// Compares the records with what was seen before. The check was begun at the monotonic time `begun`.
    fn compare_records(&self, entries: &[Entry], begun: i64) {
        let (now, read, own) = (self.env.now(), signed_millis(self.elapsed()), self.own_clock());
        let mut state = self.state.lock();
        // After a gap in observation a peer cannot be claimed unchanged, so its failure timer restarts.
        let missed_checks = now.since(state.checked_at) > self.timeout / 2;
        state.checked_at = now;
        let (last, clock_then) = std::mem::replace(&mut state.last_check, (begun, own));
        let steady = own.is_steady(clock_then);
        let before = std::mem::take(&mut state.peers);
        let damaged = std::mem::take(&mut state.damaged);
        for entry in entries {
            let (id, record) = match decode(entry) {
                Ok((id, _)) if id == state.id => continue,
                Ok(decoded) => decoded,
                Err(error) => {
                    // The member counts as alive, because its record is there: what it owns is not released.
                    if !damaged.contains(&entry.key) {
                        let key = entry.key.escape_ascii();
                        tracing::warn!(%error, %key, "failed to read the record of a member: delete it if the member is dead");
                    }
                    state.damaged.insert(entry.key.clone());
                    continue;
                }
            };
            let before = before.get(&id);
            let same = before.filter(|seen| seen.revision == entry.modified);
            let since = same.filter(|_| !missed_checks).map_or(now, |seen| seen.since);
            let (clock, changed) = match (same, before) {
                (Some(seen), _) => (seen.clock, seen.changed),
                // Renewed since the last check; but after a suspension of the machine that moment is of another time.
                (None, Some(_)) if steady => (record.clock(last, read), true),
                (None, before) => (record.clock(read.saturating_sub(record.pause()), read), before.is_some()),
            };
            let seen =
                PeerRecord { revision: entry.modified, since, timeout: record.timeout(), clock, changed };
            state.peers.insert(id, seen);
        }
        let gone: Vec<_> = before.iter().filter(|(id, _)| !state.peers.contains_key(id)).collect();
        if !gone.is_empty() {
            self.failures.notify_one();
        }
        // They may have left by themselves a moment ago. After a suspension their clocks are not known any more.
        gone.iter().filter(|_| steady).for_each(|(_, seen)| state.clocks.departed(own, seen.clock));
        let alive = state.peers.iter().filter(|(_, seen)| seen.changed);
        let alive: Vec<_> = alive.map(|(id, seen)| (*id, seen.clock)).collect();
        state.clocks.judge(now, own, &alive);
        self.update_trust(&state);
    }

    fn overdue(&self) -> Vec<(u64, Revision)> {
        let now = self.env.now();
        let state = self.state.lock();
        if now.since(state.checked_at) > self.timeout / 2 {
            return Vec::new();
        }
        let overdue = state.peers.iter().filter(|(_, seen)| seen.due() <= now);
        overdue.map(|(id, seen)| (*id, seen.revision)).collect()
    }

    /// Deletes the record of a member that did not renew it since `revision`.
    async fn expire_member(&self, id: u64, revision: Revision) -> Result<(), atomix_store::Error> {
        let key = key(id);
        let txn = Txn::new()
            .guard(Guard::ModifiedAt { key: key.clone(), revision })
            .write(Write::Delete { key: key.clone() })
            .read(Read::Get { key });
        let outcome = self.commit(txn).await?;
        let now = self.env.now();
        let mut state = self.state.lock();
        if outcome.reads[0].entry().is_some() {
            // The next check reads its content.
            if let Some(seen) = state.peers.get_mut(&id) {
                seen.since = now;
            }
            return Ok(());
        }
        if let Some(dead) = state.peers.remove(&id).filter(|seen| seen.changed) {
            state.clocks.departed(self.own_clock(), dead.clock);
        }
        self.update_trust(&state);
        drop(state);
        tracing::warn!(member = format!("{id:016x}"), "a member failed: releasing what it owned");
        self.failures.notify_one();
        Ok(())
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, atomix_store::Error> {
        let store = self.store()?;
        match self.env.timeout(self.timeout, store.commit(&self.keyspace, txn)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unavailable()),
        }
    }

    fn store(&self) -> Result<Arc<dyn Store>, atomix_store::Error> {
        self.store.upgrade().ok_or_else(atomix_store::Error::closed)
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("id", &format_args!("{:016x}", self.id()))
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

// === impl PeerRecord ===

impl PeerRecord {
    /// Returns the time at which the member is dead if its record does not change.
    fn due(&self) -> Instant {
        self.since + self.timeout + self.timeout / 10
    }
}

// === impl Record ===

impl Record {
    fn encode(self) -> Bytes {
        Encoder::with_capacity(16).u64(self.timeout).u64(self.wall).finish()
    }

    fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut record = Decoder::new("member", value);
        let decoded = Self { timeout: record.u64()?, wall: record.u64()? };
        record.end(decoded)
    }

    fn timeout(self) -> Duration {
        Duration::from_millis(self.timeout)
    }

    /// Returns the pause between two renewals.
    fn pause(self) -> i64 {
        signed_millis(self.timeout() / RENEWALS)
    }

    /// The wall clock of the member, by a record that was renewed after `after` and read at `read`.
    fn clock(self, after: i64, read: i64) -> Base {
        Base::new(self.wall, after, read)
    }
}

fn key(id: u64) -> Bytes {
    Key::Member(id).encode()
}

fn decode(entry: &Entry) -> Result<(u64, Record), Error> {
    let Key::Member(id) = Key::decode(&entry.key)? else { return Err(Error::damaged("member")) };
    Ok((id, Record::decode(&entry.value)?))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn unavailable() -> atomix_store::Error {
    atomix_store::Error::unavailable("the store does not answer: this member cannot confirm that it is alive")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written((timeout, wall) in any::<(u64, u64)>()) {
            let record = Record { timeout, wall };
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            match Record::decode(&bytes) {
                Ok(record) => prop_assert_eq!(record.encode(), bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("member")),
            }
        }
    }
}
