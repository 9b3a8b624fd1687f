// SPDX-License-Identifier: Apache-2.0
//! The queues of one keyspace as a runtime sees them, and the decision which waiter is granted. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use atomix_store::{Commit, Entry, Range, Revision, Sorted};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::record::StampRecord;
use crate::error::{Error, Reason};
use crate::kit::caller::Owner;
use crate::kit::keys::{self, KeyKind};

/// The waiters and holders of this runtime.
#[derive(Default)]
pub(super) struct State {
    /// By the key of every stamp that a waiting call of this runtime has.
    pub(super) waiting: HashMap<Bytes, Arc<Waiter>>,
    /// The queues as of the last commit that was followed; only while there are waiters.
    pub(super) view: Option<WaitQueueView>,
    pub(super) following: bool,
    /// The stamps of this runtime's sessions, from the answer to the commit that made them to the answer to the one that
    /// deleted them.
    pub(super) owned: Sorted<(Owner, Bytes), Owned>,
    /// The nonces of commits that make stamps and are not answered yet.
    pub(super) pending: HashSet<u64>,
    /// The nonces of such commits that were never answered, some of them: the stamps belong to no call.
    pub(super) lost: HashSet<u64>,
    /// Whether the task runs that looks for stamps that nothing owns.
    pub(super) sweeping: bool,
}

/// A stamp of a session of this runtime.
pub(super) struct Owned {
    pub(super) value: Bytes,
    pub(super) phase: Phase,
}

/// The phase of an owned stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its call has not been granted the lock.
    Waiting,
    /// Its session was granted the lock.
    Held,
    /// It is to be deleted, and the store has not confirmed that.
    Leaving,
}

/// A stamp as it is in the store.
#[derive(Clone)]
pub(super) struct Stamped {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// The queues as they were at one revision.
pub(super) struct WaitQueueView {
    pub(super) revision: Revision,
    /// By the prefix of each queue: stamps in the order of creation.
    pub(super) queues: HashMap<Bytes, BTreeMap<Revision, Bytes>>,
}

/// A call that waits until it is first in all of its queues.
pub(super) struct Waiter {
    pub(super) stamps: Vec<Stamp>,
    /// The commit that made the stamps.
    pub(super) revision: Revision,
    pub(super) grant: Mutex<Option<oneshot::Sender<Result<(), Error>>>>,
}

/// The position of a waiter in a queue.
#[derive(Clone)]
pub(super) struct Stamp {
    pub(super) queue: Bytes,
    pub(super) key: Bytes,
}

// === impl State ===

impl State {
    /// Forgets stamps of `owner` that are not in the store any more.
    pub(super) fn disown(&mut self, owner: Owner, stamps: &[Stamped]) {
        for stamp in stamps {
            if self.owned_as(owner, stamp).is_some() {
                self.owned.remove_entry(&(owner, stamp.key.clone()));
            }
        }
    }

    /// Gives up all stamps of a session and returns them for deletion.
    pub(super) fn leave_all(&mut self, owner: Owner) -> Vec<Stamped> {
        // Sessions are counted.
        let stamps = self.of(owner, Some(Owner { session: owner.session + 1, ..owner }));
        let stamps = stamps.into_iter().map(|(_, stamp)| stamp).collect::<Vec<_>>();
        self.leave(owner, &stamps)
    }

    /// Gives up those of `stamps` that are owned and not given up yet. Their calls wait no more. Returns them for deletion.
    pub(super) fn leave(&mut self, owner: Owner, stamps: &[Stamped]) -> Vec<Stamped> {
        let mut left = Vec::with_capacity(stamps.len());
        for stamp in stamps {
            let Some(known) = self.owned_as(owner, stamp) else { continue };
            if known.phase == Phase::Leaving {
                continue;
            }
            known.phase = Phase::Leaving;
            left.push(stamp.clone());
            if let Some(waiter) = self.waiting.get(&stamp.key).cloned() {
                self.resolve(&waiter, Err(Error::closed()));
            }
        }
        left
    }

