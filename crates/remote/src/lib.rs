// SPDX-License-Identifier: Apache-2.0
//! Parts that drivers of remote stores share: batching and summing, which save round trips and keep the guarantees, and
//! the reading of certificates.

mod batcher;
mod combiner;
pub mod tls;

pub use batcher::{BatchSender, Batcher};
pub use combiner::{Adder, Combiner, Sum, added, addition};
