// SPDX-License-Identifier: Apache-2.0
//! Runtimes on stores that outlive them.

#![allow(clippy::disallowed_methods, reason = "timeouts of tests are in real time")]
#![allow(
    clippy::unwrap_used,
    reason = "all of this is test code, which clippy cannot tell outside of test functions"
)]

mod again;
mod bounds;
mod clocks;
mod ground;
mod idle;
mod membership;
mod operate;
mod restart;
mod shared;
mod supervision;