    /// Returns whether the owner of `stamps` still holds one of them.
    pub(super) fn holds_any(&mut self, owner: Owner, stamps: &[Stamped]) -> bool {
        stamps.iter().any(|stamp| self.owned_as(owner, stamp).is_some_and(|owned| owned.phase == Phase::Held))
    }

    /// Makes the owner of `stamps` their holder, unless one of them was given up meanwhile.
    pub(super) fn hold(&mut self, owner: Owner, stamps: &[Stamped]) -> bool {
        let mut waiting =
            |stamp| self.owned_as(owner, stamp).is_some_and(|owned| owned.phase == Phase::Waiting);
        if !stamps.iter().all(&mut waiting) {
            return false;
        }
        for stamp in stamps {
            if let Some(owned) = self.owned_as(owner, stamp) {
                owned.phase = Phase::Held;
            }
        }
        true
    }

    /// Returns whether a call or a session of this runtime has the stamp `entry`, or had it and waits for its deletion.
    pub(super) fn owns(&self, entry: &Entry) -> bool {
        let Ok(StampRecord { owner, nonce, .. }) = StampRecord::decode(&entry.value) else { return false };
        let known = self.owned.get(&(owner, entry.key.clone()));
        known.is_some_and(|known| known.value == entry.value) || self.pending.contains(&nonce)
    }

    pub(super) fn disown_all(&mut self, members: &BTreeSet<u64>) {
        let first = |member| Owner { member, session: 0 };
        for member in members {
            for (owner, stamp) in self.of(first(*member), member.checked_add(1).map(first)) {
                self.owned.remove_entry(&(owner, stamp.key));
            }
        }
    }

    fn owned_as(&mut self, owner: Owner, stamp: &Stamped) -> Option<&mut Owned> {
        // A store that lost what it had gives the same keys again.
        self.owned.get_mut(&(owner, stamp.key.clone())).filter(|owned| owned.value == stamp.value)
    }

    fn of(&self, from: Owner, to: Option<Owner>) -> Vec<(Owner, Stamped)> {
        let first = |owner| (owner, Bytes::new());
        let owned = self.owned.range(&first(from), to.map(first).as_ref());
        owned.map(|entry| (entry.0.0, Stamped::owned(entry))).collect()
    }

    /// Returns the owners that were granted a lock, once for each stamp.
    pub(super) fn holders(&self) -> Vec<Owner> {
        let first = (Owner { member: 0, session: 0 }, Bytes::new());
        let held = self.owned.range(&first, None).filter(|(_, owned)| owned.phase == Phase::Held);
        held.map(|((owner, _), _)| *owner).collect()
    }

    /// Returns the stamps with which `owner` was granted `queues`; `None` if one of them is not known here.
    pub(super) fn held(&self, owner: Owner, queues: &[Bytes]) -> Option<Vec<Stamped>> {
        queues.iter().map(|queue| self.held_in(owner, queue).next()).collect()
    }

    /// Disowns the stamps with which `owner` held `queues`, also those that other members deleted.
    pub(super) fn disown_held(&mut self, owner: Owner, queues: &[Bytes]) {
        for queue in queues {
            let stamps: Vec<Stamped> = self.held_in(owner, queue).collect();
            self.disown(owner, &stamps);
        }
    }

    fn held_in(&self, owner: Owner, queue: &Bytes) -> impl Iterator<Item = Stamped> + use<'_> {
        let end = Range::prefix(queue.clone()).end.expect("the first byte of a queue is not the last one");
        let stamps = self.owned.range(&(owner, queue.clone()), Some(&(owner, end)));
        stamps.filter(|(_, owned)| owned.phase == Phase::Held).map(Stamped::owned)
    }

