// SPDX-License-Identifier: Apache-2.0
//! Supervision of tasks and threads that must not end: `docs/adr/0026-supervision.md` lists them.
//!
//! A task that panics would end in silence: its output is dropped, and nothing waits for it. A supervised task is started
//! again after a backoff, or it fails the process: [`Env::failed`] then resolves, and the program ends with a message.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;

use crate::backoff::Backoff;
use crate::clock::Instant;
use crate::env::Env;
use crate::supervision::{Policy, Supervision, TaskFaults, message};
use crate::task::Task;

/// The pauses before restarts.
struct Pauses {
    backoff: Backoff,
    /// The time of the last start; `None` before the first panic.
    started: Option<Instant>,
}

/// Interval of the log lines about restarts of tasks of one name.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

// === impl Env ===

impl Env {
    /// Runs the future that `make` makes on a separate task, until it returns or the [`Task`] is aborted. After a panic
    /// `policy` applies; with [`Policy::Restart`] `make` is called again.
    ///
    /// To return is the orderly end: a task that must not end has to loop.
    pub fn supervise<F>(
        &self,
        name: &'static str,
        policy: Policy,
        make: impl FnMut() -> F + Send + 'static,
    ) -> Task
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let env = self.clone();
        self.spawn(async move {
            // After a failure there is nothing left to do here: the process ends.
            let _ended = env.supervised(name, policy, make).await;
        })
    }

    /// Does the same on the task of the caller, and returns the output of the future; `None` after a panic with
    /// [`Policy::Fail`]. Cancel safe as far as the future is.
    pub async fn supervised<F: Future>(
        &self,
        name: &'static str,
        policy: Policy,
        mut make: impl FnMut() -> F,
    ) -> Option<F::Output> {
        let mut pauses = Pauses::new();
        loop {
            let attempt = async {
                let mut future = std::pin::pin!(make());
                std::future::poll_fn(|context| self.step_in(name, context, future.as_mut())).await
            };
            match AssertUnwindSafe(attempt).catch_unwind().await {
                Ok(output) => return Some(output),
                Err(panic) if policy == Policy::Restart => {
                    let pause = self.restarted(name, &mut pauses, panic.as_ref());
                    self.sleep(pause).await;
                }
                Err(panic) => {
                    self.fail(name, &message(panic.as_ref()));
                    return None;
                }
            }
        }
    }

    /// Runs `work`, which may block, on a separate thread until it returns. After a panic `policy` applies; with
    /// [`Policy::Restart`] `work` is called again on the same thread. The thread is not waited for when the process ends.
    /// An error if there is no thread to be had.
    pub fn supervise_thread(
        &self,
        name: &'static str,
        policy: Policy,
        mut work: impl FnMut() + Send + 'static,
    ) -> std::io::Result<()> {
        let env = self.clone();
        self.thread(name, move || {
            let mut pauses = Pauses::new();
            while let Err(panic) = catch_unwind(AssertUnwindSafe(&mut work)) {
                if policy == Policy::Fail {
                    env.fail(name, &message(panic.as_ref()));
                    return;
                }
                // Real time, also in a simulation: a thread cannot wait for a clock that stands still.
                let pause = env.restarted(name, &mut pauses, panic.as_ref()).min(Pauses::THREAD_MAX);
                #[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do")]
                std::thread::sleep(pause);
            }
        })
    }

    /// Reports that the process cannot continue because of `task`. The first failure counts.
    pub fn fail(&self, task: &str, why: &str) {
        let message = format!("task `{task}` has failed and cannot be started again: {why}");
        tracing::error!(task, error = why, "a task has failed: the process must end");
        drop(self.supervision().failed.set(message));
    }

    /// Waits until something has failed that the process cannot do without, and returns the message. Cancel safe.
    pub async fn failed(&self) -> String {
        self.supervision().failed.wait().await.clone()
    }

    /// Returns how often tasks and threads were started again after a panic, by name.
    pub fn restarts(&self) -> Vec<(&'static str, u64)> {
        let restarts = self.supervision().restarts.lock();
        let mut restarts: Vec<_> = restarts.iter().map(|(name, restarts)| (*name, restarts.total)).collect();
        restarts.sort_unstable();
        restarts
    }

    /// A point at which a test can make a supervised thread panic; see [`TaskFaults`]. Free of cost without faults.
    pub fn step(&self, name: &'static str) {
        if let Some(faults) = &self.supervision().faults {
            faults.step(name, None);
        }
    }

    /// Returns the same environment, in which supervised tasks panic on request of `faults`.
    #[must_use]
    pub fn with_faults(&self, faults: Arc<TaskFaults>) -> Self {
        self.with_supervision(Supervision { faults: Some(faults), ..Supervision::default() })
    }

    fn step_in<F: Future>(
        &self,
        name: &'static str,
        context: &mut Context<'_>,
        future: std::pin::Pin<&mut F>,
    ) -> Poll<F::Output> {
        if let Some(faults) = &self.supervision().faults {
            faults.step(name, Some(context.waker()));
        }
        future.poll(context)
    }

    /// Counts and logs a restart, and returns the pause before it.
    fn restarted(&self, name: &'static str, pauses: &mut Pauses, panic: &(dyn Any + Send)) -> Duration {
        let now = self.now();
        let pause = pauses.next(self);
        let (total, unlogged) = {
            let mut all = self.supervision().restarts.lock();
            let restarts = all.entry(name).or_default();
            restarts.total += 1;
            if restarts.logged.is_some_and(|logged| now.since(logged) < LOG_INTERVAL) {
                restarts.unlogged += 1;
                return pause;
            }
            restarts.logged = Some(now);
            (restarts.total, std::mem::take(&mut restarts.unlogged))
        };
        tracing::error!(
            task = name,
            error = message(panic),
            restarts = total,
            unlogged,
            pause = ?pause,
            "a task has panicked: it is started again"
        );
        pause
    }
}

