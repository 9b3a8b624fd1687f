// SPDX-License-Identifier: Apache-2.0
//! A queue of candidates; the one that entered first leads.
//!
//! Behaviour: `contract/election.md`. The whole election is one record, changed by read and guarded write: every rule is
//! a pure function on [`State`], and every change is one commit. The term grows by one each time a candidate *becomes*
//! leader, and never otherwise. No call has an error of its own: what is not possible changes nothing, and the answer is
//! the state after the call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atomix_store::{Change, Entry, Guard, Read, Revision, Txn, Write};
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use crate::error::{Error, Reason};
use crate::kind::Kind;
use crate::kit::backing::{Backing, ROUNDS_MAX, Retry, run_uncancellable};
use crate::kit::caller::{Caller, Owner};
use crate::kit::codec::{Decoder, Encoder, LENGTH};
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::Key;
use crate::kit::ownership::Ownership;
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A leader election. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Election {
    backing: Backing,
    /// Calls of one runtime take turns, so that they do not fight for the record. What it was after the last one is tried
    /// first: usually no other runtime has changed it, and a change is one round trip.
    turn: Arc<Mutex<Turn>>,
}

/// The state that the calls of one runtime leave to the next one.
#[derive(Debug, Default)]
struct Turn {
    record: Option<Record>,
    /// A change may still be under way whose answer was lost.
    doubt: bool,
    /// Candidates that such a change may have brought in, or may yet. The next change takes them back.
    undo: Vec<Candidate>,
    /// Whether a task runs that makes a change as long as there is something to undo.
    settling: bool,
    /// The last call that entered each candidate, for those of this runtime.
    entered: BTreeMap<(Owner, String), Entered>,
    /// The number of calls that entered a candidate.
    calls: u64,
}

/// A call that entered a candidate.
#[derive(Debug, Clone)]
struct Entered {
    number: u64,
    /// Whether a client has got the answer to this call or to one before it.
    kept: Arc<AtomicBool>,
}

/// A candidate that a call has entered, and of which the client does not know yet. It is kept when this is dropped, and taken
/// back when this is revoked.
#[derive(Debug)]
pub struct Candidacy {
    election: Election,
    candidate: Candidate,
    call: Entered,
    revoked: bool,
}

/// An entry whose call has not got its answer. Taken back when this is dropped.
struct Unanswered {
    term: Term,
    candidacy: Option<Candidacy>,
}

/// The stored record, as it was found or written.
#[derive(Debug)]
struct Record {
    state: State,
    /// Its bytes and when they were written; `None` if there was nothing. A store that lost what it had counts again, so that the
    /// revision alone does not tell.
    stored: Option<(Bytes, Revision)>,
}

/// The election as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Term {
    /// The number of leaders so far.
    pub term: u64,
    /// The leader; empty if there is no leader.
    pub leader: String,
    /// The waiting candidates in order, without the leader.
    pub candidates: Vec<String>,
}

/// A candidate and its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The name.
    pub name: String,
    /// The session that entered it.
    pub owner: Owner,
}

/// The election as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The number of leaders so far.
    pub term: u64,
    /// The leader.
    pub leader: Option<Candidate>,
    /// The waiting candidates, in order.
    pub waiting: Vec<Candidate>,
}

/// Bytes of a record beyond which no candidate is taken in, so that it fits every store.
const RECORD_BYTES_MAX: usize = 1024 * 1024;

// === impl Election ===

impl Election {
    /// Opens the election. Takes back the candidates of dead members before it returns.
    pub async fn open(backing: Backing) -> Result<Self, Error> {
        let election = Self { backing, turn: Arc::default() };
        election.release_dead_owners().await?;
        Ok(election)
    }

    /// Enters `candidate` for the session of the caller: it leads if no other does, else it waits at the end. Entering
    /// again changes nothing; another session that enters under the name of a waiting candidate takes its place over. An
    /// empty name stands for one that only this session has.
    ///
    /// [`Reason::WaitersFull`] if too many wait; [`Reason::HostLost`] if other members expired this runtime meanwhile;
    /// [`Reason::DeadlineExceeded`] if the deadline of the caller passed: nothing was entered then. Cancel safe: what a
    /// dropped call brings in is taken back.
    pub async fn enter(&self, caller: &Caller, candidate: &str) -> Result<Term, Error> {
        Ok(self.candidacy(caller, candidate).await?.0)
    }

