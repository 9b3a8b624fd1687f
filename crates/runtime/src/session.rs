// SPDX-License-Identifier: Apache-2.0
//! Sessions: the owners of locks and candidacies, and the primitives that they use.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atomix_env::{Env, Instant, Shutdown};
use atomix_primitives::{Caller, Kind, Owner};
use parking_lot::Mutex;

use crate::primitive::{PrimitiveHandle, PrimitiveInstanceId};

/// A client as the runtime sees it: one connection.
pub struct Session {
    id: u64,
    /// Names the session. What it takes in a store carries the name that the member has there, see [`Session::owner`].
    name: Owner,
    peer: String,
    opened: Instant,
    end: Box<dyn Fn() + Send + Sync>,
    /// The primitives that the session uses; `None` once it has ended.
    attachments: Mutex<Option<Attachments>>,
    calls: AtomicUsize,
    /// Those of them that wait for others or stream.
    long_calls: AtomicUsize,
}

/// Something that a session owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHolding {
    /// The kind of the primitive.
    pub kind: Kind,
    /// The name of the primitive.
    pub name: String,
    /// The key of a map, the candidate of an election; empty for a lock.
    pub key: String,
    /// The token of a lock, the term that the candidate leads; zero for one that waits.
    pub token: u64,
}

/// The session of an owner in a store, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerDetails {
    /// The name of the session; empty if it is one of another runtime.
    pub session: String,
    /// When the session began, if it is one of this runtime that lives.
    pub opened: Option<Instant>,
    /// Whether the session is one of this runtime that has ended. What it owns is being released, or an orphan.
    pub ended: bool,
}

/// Counts a call while it runs.
#[derive(Debug)]
pub struct CallGuard {
    session: Arc<Session>,
    count: fn(&Session) -> &AtomicUsize,
}

/// Not by name: a name that was closed and created again is another primitive, while calls on the old one may still run.
type Attachments = HashMap<PrimitiveInstanceId, Attachment>;

/// The use of a primitive by a session. Dropping it ends waiting calls and streams.
struct Attachment {
    handle: Arc<PrimitiveHandle>,
    /// Whether the session created the primitive. A session may also work on what another one created.
    user: bool,
    /// Made when the first call needs it: most sessions never wait and never stream.
    closed: Option<Shutdown>,
}

// === impl Session ===

impl Session {
    pub(crate) fn new(
        id: u64,
        name: Owner,
        peer: String,
        opened: Instant,
        end: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let attachments = Mutex::new(Some(HashMap::new()));
        Self {
            id,
            name,
            peer,
            opened,
            end,
            attachments,
            calls: AtomicUsize::new(0),
            long_calls: AtomicUsize::new(0),
        }
    }

    /// Returns the number of the session, unique in this runtime.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the name of the session, unique among runtimes.
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// Returns the owner of what the session acquires in `handle`.
    pub fn owner(&self, handle: &PrimitiveHandle) -> Owner {
        handle.owner(self.id)
    }

    /// Returns the address of the client.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Returns when the session began, in monotonic time.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns how many primitives the session has created and not closed.
    pub fn primitives(&self) -> usize {
        let attachments = self.attachments.lock();
        attachments.iter().flat_map(HashMap::values).filter(|attachment| attachment.user).count()
    }

    /// Returns how many calls run, streams included.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call until the guard is dropped.
    pub fn call(self: &Arc<Self>) -> CallGuard {
        CallGuard::new(self, |session| &session.calls)
    }

    /// Returns how many of the calls wait for others or stream.
    pub fn long_calls(&self) -> usize {
        self.long_calls.load(Ordering::Relaxed)
    }

    /// Counts a call that waits for others or streams until the guard is dropped. [`Session::call`] counts it as well.
    pub fn long_call(self: &Arc<Self>) -> CallGuard {
        CallGuard::new(self, |session| &session.long_calls)
    }

    /// Returns the caller that stands for this session in calls on `handle`. It is closed already if the session has
    /// ended or `handle` is forgotten.
    pub fn caller(&self, handle: &Arc<PrimitiveHandle>) -> Caller {
        let mut attachments = self.attachments.lock();
        let attachment = attachments.as_mut().and_then(|attachments| attachment_entry(attachments, handle));
        let closed = attachment.map(|attachment| attachment.closed.get_or_insert_default().clone());
        let closed = closed.unwrap_or_else(|| {
            let closed = Shutdown::new();
            closed.cancel();
            closed
        });
        Caller { owner: self.owner(handle), closed, deadline: None }
    }

