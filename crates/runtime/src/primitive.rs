// SPDX-License-Identifier: Apache-2.0
//! Primitives that were created.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use atomix_config::StoreId;
use atomix_primitives::{
    Backing, Counter, CounterMap, Election, Error, IndexedMap, Kind, List, Lock, LockTable, Map, Membership,
    MultiMap, Owner, QueueState, Set, Topic, Value,
};

/// A primitive that was created, with the route that it took.
#[derive(Debug)]
pub struct PrimitiveHandle {
    pub(crate) id: PrimitiveInstanceId,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) store_id: StoreId,
    pub(crate) config: PrimitiveConfig,
    pub(crate) primitive: Primitive,
    pub(crate) backing: Backing,
    pub(crate) membership: Arc<Membership>,
    pub(crate) origin: Origin,
    /// The primitives of the runtime that have sessions.
    pub(crate) in_use: Arc<AtomicUsize>,
    pub(crate) state: State,
}

/// The state of a primitive that changes while it is open.
#[derive(Debug, Default)]
pub(crate) struct State {
    remembered: AtomicBool,
    users: AtomicUsize,
    /// Attached sessions, users among them.
    attachments: AtomicUsize,
    /// Whether it waits to be closed.
    queued: AtomicBool,
    /// Whether its name does not lead here any more.
    forgotten: AtomicBool,
    /// Whether an operator has closed or deleted it.
    ended: AtomicBool,
    streams: AtomicUsize,
}

/// The number of an open primitive, unique in its runtime. A name that is closed and created again gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PrimitiveInstanceId(u64);

/// Counts the primitives that a runtime has opened.
#[derive(Debug, Default)]
pub(crate) struct InstanceCounter(AtomicU64);

/// The event that opened a primitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A session created it.
    Created,
    /// It was created before this runtime was started. Its users are not known any more, so every caller is a user.
    Recalled,
}

/// The configuration of a primitive in its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrimitiveConfig {
    /// Clients should cache.
    pub cache_enabled: bool,
    /// Entries of that cache; zero means all.
    pub cache_size: u64,
    /// A list shows appended items as inserted ones, which the Go SDK needs to see them.
    pub append_as_inserted: bool,
}

/// One of the eleven.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Primitive {
    Counter(Counter),
    CounterMap(CounterMap),
    Election(Election),
    IndexedMap(IndexedMap),
    List(List),
    Lock(Lock),
    Map(Map),
    MultiMap(MultiMap),
    Set(Set),
    Topic(Topic),
    Value(Value),
}

// === impl PrimitiveHandle ===

impl PrimitiveHandle {
    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the tags of the first creation.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Returns the store that keeps the content.
    pub fn store_id(&self) -> &StoreId {
        &self.store_id
    }

    /// Returns the configuration of the primitive in its route.
    pub fn config(&self) -> PrimitiveConfig {
        self.config
    }

    /// Returns the primitive.
    pub fn primitive(&self) -> &Primitive {
        &self.primitive
    }

    /// Returns how many sessions have created it and not closed it.
    pub fn users(&self) -> usize {
        self.state.users.load(Ordering::Acquire)
    }

    /// Returns how many streams are open.
    pub fn streams(&self) -> usize {
        self.state.streams.load(Ordering::Relaxed)
    }