    /// Returns whether one of `queues` has an entry, as far as they are followed.
    pub(super) fn is_taken(&self, queues: &[Bytes]) -> bool {
        self.view.as_ref().is_some_and(|view| queues.iter().any(|queue| view.head(queue).is_some()))
    }

    fn remove_waiting<'a>(&mut self, stamps: impl IntoIterator<Item = &'a Bytes>) {
        for stamp in stamps {
            self.waiting.remove(stamp);
        }
    }

    pub(super) fn install(&mut self, view: WaitQueueView) {
        self.view = Some(view);
        let waiters: Vec<Arc<Waiter>> = self.waiting.values().cloned().collect();
        for waiter in waiters {
            self.try_grant(&waiter);
        }
    }

    /// Follows a commit. Returns the stamps that came with it and are not of this runtime, as far as is known here.
    pub(super) fn apply<'a>(&mut self, commit: &'a Commit) -> Result<Vec<&'a Entry>, Error> {
        let Some(view) = &mut self.view else { return Ok(Vec::new()) };
        if commit.revision <= view.revision {
            return Ok(Vec::new());
        }
        view.revision = commit.revision;
        let (mut touched, mut deleted, mut arrived) = (Vec::new(), Vec::new(), Vec::new());
        for change in &commit.changes {
            if KeyKind::of(&change.key) != Some(KeyKind::Stamp) {
                continue;
            }
            let queue = keys::queue_of(&change.key)?;
            match (&change.previous, &change.current) {
                (None, Some(entry)) => {
                    let stamps = view.queues.entry(queue.clone()).or_default();
                    stamps.insert(entry.created, entry.key.clone());
                    arrived.push(entry);
                }
                (Some(entry), None) => {
                    view.remove(&queue, entry.created);
                    if let Some(waiter) = self.waiting.get(&change.key) {
                        deleted.push(Arc::clone(waiter));
                    }
                }
                _ => {}
            }
            touched.push(queue);
        }
        for waiter in deleted {
            self.resolve(&waiter, Err(deleted_by_others()));
        }
        // Also where a stamp arrived: one that seemed to be before it may have been deleted earlier.
        for queue in touched {
            self.try_grant_head(&queue);
        }
        arrived.retain(|entry| !self.owns(entry));
        Ok(arrived)
    }

    /// Grants the next waiters what was released with `stamps`, before the watch shows the commit that deleted them. A waiter
    /// is behind the same stamps in the view as in the store, so no waiter overtakes another.
    pub(super) fn on_released(&mut self, stamps: &[Stamped]) {
        for Stamped { key, .. } in stamps {
            let (Some(view), Ok(queue)) = (&mut self.view, keys::queue_of(key)) else { return };
            // Removing a stamp that is not the head grants nothing.
            if let Some((created, first)) = view.first(&queue)
                && first == key
            {
                view.remove(&queue, created);
                self.try_grant_head(&queue);
            }
        }
    }

    fn try_grant_head(&mut self, queue: &Bytes) {
        let head = self.view.as_ref().and_then(|view| view.head(queue));
        if let Some(waiter) = head.and_then(|head| self.waiting.get(head)).cloned() {
            self.try_grant(&waiter);
        }
    }

    /// Grants a waiter that is first in all of its queues, or fails it if one of its stamps was deleted.
    pub(super) fn try_grant(&mut self, waiter: &Arc<Waiter>) {
        let Some(view) = &self.view else { return };
        // The revision does not show whether the view has the stamps: transactions that a store batched together share that
        // of the outcome, but the watch shows them one after the other. With the stamps it has all that came before them.
        if !waiter.stamps.iter().all(|stamp| view.contains(stamp, waiter.revision)) {
            if view.revision >= waiter.revision {
                self.resolve(waiter, Err(deleted_by_others()));
            }
        } else if waiter.stamps.iter().all(|stamp| view.head(&stamp.queue) == Some(&stamp.key)) {
            self.resolve(waiter, Ok(()));
        }
    }

    /// Fails all waiters with `error`.
    pub(super) fn fail_waiters(&mut self, error: &Error) {
        self.view = None;
        self.following = false;
        let waiters: Vec<Arc<Waiter>> = self.waiting.values().cloned().collect();
        for waiter in waiters {
            self.resolve(&waiter, Err(error.clone()));
        }
    }

    fn resolve(&mut self, waiter: &Waiter, answer: Result<(), Error>) {
        self.remove_waiting(waiter.stamps.iter().map(|stamp| &stamp.key));
        if let Some(grant) = waiter.grant.lock().take() {
            // A dropped call deletes its stamps itself.
            drop(grant.send(answer));
        }
    }
}

