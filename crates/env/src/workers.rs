// SPDX-License-Identifier: Apache-2.0
//! Threads that each run a tokio runtime of their own.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::supervision::message;
use crate::wake::Mailbox;

/// Threads with a single-threaded runtime each. What is begun on one stays there with all that it spawns, so a call
/// never moves to another core in its middle. Cheap to clone; the threads end with the last clone, and what still runs
/// on them is dropped.
#[derive(Debug, Clone)]
pub struct Workers {
    each: Arc<[Arc<Worker>]>,
    _stop: Arc<DropGuard>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    tasks: AtomicUsize,
}

thread_local! {
    static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Counts a task for as long as it lives.
struct Counted(Arc<Worker>);

// === impl Workers ===

impl Workers {
    /// Starts `count` threads, at least one. An error if there are no threads to be had.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let guard = Arc::new(stop.clone().drop_guard());
        let each = (0..count.max(1)).map(|number| Worker::start(number, stop.clone()).map(Arc::new));
        Ok(Self { each: each.collect::<io::Result<_>>()?, _stop: guard })
    }

    /// Returns the index of the calling thread among those that were started together, from zero; `None` on
    /// any other thread. The index identifies per-thread state.
    pub fn current() -> Option<usize> {
        NUMBER.get()
    }

    /// Runs `future` to its end on the thread where the fewest are. It may spawn more, which are not counted.
    pub fn detach(&self, future: impl Future<Output = ()> + Send + 'static) {
        let tasks = |worker: &&Arc<Worker>| worker.tasks.load(Ordering::Relaxed);
        let worker = self.each.iter().min_by_key(tasks).expect("there is at least one");
        // Two that come at once may take the same thread: it evens out.
        worker.tasks.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(worker));
        drop(worker.runtime.spawn(async move {
            let _counted = counted;
            future.await;
        }));
    }
}

// === impl Counted ===

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Worker ===

impl Worker {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let work = move || {
            NUMBER.set(Some(number));
            let mailbox = Arc::new(Mailbox::default());
            // Tasks that panic end alone. If delivery panics the thread must go on all the same: its connections are here.
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
                runtime.block_on(async {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = Arc::clone(&mailbox).deliver() => {}
                    }
                });
            })) {
                tracing::error!(
                    worker = number,
                    error = message(panic.as_ref()),
                    "a worker has panicked: it goes on"
                );
            }
        };
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
        Ok(Self { runtime: handle, tasks: AtomicUsize::new(0) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Starts a task that passes the spawned tasks of the thread on, and runs until it is cancelled.
    fn begin(workers: &Workers) -> (Option<usize>, CancellationToken) {
        let (tell, told) = mpsc::channel();
        let end = CancellationToken::new();
        let ended = end.clone();
        workers.detach(async move {
            drop(Handle::current().spawn(async move { tell.send(Workers::current()) }));
            ended.cancelled().await;
        });
        (told.recv().unwrap(), end)
    }

    #[test]
    fn tasks_are_spread_evenly_and_what_they_spawn_stays_on_their_thread() {
        let workers = Workers::start(3).unwrap();
        let tasks: Vec<_> = (0..3).map(|_| begin(&workers)).collect();
        let threads: HashSet<_> = tasks.iter().map(|(thread, _)| *thread).collect();
        assert_eq!(threads, HashSet::from([Some(0), Some(1), Some(2)]));
        assert_eq!(Workers::current(), None);
        let (thread, end) = &tasks[1];
        end.cancel();
        while workers.each.iter().all(|worker| worker.tasks.load(Ordering::Relaxed) > 0) {
            thread::yield_now();
        }
        assert_eq!(begin(&workers).0, *thread, "the free one is taken next");
    }

    #[test]
    fn the_threads_end_with_the_last_clone() {
        let workers = Workers::start(1).unwrap();
        let clone = workers.clone();
        let (kept, gone) = mpsc::channel::<()>();
        workers.detach(async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(clone);
        assert_eq!(gone.recv(), Err(mpsc::RecvError));
    }
}
