// SPDX-License-Identifier: Apache-2.0
//! Hand-over of a lock: the time from a release to the next grant.

use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, Instant};
use futures::future::join_all;
use parking_lot::Mutex;

use crate::drive::{Window, running};
use crate::failure::Failure;
use crate::report::Report;

/// A contender for the lock.
pub trait Contender: Send + Sync + 'static {
    /// Waits for the lock.
    fn acquire(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Gives it back.
    fn release(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Lets all contenders take the lock and give it back at once, again and again. A call of the report is a hand-over, from
/// when the old holder sends its release to when the new one knows that it holds.
pub async fn hand_over<C: Contender>(
    env: &Env,
    warm_up: Duration,
    time: Duration,
    contenders: Vec<C>,
) -> Report {
    let window = Window::after(env, warm_up, time);
    let report = Arc::new(Mutex::new(window.report()));
    // The lock orders all accesses.
    let released: Arc<Mutex<Option<Instant>>> = Arc::default();
    let contenders = contenders.into_iter().map(|contender| {
        let (report, released, clock) = (Arc::clone(&report), Arc::clone(&released), env.clone());
        running(env, async move {
            while clock.now() < window.end {
                let mut outcome = contender.acquire().await;
                if outcome.is_ok() {
                    let now = clock.now();
                    if let Some(released) = released.lock().replace(now)
                        && window.holds(now)
                    {
                        report.lock().took(now - released);
                    }
                    outcome = contender.release().await;
                }
                if let Err(failure) = outcome {
                    report.lock().failed(&failure);
                    break;
                }
            }
        })
    });
    join_all(contenders.collect::<Vec<_>>()).await;
    report.lock().clone()
}
