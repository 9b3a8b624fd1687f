// SPDX-License-Identifier: Apache-2.0
//! Faults of stores, of runtimes and of the links between them.

pub mod clock;
pub mod deployment;
pub mod fault;
pub mod fencing;
pub mod network;
pub mod runs;

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns `FAULT_SEED`, or one drawn from the time.
#[allow(clippy::disallowed_methods, reason = "a seed that was not given is the time")]
pub fn seed() -> u64 {
    let given = std::env::var("FAULT_SEED").ok().map(|text| text.parse().expect("FAULT_SEED is a number"));
    given.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()))
    })
}
