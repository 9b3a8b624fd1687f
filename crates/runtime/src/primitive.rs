// SPDX-License-Identifier: Apache-2.0
//! Primitives that were created.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use atomix_config::StoreId;
use atomix_primitives::{Backing, Kind, Membership, Owner, Ownership, Primitive, PrimitiveConfig};

/// A primitive that was created, with the route that it took.
#[derive(Debug)]
pub struct PrimitiveHandle {
    pub(crate) id: PrimitiveInstanceId,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    pub(crate) store_id: StoreId,
    pub(crate) config: PrimitiveConfig,
    pub(crate) primitive: Box<dyn Primitive>,
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
    pub fn primitive(&self) -> &dyn Primitive {
        self.primitive.as_ref()
    }

    /// Returns what sessions own in the primitive; `None` for kinds in which they own nothing.
    pub fn ownership(&self) -> Option<&dyn Ownership> {
        self.primitive.ownership()
    }

    /// Releases all that `owner` owns; see [`Ownership::release_all`].
    pub(crate) async fn release_all(&self, owner: Owner) {
        if let Some(ownership) = self.ownership() {
            ownership.release_all(owner).await;
        }
    }

    /// Returns the owners in this runtime that were granted a lock, some more than once.
    pub(crate) fn holders(&self) -> Vec<Owner> {
        self.ownership().map(Ownership::holders).unwrap_or_default()
    }

    /// Returns how many calls of this runtime wait for a lock.
    pub fn waiters(&self) -> usize {
        self.ownership().map_or(0, Ownership::waiters)
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
