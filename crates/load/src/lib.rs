// SPDX-License-Identifier: Apache-2.0
//! Makes load and measures how it is borne: calls in a closed or an open loop, locks that change hands, leaders
//! that go, events that reach many watchers.
//!
//! The target of the load is a parameter ([`Target`], [`Contender`], [`Candidate`], [`Feed`]), so that this runtime, its stores
//! and a bare server are measured by the same loops. [`work`] has the operations on a runtime. Calls go over
//! [`Channel`], which is thinner than the SDK: on a machine that server and generator share, every microsecond of the
//! generator is one that the server does not have (`docs/adr/0021-load-generator.md`).

mod channel;
mod dice;
mod drive;
mod failure;
mod fan_out;
mod hand_over;
mod pacer;
mod report;
mod succession;
pub mod work;

pub use channel::{Channel, Method, Stream, frame};
pub use dice::Dice;
pub use drive::{Pace, Plan, Target, drive};
pub use failure::Failure;
pub use fan_out::{FanOut, Feed, Singles, flood, singles};
pub use hand_over::{Contender, hand_over};
pub use report::{Report, Summary};
pub use succession::{Candidate, resign};
