// SPDX-License-Identifier: Apache-2.0
//! The table of the open primitives of a runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atomix_primitives::{Error, Kind, Reason};
use parking_lot::RwLock;

use crate::primitive::{InstanceCounter, PrimitiveHandle, PrimitiveInstanceId};

type Handles = HashMap<String, Arc<PrimitiveHandle>>;

/// The open primitives, by kind and name, and their count.
#[derive(Debug)]
pub(crate) struct PrimitiveTable {
    /// In the order of [`Kind::ALL`].
    by_kind: [RwLock<Handles>; Kind::ALL.len()],
    count: AtomicUsize,
    /// The number of primitives that have sessions.
    in_use: Arc<AtomicUsize>,
    in_use_max: usize,
    instances: InstanceCounter,
}

// === impl PrimitiveTable ===

impl PrimitiveTable {
    pub(crate) fn new(in_use_max: usize) -> Self {
        Self {
            by_kind: std::array::from_fn(|_| RwLock::default()),
            count: AtomicUsize::new(0),
            in_use: Arc::default(),
            in_use_max,
            instances: InstanceCounter::default(),
        }
    }

    /// Returns the number of a new instance, and the counter of those that have sessions.
    pub(crate) fn new_instance(&self) -> (PrimitiveInstanceId, Arc<AtomicUsize>) {
        (self.instances.next(), Arc::clone(&self.in_use))
    }

    /// Refuses to open one more primitive if too many have sessions.
    pub(crate) fn check_room(&self) -> Result<(), Error> {
        let max = self.in_use_max;
        if self.in_use.load(Ordering::Relaxed) >= max {
            return Err(Error::new(
                Reason::PrimitivesFull,
                format!(
                    "too many primitives are in use: close some or raise `limits.primitives-max`: max=`{max}`"
                ),
            ));
        }
        Ok(())
    }

    /// Returns whether primitives without sessions take so much room that they have to be closed now.
    pub(crate) fn is_crowded(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.in_use_max.saturating_mul(2)
    }

    pub(crate) fn find(&self, kind: Kind, name: &str) -> Option<Arc<PrimitiveHandle>> {
        self.of_kind(kind).read().get(name).cloned()
    }

    /// Returns the primitives that `wanted` chooses, by kind and name, after the given one, at most `max`.
    pub(crate) fn list(
        &self,
        after: Option<(Kind, &str)>,
        max: usize,
        wanted: impl Fn(&PrimitiveHandle) -> bool,
    ) -> Vec<Arc<PrimitiveHandle>> {
        let mut found = Vec::new();
        for kind in Kind::ALL {
            let later =
                |handle: &PrimitiveHandle| after.is_none_or(|after| (handle.kind(), handle.name()) > after);
            let mut of_kind: Vec<_> = self
                .of_kind(kind)
                .read()
                .values()
                .filter(|handle| later(handle) && wanted(handle))
                .cloned()
                .collect();
            of_kind.sort_by(|one, other| one.name().cmp(other.name()));
            found.extend(of_kind);
            if found.len() >= max {
                break;
            }
        }
        found.truncate(max);
        found
    }

    pub(crate) fn count(&self, wanted: impl Fn(&PrimitiveHandle) -> bool) -> usize {
        self.by_kind
            .iter()
            .map(|handles| handles.read().values().filter(|handle| wanted(handle)).count())
            .sum()
    }

    /// Adds a primitive, unless its name is in the table already; returns the one in the table. `check` runs under the lock
    /// of the table of its kind.
    pub(crate) fn insert(
        &self,
        handle: Arc<PrimitiveHandle>,
        check: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Arc<PrimitiveHandle>, Error> {
        let mut handles = self.of_kind(handle.kind()).write();
        check()?;
        Ok(Arc::clone(handles.entry(handle.name().to_owned()).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            handle
        })))
    }

    /// Forgets a primitive without users. True if it was known until now.
    pub(crate) fn forget(&self, handle: &Arc<PrimitiveHandle>) -> bool {
        self.forget_if(handle, || handle.users() == 0)
    }

    /// Forgets a primitive if neither a session nor a call uses it. True if it was known until now.
    pub(crate) fn forget_idle(&self, handle: &Arc<PrimitiveHandle>) -> bool {
        // The table has one reference and the caller one; a call finds its own under this lock.
        self.forget_if(handle, || !handle.is_attached() && Arc::strong_count(handle) == 2)
    }

    /// Forgets a primitive with or without users, if it is known.
    pub(crate) fn forget_used(&self, handle: &Arc<PrimitiveHandle>) {
        let mut handles = self.of_kind(handle.kind()).write();
        self.remove(&mut handles, handle);
        // Also one that no call has found, so that no session attaches to it.
        handle.set_forgotten();
    }

    /// Forgets the primitives that `unwanted` chooses, and returns them.
    pub(crate) fn forget_all(
        &self,
        unwanted: impl Fn(&PrimitiveHandle) -> bool,
    ) -> Vec<Arc<PrimitiveHandle>> {
        let mut gone = Vec::new();
        for handles in &self.by_kind {
            let mut handles = handles.write();
            gone.extend(handles.extract_if(|_, handle| unwanted(handle)).map(|(_, handle)| {
                handle.set_forgotten();
                handle
            }));
        }
        self.count.fetch_sub(gone.len(), Ordering::Relaxed);
        gone
    }

    fn forget_if(&self, handle: &Arc<PrimitiveHandle>, unused: impl FnOnce() -> bool) -> bool {
        let mut handles = self.of_kind(handle.kind()).write();
        unused() && self.remove(&mut handles, handle)
    }

    /// Removes a primitive. False if its name does not lead to it: a session may have created it again in the meantime.
    fn remove(&self, handles: &mut Handles, handle: &Arc<PrimitiveHandle>) -> bool {
        if !handles.get(handle.name()).is_some_and(|known| Arc::ptr_eq(known, handle)) {
            return false;
        }
        handle.set_forgotten();
        handles.remove(handle.name());
        if handles.capacity() > 1024 && handles.len() < handles.capacity() / 8 {
            handles.shrink_to(2 * handles.len());
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    fn of_kind(&self, kind: Kind) -> &RwLock<Handles> {
        // A fieldless enum counts from zero, in the order of `Kind::ALL`.
        &self.by_kind[kind as usize]
    }
}
