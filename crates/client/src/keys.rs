// SPDX-License-Identifier: Apache-2.0
//! Locks of single keys, which maps and counter maps have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atomix_proto::runtime::PrimitiveId;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::client::Limit;
use crate::error::Access;
use crate::link::Connection;
use crate::open::{Answer, Core, awaitable};
use crate::turn::Turn;
use crate::versioned::duration;
use crate::wait::{Wait, give_back, insist, is_no_answer, may_be_held};
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

    /// Returns what unlocks keys each time that it is called.
    fn unlocking(
        &'static self,
        core: &Arc<Core>,
        keys: &[String],
    ) -> impl Fn() -> BoxFuture<'static, Result<()>> + Send + 'static {
        let (core, keys) = (Arc::clone(core), keys.to_vec());
        move || {
            let (core, keys) = (Arc::clone(&core), keys.clone());
            async move { self.unlock_keys(&core, keys).await }.boxed()
        }
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
            match answer {
                // If nobody waits any more, the guard comes back and is dropped.
                Some(Ok(())) => {
                    drop(sender.send(Ok(KeysGuard { core, locks, keys, connection, turn: Some(turn) })));
                }
                Some(Err(error)) if !may_be_held(&error) => drop(sender.send(Err(error))),
                // The server may have granted them. Nobody else of this client holds these keys, because this task has their
                // turn.
                unanswered => {
                    let client = core.client().clone();
                    give_back(&client, connection, turn, locks.unlocking(&core, &keys)).await.ok();
                    if let Some(Err(error)) = unanswered {
                        drop(sender.send(Err(error)));
                    }
                }
            }
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

    /// Releases the locks. A call that is given up goes on in the background.
    ///
    /// Fails with [`Kind::Conflict`] if they were lost before.
    pub async fn release(mut self) -> Result<()> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.turn = None;
            return Err(Error::new(Kind::Conflict, "locks were lost with the connection"));
        }
        let unlock = self.locks.unlocking(&self.core, &self.keys);
        let result = unlock().await;
        if let Some(turn) = self.turn.take()
            && result.as_ref().is_err_and(is_no_answer)
        {
            insist(self.core.client(), self.connection.take(), turn, unlock);
        }
        result
    }
}

impl Drop for KeysGuard {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            return;
        }
        let (client, connection) = (self.core.client().clone(), self.connection.take());
        let unlock = self.locks.unlocking(&self.core, &self.keys);
        self.core.client().runtime().spawn(async move {
            give_back(&client, connection, turn, unlock).await.ok();
        });
    }
}
