// SPDX-License-Identifier: Apache-2.0
//! The place of a store: a [`Store`] that is there before the backend can be reached, and stays while the connection
//! behind it is exchanged.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use atomix_config::{DriverId, JsonObject, StoreId};
use atomix_env::{Backoff, Env, Instant, Policy, Shutdown, WallTime};
use atomix_primitives::Membership;
use atomix_store::{
    BackupStream, Consistency, Context, Driver, Durability, Error, ErrorKind, Health, Keyspace, Limits,
    Outcome, Profile, Range, Read, Reconfigured, Revision, Snapshot, Store, Txn, WatchFrom, WatchItem,
    WatchStream,
};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::sync::SetOnce;

use crate::error::shutting_down;

/// A connected store, or one that is trying to be.
pub struct Slot {
    this: Weak<Slot>,
    id: StoreId,
    driver: Arc<dyn Driver>,
    env: Env,
    terms: Terms,
    current: ArcSwapOption<Connected>,
    /// The profile of the store; known from the first connection on.
    profile: OnceLock<Profile>,
    /// The members of the store; known from the first connection on.
    membership: SetOnce<Arc<Membership>>,
    status: Mutex<Status>,
    /// Of the last check that succeeded.
    facts: Mutex<Vec<(&'static str, String)>>,
    /// Held while the configuration is exchanged, so that two exchanges do not cross.
    exchange: tokio::sync::Mutex<JsonObject>,
    generation: AtomicU64,
    /// Fires when the first attempt to connect has ended.
    tried: Shutdown,
    misconfigured: AtomicBool,
    closed: Shutdown,
}

/// The state of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreState {
    /// Never reached; the runtime keeps trying.
    Connecting,
    /// Works.
    Ready,
    /// Was reached, but the last check failed.
    Degraded,
    /// Disconnected.
    Closed,
}

struct Connected {
    store: Arc<dyn Store>,
}

/// A connected store that is not in force yet.
struct Candidate {
    store: Arc<dyn Store>,
    /// Why it takes no writes at the moment.
    full: Option<Error>,
}

/// The settings and the count that the stores of a runtime share.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) grace: Duration,
    pub(crate) session_timeout: Duration,
    pub(crate) clock_skew_max: Duration,
    /// Stores that were never reached.
    pub(crate) connecting: Arc<AtomicUsize>,
}

/// One of the stores that were never reached, for as long as it lives.
struct Connecting(Arc<AtomicUsize>);

/// A watch that goes on when the connection behind the slot is exchanged.
struct Follow {
    slot: Arc<Slot>,
    keyspace: Keyspace,
    /// None for the whole keyspace.
    range: Option<Range>,
    seen: Option<Revision>,
    watch: WatchStream,
}

#[derive(Clone)]
struct Status {
    state: StoreState,
    error: String,
    /// Monotonic: the wall clock may jump.
    since: Instant,
}

/// Pauses between attempts to connect.
const CONNECT_RETRY_MIN: Duration = Duration::from_millis(50);
const CONNECT_RETRY_MAX: Duration = Duration::from_millis(500);
/// All stores that are tried make one attempt in this time, so that many dead ones do not keep the process busy.
const CONNECT_PACE: Duration = Duration::from_millis(25);
/// The interval of checks of a connected store.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The placeholder profile until the first connection.
static UNKNOWN: Profile = Profile {
    consistency: Consistency::Linearizable,
    durability: Durability::Process,
    shared: false,
    limits: Limits {
        key_bytes_max: 0,
        value_bytes_max: 0,
        guards_max: 0,
        writes_max: 0,
        reads_max: 0,
        scan_bytes_max: 0,
        once_max: 0,
    },
};

// === impl Connecting ===

