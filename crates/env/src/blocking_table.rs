// SPDX-License-Identifier: Apache-2.0
//! The running work that may block, and the callers that wait for it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Threads that may be at work at the same time. One that is stuck stays until what it waits for is back.
pub(crate) const THREADS_MAX: usize = 64;

/// The type of a result, and the name of the work.
pub(crate) type Key = (TypeId, String);
pub(crate) type Shared = Arc<dyn Any + Send + Sync>;

/// The running work, and its waiting callers.
#[derive(Default)]
pub(crate) struct BlockingTable {
    running: Mutex<HashMap<Key, Vec<oneshot::Sender<Shared>>>>,
}

/// Removes the work from the table when it ends, also by a panic.
pub(crate) struct Running {
    table: Arc<BlockingTable>,
    /// None once it is removed: by then the same work may be in the table again.
    key: Option<Key>,
}

// === impl BlockingTable ===

impl BlockingTable {
    /// Adds a caller to the work of this key. Returns an entry for work that does not run yet, which the caller starts.
    ///
    /// Fails with [`ErrorKind::ResourceBusy`] if too many run.
    pub(crate) fn wait(
        self: &Arc<Self>,
        key: Key,
        caller: oneshot::Sender<Shared>,
    ) -> io::Result<Option<Running>> {
        let mut running = self.running.lock();
        if let Some(waiting) = running.get_mut(&key) {
            waiting.retain(|caller| !caller.is_closed());
            waiting.push(caller);
            return Ok(None);
        }
        if running.len() >= THREADS_MAX {
            let message = format!("too many file operations that do not end: count=`{THREADS_MAX}`");
            return Err(io::Error::new(ErrorKind::ResourceBusy, message));
        }
        running.insert(key.clone(), vec![caller]);
        Ok(Some(Running { table: Arc::clone(self), key: Some(key) }))
    }

    /// Returns the number of pieces of work that run.
    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        self.running.lock().len()
    }
}

// === impl Running ===

impl Running {
    /// Removes the work and returns its waiting callers.
    pub(crate) fn take(&mut self) -> Vec<oneshot::Sender<Shared>> {
        let Some(key) = self.key.take() else { return Vec::new() };
        self.table.running.lock().remove(&key).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.take();
    }
}
