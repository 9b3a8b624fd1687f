// SPDX-License-Identifier: Apache-2.0
//! The table of the sessions of a runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atomix_config::Identity;
use atomix_env::Instant;
use atomix_primitives::Owner;
use parking_lot::Mutex;

use crate::session::Session;

/// The sessions of a runtime, by number. If the identity is that of the runtime, one session serves all connections.
#[derive(Debug)]
pub(crate) struct SessionTable {
    /// A random number that identifies the runtime in the names of its sessions.
    member: u64,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    next: AtomicU64,
    /// The one session when the identity is that of the runtime. It never ends.
    shared: Option<Arc<Session>>,
}

// === impl SessionTable ===

impl SessionTable {
    pub(crate) fn new(member: u64, identity: Identity, now: Instant) -> Self {
        let shared = match identity {
            Identity::Connection => None,
            Identity::Runtime => {
                let owner = Owner { member, session: 0 };
                Some(Arc::new(Session::new(0, owner, "runtime".to_owned(), now, Box::new(|| {}))))
            }
        };
        let sessions = shared.iter().map(|session| (0, Arc::clone(session))).collect();
        Self { member, sessions: Mutex::new(sessions), next: AtomicU64::new(1), shared }
    }

    /// Returns whether one session serves all connections.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Adds the session of a connection, or returns the shared one. `end` closes the connection.
    pub(crate) fn open(&self, peer: String, now: Instant, end: Box<dyn Fn() + Send + Sync>) -> Arc<Session> {
        if let Some(shared) = &self.shared {
            return Arc::clone(shared);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(id, self.owner(id), peer, now, end));
        self.sessions.lock().insert(id, Arc::clone(&session));
        session
    }

    /// Removes a session. False if it is not in the table any more, or is the shared one, which stays.
    pub(crate) fn remove(&self, session: &Session) -> bool {
        !self.is_shared() && self.sessions.lock().remove(&session.id()).is_some()
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Session>> {
        self.sessions.lock().get(&id).cloned()
    }

    /// Finds a session by its name, which [`Session::name`] returns.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Session>> {
        self.sessions.lock().values().find(|session| session.name() == name).cloned()
    }

    /// Returns all sessions, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }

    /// Returns the sessions, by number, after the one numbered `after`, at most `max`.
    pub(crate) fn list(&self, after: Option<u64>, max: usize) -> Vec<Arc<Session>> {
        let later = |session: &&Arc<Session>| after.is_none_or(|after| session.id() > after);
        let mut sessions: Vec<_> = self.sessions.lock().values().filter(later).cloned().collect();
        sessions.sort_by_key(|session| session.id());
        sessions.truncate(max);
        sessions
    }

    /// Returns the name of a session of this runtime, which is unique among runtimes and does not change.
    pub(crate) fn owner(&self, session: u64) -> Owner {
        Owner { member: self.member, session }
    }

    /// Returns the number of a session of this runtime, live or ended, from its name.
    pub(crate) fn parse(&self, name: &str) -> Option<u64> {
        let owner: Owner = name.parse().ok()?;
        (owner.member == self.member).then_some(owner.session)
    }
}
