// SPDX-License-Identifier: Apache-2.0
//! The transport over real sockets.
#![allow(clippy::disallowed_methods, reason = "real sockets, real time and threads of clients are the point")]
#![allow(
    clippy::print_stdout,
    reason = "what an attack cost is worth reading, and the child prints its address"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod abuse;
mod life;
mod memory;
mod receipts;
mod server;
