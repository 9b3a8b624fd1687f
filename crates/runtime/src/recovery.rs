// SPDX-License-Identifier: Apache-2.0
//! Recovery of primitives: the stores remember which primitives exist, so that a runtime that was started again still knows
//! them; and a runtime remembers for a while which ones it has closed.

use std::sync::Arc;

use atomix_config::StoreId;
use atomix_env::Shutdown;
use atomix_primitives::{Error, Kind, Known, Reason};
use parking_lot::Mutex;

use crate::error::repeatable;
use crate::lapsed::Lapsed;
use crate::primitive::PrimitiveHandle;
use crate::primitive_table::PrimitiveTable;
use crate::registry::StoreRegistry;
use crate::router::Router;
use crate::routes::Placement;
use crate::slot::Slot;

/// Finds primitives that are not open, and lets stores remember and forget primitives.
#[derive(Debug)]
pub(crate) struct Recovery {
    registry: Arc<StoreRegistry>,
    router: Arc<Router>,
    primitives: Arc<PrimitiveTable>,
    lapsed: Mutex<Lapsed>,
    draining: Shutdown,
}

/// A primitive that was created earlier.
#[derive(Debug)]
pub(crate) struct Remembered {
    /// The store to which the routes lead it now, and its configuration.
    pub(crate) placement: Placement,
    pub(crate) tags: Vec<String>,
    /// Whether its store remembers it for this member already.
    pub(crate) in_store: bool,
}

// === impl Recovery ===

impl Recovery {
    /// Makes the recovery of a runtime that looks at no store any more once it is `draining`.
    pub(crate) fn new(
        registry: Arc<StoreRegistry>,
        router: Arc<Router>,
        primitives: Arc<PrimitiveTable>,
        draining: Shutdown,
    ) -> Self {
        Self { registry, router, primitives, lapsed: Mutex::default(), draining }
    }

    /// Finds a primitive that was closed here a while ago, or that is remembered by the store to which the routes lead it.
    pub(crate) async fn find(&self, kind: Kind, name: &str) -> Result<Option<Remembered>, Error> {
        let Some(routes) = self.router.load() else { return Ok(None) };
        if let Some((placement, tags)) = self.lapsed_placement(kind, name) {
            return Ok(Some(Remembered { placement, tags, in_store: false }));
        }
        let placed_there = |slot: &Arc<Slot>, tags: Vec<String>| {
            let placement = routes.place(kind, name, &tags).ok()?;
            let in_store = !outlives(slot);
            (placement.store_id == *slot.id()).then_some(Remembered { placement, tags, in_store })
        };
        self.search_stores(kind, name, placed_there).await
    }

    /// Finds the store that remembers a primitive which is not open here.
    pub(crate) async fn store_of(&self, kind: Kind, name: &str) -> Result<Option<StoreId>, Error> {
        if let Some((placement, _)) = self.lapsed_placement(kind, name) {
            return Ok(Some(placement.store_id));
        }
        self.search_stores(kind, name, |slot, _| Some(slot.id().clone())).await
    }

    /// Returns where a primitive belongs that was closed here a while ago, and its tags.
    fn lapsed_placement(&self, kind: Kind, name: &str) -> Option<(Placement, Vec<String>)> {
        let tags = self.lapsed.lock().tags(kind, name)?;
        let placement = self.router.load()?.place(kind, name, &tags).ok()?;
        Some((placement, tags))
    }