    /// As [`Election::enter`]. If the call brought the candidate in, the result shows it, and can be revoked if it does not
    /// reach its client.
    pub async fn candidacy(
        &self,
        caller: &Caller,
        candidate: &str,
    ) -> Result<(Term, Option<Candidacy>), Error> {
        self.backing.check_candidate(candidate)?;
        self.backing.membership().confirm(caller.owner.member).await?;
        let (election, caller, candidate) = (self.clone(), caller.clone(), Candidate::of(caller, candidate));
        // A call that is dropped may still be applied, and its session may have ended by then.
        let entering = async move { election.enter_now(&caller, candidate).await };
        Ok(run_uncancellable(self.backing.env(), entering).await?.answer())
    }

    async fn enter_now(&self, caller: &Caller, candidate: Candidate) -> Result<Unanswered, Error> {
        let max = self.backing.limits().waiters_max;
        let mut turn = self.turn.lock().await;
        // A call that is made again after an unknown outcome wants what the first one wanted.
        let again = turn.undo.contains(&candidate);
        turn.undo.retain(|other| *other != candidate);
        let entered = self
            .change_in(&mut turn, |state| {
                if state.waiting.len() >= max || state.bytes() + candidate.name.len() > RECORD_BYTES_MAX {
                    let message =
                        format!("too many candidates wait: max=`{max}` bytes-max=`{RECORD_BYTES_MAX}`");
                    return Err(Error::new(Reason::WaitersFull, message));
                }
                state.enter(&candidate.name, candidate.owner);
                Ok(())
            })
            .await;
        if entered.is_err() && again && !turn.undo.contains(&candidate) {
            turn.undo.push(candidate.clone());
            self.settle_later(&mut turn);
        }
        let (term, added) = entered?;
        let call = turn.enter(&candidate, added);
        drop(turn);
        // The answer to an earlier call for the same candidate may be on its way still, or lost.
        let unknown = !call.kept.load(Ordering::Acquire);
        let candidacy =
            unknown.then(|| Candidacy { election: self.clone(), candidate, call, revoked: false });
        if caller.closed.is_cancelled() {
            // The session ended while the candidate entered, and nothing else would take it back.
            self.release_all(caller.owner).await;
            return Err(Error::closed());
        }
        if let Err(error) = self.backing.membership().confirm(caller.owner.member).await {
            // Other members may not have removed this candidate yet; it must not lead.
            self.release_all(caller.owner).await;
            return Err(error);
        }
        let late = caller.deadline.is_some_and(|deadline| self.backing.env().now() >= deadline);
        if late && let Some(mut candidacy) = candidacy {
            candidacy.revoked = true;
            candidacy.take_back().await;
            let message = "the store answered too late for the deadline of the call: nothing was entered";
            return Err(Error::new(Reason::DeadlineExceeded, message));
        }
        Ok(Unanswered { term, candidacy })
    }

    /// Takes back `candidate` if the session of the caller entered it. A leader that is taken back is followed by the
    /// first who waits. An empty name stands for the one that this session has.
    pub async fn withdraw(&self, caller: &Caller, candidate: &str) -> Result<Term, Error> {
        let candidate = Candidate::of(caller, candidate);
        self.apply(|state| state.withdraw(&candidate.name, candidate.owner)).await
    }

    /// Makes a waiting `candidate` the leader; the leader before waits as the first.
    pub async fn anoint(&self, candidate: &str) -> Result<Term, Error> {
        self.apply(|state| state.anoint(candidate)).await
    }

    /// Moves a waiting `candidate` one place forward; the first one changes places with the leader.
    pub async fn promote(&self, candidate: &str) -> Result<Term, Error> {
        self.apply(|state| state.promote(candidate)).await
    }

    /// Moves a `candidate` one position back; the leader is swapped with the first waiting one.
    pub async fn demote(&self, candidate: &str) -> Result<Term, Error> {
        self.apply(|state| state.demote(candidate)).await
    }

    /// Removes a `candidate` of any session.
    pub async fn evict(&self, candidate: &str) -> Result<Term, Error> {
        self.apply(|state| state.evict(candidate)).await
    }

