// SPDX-License-Identifier: Apache-2.0
//! The client against servers that do what the test tells them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "real sockets need the real clock")]

mod calls;
mod streams;
