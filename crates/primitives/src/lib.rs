// SPDX-License-Identifier: Apache-2.0
//! The eleven primitives, each written once over [`atomix_store::Store`].
//!
//! Every primitive is a struct around a [`Backing`], which is its keyspace in the store that the route chose. To
//! understand all eleven read [`Map`] first: plain calls are one transaction whose refusal explains itself through
//! its reads, timeouts go through `kit::expiry`, streams through `kit::follow`, locks through `kit::lock_table`.
//!
//! No primitive knows its store, and none knows about gRPC or sockets.

pub mod counter;
pub mod countermap;
pub mod election;
mod error;
pub mod indexedmap;
mod kind;
mod kit;
pub mod list;
pub mod lock;
pub mod map;
pub mod multimap;
mod primitive;
mod registry;
pub mod set;
pub mod topic;
pub mod value;

pub use counter::Counter;
pub use countermap::CounterMap;
pub use election::{Candidacy, Election};
pub use error::{Error, Kind as ErrorKind, Reason};
pub use indexedmap::IndexedMap;
pub use kind::Kind;
pub use kit::backing::{Backing, Limits, Vacancy, run_uncancellable};
pub use kit::caller::{Caller, Owner};
pub use kit::clocks::ClockOffset;
pub use kit::fence::{FENCES_MAX, Fence, fenced};
pub use kit::follow::Events;
pub use kit::known::Known;
pub use kit::lock_table::{Grant, Holding, LockTable, QueueState};
pub use kit::membership::{MemberDetails, Membership};
pub use kit::ownership::Ownership;
pub use list::List;
pub use lock::Lock;
pub use map::Map;
pub use multimap::MultiMap;
pub use primitive::{Primitive, PrimitiveConfig, TypedPrimitive};
pub use registry::open;
pub use set::Set;
pub use topic::Topic;
pub use value::Value;
