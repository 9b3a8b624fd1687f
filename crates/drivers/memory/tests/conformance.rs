// SPDX-License-Identifier: Apache-2.0
//! The conformance suite on the memory store.

mod memory;

fn main() -> std::process::ExitCode {
    atomix_conformance::conformance(&(std::sync::Arc::new(memory::Memory) as _))
}