impl Connecting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }

    /// Returns the pause that keeps all of them together at their pace.
    fn pause(&self) -> Duration {
        let count = u32::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        CONNECT_PACE.saturating_mul(count)
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Slot ===

impl Slot {
    /// Makes the slot and begins to connect. A store that answers at once is connected when this returns.
    pub(crate) async fn open(
        id: StoreId,
        driver: Arc<dyn Driver>,
        config: JsonObject,
        env: Env,
        terms: Terms,
        closed: Shutdown,
    ) -> Arc<Self> {
        let since = env.now();
        let slot = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            id,
            driver,
            env,
            terms,
            current: ArcSwapOption::empty(),
            profile: OnceLock::new(),
            membership: SetOnce::new(),
            status: Mutex::new(Status { state: StoreState::Connecting, error: String::new(), since }),
            facts: Mutex::default(),
            exchange: tokio::sync::Mutex::new(config),
            generation: AtomicU64::new(1),
            tried: Shutdown::new(),
            misconfigured: AtomicBool::new(false),
            closed,
        });
        let mut keep: BoxFuture<'static, ()> = Box::pin(Arc::clone(&slot).keep());
        // In-process stores are ready after the first poll, so that a primitive can be created right away.
        if futures::poll!(keep.as_mut()).is_pending() {
            let (mut first, again) = (Some(keep), Arc::clone(&slot));
            let keep = move || first.take().unwrap_or_else(|| Box::pin(Arc::clone(&again).keep()));
            slot.env.supervise("store", Policy::Restart, keep);
        }
        slot
    }

    /// Returns the id.
    pub fn id(&self) -> &StoreId {
        &self.id
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// Returns the driver's name and version.
    pub fn driver_id(&self) -> DriverId {
        DriverId { name: self.driver.name().to_owned(), version: self.driver.version().to_owned() }
    }

    /// Returns how the store is, why, and since when.
    pub fn status(&self) -> (StoreState, String, WallTime) {
        let status = self.status.lock().clone();
        (status.state, status.error, self.env.wall_of(status.since))
    }

    /// Returns whether the last attempt to connect found a mistake on this machine that no later attempt can find gone.
    pub fn is_misconfigured(&self) -> bool {
        self.misconfigured.load(Ordering::Acquire)
    }

    /// Returns what the store said about itself when it was last checked and worked.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        self.facts.lock().clone()
    }

    /// Returns how many configurations have been in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Returns the profile of the store, if it was ever reached.
    pub fn known_profile(&self) -> Option<&Profile> {
        self.profile.get()
    }

    /// Returns the membership of the store, or an error if the store was never reached.
    pub(crate) fn membership(&self) -> Result<&Arc<Membership>, Error> {
        match self.membership.get() {
            Some(membership) => Ok(membership),
            None => Err(self
                .connected()
                .err()
                .unwrap_or_else(|| Error::unavailable("store is not connected yet"))),
        }
    }

    /// Waits for the first connection and returns the membership of the store; nothing if it is disconnected before that.
    pub(crate) async fn membership_known(&self) -> Option<&Arc<Membership>> {
        tokio::select! {
            () = self.closed.cancelled() => None,
            membership = self.membership.wait() => Some(membership),
        }
    }

    /// Returns the signal that the store was disconnected.
    pub(crate) fn closed(&self) -> &Shutdown {
        &self.closed
    }

    /// Waits until the first attempt to connect has ended, well or not. Cancel safe.
    pub(crate) async fn tried(&self) {
        tokio::select! {
            () = self.tried.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Waits for the end of the first attempt to connect, if it is under way, unless the runtime is `draining`. Cancel safe.
    pub(crate) async fn first_attempt(&self, draining: &Shutdown) -> Result<(), atomix_primitives::Error> {
        tokio::select! {
            biased;
            () = self.tried() => Ok(()),
            () = draining.cancelled() => Err(shutting_down()),
        }
    }

    /// Returns whether the store was disconnected.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Connects, then checks the store from time to time, until it is disconnected.
    async fn keep(self: Arc<Self>) {
        let closed = self.closed.clone();
        tokio::select! {
            biased;
            () = closed.cancelled() => {}
            () = self.connect() => {}
        }
        loop {
            tokio::select! {
                () = closed.cancelled() => return,
                () = self.env.sleep(self.env.jitter(CHECK_INTERVAL)) => {}
            }
            let Some(connected) = self.current.load_full() else { continue };
            match self.env.timeout(CHECK_INTERVAL, connected.store.check()).await {
                Ok(Ok(health)) => {
                    *self.facts.lock() = health.facts;
                    self.set_state(StoreState::Ready, "");
                }
                Ok(Err(error)) => self.set_state(StoreState::Degraded, &error.to_string()),
                Err(_) => self.set_state(StoreState::Degraded, "the store does not answer"),
            }
        }
    }

    async fn connect(&self) {
        let connecting = Connecting::new(&self.terms.connecting);
        let mut backoff = Backoff::new(CONNECT_RETRY_MIN, CONNECT_RETRY_MAX);
        loop {
            {
                // Held during the attempt: `configure` waits or comes before, and is never overtaken.
                let config = self.exchange.lock().await;
                if self.current.load().is_some() {
                    return;
                }
                let candidate = self.candidate(&config).await;
                let wrong = matches!(&candidate, Err(error) if error.kind() == ErrorKind::Config);
                self.misconfigured.store(wrong && self.driver.is_local(), Ordering::Release);
                match candidate {
                    Ok(candidate) => self.install(candidate),
                    Err(error) => self.set_state(StoreState::Connecting, &error.to_string()),
                }
                self.tried.cancel();
                if self.current.load().is_some() {
                    return;
                }
            }
            self.env.sleep(backoff.next_at_least(connecting.pause(), &self.env)).await;
        }
    }

    /// Connects and checks a store of this configuration.
    async fn candidate(&self, config: &JsonObject) -> Result<Candidate, Error> {
        let context = Context { env: self.env.clone(), store: self.id.to_string() };
        let attempt = async {
            let store = self.driver.connect(self.completed(config), context).await?;
            match store.check().await {
                // It can be read, and emptied.
                Err(error) if error.kind() != ErrorKind::Full => {
                    store.close(Duration::ZERO).await;
                    Err(error)
                }
                Ok(health) => {
                    *self.facts.lock() = health.facts;
                    Ok(Candidate { store, full: None })
                }
                Err(full) => Ok(Candidate { store, full: Some(full) }),
            }
        };
        match self.env.timeout(self.driver.connect_timeout(), attempt).await {
            Ok(candidate) => candidate,
            Err(_) => Err(Error::unavailable("the store does not answer")),
        }
    }

    /// Returns the configuration with the defaults that follow the machine.
    fn completed(&self, config: &JsonObject) -> JsonObject {
        let mut config = config.clone();
        self.driver.complete(&mut config, self.env.machine());
        config
    }

    fn install(&self, Candidate { store, full }: Candidate) {
        self.profile.get_or_init(|| store.profile().clone());
        let old = self.current.swap(Some(Arc::new(Connected { store })));
        self.start_membership();
        match full {
            None => self.set_state(StoreState::Ready, ""),
            Some(full) => self.set_state(StoreState::Degraded, &full.to_string()),
        }
        tracing::info!(store = %self.id, driver = %self.driver_id(), "store is connected");
        if let Some(old) = old {
            let grace = self.terms.grace;
            self.env.spawn(async move { old.store.close(grace).await });
        }
    }

    /// Starts the membership of this runtime in the store, after the first connection.
    fn start_membership(&self) {
        let Some(this) = self.this.upgrade().filter(|_| self.membership.get().is_none()) else { return };
        let store: Arc<dyn Store> = this;
        let (timeout, skew_max) = (self.terms.session_timeout, self.terms.clock_skew_max);
        let membership = Membership::new(&store, self.env.clone(), self.env.random(), timeout, skew_max);
        if self.membership.set(Arc::clone(&membership)).is_ok() && membership.shared() {
            let closed = self.closed.clone();
            self.env.supervise("heartbeat", Policy::Restart, move || {
                let (closed, membership) = (closed.clone(), Arc::clone(&membership));
                async move {
                    tokio::select! {
                        () = closed.cancelled() => {}
                        () = membership.run_heartbeats() => {}
                    }
                }
            });
        }
    }

    /// Exchanges the configuration, all of it or nothing.
    pub(crate) async fn configure(&self, config: JsonObject) -> Result<(), Error> {
        self.driver.validate(&config)?;
        let mut exchange = self.exchange.lock().await;
        if self.is_closed() {
            return Err(Error::closed());
        }
        if let Some(connected) = self.current.load_full() {
            match connected.store.reconfigure(&self.completed(&config)).await? {
                Reconfigured::InPlace => {}
                Reconfigured::Connect => self.install(self.candidate(&config).await?),
            }
        }
        // A store that was never reached is tried with the new configuration from now on.
        *exchange = config;
        self.generation.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Connects anew if the configuration names files. False if it names none, or nothing is connected yet.
    pub(crate) async fn reconnect(&self) -> Result<bool, Error> {
        let config = self.exchange.lock().await;
        if self.driver.files(&config).is_empty() || self.current.load().is_none() {
            return Ok(false);
        }
        let candidate = self.candidate(&config).await?;
        if self.is_closed() {
            candidate.store.close(Duration::ZERO).await;
            return Err(Error::closed());
        }
        self.install(candidate);
        Ok(true)
    }

    pub(crate) async fn close(&self) {
        self.closed.cancel();
        self.set_state(StoreState::Closed, "");
        if let Some(membership) = self.membership.get() {
            // If the store is unreachable, the other members expire the record, which is not renewed any more.
            self.env.timeout(self.terms.grace, membership.leave()).await.ok();
        }
        if let Some(connected) = self.current.swap(None) {
            connected.store.close(self.terms.grace).await;
        }
    }

    fn set_state(&self, state: StoreState, error: &str) {
        let mut status = self.status.lock();
        if status.state == StoreState::Closed || (status.state == state && status.error == error) {
            return;
        }
        if !error.is_empty() {
            tracing::warn!(store = %self.id, ?state, error, "store is not ready");
        }
        let since = if status.state == state { status.since } else { self.env.now() };
        *status = Status { state, error: error.to_owned(), since };
    }

    async fn follow(
        &self,
        keyspace: &Keyspace,
        range: Option<Range>,
        from: WatchFrom,
    ) -> Result<WatchStream, Error> {
        let connected = self.connected()?;
        let watch = watch(connected.store.as_ref(), keyspace, range.clone(), from).await?;
        let Some(slot) = self.this.upgrade() else { return Err(Error::closed()) };
        let seen = match from {
            WatchFrom::Now => None,
            WatchFrom::After(revision) => Some(revision),
        };
        let follow = Follow { slot, keyspace: keyspace.clone(), range, seen, watch };
        let items = stream::unfold(Some(follow), |follow| async move {
            let mut follow = follow?;
            let item = follow.next().await;
            let follow = item.is_ok().then_some(follow);
            Some((item, follow))
        });
        Ok(items.boxed())
    }

    fn connected(&self) -> Result<Arc<Connected>, Error> {
        if let Some(connected) = self.current.load_full() {
            return Ok(connected);
        }
        if self.is_closed() {
            return Err(Error::closed());
        }
        let error = self.status.lock().error.clone();
        Err(Error::unavailable(format!(
            "store is not connected yet: store=`{}` last-error=`{error}`",
            self.id
        )))
    }
}

impl Store for Slot {
    fn profile(&self) -> &Profile {
        self.profile.get().unwrap_or(&UNKNOWN)
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move { self.connected()?.store.read(keyspace, reads).await })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move { self.connected()?.store.commit(keyspace, txn).await })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(self.follow(keyspace, None, from))
    }

    fn watch_range<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        range: Range,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(self.follow(keyspace, Some(range), from))
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.connected()?.store.reclaim(keyspace).await })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        Box::pin(async move { self.connected()?.store.check().await })
    }

    fn backup(&self) -> BoxFuture<'_, Result<BackupStream, Error>> {
        Box::pin(async move { self.connected()?.store.backup().await })
    }

    fn seal_if_empty<'a>(
        &'a self,
        counts: &'a (dyn Fn(&Keyspace) -> bool + Send + Sync),
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move { self.connected()?.store.seal_if_empty(counts).await })
    }

    fn close(&self, _grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(Slot::close(self))
    }
}

