// SPDX-License-Identifier: Apache-2.0
//! Work that may block for ever, such as reading a file of a network file system that is away.
//!
//! It runs on threads that nothing waits for: neither a thread that serves clients nor the end of the
//! process. Callers that request the same work while it runs share one thread, so that repeated requests do
//! not pile up threads.

use std::any::TypeId;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::blocking_table::Shared;
use crate::env::Env;

/// The largest file that [`Env::read_file`] reads, in bytes: 1 MiB.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Timeout of [`Env::blocking`]: 5 s.
const WAIT_MAX: Duration = Duration::from_secs(5);

// === impl Env ===

impl Env {
    /// Runs `work` on a separate thread and returns its result, the same one for all callers with work of
    /// this type and `name` while it runs.
    ///
    /// # Errors
    /// - [`ErrorKind::TimedOut`]: not done within 5 s; the thread goes on.
    /// - [`ErrorKind::ResourceBusy`]: 64 such threads are at work.
    /// - else: no thread is to be had, or `work` panicked.
    ///
    /// Cancel safe: `work` runs to its end, and its result is dropped.
    pub async fn blocking<T, W>(&self, name: &str, work: W) -> io::Result<Arc<T>>
    where
        T: Send + Sync + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let key = (TypeId::of::<T>(), name.to_owned());
        let (sender, receiver) = oneshot::channel();
        if let Some(mut done) = self.blocking_table().wait(key, sender)? {
            // A thread that does not start drops `done`, which ends the waiting.
            self.thread("atomix-blocking", move || {
                let result: Shared = Arc::new(work());
                for waiting in done.take() {
                    // Those that gave up need no result.
                    drop(waiting.send(Arc::clone(&result)));
                }
            })?;
        }
        match self.timeout(WAIT_MAX, receiver).await {
            Ok(Ok(result)) => result.downcast().map_err(|_| io::Error::other("a result of another type")),
            Ok(Err(_)) => Err(io::Error::other("the work ended without a result")),
            Err(_) => {
                let message = format!("not done in time: waited=`{}s`", WAIT_MAX.as_secs());
                Err(io::Error::new(ErrorKind::TimedOut, message))
            }
        }
    }

    /// Reads a file that is named in a configuration: a regular file of at most 1 MiB. As [`Env::blocking`], so that a
    /// FIFO or a dead mount stops nothing.
    pub async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (file, name) = (path.to_owned(), format!("{}", path.display()));
        let read = self.blocking(&name, move || read_regular(&file)).await?;
        match read.as_ref() {
            Ok(bytes) => Ok(bytes.clone()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// Reads a regular file within bounds.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let refuse = |why: &str| Err(io::Error::new(ErrorKind::InvalidInput, why));
    // Before it is opened: opening a FIFO waits for its writer, and opening a device may do anything.
    if !path.metadata()?.is_file() {
        return refuse("not a regular file");
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return refuse("larger than 1 MiB");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use parking_lot::Mutex;

    use super::*;
    use crate::blocking_table::THREADS_MAX;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn regular_files_are_read_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let env = Env::real();
        std::fs::write(&path, b"pem").unwrap();
        assert_eq!(env.read_file(&path).await.unwrap(), b"pem");
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(env.read_file(&path).await.unwrap().len(), 1 << 20);
        std::fs::write(&path, vec![b'x'; (1 << 20) + 1]).unwrap();
        assert_eq!(env.read_file(&path).await.unwrap_err().to_string(), "larger than 1 MiB");
        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [fifo.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert_eq!(env.read_file(path).await.unwrap_err().to_string(), "not a regular file");
        }
        let absent = env.read_file(&folder.path().join("absent")).await.unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_same_work_may_be_asked_for_again_at_once() {
        let env = Env::real();
        for round in 0..2000 {
            assert_eq!(*env.blocking("again", move || round).await.unwrap(), round);
        }
    }

    #[tokio::test]
    async fn work_that_is_stuck_has_one_thread_however_often_it_is_asked_for() {
        let clock = ManualClock::new();
        let env = Env::simulated(Arc::clone(&clock), 1);
        let started = Arc::new(AtomicUsize::new(0));
        let (release, stuck) = mpsc::channel::<()>();
        let stuck = Arc::new(Mutex::new(stuck));
        let ask = || {
            let (started, stuck) = (Arc::clone(&started), Arc::clone(&stuck));
            env.blocking("mount", move || {
                started.fetch_add(1, Ordering::SeqCst);
                stuck.lock().recv().is_ok()
            })
        };
        for _ in 0..3 {
            let mut asked = Box::pin(ask());
            assert!(futures::poll!(asked.as_mut()).is_pending());
            clock.advance(WAIT_MAX);
            assert_eq!(asked.await.unwrap_err().kind(), ErrorKind::TimedOut);
        }
        assert_eq!(env.blocking_table().running(), 1);
        let mut last = Box::pin(ask());
        assert!(futures::poll!(last.as_mut()).is_pending());
        release.send(()).unwrap();
        let (last, other) = futures::join!(last, env.blocking("other", || 7));
        assert_eq!((*last.unwrap(), *other.unwrap()), (true, 7));
        assert_eq!(started.load(Ordering::SeqCst), 1);
        assert_eq!(env.blocking_table().running(), 0);
    }

    #[tokio::test]
    async fn the_number_of_threads_is_bounded_and_a_panic_gives_its_thread_back() {
        let env = Env::real();
        let (release, stuck) = mpsc::channel::<()>();
        let stuck = Arc::new(Mutex::new(stuck));
        let mut asked = Vec::new();
        for at in 0..THREADS_MAX {
            let stuck = Arc::clone(&stuck);
            let (env, name) = (env.clone(), at.to_string());
            asked.push(Box::pin(
                async move { env.blocking(&name, move || stuck.lock().recv().is_ok()).await },
            ));
            assert!(futures::poll!(asked[at].as_mut()).is_pending());
        }
        assert_eq!(env.blocking("more", || ()).await.unwrap_err().kind(), ErrorKind::ResourceBusy);
        drop(release);
        for asked in asked {
            asked.await.unwrap();
        }
        let panics = || -> u8 { panic!("on purpose") };
        assert!(env.blocking("panic", panics).await.is_err());
        assert_eq!(env.blocking_table().running(), 0);
    }
}
