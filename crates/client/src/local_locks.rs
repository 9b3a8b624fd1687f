// SPDX-License-Identifier: Apache-2.0
//! A local queue in front of each lock: callers of one client that want the same lock wait here, not on the server.
//!
//! To the server all of them are one session. Without the queue, an unlock after a cancelled call could release the lock
//! of another caller of the same client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// The local queues in use, by the name of the lock.
#[derive(Debug, Default)]
pub(crate) struct LocalLockQueue {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    queues: HashMap<String, Weak<Queue<()>>>,
    sweep_at: usize,
}

/// The permit to ask the server for the locks. Dropping it admits the next caller.
#[derive(Debug)]
pub(crate) struct LocalPermit {
    _held: Vec<OwnedMutexGuard<()>>,
}

// === impl LocalLockQueue ===

impl LocalLockQueue {
    /// Waits for all `names`, first come, first served. They must be sorted, or two callers could wait for each
    /// other. Cancel safe.
    pub(crate) async fn take(&self, names: &[String]) -> LocalPermit {
        let mut held = Vec::with_capacity(names.len());
        for name in names {
            let queue = self.queue(name);
            held.push(queue.lock_owned().await);
        }
        LocalPermit { _held: held }
    }

    /// Takes all `names` if all of them are free.
    pub(crate) fn try_take(&self, names: &[String]) -> Option<LocalPermit> {
        let held: Result<Vec<_>, _> = names.iter().map(|name| self.queue(name).try_lock_owned()).collect();
        held.ok().map(|held| LocalPermit { _held: held })
    }

    fn queue(&self, name: &str) -> Arc<Queue<()>> {
        /// Below this size sweeping costs more than it frees.
        const SWEEP_MIN: usize = 64;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = table.queues.get(name).and_then(Weak::upgrade) {
            return queue;
        }
        // Bound: twice what was in use at the last sweep.
        if table.queues.len() >= table.sweep_at.max(SWEEP_MIN) {
            table.queues.retain(|_, queue| queue.strong_count() > 0);
            table.sweep_at = table.queues.len() * 2;
        }
        let queue = Arc::new(Queue::new(()));
        table.queues.insert(name.to_owned(), Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn dropping_a_permit_admits_the_next_caller() {
        let queue = LocalLockQueue::default();
        let names = ["a".to_owned(), "b".to_owned()];
        let permit = queue.try_take(&names).unwrap();
        assert!(queue.try_take(&names[1..]).is_none());
        let mut waiting = Box::pin(queue.take(&names));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(permit);
        assert!(waiting.now_or_never().is_some());
    }

    #[test]
    fn unused_queues_are_removed() {
        let queue = LocalLockQueue::default();
        for name in 0..1000 {
            queue.try_take(&[name.to_string()]).unwrap();
        }
        assert!(queue.table.lock().unwrap().queues.len() <= 64);
    }
}
