// SPDX-License-Identifier: Apache-2.0
//! Recovery: a runtime releases what dead members left in its stores, and finds the primitives that were created before it
//! was started.

use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_config::StoreId;
use atomix_primitives::{Error, Kind, Known, Reason};
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;

use crate::primitive::Origin;
use crate::{Placement, PrimitiveHandle, Runtime, Slot, repeatable};

/// The number of primitives that are recovered at a time after a member failure.
const RECOVERIES_MAX: usize = 32;
/// The pause before a recovery is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Releases what dead members left in the primitives of a store, each time that one is found dead, until the store is
/// disconnected or the runtime is gone. `progress` is the name of this member up to which everything is done; a task that is
/// started again after a panic gets the one of the task before it.
pub(crate) async fn watch_member_failures(
    runtime: Weak<Runtime>,
    slot: Arc<Slot>,
    progress: Arc<Mutex<Option<u64>>>,
) {
    let Some(membership) = slot.membership_known().await else { return };
    // After a panic: the recovery from a failure was not completed.
    let mut due = progress.lock().is_some();
    let mut again = false;
    loop {
        let own = *progress.lock().get_or_insert_with(|| membership.id());
        // Once more after a while, for what a dead member had sent and the store had not applied yet.
        let once_more = again;
        let later = async {
            if once_more {
                slot.env().sleep(membership.timeout()).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        again = if std::mem::take(&mut due) {
            true
        } else {
            tokio::select! {
                () = slot.closed().cancelled() => return,
                () = membership.member_failed() => true,
                () = later => false,
            }
        };
        let Some(runtime) = runtime.upgrade() else { return };
        let id = membership.id();
        tokio::select! {
            () = slot.closed().cancelled() => return,
            () = runtime.release_dead_owners(slot.id(), own != id) => {}
        }
        *progress.lock() = Some(id);
    }
}

// === impl Runtime ===

impl Runtime {
    /// Opens a primitive that was created before this runtime was started, in the store to which the routes lead.
    pub(crate) async fn recall(&self, kind: Kind, name: &str) -> Result<Option<Arc<PrimitiveHandle>>, Error> {
        let Some(routes) = self.routes() else { return Ok(None) };
        if self.check_name(name).is_err() {
            return Ok(None);
        }
        if let Some((placement, tags)) = self.lapsed_placement(kind, name) {
            let handle = self.open_at(placement, Origin::Recalled, kind, name, &tags).await?;
            self.remember(&handle).await?;
            return Ok(Some(handle));
        }
        let placed_there = |slot: &Arc<Slot>, tags: Vec<String>| {
            let placement = routes.place(kind, name, &tags).ok()?;
            (placement.store_id == *slot.id()).then(|| (Arc::clone(slot), placement, tags))
        };
        let Some((slot, placement, tags)) = self.search_stores(kind, name, placed_there).await? else {
            return Ok(None);
        };
        let handle = self.open_at(placement, Origin::Recalled, kind, name, &tags).await?;
        if outlives(&slot) {
            self.remember(&handle).await?;
        } else {
            handle.set_remembered(true);
        }
        Ok(Some(handle))
    }

    /// Returns where a primitive belongs that was closed here a while ago, and its tags.
    pub(crate) fn lapsed_placement(&self, kind: Kind, name: &str) -> Option<(Placement, Vec<String>)> {
        let tags = self.lapsed.lock().tags(kind, name)?;
        let placement = self.routes()?.place(kind, name, &tags).ok()?;
        Some((placement, tags))
    }

    /// Asks the stores for a primitive that they remember, until `choose` takes one by its store and its tags.
    pub(crate) async fn search_stores<T>(
        &self,
        kind: Kind,
        name: &str,
        choose: impl Fn(&Arc<Slot>, Vec<String>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut last_error = None;
        for slot in self.registry.slots() {
            self.first_attempt(&slot).await?;
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

    /// Lets the store remember a primitive that is open, if it outlives this process.
    pub(crate) async fn remember(&self, handle: &PrimitiveHandle) -> Result<(), Error> {
        match self.store(handle.store_id()).filter(|slot| !handle.is_remembered() && outlives(slot)) {
            Some(slot) => self.remember_in(&slot, handle).await,
            None => Ok(()),
        }
    }

    async fn remember_in(&self, slot: &Arc<Slot>, handle: &PrimitiveHandle) -> Result<(), Error> {
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

    /// Lets the store remember a primitive with content that is closed here: the first call opens it again.
    pub(crate) async fn remember_content(&self, handle: &PrimitiveHandle) {
        let Some(slot) = self.store(handle.store_id()).filter(|_| !handle.is_remembered()) else { return };
        if let Err(error) = self.remember_in(&slot, handle).await {
            self.lapsed.lock().push(handle, None);
            tracing::warn!(%error, "a primitive with content cannot be remembered: it has to be created again");
        }
    }

    /// Lets the store forget a primitive whose last user has closed it.
    pub(crate) async fn forget_remembered(&self, handle: &PrimitiveHandle) {
        let slot = self.store(handle.store_id()).filter(|slot| handle.is_remembered() || outlives(slot));
        if let Some(known) = slot.as_ref().and_then(known)
            && let Err(error) = known.forget(handle.kind(), handle.name()).await
        {
            tracing::warn!(%error, "a closed primitive cannot be forgotten: it will be known after a restart");
        }
        if let Some(again) = self.find(handle.kind(), handle.name()) {
            // Created again meanwhile, and perhaps remembered before it was forgotten.
            again.set_remembered(false);
            if let Err(error) = self.remember(&again).await {
                tracing::warn!(%error, "a primitive cannot be remembered: its next creation tries again");
            }
        }
    }

    /// Lets all stores forget a primitive that is closed without having been used since this runtime was started.
    pub(crate) async fn forget_recalled(&self, kind: Kind, name: &str) {
        if self.check_name(name).is_err() {
            return;
        }
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

    /// Releases what dead members left in the open primitives of a store. `anew` if this member itself lost its name there:
    /// then sessions that held locks under the old one are disconnected, and the store has to remember the primitives under
    /// the new one.
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
        let release_dead_owners = async |handle: Arc<PrimitiveHandle>| {
            if anew {
                handle.set_remembered(false);
            }
            let attempt = async || {
                if let Some(ownership) = handle.ownership() {
                    ownership.release_dead_owners().await?;
                }
                let known = self.find(handle.kind(), handle.name());
                if known.is_some_and(|known| Arc::ptr_eq(&known, &handle)) {
                    self.remember(&handle).await
                } else {
                    Ok(())
                }
            };
            while let Err(error) = attempt().await {
                tracing::warn!(%error, "failed to release what a dead member owned, trying again");
                self.env().sleep(RETRY).await;
            }
        };
        stream::iter(handles).for_each_concurrent(RECOVERIES_MAX, release_dead_owners).await;
    }
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
