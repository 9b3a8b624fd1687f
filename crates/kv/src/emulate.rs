// SPDX-License-Identifier: Apache-2.0
//! Batching and summing for drivers of remote stores: fewer round trips, the same guarantees.

mod batcher;
mod combiner;

pub use batcher::{BatchSender, Batcher};
pub use combiner::{Adder, Combiner, Sum, added, addition};
