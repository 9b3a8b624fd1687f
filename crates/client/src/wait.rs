// SPDX-License-Identifier: Apache-2.0
//! Waiting for a lock: the timeout of the caller, the local permit, and the unlock that must not be lost.

use std::time::Duration;

use atomix_env::{Backoff, Env, Instant};

use crate::client::{Client, Limit, PAUSE_MAX, PAUSE_MIN};
use crate::error::{Error, Kind, Result};
use crate::link::Connection;
use crate::local_locks::LocalPermit;

/// The wait time that a caller accepts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Forever,
    AtMost(Duration),
    Never,
}

/// The instant at which the wait ends.
#[derive(Debug, Clone)]
pub(crate) struct Deadline {
    env: Env,
    at: Option<Instant>,
}

impl Wait {
    /// Waits for the local permit of this client, and returns it with the deadline for the server.
    ///
    /// Fails with [`Kind::Conflict`] if another caller of this client keeps the permit.
    pub(crate) async fn local_permit(
        self,
        client: &Client,
        names: &[String],
    ) -> Result<(LocalPermit, Deadline)> {
        let env = client.env();
        let deadline = |time: Duration| Deadline { env: env.clone(), at: Some(env.now() + time) };
        let conflict = || Error::new(Kind::Conflict, "lock is held by this client");
        match self {
            Self::Forever => {
                Ok((client.local_locks().take(names).await, Deadline { env: env.clone(), at: None }))
            }
            Self::Never => {
                let permit = client.local_locks().try_take(names).ok_or_else(conflict)?;
                Ok((permit, deadline(Duration::ZERO)))
            }
            Self::AtMost(time) => {
                let deadline = deadline(time);
                let permit =
                    env.timeout(time, client.local_locks().take(names)).await.map_err(|_| conflict())?;
                Ok((permit, deadline))
            }
        }
    }
}

impl Deadline {
    /// Returns the remaining time, `None` if it has no limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.at.map(|at| at.since(self.env.now()))
    }

    /// Returns the limit of a call that waits until the deadline.
    pub(crate) fn limit(&self) -> Limit {
        Limit::Wait(self.left())
    }
}

/// Returns whether the server may have granted a lock although the answer is `error`.
pub(crate) fn may_be_held(error: &Error) -> bool {
    matches!(error.kind(), Kind::Timeout | Kind::Cancelled | Kind::OutcomeUnknown | Kind::Internal)
}

/// Returns whether the outcome of an unlock is known. Otherwise it may still be in flight.
pub(crate) fn is_settled(unlocked: &Result<()>) -> bool {
    let answers =
        [Kind::NotFound, Kind::AlreadyExists, Kind::Conflict, Kind::Invalid, Kind::Denied, Kind::Unsupported];
    unlocked.as_ref().err().is_none_or(|error| answers.contains(&error.kind()))
}

/// Repeats the unlock until its outcome is known or the session has ended, and drops the permit only then: an unlock
/// that was cancelled may still be in flight, and would release the lock of the caller that gets the permit next.
pub(crate) async fn unlock_until_settled<F, R>(
    env: &Env,
    connection: Option<&Connection>,
    permit: LocalPermit,
    unlock: F,
) where
    F: Fn() -> R,
    R: Future<Output = Result<()>>,
{
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    while connection.is_some_and(|connection| !connection.is_closed()) && !is_settled(&unlock().await) {
        backoff.pause(env).await;
    }
    drop(permit);
}
