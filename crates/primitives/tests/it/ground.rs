// SPDX-License-Identifier: Apache-2.0
//! The common base of all tests: a store, an environment, callers, and timeouts.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use atomix_driver_memory::{MemoryStore, Settings};
use atomix_env::{Env, ManualClock, Shutdown};
use atomix_primitives::{Backing, Caller, Error, Events, Kind, Limits, Membership, Owner, Reason};
use atomix_store::{
    Durability, ErrorKind, Health, Keyspace, Outcome, Profile, Read, Revision, Snapshot, Store, Txn,
    WatchFrom, WatchStream,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::stores::{immediate, store};

/// A store and the world around it. Every backing of one kind is the same primitive.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) env: Env,
    pub(crate) membership: Arc<Membership>,
    limits: Arc<Limits>,
}

/// A store whose commits can be made to go wrong.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn Store>,
    reads: AtomicUsize,
    refused: AtomicUsize,
    lost: AtomicUsize,
    held: AtomicBool,
    late: AtomicBool,
    answers: Arc<Notify>,
    /// How often other tasks run while a request, or an answer, is on its way.
    distance: AtomicUsize,
    profile: Profile,
}

/// A call that is dropped when it was woken for the last time that a test allows.
pub(crate) struct Cut<F> {
    call: Option<Pin<Box<F>>>,
    polls: usize,
}

/// A store that can lose all that it has, as a Redis without persistence that starts again. It counts from the beginning then.
#[derive(Debug)]
pub(crate) struct Amnesiac {
    profile: Profile,
    inner: Mutex<Arc<MemoryStore>>,
    losses: watch::Sender<()>,
}

/// How long a test waits for what must come.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// The member of all callers.
pub(crate) const MEMBER: u64 = 7;
/// How long a member may be silent.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How far wall clocks may differ.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10);

/// Returns a caller of a session of its own.
pub(crate) fn caller(session: u64) -> Caller {
    Caller { owner: Owner { member: MEMBER, session }, closed: Shutdown::new(), deadline: None }
}

/// Returns the reason of an error that must have come.
#[track_caller]
pub(crate) fn reason<T: fmt::Debug>(result: Result<T, Error>) -> Reason {
    result.expect_err("an error was expected").reason()
}

/// Takes the next `count` items of a stream, which must come soon.
pub(crate) async fn take<T>(events: &mut Events<T>, count: usize) -> Vec<T> {
    let mut items = Vec::with_capacity(count);
    while items.len() < count {
        let item = soon(events.next()).await;
        items.push(item.expect("the stream goes on").expect("the stream has no error"));
    }
    items
}

/// Takes the next item of a stream, which must come soon.
pub(crate) async fn next<T>(events: &mut Events<T>) -> T {
    take(events, 1).await.remove(0)
}

/// Takes all items up to the end of the stream, which must come soon.
pub(crate) async fn all<T>(mut events: Events<T>) -> Vec<T> {
    let mut items = Vec::new();
    while let Some(item) = soon(events.next()).await {
        items.push(item.expect("the stream has no error"));
    }
    items
}

/// Asserts that a stream is open and has nothing more.
pub(crate) async fn silent<T: fmt::Debug>(events: &mut Events<T>) {
    settle().await;
    let more = tokio::time::timeout(Duration::from_millis(5), events.next()).await;
    if let Ok(more) = more {
        panic!("nothing was expected, but there is {more:?}");
    }
}

/// Waits for what must come.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(WAIT_TIMEOUT, future).await.expect("it must not take that long")
}

