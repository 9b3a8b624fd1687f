// SPDX-License-Identifier: Apache-2.0
//! Packs requests that arrive while others are under way into one round trip.
//!
//! A request that finds nothing or little under way goes at once, so a few callers wait for nothing. One that finds more
//! joins the open pack, which goes when something comes back; or, when a request cannot join it, at once, beside what is
//! under way. So independent requests share round trips, and those that may not share one go side by side.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::{Env, Instant, Policy};
use futures::channel::oneshot;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::Error;

/// Brings packs of requests to a store.
pub trait Carrier: Send + Sync + 'static {
    /// One request.
    type Request: Send + 'static;
    /// What it is answered with.
    type Answer: Send + 'static;

    /// What is known of the requests of a pack; the default is that of none.
    type Load: Default + Send;

    /// Adds `request` to the load of a pack if it may share a round trip with those that are in it. Into an empty pack
    /// every request may come.
    fn join(&self, load: &mut Self::Load, request: &Self::Request) -> bool;

    /// Carries a pack and returns one answer for each request, in their order. Every request keeps its own outcome: an
    /// error that only one of them deserves is not the answer of another.
    fn carry(&self, pack: Vec<Self::Request>) -> BoxFuture<'_, Vec<Result<Self::Answer, Error>>>;
}

/// Packs requests. Cheap to clone.
pub struct Batcher<C: Carrier> {
    shared: Arc<Shared<C>>,
}

struct Shared<C: Carrier> {
    carrier: C,
    env: Env,
    patience: Duration,
    state: Mutex<State<C>>,
}

struct State<C: Carrier> {
    /// The pack that goes next.
    open: Pack<C>,
    /// Those that may not join it while too much is under way, in the order of arrival.
    behind: VecDeque<(C::Request, Waiting<C>)>,
    under_way: usize,
    /// Requests in the packs under way.
    requests: usize,
}

/// Requests and who waits for their answers, side by side.
struct Pack<C: Carrier> {
    load: C::Load,
    requests: Vec<C::Request>,
    waiting: Vec<Waiting<C>>,
}

struct Waiting<C: Carrier> {
    answer: oneshot::Sender<Result<C::Answer, Error>>,
    since: Instant,
}

/// Requests under way beside which others still go at once: they would wait for a round trip to spare another one.
const FEW: usize = 2;
/// Packs under way at once: enough to keep a store busy with requests that may not share one.
const UNDER_WAY_MAX: usize = 256;
/// Requests that wait. Beyond, callers are told to come again: the store is slower than they are.
const WAITING_MAX: usize = 65_536;

// === impl Batcher ===

impl<C: Carrier> Batcher<C> {
    /// Makes a batcher. A request that was not sent within `patience` is given up.
    pub fn new(carrier: C, env: Env, patience: Duration) -> Self {
        let state = State { open: Pack::default(), behind: VecDeque::new(), under_way: 0, requests: 0 };
        Self { shared: Arc::new(Shared { carrier, env, patience, state: Mutex::new(state) }) }
    }

    /// Sends a request and returns its answer.
    ///
    /// # Behaviour
    /// - too many wait, or not sent in time: [`crate::ErrorKind::Unavailable`], certainly not sent.
    /// - cancelled before it was sent: never sent. Cancelled later: the pack goes on for the others.
    pub async fn run(&self, request: C::Request) -> Result<C::Answer, Error> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { answer, since: self.shared.env.now() };
        if let Some(pack) = self.shared.admit(request, waiting)? {
            let shared = Arc::clone(&self.shared);
            self.shared.env.detach(async move {
                let (mut first, under_way) = (Some(pack), AtomicUsize::new(0));
                // After a panic its callers learn nothing, and the pack is back like any other.
                let work = || shared.work(first.take(), &under_way);
                let _ended = shared.env.supervised("batcher", Policy::Restart, work).await;
            });
        }
        match answered.await {
            Ok(answer) => answer,
            // The task that carries packs is dropped only when its runtime ends, perhaps in the middle of a round trip.
            Err(_) => Err(Error::new(crate::ErrorKind::OutcomeUnknown, "the process is ending")),
        }
    }
}

