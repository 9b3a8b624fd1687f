// SPDX-License-Identifier: Apache-2.0
//! A lock with a fencing token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atomix_proto::lock::lock_client::LockClient;
use atomix_proto::lock::{GetLockRequest, LockRequest, UnlockRequest};
use tokio::sync::oneshot;

use crate::client::Client;
use crate::error::{Access, Error, Kind, Result};
use crate::fence::Fence;
use crate::link::Connection;
use crate::local_locks::LocalPermit;
use crate::open::{OpenRequest, PrimitiveClient, Service, awaitable, rpc, service};
use crate::versioned::duration;
use crate::wait::{Wait, is_settled, may_be_held, unlock_until_settled};

static SERVICE: Service = service!("Lock", lock, locks_client::LocksClient);

/// A mutual exclusion lock for all clients. Cheap to clone.
///
/// First come, first served, and not re-entrant: a second acquisition waits for the first, also within one client.
#[derive(Debug, Clone)]
pub struct Lock {
    primitive: Arc<PrimitiveClient>,
}

/// Asks for the lock; `.await` it for the [`Guard`].
///
/// Fails with [`Kind::Conflict`] if the lock was not to be had in time, with [`Kind::Cancelled`] if it is closed by
/// this client meanwhile. Cancel safe: when the `.await` is given up the lock is not kept.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Acquire {
    primitive: Arc<PrimitiveClient>,
    wait: Wait,
}

/// Holds the lock. When it is dropped the lock is released in the background.
///
/// The lock belongs to the connection of the client and is released by the server when that ends. Work under the
/// lock should therefore watch [`Guard::lost`], and hand [`Guard::token`] to whatever it writes to: a store that
/// refuses lower tokens than it has seen is safe even from a holder that does not know yet.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct Guard {
    primitive: Arc<PrimitiveClient>,
    token: u64,
    connection: Option<Connection>,
    /// Present until the lock is released.
    permit: Option<LocalPermit>,
}

awaitable!(Acquire -> Guard);

// === impl Client ===

impl Client {
    /// Opens a lock.
    pub fn lock(&self, name: impl Into<String>) -> OpenRequest<Lock> {
        OpenRequest::new(self, &SERVICE, name.into(), |primitive| Lock { primitive })
    }
}

// === impl Lock ===

impl Lock {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.primitive.name()
    }

    /// Takes the lock, waiting in its queue.
    pub fn acquire(&self) -> Acquire {
        Acquire { primitive: Arc::clone(&self.primitive), wait: Wait::Forever }
    }

    /// Takes the lock if it is free. Cancel safe.
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        let acquire = Acquire { primitive: Arc::clone(&self.primitive), wait: Wait::Never };
        match acquire.await {
            Ok(guard) => Ok(Some(guard)),
            Err(error) if error.kind() == Kind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the token of the holder, if the lock is held. Cancel safe.
    pub async fn holder(&self) -> Result<Option<u64>> {
        let request = GetLockRequest { id: self.primitive.id() };
        match self.primitive.call(Access::Read, request, rpc!(LockClient.get_lock)).await {
            Ok(response) => Ok(Some(response.version)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the use of the lock by this client, clones of this handle included: what it holds is released, what
    /// waits for it is cancelled.
    pub async fn close(&self) -> Result<()> {
        self.primitive.close().await
    }
}

// === impl Acquire ===

impl Acquire {
    /// Waits at most for `timeout`. Default: without limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait = Wait::AtMost(timeout);
        self
    }

    async fn send(self) -> Result<Guard> {
        let Self { primitive, wait } = self;
        let (permit, deadline) =
            wait.local_permit(primitive.client(), &[format!("Lock/{}", primitive.name())]).await?;
        let (sender, receiver) = oneshot::channel();
        primitive.client().runtime().clone().spawn(async move {
            let mut sender: oneshot::Sender<Result<Guard>> = sender;
            // The connection of the last attempt, which is the one that owns the grant.
            let connection = Mutex::new(None);
            let request = || {
                *connection.lock().unwrap_or_else(PoisonError::into_inner) = primitive.connection();
                LockRequest { id: primitive.id(), timeout: deadline.left().map(duration) }
            };
            let limit = deadline.limit();
            let answer = tokio::select! {
                biased;
                answer = primitive.call_within(Access::Session, limit, request, rpc!(LockClient.lock)) => Some(answer),
                () = sender.closed() => None,
            };
            let connection = connection.into_inner().unwrap_or_else(PoisonError::into_inner);
            let connection = connection.or_else(|| primitive.connection());
            let answer = match answer {
                Some(answer) if !answer.as_ref().is_err_and(may_be_held) => answer,
                // The server may have granted it. No other caller of this client holds the lock, because this task has
                // the permit. The caller has waited long enough.
                given_up => {
                    if let Some(Err(error)) = given_up {
                        drop(sender.send(Err(error)));
                    }
                    let env = primitive.client().env();
                    return unlock_until_settled(env, connection.as_ref(), permit, || unlock(&primitive)).await;
                }
            };
            let guard =
                answer.map(|answer| Guard { primitive, token: answer.version, connection, permit: Some(permit) });
            // If the caller no longer waits, the guard comes back and is dropped.
            drop(sender.send(guard));
        });
        receiver.await.unwrap_or_else(|_| Err(Error::new(Kind::Cancelled, "runtime is ending")))
    }
}

async fn unlock(primitive: &PrimitiveClient) -> Result<()> {
    let request = UnlockRequest { id: primitive.id() };
    primitive.call(Access::Session, request, rpc!(LockClient.unlock)).await?;
    Ok(())
}

// === impl Guard ===

impl Guard {
    /// Returns the fencing token: never 0, and greater than the token of every earlier holder.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Returns the fence of this holder, for [`fenced`](crate::fenced).
    pub fn fence(&self) -> Fence {
        Fence::lock(self.primitive.name(), self.token)
    }

    /// Waits until the connection has ended, and with it the hold. Cancel safe.
    pub async fn lost(&self) {
        if let Some(connection) = &self.connection {
            connection.closed().await;
        }
    }

    /// Releases the lock. A call that is given up, or not answered, goes on in the background.
    ///
    /// Fails with [`Kind::Conflict`] if the lock was lost before.
    pub async fn release(mut self) -> Result<()> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.permit = None;
            return Err(Error::new(Kind::Conflict, "lock was lost with the connection"));
        }
        let result = unlock(&self.primitive).await;
        if is_settled(&result) {
            self.permit = None;
        }
        // Else the drop goes on with it.
        result
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            return;
        }
        let (primitive, connection) = (Arc::clone(&self.primitive), self.connection.take());
        self.primitive.client().runtime().spawn(async move {
            unlock_until_settled(primitive.client().env(), connection.as_ref(), permit, || {
                unlock(&primitive)
            })
            .await;
        });
    }
}
