// SPDX-License-Identifier: Apache-2.0
//! Real servers, and what befalls them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail, and runs in real time")]

mod access;
mod cluster;
mod crash;
#[path = "../fixture/mod.rs"]
mod fixture;
mod memory;
mod named;
mod names;
mod sentinel;
mod together;
mod watch;
