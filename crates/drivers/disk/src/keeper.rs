// SPDX-License-Identifier: Apache-2.0
//! The thread that keeps the folder small and the history young.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atomix_env::Instant;

use crate::journal::Journal;
use crate::snapshot::snapshot;
use crate::space::Space;

/// How long a snapshot that failed waits for the next attempt; less while the disk is full, when it may make room.
const RETRY: Duration = Duration::from_secs(10);
const RETRY_FULL: Duration = Duration::from_secs(1);

/// Works until the store is closed.
pub(crate) fn run(journal: &Arc<Journal>) {
    let env = journal.env.clone();
    let mut ticked = env.now();
    let mut failed: Option<Instant> = None;
    loop {
        let tick = journal.tuning.read().history_age_max / u32::try_from(Space::TICKS).expect("it is small");
        let full = journal.full.load(Ordering::Acquire);
        let retry = if full { RETRY_FULL } else { RETRY };
        let held = failed.map(|failed| retry.saturating_sub(env.now().since(failed)));
        let wanted = {
            let mut keeping = journal.keeping.lock();
            let pause = match held {
                Some(held) if keeping.wanted => held,
                _ if keeping.wanted => Duration::ZERO,
                _ => tick.saturating_sub(env.now().since(ticked)),
            };
            if !keeping.stop && !pause.is_zero() {
                journal.kept.wait_for(&mut keeping, pause);
            }
            if keeping.stop {
                return;
            }
            keeping.wanted && held.is_none_or(|held| held.is_zero())
        };
        if env.now().since(ticked) >= tick {
            ticked = env.now();
            journal.content.spaces.all().iter().for_each(|space| space.tick());
        }
        if wanted {
            // Wanted again from here on means another one.
            journal.keeping.lock().wanted = false;
            failed = match snapshot(journal) {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(dir = %journal.dir, %error, "a snapshot failed, the log grows on");
                    journal.keeping.lock().wanted = true;
                    Some(env.now())
                }
            };
        }
    }
}
