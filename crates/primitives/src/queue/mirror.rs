// SPDX-License-Identifier: Apache-2.0
//! What a runtime knows of the queues of one keyspace, and whom it tells that its turn has come. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use atomix_kv::{Commit, Entry, Range, Revision, Sorted};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::split;
use crate::{Error, Owner, Reason};

/// Who waits and who holds, as far as this runtime is concerned.
#[derive(Default)]
pub(super) struct State {
    /// By the key of every stamp that a waiting call of this runtime has.
    pub(super) waiting: HashMap<Bytes, Arc<Waiter>>,
    /// The queues as of the last commit that was followed; only while somebody waits.
    pub(super) mirror: Option<Mirror>,
    pub(super) following: bool,
    /// The stamps of this runtime's sessions.
    pub(super) owned: Sorted<(Owner, Bytes), Owned>,
}

/// A place of a session of this runtime.
pub(super) struct Owned {
    pub(super) value: Bytes,
    /// The owner was told that it holds the lock.
    pub(super) held: bool,
}

/// A stamp as it is in the store.
pub(super) struct Stamped {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// The queues as they were at one revision.
pub(super) struct Mirror {
    pub(super) revision: Revision,
    /// By the prefix of each queue: stamps in the order of creation.
    pub(super) queues: HashMap<Bytes, BTreeMap<Revision, Bytes>>,
}

/// A call that waits for its turn in all of its queues.
pub(super) struct Waiter {
    pub(super) stamps: Vec<Stamp>,
    /// The commit that made the stamps.
    pub(super) revision: Revision,
    pub(super) grant: Mutex<Option<oneshot::Sender<Result<(), Error>>>>,
}

/// A place in a queue.
#[derive(Clone)]
pub(super) struct Stamp {
    pub(super) queue: Bytes,
    pub(super) key: Bytes,
}

// === impl State ===

impl State {
    pub(super) fn disown<'a>(&mut self, owner: Owner, stamps: impl IntoIterator<Item = &'a Bytes>) {
        for stamp in stamps {
            self.owned.remove_entry(&(owner, stamp.clone()));
        }
    }

    /// Forgets all places of a session and returns them.
    pub(super) fn disown_session(&mut self, owner: Owner) -> Vec<Stamped> {
        // Sessions are counted.
        self.disown_range(owner, Some(Owner { session: owner.session + 1, ..owner }))
    }

    pub(super) fn disown_all(&mut self, hosts: &BTreeSet<u64>) {
        let first = |host| Owner { host, session: 0 };
        for host in hosts {
            self.disown_range(first(*host), host.checked_add(1).map(first));
        }
    }

    fn disown_range(&mut self, from: Owner, to: Option<Owner>) -> Vec<Stamped> {
        let first = |owner| (owner, Bytes::new());
        let owned = self.owned.range(&first(from), to.map(first).as_ref());
        let places: Vec<_> = owned.map(|(place, _)| place.clone()).collect();
        let removed = places.iter().filter_map(|place| self.owned.remove_entry(place));
        removed.map(|((_, key), owned)| Stamped { key, value: owned.value }).collect()
    }

    /// Returns the owners that were told that they hold something, once for each place.
    pub(super) fn holders(&self) -> Vec<Owner> {
        let first = (Owner { host: 0, session: 0 }, Bytes::new());
        let held = self.owned.range(&first, None).filter(|(_, owned)| owned.held);
        held.map(|((owner, _), _)| *owner).collect()
    }

    /// Returns the stamps with which `owner` was told to hold `queues`; `None` if one of them is not known here.
    pub(super) fn held(&self, owner: Owner, queues: &[Bytes]) -> Option<Vec<Stamped>> {
        queues.iter().map(|queue| self.held_in(owner, queue).next()).collect()
    }

    /// Forgets that `owner` held `queues`, also with stamps that others took away.
    pub(super) fn released(&mut self, owner: Owner, queues: &[Bytes]) {
        for queue in queues {
            let stamps: Vec<Stamped> = self.held_in(owner, queue).collect();
            self.disown(owner, stamps.iter().map(|stamp| &stamp.key));
        }
    }

