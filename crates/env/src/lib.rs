// SPDX-License-Identifier: Apache-2.0
//! The outside world as a parameter: time, chance and tasks.
//!
//! Everything else in the house takes an [`Env`] and may not name a clock, a random generator or a spawner (the
//! fence stands in `clippy.toml`). So a whole runtime can be driven by a [`ManualClock`] and a seed in a test, and
//! two runtimes can live in one process without sharing anything.

mod backoff;
mod blocking;
mod blocking_table;
mod clock;
mod duration;
mod entropy;
mod env;
mod json;
mod machine;
mod per_worker;
mod supervise;
mod supervision;
mod task;
mod wake;
mod workers;

pub use backoff::Backoff;
pub use blocking::FILE_BYTES_MAX;
pub use clock::{Clock, Instant, ManualClock, WallTime};
pub use duration::{HumanDuration, NotADuration};
pub use entropy::Entropy;
pub use env::{Elapsed, Env};
pub use json::JsonObject;
pub use machine::{Machine, MemoryLimit, MemorySource, OpenFiles, Stored, raise_open_files};
pub use per_worker::PerWorker;
pub use supervision::{Policy, TaskFaults};
pub use task::{Spawner, Task};
pub use wake::BatchedWakeTask;
pub use workers::Workers;

/// Signals everything that holds a clone to stop. `shutdown.cancelled()` is cancel safe.
pub use tokio_util::sync::CancellationToken as Shutdown;