/// Asks again and again until the answer is yes.
pub(crate) async fn eventually(mut question: impl AsyncFnMut() -> bool) {
    soon(async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Lets all tasks run until they wait, for something else than the store.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    if !immediate() {
        // Some round trips, by a guess that is generous for what is on the same machine.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

// === impl Ground ===

impl Ground {
    /// Stands on an empty store in real time.
    pub(crate) fn real() -> Self {
        Self::on(store(), Env::real())
    }

    /// Stands on an empty store in a time that the test moves.
    pub(crate) fn manual() -> (Self, Arc<ManualClock>) {
        let clock = ManualClock::new();
        (Self::on(store(), Env::simulated(Arc::clone(&clock), 1)), clock)
    }

    pub(crate) fn on(store: Arc<dyn Store>, env: Env) -> Self {
        let membership = Membership::new(&store, env.clone(), MEMBER, SESSION_TIMEOUT, CLOCK_SKEW_MAX);
        Self { store, env, membership, limits: Arc::default() }
    }

    /// Changes the limits of arguments.
    pub(crate) fn limited(self, limits: Limits) -> Self {
        Self { limits: Arc::new(limits), ..self }
    }

    /// Returns the backing of the one primitive of `kind`.
    pub(crate) fn backing(&self, kind: Kind) -> Backing {
        let (store, membership) = (Arc::clone(&self.store), Arc::clone(&self.membership));
        Backing::new(store, membership, kind, "it", self.env.clone(), Arc::clone(&self.limits))
    }
}

// === impl Faulty ===

impl Faulty {
    /// Makes everything work, until something else is asked for.
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        let (reads, refused, lost) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let (held, late, answers) = (AtomicBool::new(false), AtomicBool::new(false), Arc::default());
        let (distance, profile) = (AtomicUsize::new(0), inner.profile().clone());
        Arc::new(Self { inner, reads, refused, lost, held, late, answers, distance, profile })
    }

    /// Answers at most so many questions at once.
    pub(crate) fn narrow(inner: Arc<dyn Store>, reads_max: usize) -> Arc<Self> {
        let mut store = Arc::into_inner(Self::new(inner)).expect("it is new");
        store.profile.limits.reads_max = reads_max;
        Arc::new(store)
    }

    /// Takes its time for every request and every answer, so that calls wait at each of their steps.
    pub(crate) fn distant(inner: Arc<dyn Store>) -> Arc<Self> {
        let store = Self::new(inner);
        store.distance.store(3, Ordering::SeqCst);
        store
    }

    async fn travel(&self) {
        for _ in 0..self.distance.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    /// Returns how often it was read.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Refuses the next `count` commits as if the store could not be reached.
    pub(crate) fn refuse(&self, count: usize) {
        self.refused.store(count, Ordering::SeqCst);
    }

    /// Applies the next `count` commits, as soon as they arrive, and loses the answers.
    pub(crate) fn lose(&self, count: usize) {
        self.lost.store(count, Ordering::SeqCst);
    }

    /// Applies the commits from now on, but holds back their answers.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Keeps the commits from now on on their way to the store. They arrive there even if no call waits for the answer.
    pub(crate) fn delay(&self) {
        self.late.store(true, Ordering::SeqCst);
    }

    /// Answers the commits from now on.
    pub(crate) fn pass(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.late.store(false, Ordering::SeqCst);
    }

    /// Gives the answers that were held back, and lets arrive what was delayed.
    pub(crate) fn answer(&self) {
        self.pass();
        self.answers.notify_waiters();
    }
}

impl Store for Faulty {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, atomix_store::Error>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            self.profile.limits.check_reads(&reads)?;
            self.travel().await;
            let snapshot = self.inner.read(keyspace, reads).await;
            self.travel().await;
            snapshot
        })
    }

    fn commit<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        txn: Txn,
    ) -> BoxFuture<'a, Result<Outcome, atomix_store::Error>> {
        let due = |count: &AtomicUsize| {
            count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
        };
        Box::pin(async move {
            if due(&self.refused) {
                return Err(atomix_store::Error::new(ErrorKind::Unavailable, "refused by the test"));
            }
            if self.late.load(Ordering::SeqCst) {
                let (inner, answers) = (Arc::clone(&self.inner), Arc::clone(&self.answers));
                let keyspace = keyspace.clone();
                let arrival = tokio::spawn(async move {
                    answers.notified().await;
                    inner.commit(&keyspace, txn).await
                });
                if due(&self.lost) {
                    return Err(atomix_store::Error::new(ErrorKind::OutcomeUnknown, "lost by the test"));
                }
                return arrival.await.unwrap();
            }
            self.travel().await;
            let outcome = self.inner.commit(keyspace, txn).await;
            self.travel().await;
            if due(&self.lost) {
                return Err(atomix_store::Error::new(ErrorKind::OutcomeUnknown, "lost by the test"));
            }
            if self.held.load(Ordering::SeqCst) {
                self.answers.notified().await;
            }
            outcome
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, atomix_store::Error>> {
        self.inner.watch(keyspace, from)
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, atomix_store::Error>> {
        self.inner.check()
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.inner.close(grace)
    }
}

// === impl Cut ===

impl<F> Cut<F> {
    /// Lets `call` run for `polls` polls.
    pub(crate) fn after(polls: usize, call: F) -> Self {
        Self { call: Some(Box::pin(call)), polls }
    }
}

impl<F: Future> Future for Cut<F> {
    /// Nothing if the call was dropped.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(polls) = self.polls.checked_sub(1) else {
            self.call = None;
            return Poll::Ready(None);
        };
        self.polls = polls;
        self.call.as_mut().expect("it is not polled after its end").as_mut().poll(context).map(Some)
    }
}

// === impl Amnesiac ===

impl Amnesiac {
    pub(crate) fn new() -> Arc<Self> {
        let inner = Arc::new(MemoryStore::new(Settings::default()));
        let profile = Profile { shared: true, durability: Durability::Quorum, ..inner.profile().clone() };
        Arc::new(Self { profile, inner: Mutex::new(inner), losses: watch::Sender::new(()) })
    }

    /// Loses everything. Watches end because what they have seen is gone.
    pub(crate) fn forget(&self) {
        *self.inner.lock() = Arc::new(MemoryStore::new(Settings::default()));
        self.losses.send_replace(());
    }

    fn inner(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.inner.lock())
    }
}

impl Store for Amnesiac {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, atomix_store::Error>> {
        Box::pin(async move { self.inner().read(keyspace, reads).await })
    }

    fn commit<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        txn: Txn,
    ) -> BoxFuture<'a, Result<Outcome, atomix_store::Error>> {
        Box::pin(async move { self.inner().commit(keyspace, txn).await })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, atomix_store::Error>> {
        Box::pin(async move {
            let mut losses = self.losses.subscribe();
            let lost = async move {
                losses.changed().await.ok();
                Err(atomix_store::Error::compacted(Revision(0)))
            };
            let stream = self.inner().watch(keyspace, from).await?;
            let ended: WatchStream = Box::pin(futures::stream::once(lost));
            Ok(Box::pin(futures::stream::select(stream, ended)) as WatchStream)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, atomix_store::Error>> {
        Box::pin(async move { self.inner().check().await })
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.inner().close(grace).await })
    }
}