    /// Asks the stores for a primitive that they remember, until `choose` takes one by its store and its tags.
    async fn search_stores<T>(
        &self,
        kind: Kind,
        name: &str,
        choose: impl Fn(&Arc<Slot>, Vec<String>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut last_error = None;
        for slot in self.registry.slots() {
            slot.first_attempt(&self.draining).await?;
            let Some(known) = known(&slot) else { continue };
            match known.recall(kind, name).await {
                Ok(tags) => {
                    if let Some(chosen) = tags.and_then(|tags| choose(&slot, tags)) {
                        return Ok(Some(chosen));
                    }
                }
                // A store that is disconnected in this moment knows nothing any more.
                Err(error) if error.reason() == Reason::StoreClosed => {}
                Err(error) => last_error = Some(error),
            }
        }
        last_error.map_or(Ok(None), Err)
    }

    /// Takes note that a primitive was closed here without a call of `Close`, by the end of its sessions or with its store.
    pub(crate) fn note_closed(&self, handle: &PrimitiveHandle, disconnected: Option<StoreId>) {
        self.lapsed.lock().push(handle, disconnected);
    }

    /// Forgets that a primitive was closed here.
    pub(crate) fn forget_closed(&self, kind: Kind, name: &str) {
        self.lapsed.lock().remove(kind, name);
    }

    /// Returns the store with which a primitive was disconnected, if it is still disconnected.
    pub(crate) fn disconnected(&self, kind: Kind, name: &str) -> Option<StoreId> {
        let lapsed = self.lapsed.lock();
        lapsed.disconnected(kind, name).filter(|id| self.registry.find(id).is_none()).cloned()
    }

    /// Lets the store remember a primitive that is open, if it outlives this process.
    pub(crate) async fn remember(&self, handle: &PrimitiveHandle) -> Result<(), Error> {
        let slot = self.registry.find(handle.store_id());
        match slot.filter(|slot| !handle.is_remembered() && outlives(slot)) {
            Some(slot) => remember_in(&slot, handle).await,
            None => Ok(()),
        }
    }

    /// Lets the store remember a primitive with content that is closed here: the first call opens it again.
    pub(crate) async fn remember_content(&self, handle: &PrimitiveHandle) {
        let slot = self.registry.find(handle.store_id()).filter(|_| !handle.is_remembered());
        let Some(slot) = slot else { return };
        if let Err(error) = remember_in(&slot, handle).await {
            self.note_closed(handle, None);
            tracing::warn!(%error, "a primitive with content cannot be remembered: it has to be created again");
        }
    }

    /// Lets the store forget a primitive whose last user has closed it.
    pub(crate) async fn forget(&self, handle: &PrimitiveHandle) {
        let slot = self.registry.find(handle.store_id());
        let slot = slot.filter(|slot| handle.is_remembered() || outlives(slot));
        if let Some(known) = slot.as_ref().and_then(known)
            && let Err(error) = known.forget(handle.kind(), handle.name()).await
        {
            tracing::warn!(%error, "a closed primitive cannot be forgotten: it will be known after a restart");
        }
        if let Some(again) = self.primitives.find(handle.kind(), handle.name()) {
            // Created again meanwhile, and perhaps remembered before it was forgotten.
            again.set_remembered(false);
            if let Err(error) = self.remember(&again).await {
                tracing::warn!(%error, "a primitive cannot be remembered: its next creation tries again");
            }
        }
    }

    /// Lets all stores forget a primitive that is closed without having been used since this runtime was started.
    pub(crate) async fn forget_everywhere(&self, kind: Kind, name: &str) {
        for known in self.registry.slots().iter().filter_map(known) {
            let forgotten = match known.recall(kind, name).await {
                Ok(Some(_)) => known.forget(kind, name).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = forgotten {
                tracing::warn!(%error, "a closed primitive cannot be forgotten: it may still be known");
            }
        }
    }
}

async fn remember_in(slot: &Arc<Slot>, handle: &PrimitiveHandle) -> Result<(), Error> {
    let Some(known) = known(slot) else { return Ok(()) };
    match known.remember(handle.kind(), handle.name(), handle.tags()).await.map_err(repeatable) {
        // A store that is full has to be opened to be emptied. The entry of an earlier member serves until there is
        // room; the next creation tries again.
        Err(error)
            if error.reason() == Reason::StoreFull
                && known.recall(handle.kind(), handle.name()).await?.is_some() =>
        {
            return Ok(());
        }
        remembered => remembered?,
    }
    handle.set_remembered(true);
    Ok(())
}

/// Returns the memory of a store, if it was ever reached.
pub(crate) fn known(slot: &Arc<Slot>) -> Option<Known> {
    let membership = slot.membership().ok()?;
    Some(Known::new(Arc::clone(slot) as _, Arc::clone(membership)))
}

/// Returns whether the store outlives this process. It remembers all primitives then, else those with content that are closed.
fn outlives(slot: &Slot) -> bool {
    slot.membership().is_ok_and(|membership| membership.outlives())
}
