// SPDX-License-Identifier: Apache-2.0
//! One small transactional, watchable key-value trait, on which all primitives are built.
//!
//! A [`Driver`] makes [`Store`]s; a store keeps *keyspaces*, each an ordered table of entries with a history of
//! commits. All primitives are written once against [`Store`]; all stores behave as `Engine` of `atomix-engine` does,
//! which is the semantics as pure code. The conformance suite compares the two.

mod check;
mod driver;
mod error;
mod history;
mod model;
mod profile;
mod settings;
mod sorted;
mod store;

pub use atomix_env::{JsonObject, Machine};

pub use driver::{Context, Driver, deserialize_duration};
pub use error::{Error, ErrorKind};
pub use history::{History, HistoryBudget, Retention};
pub use model::{
    Ask, Change, Commit, Entry, Found, Guard, Keyspace, Order, Outcome, Range, Read, Revision, Snapshot, Txn,
    Write, Written, number, number_bytes,
};
pub use profile::{Consistency, Durability, Limits, Profile};
pub use settings::{
    HIDDEN, Secret, fold, parse_config, printable, redact, rename_fields, set_default, without_credentials,
};
pub use sorted::Sorted;
pub use store::{BackupStream, Health, Reconfigured, Store, WatchFrom, WatchItem, WatchStream};