// === impl Stamped ===

impl Stamped {
    pub(super) fn of(entry: &Entry) -> Self {
        Self { key: entry.key.clone(), value: entry.value.clone() }
    }

    fn owned(((_, key), owned): (&(Owner, Bytes), &Owned)) -> Self {
        Self { key: key.clone(), value: owned.value.clone() }
    }
}

// === impl WaitQueueView ===

impl WaitQueueView {
    pub(super) fn insert(&mut self, entry: &Entry) -> Result<(), Error> {
        let queue = keys::queue_of(&entry.key)?;
        self.queues.entry(queue).or_default().insert(entry.created, entry.key.clone());
        Ok(())
    }

    fn remove(&mut self, queue: &Bytes, created: Revision) {
        if let Some(stamps) = self.queues.get_mut(queue) {
            stamps.remove(&created);
            if stamps.is_empty() {
                self.queues.remove(queue);
            }
        }
    }

    fn first(&self, queue: &Bytes) -> Option<(Revision, &Bytes)> {
        let (created, stamp) = self.queues.get(queue)?.first_key_value()?;
        Some((*created, stamp))
    }

    fn head(&self, queue: &Bytes) -> Option<&Bytes> {
        Some(self.first(queue)?.1)
    }

    fn contains(&self, stamp: &Stamp, created: Revision) -> bool {
        self.queues.get(&stamp.queue).is_some_and(|stamps| stamps.contains_key(&created))
    }
}

fn deleted_by_others() -> Error {
    Error::new(Reason::Closed, "another process deleted the entry of this call in the lock queue")
}

#[cfg(test)]
mod tests {
    use atomix_store::Change;

    use super::*;

    fn stamped(queue: &Bytes, revision: u64) -> Entry {
        let key = [&queue[..], &revision.to_be_bytes()].concat().into();
        Entry { key, value: Bytes::new(), created: Revision(revision), modified: Revision(revision) }
    }

    fn arrival(revision: u64, entry: Entry) -> Commit {
        let change = Change { key: entry.key.clone(), previous: None, current: Some(entry) };
        Commit { revision: Revision(revision), changes: vec![change] }
    }

    #[test]
    fn a_turn_comes_also_with_a_commit_that_shares_its_revision_with_a_later_one() {
        let (one, other) = (keys::queue("one"), keys::queue("other"));
        let mut state = State::default();
        state.install(WaitQueueView { revision: Revision(10), queues: HashMap::new() });
        // Transactions that a store packed together are followed at revisions below that of their outcome.
        let stamp = stamped(&one, 20);
        let (sender, mut granted) = oneshot::channel();
        let waiter = Arc::new(Waiter {
            stamps: vec![Stamp { queue: one, key: stamp.key.clone() }],
            revision: stamp.created,
            grant: Mutex::new(Some(sender)),
        });
        state.waiting.insert(stamp.key.clone(), Arc::clone(&waiter));
        state.try_grant(&waiter);
        assert!(granted.try_recv().is_err(), "nothing is known of it yet");
        state.apply(&arrival(19, stamp)).unwrap();
        state.apply(&arrival(20, stamped(&other, 20))).unwrap();
        assert_eq!(granted.try_recv(), Ok(Ok(())));
    }
}
