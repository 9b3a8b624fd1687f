// SPDX-License-Identifier: Apache-2.0
//! Tasks.

use futures::future::{AbortHandle, BoxFuture};

/// Starts tasks.
pub trait Spawner: Send + Sync + 'static {
    /// Runs `future` to its end beside the caller.
    fn spawn(&self, future: BoxFuture<'static, ()>);

    /// Runs `work`, which may block for as long as it likes, on a separate thread. An error if there is no thread to
    /// be had.
    fn thread(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> std::io::Result<()>;
}

/// A started task. Dropping it lets the task run on.
#[derive(Debug, Clone)]
pub struct Task {
    abort: AbortHandle,
}

/// Spawns on the tokio runtime of the calling thread, so that a runtime per core stays possible.
pub(crate) struct RealSpawner;

impl Task {
    pub(crate) fn new(abort: AbortHandle) -> Self {
        Self { abort }
    }

    /// Ends the task at its next suspension point. Does not wait for that.
    pub fn abort(&self) {
        self.abort.abort();
    }
}

impl Spawner for RealSpawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        // Without a runtime the process is ending, and a task that cannot run is dropped like all others.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(future));
        }
    }

    fn thread(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
    }
}
