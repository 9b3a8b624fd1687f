// SPDX-License-Identifier: Apache-2.0
//! Batches requests that arrive while others are in flight into one round trip.
//!
//! A request is sent immediately if few or none are in flight, so a few callers wait for nothing. Otherwise it
//! joins the open batch, which is sent when an answer comes back. A request that may not join the open batch
//! sends it first, beside the batches in flight. So independent requests share round trips, and conflicting ones
//! run side by side.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::{Env, Instant, Policy};
use futures::channel::oneshot;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use atomix_store::Error;

/// Sends batches of requests to a store.
pub trait BatchSender: Send + Sync + 'static {
    /// One request.
    type Request: Send + 'static;
    /// The answer to one request.
    type Answer: Send + 'static;

    /// The keys and sizes of the requests of a batch; the default is that of an empty batch.
    type Footprint: Default + Send;

    /// Adds `request` to the footprint of a batch if it may share a round trip with the requests in it. An
    /// empty batch accepts every request.
    fn join(&self, footprint: &mut Self::Footprint, request: &Self::Request) -> bool;

    /// Sends a batch and returns one answer for each request, in their order. Every request keeps its own
    /// outcome: an error caused by one of them is not the answer of another.
    fn send_batch(&self, batch: Vec<Self::Request>) -> BoxFuture<'_, Vec<Result<Self::Answer, Error>>>;
}

/// Batches requests. Cheap to clone.
pub struct Batcher<C: BatchSender> {
    shared: Arc<Shared<C>>,
}

struct Shared<C: BatchSender> {
    sender: C,
    env: Env,
    timeout: Duration,
    state: Mutex<State<C>>,
}

struct State<C: BatchSender> {
    /// The batch that is sent next.
    open: Batch<C>,
    /// Requests that may not join it while too many are in flight, in the order of arrival.
    deferred: VecDeque<(C::Request, Waiting<C>)>,
    in_flight: usize,
    /// Requests in the batches in flight.
    requests: usize,
}

/// Requests and their waiting callers, side by side.
struct Batch<C: BatchSender> {
    footprint: C::Footprint,
    requests: Vec<C::Request>,
    waiting: Vec<Waiting<C>>,
}

struct Waiting<C: BatchSender> {
    answer: oneshot::Sender<Result<C::Answer, Error>>,
    since: Instant,
}

/// Requests in flight beside which others are still sent immediately: batching would cost them a round trip
/// to save another one.
const UNBATCHED_MAX: usize = 2;
/// Maximum of batches in flight: enough to keep a store busy with conflicting requests.
const IN_FLIGHT_MAX: usize = 256;
/// Maximum of waiting requests. Further ones are refused with `Unavailable`: the store is slower than its
/// callers.
const WAITING_MAX: usize = 65_536;

// === impl Batcher ===

impl<C: BatchSender> Batcher<C> {
    /// Makes a batcher. A request that was not sent within `timeout` is given up.
    pub fn new(sender: C, env: Env, timeout: Duration) -> Self {
        let state = State { open: Batch::default(), deferred: VecDeque::new(), in_flight: 0, requests: 0 };
        Self { shared: Arc::new(Shared { sender, env, timeout, state: Mutex::new(state) }) }
    }

    /// Sends a request and returns its answer.
    ///
    /// # Behaviour
    /// - too many wait, or not sent in time: [`atomix_store::ErrorKind::Unavailable`], certainly not sent.
    /// - cancelled before it was sent: never sent. Cancelled later: the batch continues for the others.
    pub async fn run(&self, request: C::Request) -> Result<C::Answer, Error> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { answer, since: self.shared.env.now() };
        if let Some(batch) = self.shared.admit(request, waiting)? {
            let shared = Arc::clone(&self.shared);
            self.shared.env.detach(async move {
                let (mut first, in_flight) = (Some(batch), AtomicUsize::new(0));
                // After a panic the callers of the batch get no answer, and the batch counts as finished.
                let work = || shared.work(first.take(), &in_flight);
                let _ended = shared.env.supervised("batcher", Policy::Restart, work).await;
            });
        }
        match answered.await {
            Ok(answer) => answer,
            // The sending task is dropped only when its runtime ends, perhaps in the middle of a round trip.
            Err(_) => Err(Error::new(atomix_store::ErrorKind::OutcomeUnknown, "the process is ending")),
        }
    }
}