    /// Returns the current term.
    pub async fn term(&self) -> Result<Term, Error> {
        Ok(self.state().await?.term())
    }

    /// Returns the election with the owners of the candidates.
    pub async fn state(&self) -> Result<State, Error> {
        decode(self.backing.get(key()).await?.as_ref())
    }

    /// Shows the current term if there ever was a leader, and then every change that is visible in a [`Term`].
    pub async fn watch(&self, caller: &Caller) -> Result<Events<Term>, Error> {
        let term = |entry: Option<&Entry>| Ok::<_, Error>(decode(entry)?.term());
        let current = move |entry: &Entry| Ok(Some(term(Some(entry))?).filter(|term| term.term > 0));
        let changed = move |change: &Change| {
            let (before, after) = (term(change.previous.as_ref())?, term(change.current.as_ref())?);
            Ok((before != after).then_some(after))
        };
        let range = atomix_store::Range::prefix(key());
        follow::listing(&self.backing, caller, range, true, current, changed).await
    }

    /// Takes back all candidates of a session that ended or closed the election. Does not return before the store has
    /// confirmed it or was disconnected.
    pub async fn release_all(&self, owner: Owner) {
        let mut retry = Retry::default();
        loop {
            let mut turn = self.turn.lock().await;
            let released = self.apply_in(&mut turn, |state| state.release(|other| other == owner)).await;
            if released.is_ok() {
                turn.entered.retain(|(other, _), _| *other != owner);
            }
            drop(turn);
            match released {
                Ok(_) => return,
                Err(error) if error.reason() == Reason::StoreClosed => return,
                Err(error) => {
                    tracing::warn!(%error, "failed to remove candidates, trying again");
                    retry.pause(self.backing.env()).await;
                }
            }
        }
    }

    /// Removes all candidates of `owner`, a session that has ended, as an operator requested. Returns how many there were.
    pub async fn remove_owner(&self, owner: Owner) -> Result<usize, Error> {
        let removed = self.state().await?.candidates().filter(|candidate| candidate.owner == owner).count();
        self.apply(|state| state.release(|other| other == owner)).await?;
        Ok(removed)
    }

    /// Counts the other runtimes that are alive and have candidates.
    pub async fn elsewhere(&self) -> Result<usize, Error> {
        let found = self.state().await?.candidates().map(|candidate| candidate.owner.member).collect();
        Ok(self.backing.membership().alive_elsewhere(found).await?.len())
    }

    /// Deletes the election if it has no candidates, else [`Reason::InUse`]. Terms begin again.
    pub async fn erase(&self) -> Result<(), Error> {
        let mut turn = self.turn.lock().await;
        turn.record = None;
        for _ in 0..ROUNDS_MAX {
            let record = self.read().await?;
            if record.state.candidates().next().is_some() {
                let message =
                    "the election has candidates: nothing was deleted; end their sessions, then repeat it";
                return Err(Error::new(Reason::InUse, message));
            }
            let key = key();
            let guard = match record.stored {
                Some((_, revision)) => Guard::ModifiedAt { key, revision },
                None => Guard::Absent { key },
            };
            if self.backing.erase_if(vec![guard]).await? {
                return Ok(());
            }
        }
        Err(Error::contention())
    }

    /// Takes back the candidates of dead members.
    pub async fn release_dead_owners(&self) -> Result<(), Error> {
        let membership = self.backing.membership();
        if !membership.outlives() {
            return Ok(());
        }
        let state = self.state().await?;
        let found = state.leader.iter().chain(&state.waiting).map(|candidate| candidate.owner.member);
        let dead = membership.dead(found.collect()).await?;
        if !dead.is_empty() {
            self.apply(|state| state.release(|owner| dead.contains(&owner.member))).await?;
        }
        Ok(())
    }

    async fn apply(&self, change: impl Fn(&mut State)) -> Result<Term, Error> {
        self.apply_in(&mut *self.turn.lock().await, change).await
    }

    async fn apply_in(&self, turn: &mut Turn, change: impl Fn(&mut State)) -> Result<Term, Error> {
        let changed = self.change_in(turn, |state| {
            change(state);
            Ok(())
        });
        Ok(changed.await?.0)
    }

