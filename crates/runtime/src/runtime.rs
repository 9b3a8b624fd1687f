// SPDX-License-Identifier: Apache-2.0
//! The runtime: puts the tables of stores, routes, sessions and primitives together.

pub(crate) mod operate;

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_config::{Config, DriverId, Identity, JsonObject, StoreId};
use atomix_env::{Env, Policy, Shutdown};
use atomix_primitives::{Backing, Error, Kind, Limits, Owner, PrimitiveConfig, Reason};
use atomix_store::{BackupStream, Driver, Durability, Store as _, printable};
use futures::{StreamExt, stream};
use tokio::sync::oneshot;

use crate::ending::Ending;
use crate::error::{not_connected, repeatable};
use crate::failures;
use crate::idle::IdleCloser;
use crate::primitive::{Origin, PrimitiveHandle, State};
use crate::primitive_config::parse_primitive_config;
use crate::primitive_table::PrimitiveTable;
use crate::recovery::Recovery;
use crate::registry::{DriverDetails, StoreDetails, StoreRegistry};
use crate::router::Router;
use crate::routes::{Explanation, Placement, Routes};
use crate::session::{OwnerDetails, Session};
use crate::session_table::SessionTable;
use crate::slot::{Slot, Terms};

/// The settings of a runtime.
#[derive(Debug)]
pub struct Settings {
    /// The outside world.
    pub env: Env,
    /// The drivers that stores can be connected with.
    pub drivers: Vec<Arc<dyn Driver>>,
    /// The owner of locks and candidacies.
    pub identity: Identity,
    /// The limits of arguments.
    pub limits: Limits,
    /// Bytes of a primitive's name.
    pub name_bytes_max: usize,
    /// Primitives that may have sessions at once.
    pub primitives_max: usize,
    /// Stores that may be connected at once.
    pub stores_max: usize,
    /// Routes in one program, and rules or services in all of them together.
    pub routes_max: usize,
    /// The time in which a replaced or disconnected store ends its calls.
    pub close_grace: Duration,
    /// The time that this runtime may be silent before the other members of a shared store expire it.
    pub session_timeout: Duration,
    /// The allowed difference of the wall clocks of the runtimes on a shared store.
    pub clock_skew_max: Duration,
}

/// One runtime instance. Several can live in one process.
#[derive(Debug)]
pub struct Runtime {
    this: Weak<Runtime>,
    env: Env,
    limits: Arc<Limits>,
    name_bytes_max: usize,
    close_grace: Duration,
    registry: Arc<StoreRegistry>,
    router: Arc<Router>,
    primitives: Arc<PrimitiveTable>,
    recovery: Arc<Recovery>,
    idle: Arc<IdleCloser>,
    ending: Ending,
    sessions: SessionTable,
    draining: Shutdown,
}

/// For how many sessions at a time a primitive is asked to release what they own.
const RELEASES: usize = 32;
/// Tags of a primitive. They are kept for as long as it is known, here and in its store.
const TAGS_MAX: usize = 100;
/// Bytes of all tags of a primitive.
const TAGS_BYTES_MAX: usize = 4 << 10;

// === impl Settings ===

impl Settings {
    /// Reads the settings of `config`. Its stores and routes are not among them: they can change while it runs.
    pub fn new(config: &Config, env: Env, drivers: Vec<Arc<dyn Driver>>) -> Self {
        let limits = &config.limits;
        Self {
            env,
            drivers,
            identity: config.sessions.identity,
            limits: Limits {
                key_bytes_max: limits.key_bytes_max.as_usize(),
                value_bytes_max: limits.value_bytes_max.as_usize(),
                batch_max: limits.batch_max as usize,
                waiters_max: limits.waiters_per_name_max as usize,
            },
            name_bytes_max: limits.name_bytes_max.as_usize(),
            primitives_max: limits.primitives_max as usize,
            stores_max: limits.stores_max as usize,
            routes_max: limits.routes_max as usize,
            close_grace: config.drain.grace.get(),
            session_timeout: config.sessions.timeout.get(),
            clock_skew_max: config.sessions.clock_skew_max.get(),
        }
    }
}

// === impl Runtime ===

