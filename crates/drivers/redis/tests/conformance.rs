// SPDX-License-Identifier: Apache-2.0
//! The conformance suite on Redis.

mod ground;

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ground = runtime.expect("there are threads").block_on(ground::Ground::start(&[]));
    atomix_kv_testkit::conformance(&(Arc::new(ground) as _))
}