    /// Changes the record in one commit, or leaves it alone if nothing changes. Returns the term and whether a candidate is
    /// new.
    async fn change_in(
        &self,
        turn: &mut Turn,
        change: impl Fn(&mut State) -> Result<(), Error>,
    ) -> Result<(Term, bool), Error> {
        let (mut record, mut remembered) = match turn.record.take() {
            Some(record) => (record, true),
            None => (self.read().await?, false),
        };
        for _ in 0..ROUNDS_MAX {
            let mut after = record.state.clone();
            for candidate in &turn.undo {
                after.withdraw(&candidate.name, candidate.owner);
            }
            let settled = after.clone();
            let changed = change(&mut after);
            if changed.is_err() {
                after = settled.clone();
            }
            // Rewrites the record, so that an in-flight update whose outcome is unknown fails its guard.
            if after == record.state && (changed.is_err() || !turn.doubt) {
                if remembered {
                    // No later write will show whether this is still so.
                    (record, remembered) = (self.read().await?, false);
                    continue;
                }
                turn.record = Some(record);
                return changed.map(|()| (after.term(), false));
            }
            let added = after.candidates().find(|candidate| !settled.has(candidate)).cloned();
            let value = after.encode();
            let txn = Txn::new()
                .write(Write::Put { key: key(), value: value.clone() })
                .read(Read::Get { key: key() })
                .if_refused();
            let txn = match record.stored {
                Some((value, revision)) => txn
                    .guard(Guard::ModifiedAt { key: key(), revision })
                    .guard(Guard::ValueIs { key: key(), value }),
                None => txn.guard(Guard::Absent { key: key() }),
            };
            let outcome = match self.backing.commit(txn).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    if error.reason() == Reason::OutcomeUnknown {
                        turn.doubt = true;
                        turn.undo.extend(added);
                        self.settle_later(turn);
                    }
                    return Err(error);
                }
            };
            if outcome.applied {
                let term = after.term();
                let stored = Some((value, outcome.revision));
                turn.record = Some(Record { state: after, stored });
                turn.doubt = false;
                turn.undo.clear();
                return changed.map(|()| (term, added.is_some()));
            }
            (record, remembered) = (Record::of(outcome.reads[0].entry())?, false);
        }
        Err(Error::contention())
    }

    /// Sees to it that candidates whose call got no answer are taken back, also if no other call comes.
    fn settle_later(&self, turn: &mut Turn) {
        if turn.undo.is_empty() || std::mem::replace(&mut turn.settling, true) {
            return;
        }
        let election = self.clone();
        self.backing.env().detach(async move {
            let mut retry = Retry::default();
            loop {
                retry.pause(election.backing.env()).await;
                let mut turn = election.turn.lock().await;
                // A call that came meanwhile has done it.
                let settled = turn.undo.is_empty()
                    || match election.apply_in(&mut turn, |_| {}).await {
                        Ok(_) => true,
                        Err(error) => error.reason() == Reason::StoreClosed,
                    };
                if settled {
                    turn.settling = false;
                    return;
                }
            }
        });
    }

    async fn read(&self) -> Result<Record, Error> {
        Record::of(self.backing.get(key()).await?.as_ref())
    }
}

impl Primitive for Election {
    fn ownership(&self) -> Option<&dyn Ownership> {
        Some(self)
    }

    fn holdings(&self, owner: Owner, max: usize) -> BoxFuture<'_, Vec<(String, u64)>> {
        Box::pin(async move {
            let Ok(state) = self.state().await else { return Vec::new() };
            let own = |candidate: &&Candidate| candidate.owner == owner;
            let leads = state.leader.iter().filter(own).map(|leader| (leader.name.clone(), state.term));
            let waits = state.waiting.iter().filter(own).map(|candidate| (candidate.name.clone(), 0));
            leads.chain(waits).take(max).collect()
        })
    }

    fn erase<'a>(&'a self, _: &'a Backing) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.erase())
    }
}

impl Ownership for Election {
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
}

impl TypedPrimitive for Election {
    const KIND: Kind = Kind::Election;

    async fn open_configured(backing: Backing, _: PrimitiveConfig) -> Result<Self, Error> {
        Self::open(backing).await
    }
}

