// SPDX-License-Identifier: Apache-2.0
//! Watches: one watch of etcd for a keyspace, or for a range of its keys, whatever the number of those who follow it.
//!
//! All watches share one stream to etcd. Each feeds the window of its part, and followers are positions
//! in that window. When the connection is lost, every watch begins anew after the last revision that it has brought. Who
//! begins further back than the window reaches is first brought up to it, over a stream of its own.

mod assemble;
mod backlog;
mod hub;

pub(crate) use hub::{Hub, Part};
