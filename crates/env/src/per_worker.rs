// SPDX-License-Identifier: Apache-2.0
//! State of each thread of [`Workers`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Instant;
use crate::env::Env;
use crate::workers::Workers;

/// Values that belong to one thread of [`Workers`] each, such as connections, so that using one need not wake
/// another thread. Each is made on its thread when that asks for it. Clones share them. Cheap to clone.
#[derive(Debug)]
pub struct PerWorker<T> {
    each: Arc<[Mutex<Own<T>>]>,
}

#[derive(Debug)]
struct Own<T> {
    made: Option<T>,
    /// The time of the last attempt to make one.
    begun: Option<Instant>,
}

/// Pause of a thread after a value could not be made or was not usable.
const PAUSE: Duration = Duration::from_secs(10);

// === impl PerWorker ===

impl<T: Clone + Send + 'static> PerWorker<T> {
    /// Makes place for `max` things. With more threads some of them share one; without any, none is made.
    pub fn new(max: usize) -> Self {
        Self { each: (0..max).map(|_| Mutex::new(Own { made: None, begun: None })).collect() }
    }

    /// Returns what belongs to this thread if it is still `usable`; if not, it is dropped. `None` if this is no worker or has
    /// none: then `make` begins to make it, if that was not tried just now.
    pub fn get<F>(&self, env: &Env, usable: impl FnOnce(&T) -> bool, make: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let at = Workers::current()?.checked_rem(self.each.len())?;
        let mut own = self.each[at].lock();
        own.made = own.made.take().filter(usable);
        if own.made.is_some() {
            return own.made.clone();
        }
        let now = env.now();
        if own.begun.is_none_or(|begun| now.since(begun) >= PAUSE) {
            own.begun = Some(now);
            drop(own);
            let (each, making) = (Arc::clone(&self.each), make());
            env.detach(async move {
                let thing = making.await;
                each[at].lock().made = thing;
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
    use crate::clock::ManualClock;

    #[test]
    fn a_worker_makes_a_thing_of_its_own_and_another_one_when_that_is_of_no_use() {
        let (things, workers) = (PerWorker::new(16), Workers::start(1).unwrap());
        let clock = ManualClock::new();
        let env = Env::simulated(Arc::clone(&clock), 1);
        let get = move |usable: bool, made: u32| things.get(&env, |_| usable, || ready(Some(made)));
        assert_eq!(get(true, 0), None, "this is no worker");
        let (tell, told) = mpsc::channel();
        workers.detach(async move {
            let mut seen = vec![get(true, 1)];
            tokio::task::yield_now().await;
            seen.extend([get(true, 2), get(false, 3), get(true, 4)]);
            tokio::task::yield_now().await;
            // Not before a while has passed.
            seen.push(get(true, 5));
            clock.advance(PAUSE);
            seen.push(get(true, 6));
            tokio::task::yield_now().await;
            seen.push(get(true, 7));
            tell.send(seen).unwrap();
        });
        assert_eq!(told.recv().unwrap(), [None, Some(1), None, None, None, None, Some(6)]);
    }
}