// === impl Turn ===

impl Turn {
    /// Notes a call that has entered `candidate`, which is new or was there.
    fn enter(&mut self, candidate: &Candidate, added: bool) -> Entered {
        self.calls += 1;
        let key = (candidate.owner, candidate.name.clone());
        let kept = match self.entered.get(&key) {
            Some(before) if !added => Arc::clone(&before.kept),
            // Of a candidate that is there without a call the client has known for long.
            _ => Arc::new(AtomicBool::new(!added)),
        };
        let call = Entered { number: self.calls, kept };
        self.entered.insert(key, call.clone());
        if let Some(Record { state, .. }) = &self.record
            && self.entered.len() > 2 * (state.waiting.len() + 32)
        {
            // Others have evicted some.
            let known: BTreeSet<_> = state.candidates().map(|it| (it.owner, it.name.as_str())).collect();
            self.entered.retain(|(owner, name), _| known.contains(&(*owner, name)));
        }
        call
    }
}

// === impl Candidacy ===

impl Candidacy {
    /// Takes the candidate back, unless a later call entered it again, or a client got the answer to another call for it.
    /// Returns at once; the work runs to its end in the background.
    pub fn revoke(mut self) {
        self.revoked = true;
        let env = self.election.backing.env().clone();
        env.detach(async move { self.take_back().await });
    }

    async fn take_back(&self) {
        let Self { election, candidate, call, .. } = self;
        let key = (candidate.owner, candidate.name.clone());
        let mut retry = Retry::default();
        loop {
            let mut turn = election.turn.lock().await;
            let is_last = turn.entered.get(&key).is_some_and(|last| last.number == call.number);
            if !is_last || call.kept.load(Ordering::Acquire) {
                return;
            }
            let withdraw = |state: &mut State| state.withdraw(&candidate.name, candidate.owner);
            match election.apply_in(&mut turn, withdraw).await {
                Ok(_) => {
                    turn.entered.remove(&key);
                    return;
                }
                Err(error) if error.reason() == Reason::StoreClosed => return,
                Err(error) => {
                    drop(turn);
                    tracing::warn!(%error, "failed to remove a candidate, trying again");
                    retry.pause(election.backing.env()).await;
                }
            }
        }
    }
}

impl Drop for Candidacy {
    fn drop(&mut self) {
        if !self.revoked {
            self.call.kept.store(true, Ordering::Release);
        }
    }
}

// === impl Unanswered ===

impl Unanswered {
    fn answer(mut self) -> (Term, Option<Candidacy>) {
        (std::mem::take(&mut self.term), self.candidacy.take())
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(candidacy) = self.candidacy.take() {
            candidacy.revoke();
        }
    }
}

// === impl Candidate ===

impl Candidate {
    /// Names a candidate of the caller's session. One without a name gets one that no other session has.
    fn of(caller: &Caller, name: &str) -> Self {
        let name = if name.is_empty() { caller.owner.to_string() } else { name.to_owned() };
        Self { name, owner: caller.owner }
    }
}

// === impl Record ===

impl Record {
    fn of(entry: Option<&Entry>) -> Result<Self, Error> {
        let stored = entry.map(|entry| (entry.value.clone(), entry.modified));
        Ok(Self { state: decode(entry)?, stored })
    }
}

// === impl State ===

impl State {
    /// Returns what clients see.
    pub fn term(&self) -> Term {
        Term {
            term: self.term,
            leader: self.leader.as_ref().map(|leader| leader.name.clone()).unwrap_or_default(),
            candidates: self.waiting.iter().map(|candidate| candidate.name.clone()).collect(),
        }
    }

