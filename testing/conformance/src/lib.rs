// SPDX-License-Identifier: Apache-2.0
//! Proves that a store keeps the guarantees of `atomix-store`.
//!
//! A driver runs the conformance suite with one call, as the `main` of a test without harness, and the differential test
//! with another. This is all that `tests/conformance.rs` of a driver needs (`harness = false` in its manifest):
//!
//! ```no_run
//! use std::sync::Arc;
//! use atomix_store::{Error, Store};
//! use atomix_conformance::Subject;
//! use futures::future::BoxFuture;
//!
//! #[derive(Debug)]
//! struct MyDriver;
//!
//! impl Subject for MyDriver {
//!     fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
//!         Box::pin(async { Err(Error::config("connect a store that is empty here")) })
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     atomix_conformance::conformance(&(Arc::new(MyDriver) as _))
//! }
//! ```

mod cases;
mod dice;
mod differential;
mod fixed_store;
pub mod planted;
mod program;
mod translation;

pub use dice::Dice;
pub use differential::{Mismatch, differential, from_environment, from_environment_or};
pub use fixed_store::FixedStoreDriver;

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

use atomix_store::{Error, JsonObject, Store};
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

/// Makes the stores that are put to the proof. Every store is empty when it is made, and no two share anything.
pub trait Subject: fmt::Debug + Send + Sync + 'static {
    /// Makes a store with the driver's defaults.
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>>;

    /// Makes a store like [`Subject::open`], and returns the configuration that it was made with.
    fn open_configured(&self) -> BoxFuture<'_, Result<Configured, Error>> {
        Box::pin(async { Ok((self.open().await?, JsonObject::new())) })
    }

    /// Returns whether the store names revisions and stamps itself, in the order of the engine's. Else they
    /// are compared exactly: revisions count 1, 2, 3, ….
    fn is_foreign(&self) -> bool {
        false
    }

    /// Makes a store that keeps about `commits` commits for watches. `None` if the driver cannot: the cases about lost
    /// history are then counted as ignored.
    fn open_forgetful(&self, commits: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        let _ = commits;
        None
    }

    /// Makes a store that has room for about `bytes`. `None` if the driver cannot: the cases about a full store are
    /// then counted as ignored.
    fn open_small(&self, bytes: usize) -> Option<BoxFuture<'_, Result<Arc<dyn Store>, Error>>> {
        let _ = bytes;
        None
    }
}

/// A store and what it was made with.
pub type Configured = (Arc<dyn Store>, JsonObject);

/// Runs all cases against `subject` and returns the exit code of the test. Reads the arguments of the process as the
/// built-in harness does: a filter, `--list`, `--exact`, ….
pub fn conformance(subject: &Arc<dyn Subject>) -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = cases::all()
        .into_iter()
        .map(|case| {
            let proved = Arc::clone(subject);
            let ignored = !case.applies(subject.as_ref());
            Trial::test(case.name, move || run(&case, proved.as_ref())).with_ignored_flag(ignored)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(case: &cases::Case, subject: &dyn Subject) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failed::from(error.to_string()))?;
    runtime.block_on(async {
        let (store, config) = case.open(subject).await.map_err(|error| Failed::from(error.to_string()))?;
        (case.prove)(store, config).await;
        Ok(())
    })
}
