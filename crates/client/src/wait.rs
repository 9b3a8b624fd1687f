// SPDX-License-Identifier: Apache-2.0
//! How long a caller waits for a lock.

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

/// Returns whether the server may have granted a lock although the answer is `error`.
pub(crate) fn may_be_held(error: &Error) -> bool {
    matches!(error.kind(), Kind::Timeout | Kind::Cancelled | Kind::OutcomeUnknown | Kind::Internal)
}

/// Returns whether the server has said what became of an unlock; if not, it may still be under way.
pub(crate) fn is_settled(unlocked: &Result<()>) -> bool {
    let answers =
        [Kind::NotFound, Kind::AlreadyExists, Kind::Conflict, Kind::Invalid, Kind::Denied, Kind::Unsupported];
    unlocked.as_ref().err().is_none_or(|error| answers.contains(&error.kind()))
}

/// Unlocks until the server has said what became of it, or the session is over, and ends the turn only then: an unlock
/// that was given up may still be under way, and would hit the lock of whoever has the next turn.
pub(crate) async fn settle<F, R>(env: &Env, connection: Option<&Connection>, turn: Turn, unlock: F)
where
    F: Fn() -> R,
    R: Future<Output = Result<()>>,
{
    const PAUSE_MAX: Duration = Duration::from_secs(2);
    let mut pause = Duration::from_millis(50);
    while connection.is_some_and(|connection| !connection.is_closed()) && !is_settled(&unlock().await) {
        env.sleep(env.jitter(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    drop(turn);
}
