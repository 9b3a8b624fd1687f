// SPDX-License-Identifier: Apache-2.0
//! The semantics of a store as pure code, and the parts that stores share which keep their engines in this process.
//!
//! ```
//! use atomix_engine::Engine;
//! use atomix_store::{Guard, Limits, Read, Txn, Write};
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

mod embedded;
mod engine;
mod once;

pub use embedded::{MemoryBudget, Rotation, ShardedMap, complete, max_growth};
pub use engine::Engine;
