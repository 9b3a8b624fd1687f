// SPDX-License-Identifier: Apache-2.0
//! The client against scripted servers.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "real sockets need the real clock")]

mod calls;
mod streams;