    /// Returns the leader and then the waiting candidates.
    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.leader.iter().chain(&self.waiting)
    }

    fn has(&self, candidate: &Candidate) -> bool {
        self.candidates().any(|other| other == candidate)
    }

    fn enter(&mut self, name: &str, owner: Owner) {
        let candidate = Candidate { name: name.to_owned(), owner };
        if self.leader.is_none() {
            self.lead(candidate);
        } else if self.leader.as_ref() == Some(&candidate) || self.waiting.contains(&candidate) {
            // The answer to an earlier call may have been lost.
        } else if let Some(at) = self.place(name) {
            self.waiting[at] = candidate;
        } else {
            self.waiting.push(candidate);
        }
    }

    fn withdraw(&mut self, name: &str, owner: Owner) {
        let candidate = Candidate { name: name.to_owned(), owner };
        if self.leader.as_ref() == Some(&candidate) {
            self.step_down();
        } else {
            self.waiting.retain(|waiting| *waiting != candidate);
        }
    }

    fn anoint(&mut self, name: &str) {
        if !self.leads(name)
            && let Some(at) = self.place(name)
            && let Some(old) = self.leader.take()
        {
            let new = self.waiting.remove(at);
            self.waiting.insert(0, old);
            self.lead(new);
        }
    }

    fn promote(&mut self, name: &str) {
        if self.leader.is_none() || self.leads(name) {
            return;
        }
        match self.place(name) {
            Some(0) => self.change_places(),
            Some(at) => self.waiting.swap(at, at - 1),
            None => {}
        }
    }

    fn demote(&mut self, name: &str) {
        if self.leads(name) {
            self.change_places();
        } else if let Some(at) = self.place(name)
            && at + 1 < self.waiting.len()
        {
            self.waiting.swap(at, at + 1);
        }
    }

    fn evict(&mut self, name: &str) {
        if self.leads(name) {
            self.step_down();
        } else if self.leader.is_some() {
            self.waiting.retain(|waiting| waiting.name != name);
        }
    }

    fn release(&mut self, gone: impl Fn(Owner) -> bool) {
        self.waiting.retain(|waiting| !gone(waiting.owner));
        if self.leader.as_ref().is_some_and(|leader| gone(leader.owner)) {
            self.step_down();
        }
    }

    /// Swaps the leader and the first waiting candidate, if there is one.
    fn change_places(&mut self) {
        if !self.waiting.is_empty()
            && let Some(leader) = self.leader.take()
        {
            let new = std::mem::replace(&mut self.waiting[0], leader);
            self.lead(new);
        }
    }

    fn step_down(&mut self) {
        self.leader = None;
        if !self.waiting.is_empty() {
            let new = self.waiting.remove(0);
            self.lead(new);
        }
    }

    fn lead(&mut self, candidate: Candidate) {
        self.leader = Some(candidate);
        self.term += 1;
    }

    fn leads(&self, name: &str) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.name == name)
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.waiting.iter().position(|candidate| candidate.name == name)
    }

    fn bytes(&self) -> usize {
        self.leader
            .iter()
            .chain(&self.waiting)
            .map(|candidate| Owner::BYTES + LENGTH + candidate.name.len())
            .sum()
    }

    /// Term (8), whether there is a leader (1), then each candidate, the leader first: owner (16), length (4), name.
    fn encode(&self) -> Bytes {
        let record = Encoder::with_capacity(9 + self.bytes());
        let record = record.u64(self.term).u8(self.leader.is_some().into());
        let add =
            |record, candidate: &Candidate| candidate.owner.encode(record).part(candidate.name.as_bytes());
        self.candidates().fold(record, add).finish()
    }

    fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut record = Decoder::new("election", value);
        let (term, led) = (record.u64()?, record.u8()?);
        let mut waiting = Vec::new();
        while !record.is_empty() {
            let owner = Owner::decode(&mut record)?;
            waiting.push(Candidate { name: record.text()?.to_owned(), owner });
        }
        let leader = match led {
            0 => None,
            1 if !waiting.is_empty() => Some(waiting.remove(0)),
            _ => return Err(record.damaged()),
        };
        Ok(Self { term, leader, waiting })
    }
}

fn key() -> Bytes {
    Key::Single.encode()
}

