// SPDX-License-Identifier: Apache-2.0
//! A lock with a fencing token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atomix_proto::lock::lock_client::LockClient;
use atomix_proto::lock::{GetLockRequest, LockRequest, UnlockRequest};
use tokio::sync::oneshot;

use crate::error::Access;
use crate::link::Connection;
use crate::open::{Core, Service, awaitable, rpc, service};
use crate::turn::Turn;
use crate::versioned::duration;
use crate::wait::{Wait, is_settled, may_be_held, settle};
use crate::{Client, Error, Kind, Open, Result};

static SERVICE: Service = service!("Lock", lock, locks_client::LocksClient);

/// A mutual exclusion lock for all clients. Cheap to clone.
///
/// First come, first served, and not re-entrant: a second acquisition waits for the first, also within one client.
#[derive(Debug, Clone)]
pub struct Lock {
    core: Arc<Core>,
}

/// Asks for the lock; `.await` it for the [`Guard`].
///
/// Fails with [`Kind::Conflict`] if the lock was not to be had in time, with [`Kind::Cancelled`] if it is closed by
/// this client meanwhile. Cancel safe: when the `.await` is given up the lock is not kept.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Acquire {
    core: Arc<Core>,
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
    core: Arc<Core>,
    token: u64,
    connection: Option<Connection>,
    /// Present until the lock is released.
    turn: Option<Turn>,
}

awaitable!(Acquire -> Guard);

// === impl Lock ===

impl Lock {
    pub(crate) fn opener(client: &Client, name: String) -> Open<Self> {
        Open::new(client, &SERVICE, name, |core| Self { core })
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        self.core.name()
    }

    /// Takes the lock, waiting for its turn.
    pub fn acquire(&self) -> Acquire {
        Acquire { core: Arc::clone(&self.core), wait: Wait::Forever }
    }

    /// Takes the lock if nobody has it. Cancel safe.
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        let acquire = Acquire { core: Arc::clone(&self.core), wait: Wait::Never };
        match acquire.await {
            Ok(guard) => Ok(Some(guard)),
            Err(error) if error.kind() == Kind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the token of whoever holds the lock, if anybody does. Cancel safe.
    pub async fn holder(&self) -> Result<Option<u64>> {
        let request = GetLockRequest { id: self.core.id() };
        match self.core.call(Access::Read, request, rpc!(LockClient.get_lock)).await {
            Ok(response) => Ok(Some(response.version)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the use of the lock by this client, clones of this handle included: what it holds is released, what
    /// waits for it is cancelled.
    pub async fn close(&self) -> Result<()> {
        self.core.close().await
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
        let Self { core, wait } = self;
        let (turn, deadline) = wait.turn(core.client(), &[format!("Lock/{}", core.name())]).await?;
        let (sender, receiver) = oneshot::channel();
        core.client().runtime().clone().spawn(async move {
            let mut sender: oneshot::Sender<Result<Guard>> = sender;
            // The connection of the last attempt, which is the one that owns the grant.
            let connection = Mutex::new(None);
            let request = || {
                *connection.lock().unwrap_or_else(PoisonError::into_inner) = core.connection();
                LockRequest { id: core.id(), timeout: deadline.left().map(duration) }
            };
            let limit = deadline.limit();
            let answer = tokio::select! {
                biased;
                answer = core.call_within(Access::Session, limit, request, rpc!(LockClient.lock)) => Some(answer),
                () = sender.closed() => None,
            };
            let connection = connection.into_inner().unwrap_or_else(PoisonError::into_inner);
            let connection = connection.or_else(|| core.connection());
            let answer = match answer {
                Some(answer) if !answer.as_ref().is_err_and(may_be_held) => answer,
                // The server may have granted it. Nobody else of this client holds the lock, because this task has the
                // turn. The caller has waited long enough.
                given_up => {
                    if let Some(Err(error)) = given_up {
                        drop(sender.send(Err(error)));
                    }
                    let env = core.client().env();
                    return settle(env, connection.as_ref(), turn, || unlock(&core)).await;
                }
            };
            let guard =
                answer.map(|answer| Guard { core, token: answer.version, connection, turn: Some(turn) });
            // If nobody waits any more, the guard comes back and is dropped.
            drop(sender.send(guard));
        });
        receiver.await.unwrap_or_else(|_| Err(Error::new(Kind::Cancelled, "runtime is ending")))
    }
}

async fn unlock(core: &Core) -> Result<()> {
    let request = UnlockRequest { id: core.id() };
    core.call(Access::Session, request, rpc!(LockClient.unlock)).await?;
    Ok(())
}

// === impl Guard ===

impl Guard {
    /// Returns the fencing token: never 0, and greater than the token of every earlier holder.
    pub fn token(&self) -> u64 {
        self.token
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
            self.turn = None;
            return Err(Error::new(Kind::Conflict, "lock was lost with the connection"));
        }
        let result = unlock(&self.core).await;
        if is_settled(&result) {
            self.turn = None;
        }
        // Else the drop goes on with it.
        result
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            return;
        }
        let (core, connection) = (Arc::clone(&self.core), self.connection.take());
        self.core.client().runtime().spawn(async move {
            settle(core.client().env(), connection.as_ref(), turn, || unlock(&core)).await;
        });
    }
}
