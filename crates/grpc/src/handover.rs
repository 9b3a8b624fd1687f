// SPDX-License-Identifier: Apache-2.0
//! Answers that hand something over: a lock, a candidacy.
//!
//! The client of such a call may give up while the answer is on its way, and then its session would own what nothing knows
//! of. Two things keep that from happening (`docs/adr/0025-handing-over.md`): nothing is granted in the last moments
//! before the deadline of the call, and what was granted is revoked unless the connection has proved that the answer
//! came in time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use atomix_env::{Env, Instant};
use atomix_primitives::{Caller, Candidacy, Grant};
use atomix_transport::{Connection, Receipt, Undelivered};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response};

use crate::call_service::grpc_timeout;

/// A call whose answer grants something.
#[derive(Debug)]
pub(crate) struct HandOver {
    env: Env,
    /// Absent in tests of services.
    connection: Option<Weak<Connection>>,
    deadline: Option<Deadline>,
}

/// The last moments of a call that brought a deadline.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    /// After it nothing is granted.
    grant: Instant,
    /// After it an answer that was not confirmed may have come too late.
    confirm: Instant,
}

/// A lock or a candidacy that an answer hands over.
pub(crate) trait HandedOver: Send + 'static {
    /// For how long a caller whose proof came late may show, by giving the thing back, that it had the answer.
    const PROBATION: Duration;

    /// Returns whether the session still has it.
    fn is_kept(&self) -> bool;

    /// Takes it back. Does not block.
    fn revoke(self);
}

/// The margin before a deadline is a quarter of the time that the call has, within these bounds, and half of it for those
/// that have less than twice the smaller one.
const MARGIN_MIN: Duration = Duration::from_millis(10);
const MARGIN_MAX: Duration = Duration::from_millis(250);
/// Clients of gRPC's C core round the time up, by as much as one percent. The margin comes on top of such a share.
const ROUNDED: u32 = 64;

// === impl HandOver ===

impl HandOver {
    /// Reads the deadline of a call that arrives now.
    pub(crate) fn begin<T>(env: &Env, request: &Request<T>) -> Self {
        Self {
            env: env.clone(),
            connection: request.extensions().get::<Arc<Connection>>().map(Arc::downgrade),
            deadline: Deadline::of(env, request.metadata()),
        }
    }

    /// Gives the deadline to the caller of a primitive.
    pub(crate) fn limit(&self, caller: Caller) -> Caller {
        Caller { deadline: self.deadline.map(|deadline| deadline.grant), ..caller }
    }

    /// Makes the answer. `handed` is revoked if the answer does not reach its client. If it is not known whether it did, and
    /// the client does not give `handed` back in time, the connection ends too, which the client sees.
    pub(crate) fn answer<T>(self, answer: T, handed: impl HandedOver) -> Response<T> {
        let mut response = Response::new(answer);
        let confirm = self.deadline.map(|deadline| deadline.confirm);
        let receipt = Receipt::new(confirm, move |outcome| match outcome {
            Undelivered::Refused => handed.revoke(),
            Undelivered::Unknown => self.resolve(handed),
        });
        response.extensions_mut().insert(receipt);
        response
    }

    fn resolve<H: HandedOver>(self, handed: H) {
        self.env.clone().detach(async move {
            self.env.sleep(H::PROBATION).await;
            if !handed.is_kept() {
                return;
            }
            if let Some(connection) = self.connection.and_then(|connection| connection.upgrade()) {
                tracing::info!(
                    peer = %connection.peer(),
                    "a grant reached a client about when its deadline ended, and was not given back: its connection is closed"
                );
                connection.close();
            }
            handed.revoke();
        });
    }
}

// === impl HandedOver ===

impl HandedOver for Grant {
    // Critical sections are short as a rule. A lock that is held for longer after a late proof is rarely worth a connection,
    // but one that sticks is worse.
    const PROBATION: Duration = Duration::from_millis(500);

    fn is_kept(&self) -> bool {
        self.is_held()
    }

    fn revoke(self) {
        Self::revoke(&self);
    }
}

impl HandedOver for Candidacy {
    // A candidate stays for long: nothing would show soon that its client knows of it.
    const PROBATION: Duration = Duration::ZERO;

    fn is_kept(&self) -> bool {
        true
    }

    fn revoke(self) {
        Self::revoke(self);
    }
}

// === impl Deadline ===

impl Deadline {
    fn of(env: &Env, metadata: &MetadataMap) -> Option<Self> {
        let timeout = grpc_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
        let margin = margin(timeout);
        let end = timeout.saturating_sub(timeout / ROUNDED);
        let now = env.now();
        // A client may stall between the proof, which its transport gives, and the moment in which its caller has the answer.
        let confirm = end.saturating_sub(margin * 3 / 4);
        Some(Self { grant: now + end.saturating_sub(margin), confirm: now + confirm })
    }
}

fn margin(timeout: Duration) -> Duration {
    (timeout / 4).max(MARGIN_MIN.min(timeout / 2)).min(MARGIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_env::{Clock, ManualClock};
    use std::sync::atomic::{AtomicBool, Ordering};

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

    /// Something handed over that notes whether it was revoked.
    struct Handed {
        kept: Arc<AtomicBool>,
        revoked: Arc<AtomicBool>,
    }

    impl HandedOver for Handed {
        const PROBATION: Duration = Duration::from_secs(1);

        fn is_kept(&self) -> bool {
            self.kept.load(Ordering::SeqCst)
        }

        fn revoke(self) {
            self.revoked.store(true, Ordering::SeqCst);
        }
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_late_proof_revokes_only_what_was_not_given_back_in_time() {
        for given_back in [true, false] {
            let clock = ManualClock::new();
            let env = Env::simulated(clock.clone(), 1);
            let (kept, revoked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
            let handover = HandOver { env, connection: None, deadline: None };
            handover.resolve(Handed { kept: Arc::clone(&kept), revoked: Arc::clone(&revoked) });
            settle().await;
            clock.advance(Duration::from_millis(999));
            settle().await;
            assert!(!revoked.load(Ordering::SeqCst), "the caller still has time");
            kept.store(!given_back, Ordering::SeqCst);
            clock.advance(Duration::from_millis(1));
            settle().await;
            assert_eq!(revoked.load(Ordering::SeqCst), !given_back);
        }
    }
}