fn decode(entry: Option<&Entry>) -> Result<State, Error> {
    entry.map_or_else(|| Ok(State::default()), |entry| State::decode(&entry.value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kit::codec;

    proptest! {
        #[test]
        fn an_election_is_read_as_it_was_written(
            term in any::<u64>(), leads in any::<bool>(), member in any::<u64>(), names in codec::tests::texts(),
        ) {
            let candidate = |(session, name)| Candidate { name, owner: Owner { member, session } };
            let mut waiting: Vec<_> = (0..).zip(names).map(candidate).collect();
            let leader = if leads { waiting.pop() } else { None };
            let state = State { term, leader, waiting };
            prop_assert_eq!(State::decode(&state.encode()), Ok(state));
        }

        #[test]
        fn any_bytes_are_an_election_or_damage(bytes in codec::tests::bytes()) {
            match State::decode(&bytes) {
                Ok(state) => prop_assert_eq!(state.encode(), bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("election")),
            }
        }
    }

    fn owner(session: u64) -> Owner {
        Owner { member: 1, session }
    }

    fn shown(state: &State) -> (u64, String, String) {
        let term = state.term();
        (term.term, term.leader, term.candidates.join(" "))
    }

    #[test]
    fn the_worked_example_of_the_contract_holds() {
        let mut state = State::default();
        let (a, b, c) = (owner(1), owner(2), owner(3));
        let mut step = |change: &dyn Fn(&mut State), term: u64, leader: &str, waiting: &str| {
            change(&mut state);
            assert_eq!(shown(&state), (term, leader.to_owned(), waiting.to_owned()));
            assert_eq!(State::decode(&state.encode()), Ok(state.clone()));
        };
        step(&|_| {}, 0, "", "");
        step(&|state| state.enter("A", a), 1, "A", "");
        step(&|state| state.enter("B", b), 1, "A", "B");
        step(&|state| state.enter("C", c), 1, "A", "B C");
        step(&|state| state.promote("C"), 1, "A", "C B");
        step(&|state| state.promote("C"), 2, "C", "A B");
        step(&|state| state.anoint("B"), 3, "B", "C A");
        step(&|state| state.withdraw("B", b), 4, "C", "A");
        step(&|state| state.evict("C"), 5, "A", "");
        step(&|state| state.enter("B", b), 5, "A", "B");
        step(&|state| state.anoint("B"), 6, "B", "A");
        step(&|state| state.release(|owner| owner == b), 7, "A", "");
        step(&|state| state.release(|owner| owner == a), 7, "", "");
    }

    #[test]
    fn nobody_waits_without_a_leader() {
        let mut state = State::default();
        for (at, name) in ["A", "B", "C", "D"].into_iter().enumerate() {
            state.enter(name, owner(at as u64));
        }
        state.demote("A");
        assert_eq!(shown(&state), (2, "B".into(), "A C D".into()));
        state.anoint("C");
        assert_eq!(shown(&state), (3, "C".into(), "B A D".into()));
        state.demote("D");
        state.anoint("C");
        state.promote("X");
        assert_eq!(shown(&state), (3, "C".into(), "B A D".into()));
        for session in 0..4 {
            state.release(|other| other == owner(session));
            assert!(state.leader.is_some() || state.waiting.is_empty());
        }
    }

    #[test]
    fn a_session_that_enters_a_name_again_never_waits_under_it_twice() {
        let mut state = State::default();
        for (name, session) in [("A", 1), ("B", 2), ("B", 2)] {
            state.enter(name, owner(session));
        }
        state.anoint("B");
        // Another session queues up under the name of the leader; when that is set back, both wait.
        state.enter("B", owner(3));
        state.anoint("A");
        assert_eq!(shown(&state), (3, "A".into(), "B B".into()));
        state.enter("B", owner(3));
        assert_eq!(
            state.waiting.iter().map(|waiting| waiting.owner).collect::<Vec<_>>(),
            [owner(2), owner(3)]
        );
        state.withdraw("B", owner(3));
        assert_eq!(shown(&state), (3, "A".into(), "B".into()));
    }

    #[test]
    fn another_session_under_a_name_takes_the_place_over_and_keeps_it() {
        let mut state = State::default();
        state.enter("A", owner(1));
        state.enter("A", owner(1));
        assert_eq!(shown(&state), (1, "A".into(), String::new()));
        state.enter("A", owner(2));
        state.enter("B", owner(3));
        state.enter("B", owner(4));
        assert_eq!(shown(&state), (1, "A".into(), "A B".into()));
        state.release(|other| other == owner(3));
        state.release(|other| other == owner(1));
        assert_eq!(shown(&state), (2, "A".into(), "B".into()));
        state.withdraw("B", owner(3));
        assert_eq!(shown(&state), (2, "A".into(), "B".into()));
    }
}
