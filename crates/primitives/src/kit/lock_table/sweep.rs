// SPDX-License-Identifier: Apache-2.0
//! The search for orphans: stamps of this runtime that belong to no call and no session.
//!
//! A stamp whose commit was never answered may be in the store already, or arrive at any time: a member of a cluster that
//! stood still applies what it has in its socket when it goes on, minutes later. Nothing in this process would delete it, and
//! once it is first the lock is held for ever. So a primitive that lost an answer looks through its queues without end,
//! with pauses that double: an orphan is found within about twice the time that it was late, and the cost for a primitive
//! that is open for a day is thirty scans. An orphan that this runtime sees earlier, because a call waits behind it or
//! finds the lock taken, resets the pause.
//!
//! An orphan is deleted when it was seen twice, or at once if its commit is one of those that were not answered.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_env::Env;
use atomix_store::{Entry, ErrorKind};
use bytes::Bytes;
use tokio::sync::Notify;

use super::Shared;
use super::record::StampRecord;
use super::wait_queue::Stamped;
use crate::kit::keys::KeyKind;

/// The first pause between two looks for orphans, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// The number of commits without an answer that are remembered. Stamps of others are deleted too, a pause later.
const LOST_MAX: usize = 1024;

/// Looks for orphans until the primitive is gone or its store is closed.
async fn sweep(shared: Weak<Shared>, env: Env, suspicion: Arc<Notify>) {
    let (mut pause, mut suspects) = (PAUSE_MIN, HashMap::new());
    loop {
        let Some(strong) = shared.upgrade() else { return };
        match strong.look_for_orphans(&mut suspects).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => {
                tracing::debug!(%error, "failed to search the queues of a lock for orphans");
            }
        }
        drop(strong);
        tokio::select! {
            () = env.sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            () = suspicion.notified() => {
                env.sleep(PAUSE_MIN).await;
                pause = PAUSE_MIN;
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Looks for the stamps of a commit that was not answered.
    pub(super) fn mark_lost(self: &Arc<Self>, nonce: u64) {
        {
            let mut state = self.state.lock();
            state.pending.remove(&nonce);
            if state.lost.len() < LOST_MAX {
                state.lost.insert(nonce);
            }
        }
        self.start_sweep();
    }

    /// Looks for orphans soon if some of `entries` seem to be.
    pub(super) fn suspect<'a>(self: &Arc<Self>, entries: impl IntoIterator<Item = &'a Entry>) {
        if entries.into_iter().any(|entry| self.orphan(entry).is_some()) {
            self.start_sweep();
        }
    }

    fn start_sweep(self: &Arc<Self>) {
        let sweeping = std::mem::replace(&mut self.state.lock().sweeping, true);
        if sweeping {
            self.suspicion.notify_one();
            return;
        }
        let (env, suspicion) = (self.backing.env().clone(), Arc::clone(&self.suspicion));
        self.backing.env().detach(sweep(Arc::downgrade(self), env, suspicion));
    }

    /// Returns the record of a stamp that is of this member and belongs to nothing here. One that cannot be read is of no
    /// member.
    fn orphan(&self, entry: &Entry) -> Option<StampRecord> {
        let membership = self.backing.membership();
        let stamp = StampRecord::decode(&entry.value).ok()?;
        let own = stamp.owner.member == membership.id();
        (own && !membership.stamp_owners().owns(self.backing.keyspace(), entry)).then_some(stamp)
    }

    /// Deletes the orphans among those that were seen before, and leaves the others in `suspects`.
    async fn look_for_orphans(
        &self,
        suspects: &mut HashMap<Bytes, Bytes>,
    ) -> Result<(), atomix_store::Error> {
        let mut seen = HashMap::new();
        let mut pages = self.backing.scan_all(KeyKind::Stamp.range(), false);
        while let Some(page) = pages.next().await? {
            let mut orphans = Vec::new();
            for entry in &page.entries {
                let Some(stamp) = self.orphan(entry) else { continue };
                let lost = self.state.lock().lost.contains(&stamp.nonce);
                if lost || suspects.get(&entry.key) == Some(&entry.value) {
                    orphans.push(Stamped::of(entry));
                } else {
                    seen.insert(entry.key.clone(), entry.value.clone());
                }
            }
            for chunk in orphans.chunks(self.backing.writes_at_once()) {
                let swept = self.remove(chunk).await?;
                let mut state = self.state.lock();
                for stamp in chunk.iter().filter_map(|orphan| StampRecord::decode(&orphan.value).ok()) {
                    state.lost.remove(&stamp.nonce);
                }
                drop(state);
                if swept > 0 {
                    self.swept.fetch_add(swept as u64, Ordering::Relaxed);
                    tracing::warn!(
                        count = swept,
                        keyspace = %self.backing.keyspace(),
                        "deleted stamps in the queue of a lock that belonged to no call"
                    );
                }
            }
        }
        *suspects = seen;
        Ok(())
    }
}
