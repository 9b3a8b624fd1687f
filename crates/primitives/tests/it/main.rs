// SPDX-License-Identifier: Apache-2.0
//! The behaviour of the primitives, one module per primitive, on the store that `stores` chooses.

#![allow(clippy::disallowed_methods, reason = "timeouts of tests are in real time, as are some facts")]
#![allow(
    clippy::unwrap_used,
    reason = "all of this is test code, which clippy cannot tell outside of test functions"
)]
#![allow(clippy::unnecessary_wraps, reason = "a short word for a TTL is worth more than a bare `Duration`")]
#![allow(
    clippy::duration_suboptimal_units,
    reason = "times that are compared are easier to read in one unit"
)]

mod ground;
mod stores;

mod abandoned;
mod counter;
mod countermap;
mod damaged;
mod election;
mod expiry;
mod fences;
mod indexedmap;
mod list;
mod lock;
mod lock_table;
mod map;
mod messages;
mod multimap;
mod set;
mod stored_format;
mod topic;
mod value;
