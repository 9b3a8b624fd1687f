// SPDX-License-Identifier: Apache-2.0
//! Primitives that no session uses any more cost nothing, here and in their stores.
//!
//! A primitive that the last session let go of stays open for a moment, for clients that come back. Then it is closed here. One that
//! has content is remembered by its store and opened again by the first call; one that has none is forgotten by the store as well.
//! The last of those are kept in a short list, so that a client whose connection was lost finds them again.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_config::StoreId;
use atomix_primitives::{Backing, Error, Kind, Reason, Vacancy};
use futures::StreamExt;
use futures::stream;

use crate::{PrimitiveHandle, Runtime};

/// The primitives and keyspaces that wait to be closed.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    /// Primitives that may have no session, each once: see [`PrimitiveHandle::set_queued`].
    names: Vec<(Kind, String)>,
    /// Keyspaces of primitives that were closed here. Given back one round later, when the watches of those have ended.
    closed: Vec<Backing>,
    running: bool,
}

/// The last primitives that were closed here without a call of `Close`.
#[derive(Debug, Default)]
pub(crate) struct Lapsed {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    name: String,
    tags: Vec<String>,
    /// The store that was disconnected with it.
    disconnected: Option<StoreId>,
}

/// The time that a primitive without sessions stays open.
const LINGER: Duration = Duration::from_secs(2);
/// The number of primitives that are closed at a time.
const AT_ONCE: usize = 32;
/// The number of closed primitives that are found again, and the bytes of their names and tags.
const LAPSED_MAX: usize = 4096;
const LAPSED_BYTES_MAX: usize = 1 << 20;

impl Runtime {
    /// Takes note that a session let go of `handle`.
    pub(crate) fn queue_if_idle(&self, handle: &PrimitiveHandle) {
        // The clients of a runtime that ends look for their primitives at its successor.
        if handle.is_attached() || self.is_draining() || handle.set_queued(true) {
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
            self.env().spawn(close_idle(Weak::clone(&self.this)));
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
            let Some(handle) = self.find(kind, &name) else { return };
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
            self.lapsed.lock().push(handle, None);
            self.forget_remembered(handle).await;
        } else {
            // Also if the store cannot be asked: it may have content.
            self.remember_content(handle).await;
        }
        self.queue_reclaim(handle);
        Ok(true)
    }
}

/// Closes idle primitives until there are none.
async fn close_idle(runtime: Weak<Runtime>) {
    loop {
        let Some(env) = runtime.upgrade().map(|runtime| runtime.env().clone()) else { return };
        env.sleep(LINGER).await;
        let Some(runtime) = runtime.upgrade() else { return };
        if runtime.is_draining() {
            return;
        }
        runtime.close_idle().await;
        let mut idle = runtime.idle.lock();
        if idle.names.is_empty() && idle.closed.is_empty() {
            idle.names.shrink_to_fit();
            idle.closed.shrink_to_fit();
            idle.running = false;
            return;
        }
    }
}

// === impl Lapsed ===

impl Lapsed {
    /// Takes note of a primitive; the oldest are forgotten for it.
    pub(crate) fn push(&mut self, handle: &PrimitiveHandle, disconnected: Option<StoreId>) {
        let (kind, name, tags) = (handle.kind(), handle.name().to_owned(), handle.tags().to_vec());
        let entry = Entry { kind, name, tags, disconnected };
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > LAPSED_MAX || self.bytes > LAPSED_BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    /// Returns the tags of a primitive that can be opened again.
    pub(crate) fn tags(&self, kind: Kind, name: &str) -> Option<Vec<String>> {
        let entry = self.find(kind, name)?;
        entry.disconnected.is_none().then(|| entry.tags.clone())
    }

    /// Returns the store with which the primitive was disconnected.
    pub(crate) fn disconnected(&self, kind: Kind, name: &str) -> Option<&StoreId> {
        self.find(kind, name)?.disconnected.as_ref()
    }

    /// Forgets a primitive.
    pub(crate) fn remove(&mut self, kind: Kind, name: &str) {
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let keep = entry.kind != kind || entry.name != name;
            if !keep {
                *bytes -= entry.bytes();
            }
            keep
        });
    }

    fn find(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.kind == kind && entry.name == name)
    }
}

// === impl Entry ===

impl Entry {
    fn bytes(&self) -> usize {
        self.name.len() + self.tags.iter().map(String::len).sum::<usize>()
    }
}