    /// Counts an opened stream.
    pub fn stream_opened(&self) {
        self.state.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an ended stream.
    pub fn stream_ended(&self) {
        self.state.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the owner that stands for a session of this runtime in the store.
    pub(crate) fn owner(&self, session: u64) -> Owner {
        Owner { member: self.membership.id(), session }
    }

    /// Returns the backing of the primitive.
    pub(crate) fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Sets whether it waits to be closed; returns whether it did.
    pub(crate) fn set_queued(&self, queued: bool) -> bool {
        self.state.queued.swap(queued, Ordering::SeqCst)
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns whether the store remembers the primitive for this member.
    pub(crate) fn is_remembered(&self) -> bool {
        self.state.remembered.load(Ordering::Acquire)
    }

    pub(crate) fn set_remembered(&self, remembered: bool) {
        self.state.remembered.store(remembered, Ordering::Release);
    }

    /// Returns the number of this instance.
    pub(crate) fn id(&self) -> PrimitiveInstanceId {
        self.id
    }

    /// Marks that the name does not lead here any more, and never will again.
    pub(crate) fn set_forgotten(&self) {
        self.state.forgotten.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.state.forgotten.load(Ordering::SeqCst)
    }

    pub(crate) fn set_ended(&self) {
        self.state.ended.store(true, Ordering::SeqCst);
    }

    /// Returns whether an operator has closed or deleted it.
    pub fn is_ended(&self) -> bool {
        self.state.ended.load(Ordering::SeqCst)
    }

    /// Returns how many sessions are attached, users among them.
    pub fn sessions(&self) -> usize {
        self.state.attachments.load(Ordering::SeqCst)
    }

    pub(crate) fn inc_attachments(&self) {
        if self.state.attachments.fetch_add(1, Ordering::SeqCst) == 0 {
            self.in_use.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn dec_attachments(&self) {
        if self.state.attachments.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.in_use.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns whether a session is attached.
    pub(crate) fn is_attached(&self) -> bool {
        self.state.attachments.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn enter(&self) {
        self.state.users.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        self.state.users.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl InstanceCounter ===

impl InstanceCounter {
    pub(crate) fn next(&self) -> PrimitiveInstanceId {
        PrimitiveInstanceId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

// === impl Primitive ===

impl Primitive {
    pub(crate) async fn open(kind: Kind, backing: Backing, config: PrimitiveConfig) -> Result<Self, Error> {
        Ok(match kind {
            Kind::Counter => Self::Counter(Counter::open(backing)),
            Kind::CounterMap => Self::CounterMap(CounterMap::open(backing).await?),
            Kind::Election => Self::Election(Election::open(backing).await?),
            Kind::IndexedMap => Self::IndexedMap(IndexedMap::open(backing).await?),
            Kind::List => Self::List(List::open(backing, config.append_as_inserted)),
            Kind::Lock => Self::Lock(Lock::open(backing).await?),
            Kind::Map => Self::Map(Map::open(backing).await?),
            Kind::MultiMap => Self::MultiMap(MultiMap::open(backing)),
            Kind::Set => Self::Set(Set::open(backing).await?),
            Kind::Topic => Self::Topic(Topic::open(backing)),
            Kind::Value => Self::Value(Value::open(backing).await?),
        })
    }

    /// Returns the locks of primitives that have some.
    fn lock_table(&self) -> Option<&LockTable> {
        match self {
            Self::Lock(lock) => Some(lock.lock_table()),
            Self::Map(map) => Some(map.lock_table()),
            Self::CounterMap(map) => Some(map.lock_table()),
            Self::Counter(_)
            | Self::Election(_)
            | Self::IndexedMap(_)
            | Self::List(_)
            | Self::MultiMap(_)
            | Self::Set(_)
            | Self::Topic(_)
            | Self::Value(_) => None,
        }
    }

    /// Returns whether sessions can own something in primitives of this kind.
    pub fn owns(&self) -> bool {
        matches!(self, Self::Election(_)) || self.lock_table().is_some()
    }

    /// Releases all that `owner` owns. Returns when the store has confirmed it.
    pub async fn release_all(&self, owner: Owner) {
        if let Self::Election(election) = self {
            election.release_all(owner).await;
        } else if let Some(table) = self.lock_table() {
            table.release_all(owner).await;
        }
    }

    /// Deletes what `owner`, a session that has ended, owns, and returns how much it was.
    pub(crate) async fn remove_owner(&self, owner: Owner) -> Result<usize, Error> {
        if let Self::Election(election) = self {
            return election.remove_owner(owner).await;
        }
        match self.lock_table() {
            Some(table) => table.remove_owner(owner).await,
            None => Ok(0),
        }
    }

    /// Returns how many stamps in the queues of locks were found that belonged to nothing, and were deleted.
    pub fn orphans_swept(&self) -> u64 {
        self.lock_table().map_or(0, LockTable::orphans_swept)
    }

    /// Counts the other runtimes that are alive and whose sessions own something.
    pub(crate) async fn elsewhere(&self) -> Result<usize, Error> {
        if let Self::Election(election) = self {
            return election.elsewhere().await;
        }
        match self.lock_table() {
            Some(table) => table.elsewhere().await,
            None => Ok(0),
        }
    }

    /// Deletes all content, which is that of `backing`, but not what sessions own.
    pub(crate) async fn erase(&self, backing: &Backing) -> Result<(), Error> {
        if let Self::Election(election) = self { election.erase().await } else { backing.erase().await }
    }

    /// Releases what dead members left. Repeating it does no harm.
    pub(crate) async fn release_dead_owners(&self) -> Result<(), Error> {
        if let Self::Election(election) = self {
            election.release_dead_owners().await?;
        } else if let Some(table) = self.lock_table() {
            table.release_dead_owners().await?;
        }
        Ok(())
    }

    /// Returns the owners in this runtime that were granted a lock, some more than once.
    pub(crate) fn holders(&self) -> Vec<Owner> {
        self.lock_table().map(LockTable::holders).unwrap_or_default()
    }

    /// Returns how many calls of this runtime wait for a lock.
    pub fn waiters(&self) -> usize {
        self.lock_table().map_or(0, LockTable::waiters)
    }

    /// Returns what `owner` owns: keys of locks, or candidates, each with its token or term; at most `max`. What the
    /// store cannot tell right now is left out.
    pub async fn holdings(&self, owner: Owner, max: usize) -> Vec<(String, u64)> {
        if let Self::Election(election) = self {
            let Ok(state) = election.state().await else { return Vec::new() };
            let leads =
                state.leader.iter().filter(|leader| leader.owner == owner).map(|leader| (leader, state.term));
            let waits = state
                .waiting
                .iter()
                .filter(|candidate| candidate.owner == owner)
                .map(|candidate| (candidate, 0));
            return leads
                .chain(waits)
                .take(max)
                .map(|(candidate, term)| (candidate.name.clone(), term))
                .collect();
        }
        let locks = self.locks(max).await.unwrap_or_default();
        let held = locks.into_iter().filter_map(|lock| {
            let holder = lock.queue.first().filter(|holder| holder.owner == owner)?;
            Some((lock.key, holder.token))
        });
        held.take(max).collect()
    }

    /// Returns the locks, with holders and waiters, at most `max` locks and as many places each.
    pub async fn locks(&self, max: usize) -> Result<Vec<QueueState>, Error> {
        if let Self::Lock(lock) = self {
            let queue = lock.queue(max).await?;
            let lock = QueueState { key: String::new(), queue };
            return Ok(if lock.queue.is_empty() { Vec::new() } else { vec![lock] });
        }
        match self.lock_table() {
            Some(table) => table.list(max).await,
            None => Ok(Vec::new()),
        }
    }
}

/// A type of primitive, so that a call can ask for the one it needs.
pub trait TypedPrimitive: Send + Sync + 'static {
    /// The kind of this type.
    const KIND: Kind;

    /// Returns the primitive if it is of this type.
    fn downcast(primitive: &Primitive) -> Option<&Self>;
}

macro_rules! primitive_types {
    ($($name:ident)+) => {
        $(impl TypedPrimitive for $name {
            const KIND: Kind = Kind::$name;

            fn downcast(primitive: &Primitive) -> Option<&Self> {
                if let Primitive::$name(this) = primitive { Some(this) } else { None }
            }
        })+
    };
}

primitive_types! { Counter CounterMap Election IndexedMap List Lock Map MultiMap Set Topic Value }