    /// Returns what the session owns, at most `max` per primitive. All stores are asked at once; those that do not
    /// answer within `timeout` are left out.
    pub async fn holdings(&self, env: &Env, timeout: Duration, max: usize) -> Vec<SessionHolding> {
        let ask = |handle: Arc<PrimitiveHandle>| async move {
            let asked = env.timeout(timeout, handle.primitive().holdings(self.owner(&handle), max));
            let held = asked.await.unwrap_or_default().into_iter();
            let holding = |(key, token)| SessionHolding {
                kind: handle.kind(),
                name: handle.name().to_owned(),
                key,
                token,
            };
            held.map(holding).collect::<Vec<_>>()
        };
        futures::future::join_all(self.handles().into_iter().map(ask)).await.concat()
    }

    /// Makes the session a user of `handle`, unless that is forgotten. False if the session has ended.
    pub(crate) fn attach(&self, handle: &Arc<PrimitiveHandle>) -> bool {
        let mut attachments = self.attachments.lock();
        let Some(attachments) = &mut *attachments else { return false };
        if let Some(attachment) = attachment_entry(attachments, handle)
            && !std::mem::replace(&mut attachment.user, true)
        {
            handle.enter();
        }
        true
    }

    /// Ends what the session does on `handle`.
    pub(crate) fn detach(&self, handle: &Arc<PrimitiveHandle>) {
        let attachment =
            self.attachments.lock().as_mut().and_then(|attachments| attachments.remove(&handle.id()));
        drop(attachment);
    }

    /// Ends what the session does on `handle` unless it is a user of what is known. True if it did anything there.
    pub(crate) fn detach_non_user(&self, handle: &Arc<PrimitiveHandle>) -> bool {
        let mut attachments = self.attachments.lock();
        let Some(attachments) = &mut *attachments else { return false };
        let non_user =
            attachments.get(&handle.id()).is_some_and(|attachment| !attachment.user || handle.is_forgotten());
        non_user && attachments.remove(&handle.id()).is_some()
    }

    /// Ends everything that the session does and returns what it may own something in.
    pub(crate) fn end(&self) -> Vec<Arc<PrimitiveHandle>> {
        let attachments = self.attachments.lock().take().unwrap_or_default();
        attachments.into_values().map(|attachment| Arc::clone(&attachment.handle)).collect()
    }

    /// Closes the connection.
    pub(crate) fn disconnect(&self) {
        (self.end)();
    }

    fn handles(&self) -> Vec<Arc<PrimitiveHandle>> {
        let attachments = self.attachments.lock();
        attachments
            .iter()
            .flat_map(HashMap::values)
            .map(|attachment| Arc::clone(&attachment.handle))
            .collect()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("peer", &self.peer).finish_non_exhaustive()
    }
}

// === impl Attachment ===

impl Attachment {
    fn new(handle: Arc<PrimitiveHandle>) -> Self {
        handle.inc_attachments();
        Self { handle, user: false, closed: None }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(closed) = &self.closed {
            closed.cancel();
        }
        if self.user {
            self.handle.leave();
        }
        self.handle.dec_attachments();
    }
}

/// Finds or makes the attachment to `handle`. `None` if that is forgotten: no later step would end the attachment.
fn attachment_entry<'a>(
    attachments: &'a mut Attachments,
    handle: &Arc<PrimitiveHandle>,
) -> Option<&'a mut Attachment> {
    match attachments.entry(handle.id()) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(entry) => {
            // Increments before it checks `forgotten`; `forget` sets the flag before it reads the count, so at least one
            // side sees the other.
            let attachment = Attachment::new(Arc::clone(handle));
            if handle.is_forgotten() { None } else { Some(entry.insert(attachment)) }
        }
    }
}

// === impl CallGuard ===

impl CallGuard {
    fn new(session: &Arc<Session>, count: fn(&Session) -> &AtomicUsize) -> Self {
        count(session).fetch_add(1, Ordering::Relaxed);
        Self { session: Arc::clone(session), count }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        (self.count)(&self.session).fetch_sub(1, Ordering::Relaxed);
    }
}