impl Runtime {
    /// Makes a runtime without stores and routes.
    pub fn new(settings: Settings) -> Arc<Self> {
        let env = settings.env;
        let sessions = SessionTable::new(env.random(), settings.identity, env.now());
        let close_grace = settings.close_grace;
        let terms = Terms {
            grace: close_grace,
            session_timeout: settings.session_timeout,
            clock_skew_max: settings.clock_skew_max,
            connecting: Arc::default(),
        };
        let registry =
            Arc::new(StoreRegistry::new(env.clone(), settings.drivers, settings.stores_max, terms));
        let router = Arc::new(Router::new(settings.routes_max));
        let primitives = Arc::new(PrimitiveTable::new(settings.primitives_max));
        let draining = Shutdown::new();
        let recovery = Arc::new(Recovery::new(
            Arc::clone(&registry),
            Arc::clone(&router),
            Arc::clone(&primitives),
            draining.clone(),
        ));
        let idle =
            IdleCloser::new(env.clone(), Arc::clone(&primitives), Arc::clone(&recovery), draining.clone());
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            limits: Arc::new(settings.limits),
            name_bytes_max: settings.name_bytes_max,
            close_grace,
            registry,
            router,
            primitives,
            recovery,
            idle,
            ending: Ending::default(),
            sessions,
            draining,
            env,
        })
    }

    /// Returns the outside world.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Returns the limits of arguments.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    // --- Sessions ---

    /// Begins the session of a connection. `end` must close the connection; it is called when an operator ends the
    /// session.
    pub fn open_session(&self, peer: String, end: Box<dyn Fn() + Send + Sync>) -> Arc<Session> {
        self.sessions.open(peer, self.env.now(), end)
    }

    /// Ends the session of a connection that is gone: its waiting calls and streams end, and what it owns is released
    /// in the background. The primitives that it created stay known while they have content or other sessions, and for a while
    /// without.
    pub fn close_session(&self, session: &Arc<Session>) {
        if !self.sessions.remove(session) {
            return;
        }
        for handle in session.end() {
            self.idle.queue_if_idle(&handle);
            self.release(session, handle);
        }
    }

    /// Ends a session as an operator: its connection is closed, which ends the session. If the session has ended already and
    /// something that it owned is still in a store, that is deleted.
    pub async fn end_session(&self, id: &str) -> Result<(), Error> {
        let session = self.sessions.find(id);
        let unknown = || Error::new(Reason::NotKnown, format!("no such session: id=`{id}`"));
        if self.sessions.is_shared() && session.is_some() {
            return Err(Error::invalid("the session is that of the whole runtime: stop the runtime instead"));
        }
        if let Some(session) = session {
            self.disconnect_session(&session);
            return Ok(());
        }
        let ended = self.sessions.parse(id).ok_or_else(unknown)?;
        if self.remove_owner(ended).await? == 0 { Err(unknown()) } else { Ok(()) }
    }

    /// Deletes what a session that has ended owns in the stores. Returns how much it was.
    async fn remove_owner(&self, session: u64) -> Result<usize, Error> {
        let handles = self.primitives(None, usize::MAX, |handle| handle.ownership().is_some());
        let remove_owner = |handle: Arc<PrimitiveHandle>| async move {
            match handle.ownership() {
                Some(ownership) => ownership.remove_owner(handle.owner(session)).await,
                None => Ok(0),
            }
        };
        let removed: Vec<_> =
            stream::iter(handles).map(remove_owner).buffer_unordered(RELEASES).collect().await;
        removed.into_iter().sum()
    }

    /// Closes the connection of a session, which ends the session.
    fn disconnect_session(&self, session: &Arc<Session>) {
        session.disconnect();
        self.close_session(session);
    }

    /// Ends the sessions that lost a lock. A client takes a lock for lost when its connection ends, and there is no other
    /// signal.
    pub(crate) fn disconnect_lock_losers(&self, holders: impl IntoIterator<Item = Owner>) {
        if self.sessions.is_shared() {
            return;
        }
        let holders: HashSet<u64> = holders.into_iter().map(|owner| owner.session).collect();
        for session in holders {
            if let Some(session) = self.sessions.get(session) {
                tracing::warn!(
                    session = session.name(),
                    peer = session.peer(),
                    "a session lost a lock: its connection is closed"
                );
                self.disconnect_session(&session);
            }
        }
    }

    /// Returns the sessions, by number, after the one numbered `after`.
    pub fn sessions(&self, after: Option<u64>, max: usize) -> Vec<Arc<Session>> {
        self.sessions.list(after, max)
    }

    /// Returns the session of an owner, as stores name it.
    pub fn owner_details(&self, owner: Owner) -> OwnerDetails {
        let slots = self.registry.slots();
        if !slots.iter().any(|slot| slot.membership().is_ok_and(|membership| membership.id() == owner.member))
        {
            return OwnerDetails { session: String::new(), opened: None, ended: false };
        }
        // Sessions are named after the runtime, and not after the name that it has in a store.
        let session = self.sessions.owner(owner.session).to_string();
        let opened = self.sessions.get(owner.session).map(|session| session.opened());
        OwnerDetails { session, opened, ended: opened.is_none() }
    }

    /// Releases what dead members left in the open primitives of a store. `anew` if this member itself lost its name there:
    /// then sessions that held locks under the old one are disconnected.
    async fn release_dead_owners(&self, store: &StoreId, anew: bool) {
        let handles = self.primitives(None, usize::MAX, |handle| {
            handle.store_id() == store && (anew || handle.ownership().is_some())
        });
        if anew {
            // Locks that were granted under the new name already are not lost.
            let lost = |handle: &Arc<PrimitiveHandle>| {
                let mut holders = handle.holders();
                holders.retain(|owner| *owner != handle.owner(owner.session));
                holders
            };
            self.disconnect_lock_losers(handles.iter().flat_map(lost));
        }
        failures::release_dead_owners(handles, anew, &self.env, &self.primitives, &self.recovery).await;
    }

    fn release(&self, session: &Arc<Session>, handle: Arc<PrimitiveHandle>) {
        if handle.ownership().is_some() {
            let owner = session.owner(&handle);
            self.env.supervise("release", Policy::Restart, move || {
                let handle = Arc::clone(&handle);
                async move { handle.release_all(owner).await }
            });
        }
    }

    // --- Stores ---

    /// Connects a store. Answers as soon as the configuration is known to be right; a store that cannot be reached is
    /// tried again until it is disconnected.
    pub async fn connect(&self, id: StoreId, driver: DriverId, config: JsonObject) -> Result<(), Error> {
        let slot = self.registry.connect(id, driver, config).await?;
        let (this, progress) = (Weak::clone(&self.this), Arc::default());
        self.env.supervise("recovery", Policy::Restart, move || {
            let (this, store) = (Weak::clone(&this), slot.id().clone());
            failures::watch_member_failures(Arc::clone(&slot), Arc::clone(&progress), async move |anew| {
                let Some(runtime) = this.upgrade() else { return false };
                runtime.release_dead_owners(&store, anew).await;
                true
            })
        });
        Ok(())
    }

    /// Checks what [`Runtime::connect`] checks, and what the store needs of this machine, and connects nothing. May block.
    pub fn check_store(&self, driver: &DriverId, config: &JsonObject) -> Result<(), Error> {
        Ok(self.registry.check(driver, config)?.preflight(config)?)
    }

    /// Returns the configuration of a store as it may be shown: without what its driver does not know or calls a secret.
    pub fn shown_config(&self, driver: &DriverId, config: &JsonObject) -> JsonObject {
        self.registry.shown(driver, config)
    }

    /// Gives a connected store a new configuration, all of it or nothing. Primitives, locks and watches stay.
    pub async fn configure(&self, id: &StoreId, config: JsonObject) -> Result<(), Error> {
        self.registry.configure(id, config).await
    }

    /// Connects a store anew whose configuration names files, such as certificates: they may have another content.
    /// Primitives, locks and watches stay. False if it names none.
    ///
    /// An error leaves the connection as it is. Cancel safe.
    pub async fn reconnect(&self, id: &StoreId) -> Result<bool, Error> {
        let slot = self.store(id).ok_or_else(|| not_connected(id))?;
        Ok(slot.reconnect().await?)
    }

    /// Disconnects a store. Its primitives are closed, their streams end, what sessions own there is released; the
    /// connections of sessions that hold locks there are closed. A store that keeps its content remembers the primitives.
    pub async fn disconnect(&self, id: &StoreId) -> Result<(), Error> {
        let slot = self.registry.remove(id)?;
        self.disconnect_slot(&slot).await;
        Ok(())
    }

    async fn disconnect_slot(&self, slot: &Slot) {
        let id = slot.id();
        let gone = self.primitives.forget_all(|handle| handle.store_id() == id);
        for handle in &gone {
            self.recovery.note_closed(handle, Some(id.clone()));
        }
        let sessions = self.detach_all(&gone);
        if slot.membership().is_ok_and(|membership| membership.outlives()) {
            let release = async {
                for handle in gone.iter().filter(|handle| handle.ownership().is_some()) {
                    for session in &sessions {
                        handle.release_all(session.owner(handle)).await;
                    }
                }
            };
            // The other members release what an unreachable store keeps.
            self.env.timeout(self.close_grace, release).await.ok();
        }
        slot.close().await;
    }

    /// Waits until every store was tried once, well or not, but for `timeout` at most. Cancel safe.
    pub async fn stores_tried(&self, timeout: Duration) {
        // Attempts that last longer go on in the background.
        let _late = self.env.timeout(timeout, self.registry.tried()).await;
    }

    /// Copies everything that a store keeps; see [`atomix_store::Store::backup`].
    pub async fn backup(&self, id: &StoreId) -> Result<BackupStream, Error> {
        let slot = self.store(id).ok_or_else(|| not_connected(id))?;
        // The answer of the floor, "by their own means", is for backends that have some.
        if slot.known_profile().is_some_and(|profile| profile.durability == Durability::Process) {
            let message = format!("store is in memory only, it cannot be backed up: store=`{id}`");
            return Err(Error::new(Reason::Unsupported, message));
        }
        Ok(slot.backup().await?)
    }

    /// Returns the store of this id, connected or trying to be.
    pub fn store(&self, id: &StoreId) -> Option<Arc<Slot>> {
        self.registry.find(id)
    }

    /// Returns all stores, by id.
    pub fn stores(&self) -> Vec<StoreDetails> {
        let mut stores = self.registry.stores();
        for store in &mut stores {
            store.primitives = self.primitives.count(|handle| *handle.store_id() == store.id);
        }
        stores
    }

    /// Returns all drivers.
    pub fn drivers(&self) -> Vec<DriverDetails> {
        self.registry.drivers()
    }

    // --- Routes ---

    /// Sets the routes for primitives that are created from now on. An empty set takes all routes away.
    pub fn program(&self, routes: Routes) -> Result<(), Error> {
        self.router.program(routes)
    }

    /// Returns the routes, if there are any.
    pub fn routes(&self) -> Option<Arc<Routes>> {
        self.router.load()
    }

    /// Explains where a primitive would be placed. Creates nothing.
    pub fn explain(
        &self,
        kind: Kind,
        version: &str,
        name: &str,
        tags: &[String],
    ) -> Result<Explanation, Error> {
        Ok(self.router.require()?.explain(kind, version, name, tags))
    }

    // --- Primitives ---

    /// Makes the primitive known, and `session` one of its users. Repeating it changes nothing and answers the same:
    /// the configuration of the route that was taken first.
    pub async fn create(
        &self,
        session: &Arc<Session>,
        kind: Kind,
        name: &str,
        tags: &[String],
    ) -> Result<PrimitiveConfig, Error> {
        self.check_name(name)?;
        check_tags(tags)?;
        let handle = loop {
            let handle = match self.find(kind, name) {
                Some(handle) => handle,
                None => self.open(kind, name, tags).await?,
            };
            if !session.attach(&handle) {
                return Err(Error::new(Reason::Closed, "the session has ended"));
            }
            if self.find(kind, name).is_some_and(|known| Arc::ptr_eq(&known, &handle)) {
                break handle;
            }
            // Its last user closed it in that very moment.
            session.detach(&handle);
        };
        self.recovery.remember(&handle).await?;
        Ok(handle.config())
    }

    /// Ends the use of a primitive by `session`: its streams and waiting calls end, what it owns there is released
    /// before this returns. The primitive is forgotten when no session uses it any more, also by its store unless another
    /// runtime has it open; what sessions do there that never created it ends as well. The content stays.
    pub async fn close(&self, session: &Arc<Session>, kind: Kind, name: &str) {
        self.recovery.forget_closed(kind, name);
        let Some(handle) = self.find(kind, name) else {
            if self.check_name(name).is_ok() {
                self.recovery.forget_everywhere(kind, name).await;
            }
            return;
        };
        session.detach(&handle);
        self.release_owned(&handle, vec![session.owner(&handle)]).await;
        if handle.users() > 0 {
            return;
        }
        // Before it is forgotten: candidacies of a session look like those after it is created again.
        self.detach_non_users(&handle).await;
        if self.primitives.forget(&handle) {
            // Sessions that came in between.
            self.detach_non_users(&handle).await;
            self.recovery.forget(&handle).await;
            self.idle.queue_reclaim(&handle);
        } else {
            self.idle.queue_if_idle(&handle);
        }
    }

    /// Ends what sessions do on a primitive without users, and releases what they own there.
    async fn detach_non_users(&self, handle: &Arc<PrimitiveHandle>) {
        if !handle.is_attached() {
            return;
        }
        let mut sessions = self.sessions.all();
        sessions.retain(|session| session.detach_non_user(handle));
        self.release_owned(handle, sessions.iter().map(|session| session.owner(handle)).collect()).await;
    }

    /// Ends what sessions do on primitives that no call finds any more. Returns all sessions, for the release of what they own.
    fn detach_all(&self, handles: &[Arc<PrimitiveHandle>]) -> Vec<Arc<Session>> {
        let sessions = self.sessions(None, usize::MAX);
        for session in &sessions {
            for handle in handles {
                session.detach(handle);
            }
        }
        // Before another session can be granted what they hold.
        self.disconnect_lock_losers(handles.iter().flat_map(|handle| handle.holders()));
        sessions
    }

    /// Releases what `owners` own, also if this call is dropped.
    async fn release_owned(&self, handle: &Arc<PrimitiveHandle>, owners: Vec<Owner>) {
        if handle.ownership().is_none() || owners.is_empty() {
            return;
        }
        let handle = Arc::clone(handle);
        let (sender, done) = oneshot::channel::<()>();
        let env = self.env.clone();
        self.env.detach(async move {
            let all = || {
                let (handle, owners) = (Arc::clone(&handle), owners.clone());
                async move {
                    let release = async |owner| handle.release_all(owner).await;
                    stream::iter(owners).for_each_concurrent(RELEASES, release).await;
                }
            };
            let _ended = env.supervised("release", Policy::Restart, all).await;
            drop(sender);
        });
        // The sender is dropped at the end; it sends nothing.
        drop(done.await);
    }

    /// Finds a primitive that was created.
    pub fn find(&self, kind: Kind, name: &str) -> Option<Arc<PrimitiveHandle>> {
        self.primitives.find(kind, name)
    }

    /// Finds a primitive for a call of `session`: one that was created in this runtime, or that a store remembers from
    /// before. Asks stores only for what is not known.
    ///
    /// Cancel safe. [`Reason::StoreUnavailable`] if a store that might know the primitive cannot be asked.
    pub async fn find_for(
        &self,
        session: &Arc<Session>,
        kind: Kind,
        name: &str,
    ) -> Result<Option<Arc<PrimitiveHandle>>, Error> {
        let handle = match self.find(kind, name) {
            Some(handle) => handle,
            None => match self.recall(kind, name).await? {
                Some(handle) => handle,
                None => return Ok(None),
            },
        };
        if handle.origin() == Origin::Recalled {
            // The session may be one of those that created it, which are not known any more.
            session.attach(&handle);
            self.idle.queue_if_idle(&handle);
        }
        Ok(Some(handle))
    }

    /// Returns the primitives that `wanted` chooses, by kind and name, after the given one.
    pub fn primitives(
        &self,
        after: Option<(Kind, &str)>,
        max: usize,
        wanted: impl Fn(&PrimitiveHandle) -> bool,
    ) -> Vec<Arc<PrimitiveHandle>> {
        self.primitives.list(after, max, wanted)
    }

    /// Returns the error of a call on a primitive that is not known.
    pub fn not_open(&self, kind: Kind, name: &str) -> Error {
        let store = self.recovery.disconnected(kind, name);
        let name = printable(name);
        let message = match store {
            Some(store) => {
                let store = printable(&store.to_string());
                format!(
                    "primitive not found for '{name}': its store was disconnected, connect it again: kind=`{kind}` store=`{store}`"
                )
            }
            // The words of the original.
            None => format!("primitive not found for '{name}'"),
        };
        Error::new(Reason::NotOpen, message)
    }

    /// Opens a primitive that was created earlier, in the store to which the routes lead.
    async fn recall(&self, kind: Kind, name: &str) -> Result<Option<Arc<PrimitiveHandle>>, Error> {
        if self.check_name(name).is_err() {
            return Ok(None);
        }
        let Some(found) = self.recovery.find(kind, name).await? else { return Ok(None) };
        let handle = self.open_at(found.placement, Origin::Recalled, kind, name, &found.tags).await?;
        if found.in_store {
            handle.set_remembered(true);
        } else {
            self.recovery.remember(&handle).await?;
        }
        Ok(Some(handle))
    }

    async fn open(&self, kind: Kind, name: &str, tags: &[String]) -> Result<Arc<PrimitiveHandle>, Error> {
        let placement = self.router.place(kind, name, tags)?;
        self.open_at(placement, Origin::Created, kind, name, tags).await
    }

    async fn open_at(
        &self,
        placement: Placement,
        origin: Origin,
        kind: Kind,
        name: &str,
        tags: &[String],
    ) -> Result<Arc<PrimitiveHandle>, Error> {
        self.primitives.check_room()?;
        if self.primitives.is_crowded() {
            // Those whose sessions have ended make room at once.
            self.idle.close_idle().await;
        }
        let config = parse_primitive_config(&placement.config)?;
        let unconnected = || {
            Error::new(
                Reason::StoreUnavailable,
                format!("store is not connected: store=`{}`", placement.store_id),
            )
        };
        let slot = self.registry.find(&placement.store_id).ok_or_else(unconnected)?;
        slot.first_attempt(&self.draining).await?;
        let handle = self.opened(&slot, config, origin, kind, name, tags).await?;
        let handle = self.primitives.insert(Arc::new(handle), || {
            self.ending.check(kind, name)?;
            // A store that was disconnected meanwhile has had its primitives forgotten already.
            if slot.is_closed() { Err(unconnected()) } else { Ok(()) }
        })?;
        // A caller that goes away before it uses the primitive leaves it to this.
        self.idle.queue_if_idle(&handle);
        Ok(handle)
    }

    /// Opens a primitive that no call finds yet.
    async fn opened(
        &self,
        slot: &Arc<Slot>,
        config: PrimitiveConfig,
        origin: Origin,
        kind: Kind,
        name: &str,
        tags: &[String],
    ) -> Result<PrimitiveHandle, Error> {
        let membership = Arc::clone(slot.membership()?);
        membership.join().await?;
        let (store, env, limits) = (Arc::clone(slot) as _, self.env.clone(), Arc::clone(&self.limits));
        let backing = Backing::new(store, Arc::clone(&membership), kind, name, env, limits);
        let primitive = atomix_primitives::open(kind, backing.clone(), config).await.map_err(repeatable)?;
        let (id, in_use) = self.primitives.new_instance();
        Ok(PrimitiveHandle {
            id,
            kind,
            name: name.to_owned(),
            tags: tags.to_vec(),
            store_id: slot.id().clone(),
            config,
            primitive,
            backing,
            membership,
            origin,
            in_use,
            state: State::default(),
        })
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        // An empty name is a name: contract/README.md section 2.
        if name.len() > self.name_bytes_max {
            let (bytes, max) = (name.len(), self.name_bytes_max);
            return Err(Error::invalid(format!(
                "primitive name too large, shorten it or raise `limits.name-bytes-max`: bytes=`{bytes}` max=`{max}`"
            )));
        }
        Ok(())
    }

    // --- End ---

    /// Starts to drain the runtime; see [`Runtime::is_draining`].
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Returns whether new calls are to be refused.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Returns the signal that the runtime is about to end.
    pub fn draining(&self) -> &Shutdown {
        &self.draining
    }

    /// Ends all streams and waiting calls, releases what sessions own, and closes all stores.
    pub async fn shut_down(&self) {
        self.drain();
        // Those that were idle before: their clients are gone and will not look for them.
        let close_idle = async {
            self.idle.close_idle().await;
            // And release what they were.
            self.idle.close_idle().await;
        };
        self.env.timeout(self.close_grace, close_idle).await.ok();
        for session in self.sessions(None, usize::MAX) {
            for handle in session.end() {
                handle.release_all(session.owner(&handle)).await;
            }
        }
        self.registry.close().await;
    }
}

fn check_tags(tags: &[String]) -> Result<(), Error> {
    let bytes: usize = tags.iter().map(String::len).sum();
    if bytes > TAGS_BYTES_MAX {
        return Err(Error::invalid(format!("tags are too long: bytes=`{bytes}` max=`{TAGS_BYTES_MAX}`")));
    }
    if tags.len() > TAGS_MAX {
        let count = tags.len();
        return Err(Error::invalid(format!("too many tags: tags=`{count}` max=`{TAGS_MAX}`")));
    }
    Ok(())
}
