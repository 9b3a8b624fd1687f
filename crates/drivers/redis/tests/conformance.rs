// SPDX-License-Identifier: Apache-2.0
//! The conformance suite on Redis.

mod fixture;

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let fixture = runtime.expect("there are threads").block_on(fixture::Fixture::start(&[]));
    atomix_conformance::conformance(&(Arc::new(fixture) as _))
}
