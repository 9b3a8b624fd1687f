// SPDX-License-Identifier: Apache-2.0
//! Member failures: a runtime releases what dead members left in its stores.

use std::sync::Arc;
use std::time::Duration;

use atomix_env::Env;
use atomix_primitives::{Error, Reason};
use atomix_store::printable;
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;

use crate::primitive::PrimitiveHandle;
use crate::primitive_table::PrimitiveTable;
use crate::recovery::Recovery;
use crate::slot::Slot;

/// The number of primitives that are recovered at a time after a member failure.
const RECOVERIES_MAX: usize = 32;
/// The pause before a recovery is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Calls `recover` each time that a member of a store is found dead, and once more a while later, until the store is disconnected or
/// `recover` returns false. Its argument is true if this member itself lost its name there. `progress` is the name of this
/// member up to which everything is done; a task that is started again after a panic gets the one of the task before it.
pub(crate) async fn watch_member_failures(
    slot: Arc<Slot>,
    progress: Arc<Mutex<Option<u64>>>,
    recover: impl AsyncFn(bool) -> bool,
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
        let id = membership.id();
        let goes_on = tokio::select! {
            () = slot.closed().cancelled() => false,
            goes_on = recover(own != id) => goes_on,
        };
        if !goes_on {
            return;
        }
        *progress.lock() = Some(id);
    }
}

/// Releases what dead members left in open primitives. `anew` if this member itself lost its name in their store: the store
/// then has to remember the primitives under the new one.
pub(crate) async fn release_dead_owners(
    handles: Vec<Arc<PrimitiveHandle>>,
    anew: bool,
    env: &Env,
    primitives: &PrimitiveTable,
    recovery: &Recovery,
) {
    let release = async |handle: Arc<PrimitiveHandle>| {
        if anew {
            handle.set_remembered(false);
        }
        let attempt = async || {
            if let Some(ownership) = handle.ownership() {
                match ownership.release_dead_owners().await {
                    // A repetition does not help, and the next failure of a member waits for this one.
                    Err(error) if error.reason() == Reason::StoreCorrupt => {
                        let (kind, name) = (handle.kind(), printable(handle.name()));
                        tracing::error!(%error, %kind, %name, "failed to release all that a dead member owned");
                    }
                    released => released?,
                }
            }
            let known = primitives.find(handle.kind(), handle.name());
            if known.is_some_and(|known| Arc::ptr_eq(&known, &handle)) {
                recovery.remember(&handle).await
            } else {
                Ok::<_, Error>(())
            }
        };
        while let Err(error) = attempt().await {
            tracing::warn!(%error, "failed to release what a dead member owned, trying again");
            env.sleep(RETRY).await;
        }
    };
    stream::iter(handles).for_each_concurrent(RECOVERIES_MAX, release).await;
}
