// SPDX-License-Identifier: Apache-2.0
//! Parts that primitives are made of: keys, transactions with retries, watches, locks, expiry, and membership. No part
//! knows a primitive.

pub(crate) mod backing;
pub(crate) mod caller;
pub(crate) mod clocks;
pub(crate) mod codec;
pub(crate) mod expiry;
pub(crate) mod fence;
pub(crate) mod follow;
pub(crate) mod keys;
pub(crate) mod known;
pub(crate) mod lock_table;
pub(crate) mod membership;
pub(crate) mod number;
pub(crate) mod ownership;
pub(crate) mod reads;
pub(crate) mod stamp_owners;