    fn held_in(&self, owner: Owner, queue: &Bytes) -> impl Iterator<Item = Stamped> + use<'_> {
        let end = Range::prefix(queue.clone()).end.expect("the first byte of a queue is not the last one");
        let stamps = self.owned.range(&(owner, queue.clone()), Some(&(owner, end)));
        stamps.filter(|(_, owned)| owned.held).map(Stamped::owned)
    }

    /// Tells whether somebody is in one of `queues`, as far as they are followed.
    pub(super) fn is_taken(&self, queues: &[Bytes]) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| queues.iter().any(|queue| mirror.head(queue).is_some()))
    }

    pub(super) fn unwait<'a>(&mut self, stamps: impl IntoIterator<Item = &'a Bytes>) {
        for stamp in stamps {
            self.waiting.remove(stamp);
        }
    }

    pub(super) fn install(&mut self, mirror: Mirror) {
        self.mirror = Some(mirror);
        let waiters: Vec<Arc<Waiter>> = self.waiting.values().cloned().collect();
        for waiter in waiters {
            self.look(&waiter);
        }
    }

    pub(super) fn apply(&mut self, commit: &Commit) {
        let Some(mirror) = &mut self.mirror else { return };
        if commit.revision <= mirror.revision {
            return;
        }
        mirror.revision = commit.revision;
        let (mut touched, mut gone) = (Vec::new(), Vec::new());
        for change in &commit.changes {
            let Some((queue, _)) = split(&change.key) else {
                continue;
            };
            match (&change.previous, &change.current) {
                (None, Some(entry)) => {
                    let stamps = mirror.queues.entry(queue.clone()).or_default();
                    stamps.insert(entry.created, entry.key.clone());
                }
                (Some(entry), None) => {
                    mirror.remove(&queue, entry.created);
                    if let Some(waiter) = self.waiting.get(&change.key) {
                        gone.push(Arc::clone(waiter));
                    }
                }
                _ => {}
            }
            touched.push(queue);
        }
        for waiter in gone {
            self.tell(&waiter, Err(taken_away()));
        }
        // Also where somebody came: whoever seemed to be before may have gone earlier.
        for queue in touched {
            self.look_at_head(&queue);
        }
    }

    /// Lets the next ones have what was given back with `stamps`, before the commit that deleted them is followed. Who
    /// waits is behind the same stamps in the mirror as in the store, so that nobody is overtaken.
    pub(super) fn gone(&mut self, stamps: &[Stamped]) {
        for Stamped { key, .. } in stamps {
            let (Some(mirror), Some((queue, _))) = (&mut self.mirror, split(key)) else { return };
            // Nobody's turn comes when one leaves who is not the first.
            if let Some((created, first)) = mirror.first(&queue)
                && first == key
            {
                mirror.remove(&queue, created);
                self.look_at_head(&queue);
            }
        }
    }

    fn look_at_head(&mut self, queue: &Bytes) {
        let head = self.mirror.as_ref().and_then(|mirror| mirror.head(queue));
        if let Some(waiter) = head.and_then(|head| self.waiting.get(head)).cloned() {
            self.look(&waiter);
        }
    }

    /// Grants a waiter whose turn has come, or tells it that its place is gone.
    pub(super) fn look(&mut self, waiter: &Arc<Waiter>) {
        let Some(mirror) = &self.mirror else { return };
        // Not the revision tells whether the mirror has the stamps: transactions that a store packed together share that of
        // the outcome, but are followed one after the other. With the stamps it has all that came before them.
        if !waiter.stamps.iter().all(|stamp| mirror.holds(stamp, waiter.revision)) {
            if mirror.revision >= waiter.revision {
                self.tell(waiter, Err(taken_away()));
            }
        } else if waiter.stamps.iter().all(|stamp| mirror.head(&stamp.queue) == Some(&stamp.key)) {
            self.tell(waiter, Ok(()));
        }
    }

    /// Tells everybody who waits that nothing will come any more.
    pub(super) fn give_up(&mut self, error: &Error) {
        self.mirror = None;
        self.following = false;
        let waiters: Vec<Arc<Waiter>> = self.waiting.values().cloned().collect();
        for waiter in waiters {
            self.tell(&waiter, Err(error.clone()));
        }
    }

    fn tell(&mut self, waiter: &Waiter, answer: Result<(), Error>) {
        self.unwait(waiter.stamps.iter().map(|stamp| &stamp.key));
        if let Some(grant) = waiter.grant.lock().take() {
            // A call that is gone gives its place up by itself.
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

// === impl Mirror ===

impl Mirror {
    pub(super) fn insert(&mut self, entry: &Entry) -> Result<(), Error> {
        let (queue, _) = split(&entry.key).ok_or_else(|| Error::damaged("lock"))?;
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

    fn holds(&self, stamp: &Stamp, created: Revision) -> bool {
        self.queues.get(&stamp.queue).is_some_and(|stamps| stamps.contains_key(&created))
    }
}

fn taken_away() -> Error {
    Error::new(Reason::Closed, "the place in the queue was taken away")
}

#[cfg(test)]
mod tests {
    use atomix_kv::Change;

    use super::super::queue;
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
        let (one, other) = (queue("one"), queue("other"));
        let mut state = State::default();
        state.install(Mirror { revision: Revision(10), queues: HashMap::new() });
        // Transactions that a store packed together are followed at revisions below that of their outcome.
        let stamp = stamped(&one, 20);
        let (sender, mut granted) = oneshot::channel();
        let waiter = Arc::new(Waiter {
            stamps: vec![Stamp { queue: one, key: stamp.key.clone() }],
            revision: stamp.created,
            grant: Mutex::new(Some(sender)),
        });
        state.waiting.insert(stamp.key.clone(), Arc::clone(&waiter));
        state.look(&waiter);
        assert!(granted.try_recv().is_err(), "nothing is known of it yet");
        state.apply(&arrival(19, stamp));
        state.apply(&arrival(20, stamped(&other, 20)));
        assert_eq!(granted.try_recv(), Ok(Ok(())));
    }
}
