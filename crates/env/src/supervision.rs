// SPDX-License-Identifier: Apache-2.0
//! The state of supervision: counted restarts, the failure that ends the process, and the faults that tests ask for.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::SetOnce;

use crate::clock::Instant;

/// The reaction to a panic of a supervised task or thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is started again after a backoff of 100 ms to 10 s.
    Restart,
    /// Its state cannot be trusted any more: it stays ended and [`crate::Env::failed`] resolves.
    Fail,
}

/// Counts restarts, and remembers the failure that ends the process.
#[derive(Debug, Default)]
pub(crate) struct Supervision {
    pub(crate) restarts: Mutex<HashMap<&'static str, Restarts>>,
    pub(crate) failed: SetOnce<String>,
    /// Only in tests.
    pub(crate) faults: Option<Arc<TaskFaults>>,
}

#[derive(Debug, Default)]
pub(crate) struct Restarts {
    pub(crate) total: u64,
    pub(crate) logged: Option<Instant>,
    pub(crate) unlogged: u64,
}

/// Makes supervised tasks and threads panic, by their names. For tests; see [`crate::Env::with_faults`].
#[derive(Debug, Default)]
pub struct TaskFaults {
    state: Mutex<FaultState>,
}

#[derive(Debug, Default)]
struct FaultState {
    pending: HashMap<String, usize>,
    wakers: HashMap<&'static str, Vec<Waker>>,
}

// === impl TaskFaults ===

impl TaskFaults {
    /// Makes one task or thread of this name panic at its next step.
    pub fn kill(&self, name: &str) {
        let wakers = {
            let mut state = self.state.lock();
            *state.pending.entry(name.to_owned()).or_default() += 1;
            state.wakers.remove(name).unwrap_or_default()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns whether a panic of this name is still to come.
    pub fn is_pending(&self, name: &str) -> bool {
        self.state.lock().pending.contains_key(name)
    }

    /// Panics if a test asked for it; else wakes `waker` when a test does.
    pub(crate) fn step(&self, name: &'static str, waker: Option<&Waker>) {
        let mut state = self.state.lock();
        if let Some(pending) = state.pending.get_mut(name) {
            *pending -= 1;
            if *pending == 0 {
                state.pending.remove(name);
            }
            drop(state);
            panic!("a test asked for this panic of `{name}`");
        }
        if let Some(waker) = waker {
            let wakers = state.wakers.entry(name).or_default();
            if !wakers.iter().any(|known| known.will_wake(waker)) {
                wakers.push(waker.clone());
            }
        }
    }
}

/// Returns the message of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic").to_owned()
}
