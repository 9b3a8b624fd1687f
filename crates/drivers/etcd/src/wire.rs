// SPDX-License-Identifier: Apache-2.0
//! The messages and clients of `proto/`; nothing here is by hand.
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    clippy::wildcard_enum_match_arm,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "the style of generated code is not ours"
)]

tonic::include_proto!("etcdserverpb");

impl std::fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticateRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticateResponse").finish_non_exhaustive()
    }
}

pub mod stored {
    tonic::include_proto!("stored");
}
