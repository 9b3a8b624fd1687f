// SPDX-License-Identifier: Apache-2.0
//! The eleven primitives, each written once over [`atomix_store::Store`].
//!
//! Every primitive is a struct around a [`Backing`], which is its keyspace in the store that the route chose. To
//! understand all eleven read [`Map`] first: plain calls are one transaction whose refusal explains itself through
//! its reads, timeouts go through `expiry`, streams through `follow`, locks through `lock_table`.
//!
//! No primitive knows its store, and none knows about gRPC or sockets.

mod backing;
mod caller;
mod clocks;
pub mod counter;
pub mod countermap;
pub mod election;
mod error;
mod expiry;
mod follow;
pub mod indexedmap;
mod keys;
mod kind;
mod known;
pub mod list;
pub mod lock;
mod lock_table;
pub mod map;
mod membership;
pub mod multimap;
mod number;
pub mod set;
mod stamp_owners;
pub mod topic;
pub mod value;

pub use backing::{Backing, Limits, Vacancy, run_uncancellable};
pub use caller::{Caller, Owner};
pub use clocks::ClockOffset;
pub use counter::Counter;
pub use countermap::CounterMap;
pub use election::{Candidacy, Election};
pub use error::{Error, Kind as ErrorKind, Reason};
pub use follow::Events;
pub use indexedmap::IndexedMap;
pub use kind::Kind;
pub use known::Known;
pub use list::List;
pub use lock::Lock;
pub use lock_table::{Grant, Holding, LockTable, QueueState};
pub use map::Map;
pub use membership::{MemberDetails, Membership};
pub use multimap::MultiMap;
pub use set::Set;
pub use topic::Topic;
pub use value::Value;
