// SPDX-License-Identifier: Apache-2.0
//! Locks of single keys, which maps and counter maps have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atomix_proto::runtime::PrimitiveId;
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::client::Limit;
use crate::error::Access;
use crate::link::Connection;
use crate::open::{Answer, Core, awaitable};
use crate::turn::Turn;
use crate::versioned::duration;
use crate::wait::{Wait, is_settled, may_be_held, settle};
use crate::{Error, Kind, Result};

/// The calls of one primitive that lock keys.
pub(crate) struct KeyLocks {
    pub(crate) lock: fn(Channel, tonic::Request<Keys>) -> Answer,
    pub(crate) unlock: fn(Channel, tonic::Request<Keys>) -> Answer,
}

/// What both calls send; unlocking has no timeout.
pub(crate) struct Keys {
    pub(crate) id: Option<PrimitiveId>,
    pub(crate) names: Vec<String>,
    pub(crate) timeout: Option<prost_types::Duration>,
}

/// Asks for the locks of keys; `.await` it for the [`KeysGuard`].
///
/// Fails with [`Kind::Conflict`] if the keys were not to be had in time. Cancel safe: when the `.await` is given up
/// nothing stays locked.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct AcquireKeys {
    core: Arc<Core>,
    locks: &'static KeyLocks,
    keys: Vec<String>,
    wait: Wait,
}

/// Holds the locks of keys. When it is dropped the locks are released in the background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the locks"]
pub struct KeysGuard {
    core: Arc<Core>,
    locks: &'static KeyLocks,
    keys: Vec<String>,
    connection: Option<Connection>,
    /// Present until the locks are released.
    turn: Option<Turn>,
}

awaitable!(AcquireKeys -> KeysGuard);

// === impl KeyLocks ===

impl KeyLocks {
    pub(crate) async fn unlock_keys(&self, core: &Core, keys: Vec<String>) -> Result<()> {
        let request = || Keys { id: core.id(), names: keys.clone(), timeout: None };
        core.call_within(Access::Session, Limit::Call, request, self.unlock).await
    }
}

impl std::fmt::Debug for KeyLocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyLocks")
    }
}

// === impl AcquireKeys ===

impl AcquireKeys {
    pub(crate) fn new<K: Into<String>>(
        core: &Arc<Core>,
        locks: &'static KeyLocks,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let mut keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        keys.sort_unstable();
        keys.dedup();
        Self { core: Arc::clone(core), locks, keys, wait: Wait::Forever }
    }

    /// Waits at most for `timeout`. Default: without limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait = Wait::AtMost(timeout);
        self
    }

    async fn send(self) -> Result<KeysGuard> {
        let Self { core, locks, keys, wait } = self;
        let names: Vec<String> = keys.iter().map(|key| turn_name(&core, key)).collect();
        let (turn, deadline) = wait.turn(core.client(), &names).await?;
        let (sender, receiver) = oneshot::channel();
        core.client().runtime().clone().spawn(async move {
            let mut sender: oneshot::Sender<Result<KeysGuard>> = sender;
            // The connection of the last attempt, which is the one that owns the grant.
            let connection = Mutex::new(None);
            let request = || {
                *connection.lock().unwrap_or_else(PoisonError::into_inner) = core.connection();
                Keys { id: core.id(), names: keys.clone(), timeout: deadline.left().map(duration) }
            };
            let answer = tokio::select! {
                biased;
                answer = core.call_within(Access::Session, deadline.limit(), request, locks.lock) => Some(answer),
                () = sender.closed() => None,
            };
            let connection = connection.into_inner().unwrap_or_else(PoisonError::into_inner);
            let connection = connection.or_else(|| core.connection());
            let answer = match answer {
                Some(answer) if !answer.as_ref().is_err_and(may_be_held) => answer,
                // The server may have granted them. Nobody else of this client holds these keys, because this task has
                // their turn. The caller has waited long enough.
                given_up => {
                    if let Some(Err(error)) = given_up {
                        drop(sender.send(Err(error)));
                    }
                    let unlock = || locks.unlock_keys(&core, keys.clone());
                    return settle(core.client().env(), connection.as_ref(), turn, unlock).await;
                }
            };
            let guard = answer.map(|()| KeysGuard { core, locks, keys, connection, turn: Some(turn) });
            // If nobody waits any more, the guard comes back and is dropped.
            drop(sender.send(guard));
        });
        receiver.await.unwrap_or_else(|_| Err(Error::new(Kind::Cancelled, "runtime is ending")))
    }
}

fn turn_name(core: &Core, key: &str) -> String {
    // The length keeps name and key apart.
    format!("{}/{}/{}/{key}", core.kind(), core.name().len(), core.name())
}

// === impl KeysGuard ===

impl KeysGuard {
    /// Returns the keys, sorted.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Waits until the connection has ended, and with it the hold. Cancel safe.
    pub async fn lost(&self) {
        if let Some(connection) = &self.connection {
            connection.closed().await;
        }
    }

    /// Releases the locks. A call that is given up, or not answered, goes on in the background.
    ///
    /// Fails with [`Kind::Conflict`] if they were lost before.
    pub async fn release(mut self) -> Result<()> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.turn = None;
            return Err(Error::new(Kind::Conflict, "locks were lost with the connection"));
        }
        let result = self.locks.unlock_keys(&self.core, self.keys.clone()).await;
        if is_settled(&result) {
            self.turn = None;
        }
        // Else the drop goes on with it.
        result
    }
}

impl Drop for KeysGuard {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            return;
        }
        let (core, locks, keys) = (Arc::clone(&self.core), self.locks, std::mem::take(&mut self.keys));
        let connection = self.connection.take();
        self.core.client().runtime().spawn(async move {
            let unlock = || locks.unlock_keys(&core, keys.clone());
            settle(core.client().env(), connection.as_ref(), turn, unlock).await;
        });
    }
}