impl<C: BatchSender> Clone for Batcher<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C: BatchSender> fmt::Debug for Batcher<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("Batcher")
            .field("in_flight", &state.in_flight)
            .field("open", &state.open.requests.len())
            .field("deferred", &state.deferred.len())
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<C: BatchSender> Shared<C> {
    /// Accepts a request, and returns the batch that has to be sent now, if any.
    fn admit(&self, request: C::Request, waiting: Waiting<C>) -> Result<Option<Batch<C>>, Error> {
        let mut state = self.state.lock();
        if state.may_send_alone() && state.open.requests.is_empty() && state.deferred.is_empty() {
            state.open.push(request, waiting);
            return Ok(Some(state.send()));
        }
        if state.deferred.is_empty() && self.sender.join(&mut state.open.footprint, &request) {
            state.open.push(request, waiting);
            return Ok(None);
        }
        if state.in_flight < IN_FLIGHT_MAX {
            let batch = state.send();
            let joined = self.sender.join(&mut state.open.footprint, &request);
            debug_assert!(joined, "an empty batch takes everything");
            state.open.push(request, waiting);
            return Ok(Some(batch));
        }
        if state.deferred.len() >= WAITING_MAX {
            return Err(Error::unavailable(format!("too many requests wait: max=`{WAITING_MAX}`")));
        }
        state.deferred.push_back((request, waiting));
        Ok(None)
    }

    /// Sends a batch, and then the requests that arrived meanwhile. Without a batch, the one of `in_flight`
    /// requests was lost.
    async fn work(&self, mut batch: Option<Batch<C>>, in_flight: &AtomicUsize) {
        loop {
            if let Some(batch) = batch.take() {
                in_flight.store(batch.requests.len(), Ordering::Relaxed);
                self.send_batch(batch).await;
            }
            batch = self.next(in_flight.load(Ordering::Relaxed));
            if batch.is_none() {
                return;
            }
        }
    }

    /// Removes a finished batch of `back` requests, and returns the one to send next, if any.
    fn next(&self, back: usize) -> Option<Batch<C>> {
        let mut state = self.state.lock();
        state.in_flight -= 1;
        state.requests -= back;
        // Two alternating batches would each be half as large. Several are in flight only if they conflict.
        if state.in_flight == 1 && !state.may_send_alone() {
            return None;
        }
        let batch = state.send();
        let State { open, deferred, .. } = &mut *state;
        while let Some((request, _)) = deferred.front()
            && self.sender.join(&mut open.footprint, request)
            && let Some((request, waiting)) = deferred.pop_front()
        {
            open.push(request, waiting);
        }
        if batch.requests.is_empty() {
            state.in_flight -= 1;
            return None;
        }
        Some(batch)
    }

    async fn send_batch(&self, batch: Batch<C>) {
        let now = self.env.now();
        let mut sent: Batch<C> = Batch::default();
        for (request, waiting) in batch.requests.into_iter().zip(batch.waiting) {
            if waiting.answer.is_canceled() {
                continue;
            }
            if now.since(waiting.since) > self.timeout {
                let error = Error::unavailable(format!("not sent in time: timeout=`{:?}`", self.timeout));
                // A caller that is gone needs no answer, here and below.
                drop(waiting.answer.send(Err(error)));
                continue;
            }
            sent.push(request, waiting);
        }
        if sent.requests.is_empty() {
            return;
        }
        let answers = self.sender.send_batch(sent.requests).await;
        debug_assert_eq!(answers.len(), sent.waiting.len(), "one answer each");
        for (waiting, answer) in sent.waiting.into_iter().zip(answers) {
            drop(waiting.answer.send(answer));
        }
    }
}

// === impl State ===

impl<C: BatchSender> State<C> {
    /// Returns whether so few requests are in flight that a new one need not wait for a batch.
    fn may_send_alone(&self) -> bool {
        self.in_flight == 0 || self.requests < UNBATCHED_MAX
    }

    /// Takes the open batch.
    fn send(&mut self) -> Batch<C> {
        let batch = std::mem::take(&mut self.open);
        self.in_flight += 1;
        self.requests += batch.requests.len();
        batch
    }
}

// === impl Batch ===

impl<C: BatchSender> Batch<C> {
    fn push(&mut self, request: C::Request, waiting: Waiting<C>) {
        self.requests.push(request);
        self.waiting.push(waiting);
    }
}

impl<C: BatchSender> Default for Batch<C> {
    fn default() -> Self {
        Self { footprint: C::Footprint::default(), requests: Vec::new(), waiting: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