// === impl Follow ===

impl Follow {
    async fn next(&mut self) -> Result<WatchItem, Error> {
        loop {
            match self.watch.next().await {
                Some(Ok(item)) => {
                    self.seen = Some(match &item {
                        WatchItem::Commit(commit) => commit.revision,
                        WatchItem::Progress(revision) => *revision,
                    });
                    return Ok(item);
                }
                Some(Err(error)) if error.kind() != ErrorKind::Closed => return Err(error),
                // The connection was exchanged, or the store disconnected.
                Some(Err(_)) | None => self.resume().await?,
            }
        }
    }

    async fn resume(&mut self) -> Result<(), Error> {
        loop {
            let from = self.seen.map_or(WatchFrom::Now, WatchFrom::After);
            let connected = self.slot.connected()?;
            match watch(connected.store.as_ref(), &self.keyspace, self.range.clone(), from).await {
                Ok(watch) => {
                    self.watch = watch;
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Closed) => {
                    self.slot.env.sleep(CONNECT_RETRY_MIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn watch(
    store: &dyn Store,
    keyspace: &Keyspace,
    range: Option<Range>,
    from: WatchFrom,
) -> Result<WatchStream, Error> {
    match range {
        Some(range) => store.watch_range(keyspace, range, from).await,
        None => store.watch(keyspace, from).await,
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("id", &self.id)
            .field("state", &self.status.lock().state)
            .finish_non_exhaustive()
    }
}
