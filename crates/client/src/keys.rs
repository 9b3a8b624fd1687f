// SPDX-License-Identifier: Apache-2.0
//! Locks of single keys, which maps and counter maps have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atomix_proto::runtime::PrimitiveId;
use tokio::sync::oneshot;
use tonic::transport::Channel;

use crate::client::Limit;
use crate::error::{Access, Error, Kind, Result};
use crate::link::Connection;
use crate::local_locks::LocalPermit;
use crate::open::{Answer, PrimitiveClient, awaitable};
use crate::versioned::duration;
use crate::wait::{Wait, is_settled, may_be_held, unlock_until_settled};

/// The calls of one primitive that lock keys.
pub(crate) struct KeyLocks {
    pub(crate) lock: fn(Channel, tonic::Request<Keys>) -> Answer,
    pub(crate) unlock: fn(Channel, tonic::Request<Keys>) -> Answer,
}

/// The content of both calls; unlocking has no timeout.
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
    primitive: Arc<PrimitiveClient>,
    locks: &'static KeyLocks,
    keys: Vec<String>,
    wait: Wait,
}

/// Holds the locks of keys. When it is dropped the locks are released in the background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the locks"]
pub struct KeysGuard {
    primitive: Arc<PrimitiveClient>,
    locks: &'static KeyLocks,
    keys: Vec<String>,
    connection: Option<Connection>,
    /// Present until the locks are released.
    permit: Option<LocalPermit>,
}

awaitable!(AcquireKeys -> KeysGuard);

// === impl KeyLocks ===

impl KeyLocks {
    pub(crate) async fn unlock_keys(&self, primitive: &PrimitiveClient, keys: Vec<String>) -> Result<()> {
        let request = || Keys { id: primitive.id(), names: keys.clone(), timeout: None };
        primitive.call_within(Access::Session, Limit::Call, request, self.unlock).await
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
        primitive: &Arc<PrimitiveClient>,
        locks: &'static KeyLocks,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let mut keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        keys.sort_unstable();
        keys.dedup();
        Self { primitive: Arc::clone(primitive), locks, keys, wait: Wait::Forever }
    }

    /// Waits at most for `timeout`. Default: without limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait = Wait::AtMost(timeout);
        self
    }

    async fn send(self) -> Result<KeysGuard> {
        let Self { primitive, locks, keys, wait } = self;
        let names: Vec<String> = keys.iter().map(|key| local_lock_name(&primitive, key)).collect();
        let (permit, deadline) = wait.local_permit(primitive.client(), &names).await?;
        let (sender, receiver) = oneshot::channel();
        primitive.client().runtime().clone().spawn(async move {
            let mut sender: oneshot::Sender<Result<KeysGuard>> = sender;
            // The connection of the last attempt, which is the one that owns the grant.
            let connection = Mutex::new(None);
            let request = || {
                *connection.lock().unwrap_or_else(PoisonError::into_inner) = primitive.connection();
                Keys { id: primitive.id(), names: keys.clone(), timeout: deadline.left().map(duration) }
            };
            let answer = tokio::select! {
                biased;
                answer = primitive.call_within(Access::Session, deadline.limit(), request, locks.lock) => Some(answer),
                () = sender.closed() => None,
            };
            let connection = connection.into_inner().unwrap_or_else(PoisonError::into_inner);
            let connection = connection.or_else(|| primitive.connection());
            let answer = match answer {
                Some(answer) if !answer.as_ref().is_err_and(may_be_held) => answer,
                // The server may have granted them. No other caller of this client holds these keys, because this task
                // has their permit. The caller has waited long enough.
                given_up => {
                    if let Some(Err(error)) = given_up {
                        drop(sender.send(Err(error)));
                    }
                    let unlock = || locks.unlock_keys(&primitive, keys.clone());
                    return unlock_until_settled(primitive.client().env(), connection.as_ref(), permit, unlock).await;
                }
            };
            let guard = answer.map(|()| KeysGuard { primitive, locks, keys, connection, permit: Some(permit) });
            // If the caller no longer waits, the guard comes back and is dropped.
            drop(sender.send(guard));
        });
        receiver.await.unwrap_or_else(|_| Err(Error::new(Kind::Cancelled, "runtime is ending")))
    }
}

fn local_lock_name(primitive: &PrimitiveClient, key: &str) -> String {
    // The length keeps name and key apart.
    format!("{}/{}/{}/{key}", primitive.kind(), primitive.name().len(), primitive.name())
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
            self.permit = None;
            return Err(Error::new(Kind::Conflict, "locks were lost with the connection"));
        }
        let result = self.locks.unlock_keys(&self.primitive, self.keys.clone()).await;
        if is_settled(&result) {
            self.permit = None;
        }
        // Else the drop goes on with it.
        result
    }
}

impl Drop for KeysGuard {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            return;
        }
        let (primitive, locks, keys) =
            (Arc::clone(&self.primitive), self.locks, std::mem::take(&mut self.keys));
        let connection = self.connection.take();
        self.primitive.client().runtime().spawn(async move {
            let unlock = || locks.unlock_keys(&primitive, keys.clone());
            unlock_until_settled(primitive.client().env(), connection.as_ref(), permit, unlock).await;
        });
    }
}
