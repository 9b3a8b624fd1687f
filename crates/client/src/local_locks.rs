// SPDX-License-Identifier: Apache-2.0
//! The queue before the queue: callers of one client that want the same lock wait here, not on the server.
//!
//! To the server all of them are one session. So an unlock after a call that was given up could hit the lock of
//! another caller of the same client; with one caller at a time it cannot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// The turns that somebody has or waits for, by the name of what is locked.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    queues: HashMap<String, Weak<Queue<()>>>,
    sweep_at: usize,
}

/// The right to ask the server. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _held: Vec<OwnedMutexGuard<()>>,
}

// === impl Turns ===

impl Turns {
    /// Waits for all `names`, first come, first served. They must be sorted, or two callers could wait for each
    /// other. Cancel safe.
    pub(crate) async fn take(&self, names: &[String]) -> Turn {
        let mut held = Vec::with_capacity(names.len());
        for name in names {
            let queue = self.queue(name);
            held.push(queue.lock_owned().await);
        }
        Turn { _held: held }
    }

    /// Takes all `names` if nobody has one of them.
    pub(crate) fn try_take(&self, names: &[String]) -> Option<Turn> {
        let held: Result<Vec<_>, _> = names.iter().map(|name| self.queue(name).try_lock_owned()).collect();
        held.ok().map(|held| Turn { _held: held })
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
    fn a_turn_ends_when_it_is_dropped() {
        let turns = Turns::default();
        let names = ["a".to_owned(), "b".to_owned()];
        let turn = turns.try_take(&names).unwrap();
        assert!(turns.try_take(&names[1..]).is_none());
        let mut waiting = Box::pin(turns.take(&names));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(turn);
        assert!(waiting.now_or_never().is_some());
    }

    #[test]
    fn turns_that_ended_are_forgotten() {
        let turns = Turns::default();
        for name in 0..1000 {
            turns.try_take(&[name.to_string()]).unwrap();
        }
        assert!(turns.table.lock().unwrap().queues.len() <= 64);
    }
}