impl<C: Carrier> Clone for Batcher<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C: Carrier> fmt::Debug for Batcher<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("Batcher")
            .field("under_way", &state.under_way)
            .field("open", &state.open.requests.len())
            .field("behind", &state.behind.len())
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<C: Carrier> Shared<C> {
    /// Takes a request in, and returns the pack that has to go now, if one has to.
    fn admit(&self, request: C::Request, waiting: Waiting<C>) -> Result<Option<Pack<C>>, Error> {
        let mut state = self.state.lock();
        if state.may_go() && state.open.requests.is_empty() && state.behind.is_empty() {
            state.open.push(request, waiting);
            return Ok(Some(state.send()));
        }
        if state.behind.is_empty() && self.carrier.join(&mut state.open.load, &request) {
            state.open.push(request, waiting);
            return Ok(None);
        }
        if state.under_way < UNDER_WAY_MAX {
            let pack = state.send();
            let joined = self.carrier.join(&mut state.open.load, &request);
            debug_assert!(joined, "an empty pack takes everything");
            state.open.push(request, waiting);
            return Ok(Some(pack));
        }
        if state.behind.len() >= WAITING_MAX {
            return Err(Error::unavailable(format!("too many requests wait: max=`{WAITING_MAX}`")));
        }
        state.behind.push_back((request, waiting));
        Ok(None)
    }

    /// Carries a pack, and then whatever was left waiting meanwhile. Without a pack the one of so many requests that is
    /// `under_way` was lost.
    async fn work(&self, mut pack: Option<Pack<C>>, under_way: &AtomicUsize) {
        loop {
            if let Some(pack) = pack.take() {
                under_way.store(pack.requests.len(), Ordering::Relaxed);
                self.carry(pack).await;
            }
            pack = self.next(under_way.load(Ordering::Relaxed));
            if pack.is_none() {
                return;
            }
        }
    }

    /// Says that a pack of so many requests is back, and returns the one that goes next, if one has to.
    fn next(&self, back: usize) -> Option<Pack<C>> {
        let mut state = self.state.lock();
        state.under_way -= 1;
        state.requests -= back;
        // Two packs in turns would each be half as large. Several are under way only if they may not share one.
        if state.under_way == 1 && !state.may_go() {
            return None;
        }
        let pack = state.send();
        let State { open, behind, .. } = &mut *state;
        while let Some((request, _)) = behind.front()
            && self.carrier.join(&mut open.load, request)
            && let Some((request, waiting)) = behind.pop_front()
        {
            open.push(request, waiting);
        }
        if pack.requests.is_empty() {
            state.under_way -= 1;
            return None;
        }
        Some(pack)
    }

    async fn carry(&self, pack: Pack<C>) {
        let now = self.env.now();
        let mut going: Pack<C> = Pack::default();
        for (request, waiting) in pack.requests.into_iter().zip(pack.waiting) {
            if waiting.answer.is_canceled() {
                continue;
            }
            if now.since(waiting.since) > self.patience {
                let error = Error::unavailable(format!("not sent in time: patience=`{:?}`", self.patience));
                // A caller that is gone needs no answer, here and below.
                drop(waiting.answer.send(Err(error)));
                continue;
            }
            going.push(request, waiting);
        }
        if going.requests.is_empty() {
            return;
        }
        let answers = self.carrier.carry(going.requests).await;
        debug_assert_eq!(answers.len(), going.waiting.len(), "one answer each");
        for (waiting, answer) in going.waiting.into_iter().zip(answers) {
            drop(waiting.answer.send(answer));
        }
    }
}

// === impl State ===

impl<C: Carrier> State<C> {
    /// Tells whether so little is under way that a request need not wait for company.
    fn may_go(&self) -> bool {
        self.under_way == 0 || self.requests < FEW
    }

    /// Takes the open pack.
    fn send(&mut self) -> Pack<C> {
        let pack = std::mem::take(&mut self.open);
        self.under_way += 1;
        self.requests += pack.requests.len();
        pack
    }
}

// === impl Pack ===

impl<C: Carrier> Pack<C> {
    fn push(&mut self, request: C::Request, waiting: Waiting<C>) {
        self.requests.push(request);
        self.waiting.push(waiting);
    }
}

impl<C: Carrier> Default for Pack<C> {
    fn default() -> Self {
        Self { load: C::Load::default(), requests: Vec::new(), waiting: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
