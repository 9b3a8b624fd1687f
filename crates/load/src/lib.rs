// SPDX-License-Identifier: Apache-2.0
//! Makes load and measures how it is borne: calls in a closed or an open loop, locks that change hands, leaders
//! that go, events that reach many watchers.
//!
//! The target of the load is a parameter ([`Target`], [`Contender`], [`Candidate`], [`Feed`]), so that this runtime, its stores
//! and a bare server are measured by the same loops. [`work`] has the operations on a runtime. Calls go over
//! [`Channel`], which is thinner than the SDK: on a machine that server and generator share, every microsecond of the
//! generator is one that the server does not have (`docs/adr/0021-load-generator.md`).

mod channel;
mod drive;
mod fan_out;
mod hand_over;
mod pacer;
mod report;
mod succession;
pub mod work;

pub use channel::{Channel, Method, Stream, frame};
pub use drive::{Pace, Plan, Target, drive};
pub use fan_out::{FanOut, Feed, Singles, flood, singles};
pub use hand_over::{Contender, hand_over};
pub use report::{Report, Summary};
pub use succession::{Candidate, resign};

/// A call that did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server answered with this gRPC status.
    Status(u16, String),
    /// The connection is of no more use.
    Broken(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code, message) => write!(f, "status {code}: {message}"),
            Self::Broken(cause) => write!(f, "connection broke: {cause}"),
        }
    }
}

impl std::error::Error for Failure {}

/// The generator of numbers of this crate: `SplitMix64`, whose state one caller owns, so that drawing costs no lock.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}
