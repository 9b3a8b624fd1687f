// SPDX-License-Identifier: Apache-2.0
//! Answers that hand something over: a lock, a candidacy.
//!
//! The client of such a call may give up while the answer is on its way, and then its session would own what nothing knows
//! of. Two things keep that from happening (`docs/adr/0025-handing-over.md`): nothing is granted in the last moments
//! before the deadline of the call, and what was granted is revoked unless the connection has proved that the answer
//! came in time.

use std::time::Duration;

use atomix_env::{Env, Instant};
use atomix_primitives::Caller;
use atomix_transport::Receipt;
use tonic::Response;
use tonic::metadata::MetadataMap;

use crate::front::grpc_timeout;

/// The last moments of a call that brought a deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    /// After it nothing is granted.
    grant: Instant,
    /// After it an answer that was not confirmed may have come too late.
    confirm: Instant,
}

/// The margin before a deadline is a quarter of the time that the call has, within these bounds, and half of it for those
/// that have less than twice the smaller one.
const MARGIN_MIN: Duration = Duration::from_millis(10);
const MARGIN_MAX: Duration = Duration::from_millis(250);
/// Clients of gRPC's C core round the time up, by as much as one percent. The margin comes on top of such a share.
const ROUNDED: u32 = 64;

// === impl Deadline ===

impl Deadline {
    /// Reads the deadline of a call that arrives now.
    pub(crate) fn of(env: &Env, metadata: &MetadataMap) -> Option<Self> {
        let timeout = grpc_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
        let margin = margin(timeout);
        let end = timeout.saturating_sub(timeout / ROUNDED);
        let now = env.now();
        Some(Self { grant: now + end.saturating_sub(margin), confirm: now + end.saturating_sub(margin / 2) })
    }

    /// Gives the deadline to the caller of a primitive.
    pub(crate) fn limit(deadline: Option<Self>, caller: Caller) -> Caller {
        Caller { deadline: deadline.map(|deadline| deadline.grant), ..caller }
    }
}

/// Makes an answer that hands something over. `revoke` is called if it does not reach its client, or if it is not known
/// whether it did: then the connection ends too, which the client sees.
pub(crate) fn hand_over<T>(
    answer: T,
    deadline: Option<Deadline>,
    revoke: impl FnOnce() + Send + 'static,
) -> Response<T> {
    let mut response = Response::new(answer);
    let receipt = Receipt::new(deadline.map(|deadline| deadline.confirm), |_| revoke());
    response.extensions_mut().insert(receipt);
    response
}

fn margin(timeout: Duration) -> Duration {
    (timeout / 4).max(MARGIN_MIN.min(timeout / 2)).min(MARGIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_env::{Clock, ManualClock};

    #[test]
    fn the_margin_is_a_share_of_the_time_within_bounds() {
        let millis = |millis: u64| margin(Duration::from_millis(millis)).as_micros();
        assert_eq!(
            [4, 20, 40, 50, 100, 1000, 5000].map(millis),
            [2_000, 10_000, 10_000, 12_500, 25_000, 250_000, 250_000]
        );
        assert_eq!(margin(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_grant_ends_before_its_confirmation_and_both_before_the_real_deadline() {
        let clock = ManualClock::new();
        let env = Env::simulated(clock.clone(), 1);
        for (text, real) in
            [("1n", 0), ("5m", 5), ("50m", 50), ("100m", 100), ("6S", 5_910), ("101S", 100_000)]
        {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            let deadline = Deadline::of(&env, &metadata).unwrap();
            assert!(deadline.grant <= deadline.confirm, "{text}");
            let real = Duration::from_millis(real).max(Duration::from_nanos(1));
            assert!(deadline.confirm.since(clock.now()) <= real, "{text}");
        }
        assert!(Deadline::of(&env, &MetadataMap::new()).is_none());
    }
}
