// SPDX-License-Identifier: Apache-2.0
//! The client of Atomix: distributed primitives over gRPC.
//!
//! ```no_run
//! # async fn example() -> atomix_client::Result<()> {
//! use std::time::Duration;
//! use atomix_client::Client;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! struct User {
//!     role: String,
//! }
//!
//! let client = Client::builder().endpoint("http://127.0.0.1:5678").connect().await?;
//!
//! // A map of users, in the store that the routes choose for the tag.
//! let users = client.map("users").tag("durable").json::<User>().open().await?;
//! users.put("alice", &User { role: "admin".to_owned() }).ttl(Duration::from_secs(60)).await?;
//! let alice = users.get("alice").await?;
//! println!("{alice:?}");
//!
//! // Every change from now on.
//! let mut changes = users.events().await?;
//! while let Some(change) = changes.next().await {
//!     println!("{:?}", change?);
//! }
//!
//! // One worker at a time, in all processes.
//! let lock = client.lock("nightly-report").open().await?;
//! let guard = lock.acquire().timeout(Duration::from_secs(30)).await?;
//! tokio::select! {
//!     () = write_report(guard.token()) => guard.release().await?,
//!     () = guard.lost() => println!("the connection is gone, and the lock with it"),
//! }
//! # async fn write_report(_token: u64) {}
//! # Ok(())
//! # }
//! ```
//!
//! # The connection is the session
//!
//! A [`Client`] makes all its calls over one HTTP/2 connection. To the server that connection is the *session*: it
//! owns locks and candidacies, and when it ends they are released at once. The client connects anew with the next
//! call, and opens its primitives again by itself, but what it held is lost; [`lock::Guard::lost`],
//! [`KeysGuard::lost`] and [`election::Candidacy`] tell. Use one client in a process for everything, or several for
//! several owners.
//!
//! # Repetition
//!
//! A call that is answered [`Kind::Unavailable`] was certainly not applied, and is repeated until the
//! [retry budget](Builder::retry_budget) is spent. Nothing else is repeated, with one exception: a call that changes
//! nothing, or whose effect ended with its connection, is also repeated when the connection broke. A write whose
//! answer was lost fails with [`Kind::OutcomeUnknown`]; only the caller can know what to do then.

#![warn(missing_docs)]

mod client;
mod codec;
pub mod control;
pub mod counter;
pub mod countermap;
pub mod election;
mod error;
pub mod indexedmap;
pub mod inspect;
mod keys;
mod link;
pub mod list;
pub mod lock;
pub mod map;
pub mod multimap;
mod open;
pub mod set;
mod store;
mod stream;
pub mod topic;
mod turn;
pub mod value;
mod versioned;
mod wait;

pub use client::{Builder, Client};
pub use codec::{Codec, Json, Raw, Text};
pub use control::Control;
pub use counter::Counter;
pub use countermap::CounterMap;
pub use election::Election;
pub use error::{Error, Kind, Result};
pub use indexedmap::IndexedMap;
pub use inspect::Inspect;
pub use keys::{AcquireKeys, KeysGuard};
pub use list::List;
pub use lock::Lock;
pub use map::Map;
pub use multimap::MultiMap;
pub use open::{Open, Typed};
pub use set::Set;
pub use store::{DriverId, StoreId};
pub use stream::{Changes, Listing, Subscription};
pub use tonic::Code;
pub use topic::Topic;
pub use value::Value;
pub use versioned::{Versioned, Written};
