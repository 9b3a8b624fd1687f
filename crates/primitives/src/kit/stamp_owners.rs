// SPDX-License-Identifier: Apache-2.0
//! The stamps in a store that belong to calls and sessions of this process.
//!
//! A stamp that carries the name of this member and that nothing here owns is an orphan. A keyspace may be open more than
//! once for a while (a primitive was closed and created again while calls still run), so every open instance is asked.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::sync::{Arc, Weak};

use atomix_store::{Entry, Keyspace};
use parking_lot::Mutex;

/// The owner of stamps of a keyspace.
pub(crate) trait StampOwner: Send + Sync {
    /// Returns whether `entry` belongs to a call or a session, or waits for its deletion.
    fn owns(&self, entry: &Entry) -> bool;
}

/// The owners of stamps, by keyspace.
#[derive(Default)]
pub(crate) struct StampRegistry(Mutex<HashMap<Keyspace, Vec<Weak<dyn StampOwner>>>>);

// === impl StampRegistry ===

impl StampRegistry {
    pub(crate) fn register(&self, keyspace: &Keyspace, owner: Weak<dyn StampOwner>) {
        self.0.lock().entry(keyspace.clone()).or_default().push(owner);
    }

    /// Forgets those of `keyspace` that are gone.
    pub(crate) fn forget(&self, keyspace: &Keyspace) {
        if let Slot::Occupied(mut slot) = self.0.lock().entry(keyspace.clone()) {
            slot.get_mut().retain(|owner| owner.strong_count() > 0);
            if slot.get().is_empty() {
                slot.remove();
            }
        }
    }

    pub(crate) fn owns(&self, keyspace: &Keyspace, entry: &Entry) -> bool {
        // Not asked under the lock: dropping the last reference of an owner calls `forget`.
        let owners: Vec<Arc<dyn StampOwner>> =
            self.0.lock().get(keyspace).into_iter().flatten().filter_map(Weak::upgrade).collect();
        owners.iter().any(|owner| owner.owns(entry))
    }
}

impl fmt::Debug for StampRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StampRegistry").field("keyspaces", &self.0.lock().len()).finish()
    }
}
