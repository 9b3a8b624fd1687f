// SPDX-License-Identifier: Apache-2.0
//! Calls in a closed or an open loop.
//!
//! In a *closed loop* each caller waits for an answer before it calls again: it shows what a server can do. It does
//! not show what users feel, because a server that stalls is asked less. In an *open loop* calls are sent at a steady
//! pace whatever the server does, and each counts from when it should have been sent.

use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, Instant};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::dice::Dice;
use crate::failure::Failure;
use crate::pacer::beat;
use crate::report::Report;

/// Something that can be called over one connection.
pub trait Target: Send + Sync + 'static {
    /// Makes a call. What is called, and with which key, is drawn from `chance`: 64 even bits.
    fn call(&self, chance: u64) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// When the next call is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// When one of so many callers, shared out among the connections, has its answer.
    Closed(usize),
    /// So often in a second, on one connection after the other.
    Open(f64),
}

/// The plan of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// When calls are sent.
    pub pace: Pace,
    /// The time of calls before the measurement.
    pub warm_up: Duration,
    /// The measured time.
    pub time: Duration,
}

/// The time that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

/// The time that an open loop waits for its last answers.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes calls and measures them. A call counts if its answer comes within the time that counts.
pub async fn drive<T: Target>(env: &Env, plan: Plan, connections: Vec<T>) -> Report {
    let connections: Vec<Arc<T>> = connections.into_iter().map(Arc::new).collect();
    let window = Window::after(env, plan.warm_up, plan.time);
    match plan.pace {
        Pace::Closed(callers) => closed(env, window, callers, &connections).await,
        Pace::Open(rate) => open(env, plan, window.begin, rate, &connections).await,
    }
}

async fn closed<T: Target>(env: &Env, window: Window, callers: usize, connections: &[Arc<T>]) -> Report {
    // A histogram for each connection: one for each caller would not fit into the caches.
    let reports: Vec<_> = connections.iter().map(|_| Arc::new(Mutex::new(window.report()))).collect();
    let callers = (0..callers).map(|caller| {
        let at = caller % connections.len();
        let (target, report) = (Arc::clone(&connections[at]), Arc::clone(&reports[at]));
        let (clock, mut dice) = (env.clone(), Dice::new(env.random()));
        running(env, async move {
            let mut sent = clock.now();
            while sent < window.end {
                let outcome = target.call(dice.draw()).await;
                let answered = clock.now();
                let broken = matches!(outcome, Err(Failure::Broken(_)));
                match &outcome {
                    Ok(()) if window.holds(answered) => report.lock().took(answered - sent),
                    // A caller that is lost before the time that counts does not call in it: that must show.
                    Err(failure) if broken || window.holds(answered) => report.lock().failed(failure),
                    Ok(()) | Err(_) => {}
                }
                if broken {
                    break;
                }
                sent = answered;
            }
        })
    });
    join_all(callers.collect::<Vec<_>>()).await;
    let mut whole = window.report();
    for report in &reports {
        whole.merge(&report.lock());
    }
    whole
}

async fn open<T: Target>(env: &Env, plan: Plan, begin: Instant, rate: f64, connections: &[Arc<T>]) -> Report {
    let report = Arc::new(Mutex::new(Report::new(plan.time)));
    let mut dice = Dice::new(env.random());
    let mut beats = match beat(env, rate, begin + plan.time) {
        Ok(beats) => beats,
        Err(error) => {
            let mut report = Report::new(plan.time);
            report.failed(&Failure::Broken(format!("no timer: cause=`{error}`")));
            return report;
        }
    };
    let (mut calls, mut next) = (Vec::new(), 0);
    while let Some(due) = beats.recv().await {
        let target = Arc::clone(&connections[next]);
        next = (next + 1) % connections.len();
        let (clock, report, chance) = (env.clone(), Arc::clone(&report), dice.draw());
        calls.push(running(env, async move {
            let lag = clock.now() - due;
            let outcome = target.call(chance).await;
            let latency = clock.now() - due;
            let counts = due >= begin;
            if counts {
                report.lock().was_late(lag);
            }
            match &outcome {
                Ok(()) if counts => report.lock().took(latency),
                Err(failure) if counts || matches!(failure, Failure::Broken(_)) => {
                    report.lock().failed(failure);
                }
                Ok(()) | Err(_) => {}
            }
        }));
    }
    let ended = env.timeout(ANSWERS_TIMEOUT, join_all(calls)).await;
    let mut whole = report.lock().clone();
    if ended.is_err() {
        whole.failed(&Failure::Broken("calls without an answer long after the end".to_owned()));
    }
    whole
}

