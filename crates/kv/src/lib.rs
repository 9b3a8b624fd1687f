// SPDX-License-Identifier: Apache-2.0
//! One small transactional, watchable key-value trait, on which all primitives are built.
//!
//! A [`Driver`] makes [`Store`]s; a store keeps *keyspaces*, each an ordered table of entries with a history of
//! commits. All primitives are written once against [`Store`]; all stores behave as [`Engine`] does, which is the
//! semantics written down as pure code. The conformance kit compares the two.
//!
//! ```
//! use atomix_kv::{Engine, Guard, Limits, Read, Txn, Write};
//!
//! let mut engine = Engine::new();
//! let txn = Txn::new()
//!     .guard(Guard::Absent { key: "k".into() })
//!     .write(Write::Put { key: "k".into(), value: "v".into() })
//!     .read(Read::Get { key: "k".into() });
//! let (outcome, changes) = engine.apply(&txn, &Limits::default()).unwrap();
//! assert!(outcome.applied);
//! assert_eq!(changes.len(), 1);
//! let (refused, changes) = engine.apply(&txn, &Limits::default()).unwrap();
//! assert!(!refused.applied && changes.is_empty());
//! ```

mod driver;
mod embedded;
pub mod emulate;
mod engine;
mod error;
mod history;
mod model;
mod once;
mod profile;
mod settings;
mod sorted;
mod store;
#[cfg(feature = "tls")]
pub mod tls;

pub use atomix_env::Machine;

pub use driver::{Context, Driver, StoreConfig, deserialize_duration};
pub use embedded::{MemoryBudget, Rotation, ShardedMap, complete, complete_histories, max_growth};
pub use engine::Engine;
pub use error::{Error, ErrorKind};
pub use history::{History, HistoryBudget, Retention};
pub use model::{
    Ask, Change, Commit, Entry, Found, Guard, Keyspace, Order, Outcome, Range, Read, Revision, Snapshot, Txn,
    Write, Written, number, number_bytes,
};
pub use profile::{Consistency, Durability, Limits, Profile};
pub use settings::{
    HIDDEN, Secret, fold, parse_config, printable, redact, rename_fields, without_credentials,
};
pub use sorted::Sorted;
pub use store::{BackupStream, Health, Reconfigured, Store, WatchFrom, WatchItem, WatchStream};
