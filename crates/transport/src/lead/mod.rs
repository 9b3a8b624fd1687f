// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 connections and their limits.

mod body;
mod connection;
mod frames;
mod limits;
mod listener;
mod serve;
mod socket;

pub use body::Request as RequestBody;
pub use connection::{Connection, Observer, Peer};
pub use limits::Limits;
pub use listener::Listener;
pub use serve::{Drained, Transport};
