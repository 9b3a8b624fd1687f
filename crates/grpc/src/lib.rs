// SPDX-License-Identifier: Apache-2.0
//! The gRPC services over a [`Runtime`](atomix_runtime::Runtime).
//!
//! One file per primitive: decode, call the primitive, encode. Every error becomes a status in `status`, every call
//! finds its session and its primitive in `call`.

mod call;
mod call_class;
mod call_service;
mod control;
mod convert;
mod counter;
mod countermap;
mod decode;
mod directory;
mod election;
mod guard;
mod handover;
mod health;
mod indexedmap;
mod inspect;
mod list;
mod lock;
mod map;
mod multimap;
mod serve;
mod set;
mod status;
mod topic;
mod value;

pub use decode::decode_config;
pub use serve::{Bound, Server, Settings};
