// SPDX-License-Identifier: Apache-2.0
//! The thread that keeps the folder small and the history young.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atomix_env::Instant;

use crate::journal::Journal;
use crate::snapshot::snapshot;
use crate::space::Space;

/// How long a snapshot that failed waits for the next attempt; less while the disk is full and entries were deleted since,
/// so that what is left may fit.
const RETRY: Duration = Duration::from_secs(10);
const RETRY_FULL: Duration = Duration::from_secs(1);
/// How often the log of the process has the same failure.
const REPORT: Duration = Duration::from_mins(1);

/// Works until the store is closed.
pub(crate) fn run(journal: &Arc<Journal>) {
    let env = journal.env.clone();
    let mut ticked = env.now();
    let mut failed: Option<Instant> = None;
    // When the last snapshot was made or failed, and the bytes of the store then.
    let mut copied: Option<(Instant, usize)> = None;
    let mut reported: Option<(Instant, String)> = None;
    loop {
        env.step("disk-keeper");
        let tick = journal.tuning.read().history_age_max / u32::try_from(Space::TICKS).expect("it is small");
        let full = journal.full.load(Ordering::Acquire);
        let wanted = {
            let mut keeping = journal.keeping.lock();
            let now = env.now();
            let held = failed.map(|failed| RETRY.saturating_sub(now.since(failed)));
            let mut pause = match held {
                Some(held) if keeping.wanted => held,
                _ if keeping.wanted => Duration::ZERO,
                _ => tick.saturating_sub(now.since(ticked)),
            };
            if full {
                pause = pause.min(RETRY_FULL);
            }
            if !keeping.stop && !pause.is_zero() {
                journal.kept.wait_for(&mut keeping, pause);
            }
            if keeping.stop {
                return;
            }
            // A deletion asks for nothing: it is looked for.
            let smaller = full
                && copied.is_some_and(|(at, bytes)| {
                    journal.content.room.bytes() < bytes && env.now().since(at) >= RETRY_FULL
                });
            smaller || (keeping.wanted && held.is_none_or(|held| held.is_zero()))
        };
        if env.now().since(ticked) >= tick {
            ticked = env.now();
            journal.content.spaces.all().iter().for_each(|space| space.tick());
        }
        if wanted {
            // Wanted again from here on means another one.
            journal.keeping.lock().wanted = false;
            let bytes = journal.content.room.bytes();
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
                    journal.keeping.lock().wanted = true;
                    Some(now)
                }
            };
            copied = Some((env.now(), bytes));
        }
    }
}