// === impl Pauses ===

impl Pauses {
    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(10);
    const THREAD_MAX: Duration = Duration::from_secs(1);
    /// A task that ran for so long begins with the shortest pause again.
    const RESET: Duration = Duration::from_mins(1);

    fn new() -> Self {
        Self { backoff: Backoff::new(Self::MIN, Self::MAX), started: None }
    }

    fn next(&mut self, env: &Env) -> Duration {
        let now = env.now();
        if self.started.is_some_and(|started| now.since(started) >= Self::RESET) {
            self.backoff.reset();
        }
        let pause = self.backoff.next(env);
        self.started = Some(now + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::ManualClock;

    fn world() -> (Arc<ManualClock>, Arc<TaskFaults>, Env) {
        let (clock, faults) = (ManualClock::new(), Arc::new(TaskFaults::default()));
        let env = Env::simulated(Arc::clone(&clock), 1).with_faults(Arc::clone(&faults));
        (clock, faults, env)
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_made_again_after_a_growing_pause() {
        let (clock, faults, env) = world();
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        env.supervise("t", Policy::Restart, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::pending()
        });
        settle().await;
        let mut pause = Duration::from_millis(100);
        for round in 1..=3 {
            faults.kill("t");
            settle().await;
            assert!(!faults.is_pending("t"), "it has panicked");
            clock.advance(pause.mul_f64(0.79));
            settle().await;
            assert_eq!(made.load(Ordering::Relaxed), round, "not before the pause");
            clock.advance(pause.mul_f64(0.42));
            settle().await;
            assert_eq!(made.load(Ordering::Relaxed), round + 1);
            pause *= 2;
        }
        assert_eq!(env.restarts(), [("t", 3)]);
    }

    #[tokio::test]
    async fn a_task_that_returns_has_ended() {
        let (_clock, _faults, env) = world();
        assert_eq!(env.supervised("t", Policy::Restart, || async { 7 }).await, Some(7));
        assert!(env.restarts().is_empty());
    }

    #[tokio::test]
    async fn a_task_that_must_not_be_restarted_fails_the_process() {
        let (_clock, faults, env) = world();
        faults.kill("t");
        env.supervise("t", Policy::Fail, std::future::pending);
        let message = env.failed().await;
        assert!(message.contains("`t`") && message.contains("a test asked"), "{message}");
        assert!(env.restarts().is_empty());
    }

    #[tokio::test]
    async fn a_thread_that_panics_works_again_or_fails_the_process() {
        let (_clock, faults, env) = world();
        let (sender, receiver) = std::sync::mpsc::channel();
        faults.kill("thread");
        let steps = env.clone();
        env.supervise_thread("thread", Policy::Restart, move || {
            steps.step("thread");
            sender.send(()).unwrap();
        })
        .unwrap();
        receiver.recv().unwrap();
        assert_eq!(env.restarts(), [("thread", 1)]);
        faults.kill("writer");
        let steps = env.clone();
        env.supervise_thread("writer", Policy::Fail, move || steps.step("writer")).unwrap();
        let message = env.failed().await;
        assert!(message.contains("`writer`"), "{message}");
    }
}
