// SPDX-License-Identifier: Apache-2.0
//! Trouble: what is done to stores, runtimes and the ways between them.

pub mod network;
pub mod stand;
pub mod trouble;
