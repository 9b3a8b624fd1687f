// SPDX-License-Identifier: Apache-2.0
//! The client of Atomix: distributed primitives over gRPC.
//!
//! ```
//! # let served = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/served.rs"));
//! # served(|endpoint, _control| Box::pin(async move {
//! use std::time::Duration;
//! use atomix_client::Client;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct User {
//!     role: String,
//! }
//!
//! // Usually `http://127.0.0.1:5678`.
//! let client = Client::builder().endpoint(endpoint).connect().await?;
//!
//! // A map of users, in the store that the routes choose for the tag. Every change from now on is seen.
//! let users = client.map("users").tag("durable").json::<User>().open().await?;
//! let mut changes = users.events().await?;
//!
//! let admin = User { role: "admin".to_owned() };
//! users.put("alice", &admin).ttl(Duration::from_secs(60)).await?;
//! let alice = users.get("alice").await?.expect("she was put a moment ago");
//! assert_eq!(alice.value, admin);
//!
//! // A writer that has not seen the newest version writes nothing.
//! let outdated = users.put("alice", &User { role: "guest".to_owned() }).if_version(alice.version + 1).await;
//! assert_eq!(outdated.unwrap_err().kind(), atomix_client::Kind::Conflict);
//!
//! println!("{:?}", changes.next().await.expect("the stream goes on")?);
//!
//! // One worker at a time, in all processes.
//! let lock = client.lock("nightly-report").open().await?;
//! let guard = lock.acquire().timeout(Duration::from_secs(30)).await?;
//! println!("working with token {}", guard.token());
//! guard.release().await?;
//! # Ok(())
//! # }));
//! ```
//!
//! Counters, topics, elections and all others open the same way:
//!
//! ```
//! # let served = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/served.rs"));
//! # served(|endpoint, control| Box::pin(async move {
//! # use atomix_client::Client;
//! let client = Client::builder().endpoint(endpoint).control(control).connect().await?;
//!
//! let hits = client.counter("hits").open().await?;
//! assert_eq!(hits.increment(41).await?, 41);
//! assert_eq!(hits.increment(1).await?, 42);
//!
//! // A subscription sees what is published after it.
//! let news = client.topic("news").text().open().await?;
//! let mut messages = news.subscribe().await?;
//! news.publish(&"hello".to_owned()).await?;
//! assert_eq!(messages.next().await.expect("the stream goes on")?.payload, "hello");
//!
//! // The first candidate leads, until it withdraws or its connection ends.
//! let election = client.election("boss").open().await?;
//! let candidacy = election.candidacy("me").await?;
//! assert!(candidacy.leads());
//! candidacy.withdraw().await?;
//!
//! // Operators ask the control services.
//! let stores = client.inspect().stores().await?;
//! assert_eq!(stores[0].store.name, "memory");
//! # Ok(())
//! # }));
//! ```
//!
//! # The connection is the session
//!
//! A [`Client`] makes all its calls over one HTTP/2 connection. To the server that connection is the *session*: it
//! owns locks and candidacies, and its end releases them immediately. The client reconnects with the next
//! call, and opens its primitives again by itself, but what it held is lost; [`lock::Guard::lost`],
//! [`KeysGuard::lost`] and [`election::Candidacy`] report that. Use one client in a process for everything, or several for
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
mod fence;
pub mod indexedmap;
pub mod inspect;
mod keys;
mod link;
pub mod list;
mod local_locks;
pub mod lock;
pub mod map;
pub mod multimap;
mod open;
mod refusal;
pub mod set;
mod store;
mod stream;
pub mod topic;
pub mod value;
mod versioned;
mod wait;

pub use client::{Builder, Client};
pub use codec::{Codec, Json, Raw, Text};
pub use control::Control;
pub use counter::Counter;
pub use countermap::CounterMap;
pub use election::Election;
pub use error::{Error, Kind, Result, TransportFailure};
pub use fence::{Fence, fenced};
pub use indexedmap::IndexedMap;
pub use inspect::Inspect;
pub use keys::{AcquireKeys, KeysGuard};
pub use list::List;
pub use lock::Lock;
pub use map::Map;
pub use multimap::MultiMap;
pub use open::{OpenRequest, Typed};
pub use set::Set;
pub use store::{DriverId, StoreId};
pub use stream::{Changes, Listing, Subscription};
pub use tonic::Code;
pub use topic::Topic;
pub use value::Value;
pub use versioned::{Versioned, Written};
