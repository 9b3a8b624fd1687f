// SPDX-License-Identifier: Apache-2.0
//! The messages and services on the wire, generated from the `.proto` files in `proto/`.
//!
//! The modules under [`atomix`] follow the packages, and the short names beside it lead to the current version of
//! each: [`map`] is `atomix.runtime.map.v1`. In a module `x`, the clients are `x_client::XClient`, the traits of the
//! servers `x_server::X`. Fields of type `bytes` are [`bytes::Bytes`] everywhere.

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::disallowed_methods,
    clippy::or_fun_call,
    clippy::wildcard_enum_match_arm,
    missing_debug_implementations,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications,
    reason = "the style of generated code is not ours"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/atomix.rs"));
}

mod codec;
pub mod guard;
mod redacted;

pub use codec::Codec;
pub use generated::atomix;

pub use atomix::inspect::v1 as inspect;
pub use atomix::proxy::v1 as proxy;
pub use atomix::runtime::counter::v1 as counter;
pub use atomix::runtime::countermap::v1 as countermap;
pub use atomix::runtime::election::v1 as election;
pub use atomix::runtime::indexedmap::v1 as indexedmap;
pub use atomix::runtime::list::v1 as list;
pub use atomix::runtime::lock::v1 as lock;
pub use atomix::runtime::map::v1 as map;
pub use atomix::runtime::multimap::v1 as multimap;
pub use atomix::runtime::set::v1 as set;
pub use atomix::runtime::topic::v1 as topic;
pub use atomix::runtime::v1 as runtime;
pub use atomix::runtime::value::v1 as value;

/// The encoded `google.protobuf.FileDescriptorSet` of all packages with their imports, for gRPC reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
