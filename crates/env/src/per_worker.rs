// SPDX-License-Identifier: Apache-2.0
//! What each thread of [`Workers`] has of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::{Env, Workers};

/// Things that belong to a thread of [`Workers`] each, such as connections, so that who uses one need not wake another
/// thread. Each is made on its thread when that first asks for it. Cheap to clone.
#[derive(Debug)]
pub struct PerWorker<T> {
    each: Arc<[Own<T>]>,
}

#[derive(Debug)]
struct Own<T> {
    asked: AtomicBool,
    made: OnceLock<T>,
}

// === impl PerWorker ===

impl<T: Send + Sync + 'static> PerWorker<T> {
    /// Makes place for `max` things. With more threads some of them share one; without any, none is made.
    pub fn new(max: usize) -> Self {
        Self {
            each: (0..max).map(|_| Own { asked: AtomicBool::new(false), made: OnceLock::new() }).collect(),
        }
    }

    /// Returns what belongs to this thread. `None` if that is no worker or has none yet; then `make` begins to make it, once,
    /// and if it makes nothing, the thread stays without.
    pub fn get<F>(&self, env: &Env, make: impl FnOnce() -> F) -> Option<&T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let at = Workers::current()?.checked_rem(self.each.len())?;
        let own = &self.each[at];
        if let Some(made) = own.made.get() {
            return Some(made);
        }
        if !own.asked.swap(true, Ordering::Relaxed) {
            let (each, making) = (Arc::clone(&self.each), make());
            env.detach(async move {
                if let Some(made) = making.await {
                    // Nobody else makes it.
                    drop(each[at].made.set(made));
                }
            });
        }
        None
    }
}

impl<T> Clone for PerWorker<T> {
    fn clone(&self) -> Self {
        Self { each: Arc::clone(&self.each) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_worker_has_one_thing_and_makes_it_once() {
        let (things, workers) = (PerWorker::new(16), Workers::start(1).unwrap());
        assert_eq!(things.get(&Env::real(), || ready(Some(0))), None, "this is no worker");
        let (tell, told) = mpsc::channel();
        workers.detach(async move {
            let env = Env::real();
            let first = things.get(&env, || ready(Some(1))).copied();
            while things.get(&env, || ready(Some(2))).is_none() {
                tokio::task::yield_now().await;
            }
            tell.send((first, things.get(&env, || ready(Some(3))).copied())).unwrap();
        });
        assert_eq!(told.recv().unwrap(), (None, Some(1)));
    }
}
