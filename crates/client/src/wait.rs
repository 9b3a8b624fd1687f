// SPDX-License-Identifier: Apache-2.0
//! How long a caller waits for a lock, and how it gives back what it may hold.

use std::time::Duration;

use atomix_env::{Env, Instant};

use crate::client::Limit;
use crate::link::Connection;
use crate::turn::Turn;
use crate::{Client, Error, Kind, Result};

/// How long a caller is willing to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Forever,
    AtMost(Duration),
    Never,
}

/// When the willingness ends.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    env: Env,
    at: Option<Instant>,
}

impl Wait {
    /// Waits for the turn of this client, and returns what is left of the time for the server.
    ///
    /// Fails with [`Kind::Conflict`] if another caller of this client keeps the turn.
    pub(crate) async fn turn(self, client: &Client, names: &[String]) -> Result<(Turn, Deadline)> {
        let env = client.env();
        let deadline = |time: Duration| Deadline { env: env.clone(), at: Some(env.now() + time) };
        let conflict = || Error::new(Kind::Conflict, "lock is held by this client");
        match self {
            Self::Forever => Ok((client.turns().take(names).await, Deadline { env: env.clone(), at: None })),
            Self::Never => {
                let turn = client.turns().try_take(names).ok_or_else(conflict)?;
                Ok((turn, deadline(Duration::ZERO)))
            }
            Self::AtMost(time) => {
                let deadline = deadline(time);
                let turn = env.timeout(time, client.turns().take(names)).await.map_err(|_| conflict())?;
                Ok((turn, deadline))
            }
        }
    }
}

impl Deadline {
    /// Returns what is left of the time, `None` if it has no limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.at.map(|at| at.since(self.env.now()))
    }

    /// Returns the limit of a call that waits until then.
    pub(crate) fn limit(&self) -> Limit {
        Limit::Wait(self.left())
    }
}

/// Pauses between attempts to unlock.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Unlocks what `connection` holds or may hold. Goes on with it in the background if there is no answer.
pub(crate) async fn give_back<F, Fut>(
    client: &Client,
    connection: Option<Connection>,
    turn: Turn,
    unlock: F,
) -> Result<()>
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let result = unlock().await;
    if result.as_ref().is_err_and(is_no_answer) {
        insist(client, connection, turn, unlock);
    }
    result
}

/// Unlocks in the background until the server has answered or the connection has ended, and with it the hold. The turn ends
/// only then: an unlock that the server takes up late would hit what this client has locked since.
pub(crate) fn insist<F, Fut>(client: &Client, connection: Option<Connection>, turn: Turn, unlock: F)
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let Some(connection) = connection else { return };
    let env = client.env().clone();
    client.runtime().spawn(async move {
        let mut pause = RETRY_MIN;
        loop {
            tokio::select! {
                () = connection.closed() => break,
                () = env.sleep(env.jitter(pause)) => {}
            }
            if !unlock().await.as_ref().is_err_and(is_no_answer) {
                break;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        drop(turn);
    });
}

/// Returns whether `error` leaves open whether the lock is still held.
pub(crate) fn is_no_answer(error: &Error) -> bool {
    error.kind() == Kind::Unavailable || may_be_held(error)
}

/// Returns whether the server may have granted a lock although the answer is `error`.
pub(crate) fn may_be_held(error: &Error) -> bool {
    matches!(error.kind(), Kind::Timeout | Kind::Cancelled | Kind::OutcomeUnknown | Kind::Internal)
}
