// SPDX-License-Identifier: Apache-2.0
//! The accept loop under our gRPC services.
//!
//! h2 speaks HTTP/2; this crate drives its connections, and admits peers, bounds the cost of a connection, decides when it
//! ends, and notifies an observer. tonic's own server does not fit: it has no timeout for the preface or for idle
//! connections, no limit of connections, no policy for pings, no bound of unread answers, and no identity of connections.
//!
//! [`Listener`] binds, [`Transport::serve`] answers with a tower service, [`Transport::drained`] drains, [`Limits`] bound,
//! an [`Observer`] observes, [`Counters`] count. Every request carries its `Arc<Connection>`. An answer that grants
//! something carries a [`Receipt`].
//!
//! | Attack of a peer | Bound |
//! |---|---|
//! | many connections, from one place or many | [`Limits::connections_per_peer_max`], [`Limits::connections_max`] |
//! | connections without a preface, or without calls | [`Limits::preface_timeout`], [`Limits::idle_timeout`] |
//! | vanishing silently | pings; a socket that takes no bytes for as long |
//! | many streams, or streams that must be reset | HTTP/2, with all its limits set |
//! | calls that wait and streams that never end | [`Connection::begin_long_call`] |
//! | PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, unknown frames without work | frames are counted as they arrive |
//! | requests that the server is slow to read | the windows |
//! | many large requests that never end | room for the sum of their declared lengths |
//! | all of this on many connections | one budget for the buffers of all; those that use most and do not read are cut |
//! | answers that it does not read | a budget of bytes; a stream that waits 30 s for room is reset |

#[cfg(feature = "abuse")]
pub mod abuse;
mod admission;
mod allowance;
mod answer;
mod budget;
mod connection;
mod counters;
mod frames;
mod http2;
mod limits;
mod listen;
mod pool;
mod receipt;
mod relief;
mod request;
mod serve;
mod wire;

pub use admission::Kind;
pub use connection::{Connection, End, LongCall, Peer};
pub use counters::{Counters, Refusal};
pub use limits::Limits;
pub use listen::{Listener, SocketRights};
pub use receipt::{Receipt, Undelivered};
pub use request::RequestBody;
pub use serve::{Drained, Observer, RateLimitedLog, Transport};
