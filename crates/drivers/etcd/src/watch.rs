// SPDX-License-Identifier: Apache-2.0
//! Watches: one watch of etcd for a keyspace, or for a range of its keys, shared by all followers.
//!
//! All watches share one stream to etcd. Each fills the window of its part, and followers are positions in
//! that window. When the connection is lost, every watch resumes after the last revision that it has
//! delivered. A follower that begins further back than the window reaches catches up first, over a separate
//! stream.

mod assemble;
mod backlog;
mod compaction;
mod feed;
pub(crate) mod hub;
pub(crate) mod part;
mod registry;
