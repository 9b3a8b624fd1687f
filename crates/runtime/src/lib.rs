// SPDX-License-Identifier: Apache-2.0
//! The runtime: the connected stores, the primitives and their stores, and the sessions that use them.
//!
//! A call comes in with a [`Session`], finds its primitive with [`Runtime::find`] and works on that. Everything here
//! can be asked by an operator ([`Runtime::explain`], [`Runtime::stores`], [`Runtime::primitives`], …).

mod ending;
mod error;
mod failures;
mod idle;
mod lapsed;
mod primitive;
mod primitive_config;
mod primitive_table;
mod recovery;
mod registry;
mod router;
mod routes;
mod runtime;
mod session;
mod session_table;
mod slot;

pub use error::shutting_down;
pub use primitive::PrimitiveHandle;
pub use primitive_config::parse_primitive_config;
pub use registry::{DriverDetails, StoreDetails};
pub use routes::{Explanation, Placement, Routes, Step, kind_named};
pub use runtime::operate::{Deletion, Usage};
pub use runtime::{Runtime, Settings};
pub use session::{CallGuard, OwnerDetails, Session, SessionHolding};
pub use slot::{Slot, StoreState};
