// SPDX-License-Identifier: Apache-2.0
//! Real servers, and what befalls them.

mod access;
mod cluster;
mod crash;
#[path = "../ground/mod.rs"]
mod ground;
mod memory;
mod proxy;
mod sentinel;
mod watch;
