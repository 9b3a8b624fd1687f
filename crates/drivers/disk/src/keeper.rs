// SPDX-License-Identifier: Apache-2.0
//! The checkpoint thread, which keeps the folder small and the history young.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atomix_env::Instant;

use crate::journal::Journal;
use crate::snapshot::snapshot;
use crate::space::Space;

/// The pause after a failed snapshot; shorter while the disk is full and entries were deleted since, so that
/// the rest may fit.
const RETRY: Duration = Duration::from_secs(10);
const RETRY_FULL: Duration = Duration::from_secs(1);
/// The interval in which the same failure is logged again.
const REPORT: Duration = Duration::from_mins(1);

/// Works until the store is closed.
pub(crate) fn run(journal: &Arc<Journal>) {
    let env = journal.env.clone();
    let mut ticked = env.now();
    let mut failed: Option<Instant> = None;
    // The time of the last snapshot or failure, and the bytes of the store then.
    let mut copied: Option<(Instant, usize)> = None;
    let mut reported: Option<(Instant, String)> = None;
    loop {
        env.step("disk-keeper");
        let tick = journal.tuning.read().history_age_max / u32::try_from(Space::TICKS).expect("it is small");
        let full = journal.full.load(Ordering::Acquire);
        let wanted = {
            let mut checkpoint = journal.checkpoint.lock();
            let now = env.now();
            let held = failed.map(|failed| RETRY.saturating_sub(now.since(failed)));
            let mut pause = match held {
                Some(held) if checkpoint.wanted => held,
                _ if checkpoint.wanted => Duration::ZERO,
                _ => tick.saturating_sub(now.since(ticked)),
            };
            if full {
                pause = pause.min(RETRY_FULL);
            }
            if !checkpoint.stop && !pause.is_zero() {
                journal.checkpoint_wanted.wait_for(&mut checkpoint, pause);
            }
            if checkpoint.stop {
                return;
            }
            // Deletions send no request, so this looks for them.
            let smaller = full
                && copied.is_some_and(|(at, bytes)| {
                    journal.core.budget.bytes() < bytes && env.now().since(at) >= RETRY_FULL
                });
            smaller || (checkpoint.wanted && held.is_none_or(|held| held.is_zero()))
        };
        if env.now().since(ticked) >= tick {
            ticked = env.now();
            journal.core.spaces.all().iter().for_each(|space| space.tick());
        }
        if wanted {
            // A request from here on means another snapshot.
            journal.checkpoint.lock().wanted = false;
            let bytes = journal.core.budget.bytes();
            failed = match snapshot(journal) {
                Ok(()) => {
                    reported = None;
                    None
                }
                Err(error) => {
                    let (now, error) = (env.now(), error.to_string());
                    if reported.as_ref().is_none_or(|(at, same)| *same != error || now.since(*at) >= REPORT) {
                        tracing::warn!(dir = %journal.dir, error, "a snapshot failed, the log grows on");
                        reported = Some((now, error));
                    }
                    journal.checkpoint.lock().wanted = true;
                    Some(now)
                }
            };
            copied = Some((env.now(), bytes));
        }
    }
}
