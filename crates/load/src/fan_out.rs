// SPDX-License-Identifier: Apache-2.0
//! Events that reach many watchers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::Env;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::dice::Dice;
use crate::drive::Target;
use crate::drive::{Window, running};
use crate::failure::Failure;
use crate::report::Report;

/// The events that one watcher sees.
pub trait Feed: Send + 'static {
    /// Waits for events and returns how many came together.
    fn next(&mut self) -> impl Future<Output = Result<usize, Failure>> + Send;
}

/// The latency of single events.
#[derive(Debug, Clone)]
pub struct Singles {
    /// From before the write to each watcher.
    pub each: Report,
    /// From before the write to the last of the watchers.
    pub last: Report,
}

/// The throughput of many writers to the watchers.
#[derive(Debug, Clone)]
pub struct FanOut {
    /// The writes.
    pub writes: Report,
    /// Events that reached watchers, all together.
    pub delivered: u64,
    /// Watchers whose feed ended, by error.
    pub lost: Report,
}

/// Counts the watchers that still wait for the event in flight.
#[derive(Debug, Default)]
struct Round {
    waiting: AtomicUsize,
    all: Notify,
}

/// Writes one event at a time, and the next one when all watchers have seen it. Ends early when a feed ends.
pub async fn singles<F: Feed, T: Target>(
    env: &Env,
    warm_up: Duration,
    time: Duration,
    feeds: Vec<F>,
    writer: T,
) -> Singles {
    let window = Window::after(env, warm_up, time);
    let (each, round) = (Arc::new(Mutex::new(window.report())), Arc::new(Round::default()));
    let sent = Arc::new(Mutex::new(env.now()));
    let watchers = feeds.len();
    for mut feed in feeds {
        let (each, round, sent, clock) =
            (Arc::clone(&each), Arc::clone(&round), Arc::clone(&sent), env.clone());
        env.detach(async move {
            loop {
                match feed.next().await {
                    Ok(0) => return each.lock().failed(&Failure::Broken("a feed ended".to_owned())),
                    Err(failure) => return each.lock().failed(&failure),
                    Ok(arrived) => {
                        let now = clock.now();
                        if window.holds(now) {
                            each.lock().took(now - *sent.lock());
                        }
                        if round.waiting.fetch_sub(arrived, Ordering::AcqRel) == arrived {
                            round.all.notify_one();
                        }
                    }
                }
            }
        });
    }
    let (mut last, mut dice) = (window.report(), Dice::new(env.random()));
    loop {
        let begin = env.now();
        if begin >= window.end {
            break;
        }
        *sent.lock() = begin;
        round.waiting.store(watchers, Ordering::Release);
        let seen = async {
            writer.call(dice.draw()).await?;
            round.all.notified().await;
            Ok(())
        };
        match env.timeout(EVENT_TIMEOUT, seen).await {
            Ok(Ok(())) => {
                let now = env.now();
                if window.holds(now) {
                    last.took(now - begin);
                }
            }
            Ok(Err(failure)) => {
                last.failed(&failure);
                break;
            }
            Err(_) => {
                last.failed(&Failure::Broken("an event did not reach all watchers".to_owned()));
                break;
            }
        }
    }
    let each = each.lock().clone();
    Singles { each, last }
}

/// The time in which an event must reach all watchers.
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes as fast as so many `writers` can, and counts what arrives.
pub async fn flood<F: Feed, T: Target>(
    env: &Env,
    warm_up: Duration,
    time: Duration,
    feeds: Vec<F>,
    writers: Vec<T>,
) -> FanOut {
    let window = Window::after(env, warm_up, time);
    let delivered = Arc::new(AtomicU64::new(0));
    let lost = Arc::new(Mutex::new(window.report()));
    for mut feed in feeds {
        let (delivered, lost, clock) = (Arc::clone(&delivered), Arc::clone(&lost), env.clone());
        env.detach(async move {
            loop {
                match feed.next().await {
                    Ok(0) => return lost.lock().failed(&Failure::Broken("a feed ended".to_owned())),
                    Err(failure) => return lost.lock().failed(&failure),
                    Ok(arrived) => {
                        if window.holds(clock.now()) {
                            delivered.fetch_add(arrived as u64, Ordering::Relaxed);
                        }
                    }
                }
            }
        });
    }
    let written = Arc::new(Mutex::new(window.report()));
    let writers = writers.into_iter().map(|writer| {
        let (written, clock, mut dice) = (Arc::clone(&written), env.clone(), Dice::new(env.random()));
        running(env, async move {
            let mut sent = clock.now();
            while sent < window.end {
                if let Err(failure) = writer.call(dice.draw()).await {
                    return written.lock().failed(&failure);
                }
                let answered = clock.now();
                if window.holds(answered) {
                    written.lock().took(answered - sent);
                }
                sent = answered;
            }
        })
    });
    join_all(writers.collect::<Vec<_>>()).await;
    let (written, lost) = (written.lock().clone(), lost.lock().clone());
    FanOut { writes: written, delivered: delivered.load(Ordering::Relaxed), lost }
}
