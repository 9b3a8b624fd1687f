// SPDX-License-Identifier: Apache-2.0
//! What drivers of remote stores share: fewer round trips for the same promises.

mod batcher;
mod combiner;

pub use batcher::{Batcher, Carrier};
pub use combiner::{Adder, Combiner, Sum, added, addition};
