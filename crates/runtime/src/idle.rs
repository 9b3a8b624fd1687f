// SPDX-License-Identifier: Apache-2.0
//! Primitives that no session uses any more cost nothing, here and in their stores.
//!
//! A primitive that the last session let go of stays open for a moment, for clients that come back. Then it is closed here. One that
//! has content is remembered by its store and opened again by the first call; one that has none is forgotten by the store as well.
//! The last of those are kept in a short list, so that a client whose connection was lost finds them again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_env::{Env, Shutdown};
use atomix_primitives::{Backing, Error, Kind, Reason, Vacancy};
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;

use crate::primitive::PrimitiveHandle;
use crate::primitive_table::PrimitiveTable;
use crate::recovery::Recovery;

/// Closes the primitives of a runtime that no session uses.
#[derive(Debug)]
pub(crate) struct IdleCloser {
    this: Weak<Self>,
    env: Env,
    primitives: Arc<PrimitiveTable>,
    recovery: Arc<Recovery>,
    draining: Shutdown,
    idle: Mutex<Idle>,
}

/// The primitives and keyspaces that wait to be closed.
#[derive(Debug, Default)]
struct Idle {
    /// Primitives that may have no session, each once: see [`PrimitiveHandle::set_queued`].
    names: Vec<(Kind, String)>,
    /// Keyspaces of primitives that were closed here. Given back one round later, when the watches of those have ended.
    closed: Vec<Backing>,
    running: bool,
}

/// The time that a primitive without sessions stays open.
const LINGER: Duration = Duration::from_secs(2);
/// The number of primitives that are closed at a time.
const AT_ONCE: usize = 32;
// === impl IdleCloser ===

impl IdleCloser {
    pub(crate) fn new(
        env: Env,
        primitives: Arc<PrimitiveTable>,
        recovery: Arc<Recovery>,
        draining: Shutdown,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            env,
            primitives,
            recovery,
            draining,
            idle: Mutex::default(),
        })
    }

    /// Takes note that a session let go of `handle`.
    pub(crate) fn queue_if_idle(&self, handle: &PrimitiveHandle) {
        // The clients of a runtime that ends look for their primitives at its successor.
        if handle.is_attached() || self.draining.is_cancelled() || handle.set_queued(true) {
            return;
        }
        self.queue(|idle| idle.names.push((handle.kind(), handle.name().to_owned())));
    }

    /// Takes note that a primitive was closed here: its keyspace is released if it is empty.
    pub(crate) fn queue_reclaim(&self, handle: &PrimitiveHandle) {
        self.queue(|idle| idle.closed.push(handle.backing().clone()));
    }

    fn queue(&self, put: impl FnOnce(&mut Idle)) {
        let start = {
            let mut idle = self.idle.lock();
            put(&mut idle);
            !std::mem::replace(&mut idle.running, true)
        };
        if start {
            self.env.spawn(close_idle(Weak::clone(&self.this)));
        }
    }

    /// Closes the primitives that have no session, and releases the keyspaces of those that were closed before.
    pub(crate) async fn close_idle(&self) {
        let (names, closed) = {
            let mut idle = self.idle.lock();
            (std::mem::take(&mut idle.names), std::mem::take(&mut idle.closed))
        };
        let vacate = async |backing: Backing| match backing.vacate().await {
            Ok(_) => {}
            Err(error) if error.reason() == Reason::StoreClosed => {}
            Err(error) => tracing::debug!(%error, "failed to release the keyspace of an empty primitive"),
        };
        stream::iter(closed).for_each_concurrent(AT_ONCE, vacate).await;
        let close = async |(kind, name): (Kind, String)| {
            let Some(handle) = self.primitives.find(kind, &name) else { return };
            handle.set_queued(false);
            if handle.is_attached() {
                return;
            }
            match self.retire(&handle).await {
                Ok(true) => {}
                Ok(false) => self.queue_if_idle(&handle),
                Err(error) => {
                    tracing::debug!(%error, "a primitive without sessions cannot be closed yet");
                    self.queue_if_idle(&handle);
                }
            }
        };
        stream::iter(names).for_each_concurrent(AT_ONCE, close).await;
    }

    /// Closes a primitive that no session uses. False if it cannot be closed yet.
    async fn retire(&self, handle: &Arc<PrimitiveHandle>) -> Result<bool, Error> {
        // Its deadlines are looked after only while it is open.
        if handle.backing().vacancy().await? == Vacancy::Expiring {
            return Ok(false);
        }
        if !self.primitives.forget_idle(handle) {
            return Ok(false);
        }
        // Asked again: nothing writes through this one any more.
        let vacancy = handle.backing().vacancy().await;
        if vacancy == Ok(Vacancy::Empty) {
            self.recovery.note_closed(handle, None);
            self.recovery.forget(handle).await;
        } else {
            // Also if the store cannot be asked: it may have content.
            self.recovery.remember_content(handle).await;
        }
        self.queue_reclaim(handle);
        Ok(true)
    }
}

/// Closes idle primitives until there are none.
async fn close_idle(closer: Weak<IdleCloser>) {
    loop {
        let Some(env) = closer.upgrade().map(|closer| closer.env.clone()) else { return };
        env.sleep(LINGER).await;
        let Some(closer) = closer.upgrade() else { return };
        if closer.draining.is_cancelled() {
            return;
        }
        closer.close_idle().await;
        let mut idle = closer.idle.lock();
        if idle.names.is_empty() && idle.closed.is_empty() {
            idle.names.shrink_to_fit();
            idle.closed.shrink_to_fit();
            idle.running = false;
            return;
        }
    }
}