/// Starts a task that can be waited for.
pub(crate) fn running(env: &Env, task: impl Future<Output = ()> + Send + 'static) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    env.detach(async move {
        task.await;
        // The receiver may be gone already.
        done.send(()).ok();
    });
    ended
}

// === impl Window ===

impl Window {
    pub(crate) fn after(env: &Env, warm_up: Duration, time: Duration) -> Self {
        let begin = env.now() + warm_up;
        Self { begin, end: begin + time }
    }

    pub(crate) fn holds(self, instant: Instant) -> bool {
        self.begin <= instant && instant < self.end
    }

    pub(crate) fn report(self) -> Report {
        Report::new(self.end - self.begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers after a while, and stalls once.
    struct Slow {
        env: Env,
        stall: Duration,
        calls: AtomicUsize,
    }

    impl Target for Slow {
        async fn call(&self, _chance: u64) -> Result<(), Failure> {
            let first = self.calls.fetch_add(1, Ordering::Relaxed) == 0;
            self.env.sleep(if first { self.stall } else { Duration::from_millis(1) }).await;
            Ok(())
        }
    }

    fn plan(pace: Pace) -> Plan {
        Plan { pace, warm_up: Duration::ZERO, time: Duration::from_millis(500) }
    }

    #[tokio::test]
    async fn an_open_loop_goes_on_while_a_call_stalls() {
        let env = Env::real();
        let stall = Duration::from_millis(200);
        let slow = Slow { env: env.clone(), stall, calls: AtomicUsize::new(0) };
        let report = drive(&env, plan(Pace::Open(100.0)), vec![slow]).await;
        assert_eq!(report.latency.len(), 50);
        assert!(report.latency.max() >= 200_000_000, "{}", report.summary());
        assert!(report.latency.value_at_quantile(0.5) < 200_000_000, "{}", report.summary());
    }

    #[tokio::test]
    async fn a_connection_that_breaks_before_the_time_that_counts_is_a_failure() {
        struct Gone;
        impl Target for Gone {
            async fn call(&self, _chance: u64) -> Result<(), Failure> {
                Err(Failure::Broken("gone".to_owned()))
            }
        }
        let env = Env::real();
        for pace in [Pace::Closed(2), Pace::Open(100.0)] {
            let time = Duration::from_millis(50);
            let report = drive(&env, Plan { pace, warm_up: time, time }, vec![Gone]).await;
            assert_eq!(report.broken.as_deref(), Some("gone"));
            let summary = report.summary();
            assert_eq!(summary.calls, 0);
            assert!(summary.failed >= 2, "{summary}");
        }
    }

    #[tokio::test]
    async fn a_closed_loop_has_no_more_calls_than_callers_under_way() {
        struct Counted(AtomicUsize, Env);
        impl Target for Counted {
            async fn call(&self, _chance: u64) -> Result<(), Failure> {
                assert!(self.0.fetch_add(1, Ordering::Relaxed) < 3);
                self.1.sleep(Duration::from_millis(2)).await;
                self.0.fetch_sub(1, Ordering::Relaxed);
                Err(Failure::Status(5, "absent".to_owned()))
            }
        }
        let env = Env::real();
        let counted = Counted(AtomicUsize::new(0), env.clone());
        let summary = drive(&env, plan(Pace::Closed(3)), vec![counted]).await.summary();
        assert_eq!(summary.calls, 0);
        assert!(summary.failures["status 5: absent"] > 3);
    }
}
