// SPDX-License-Identifier: Apache-2.0
//! The conformance suite on the disk store.

mod disk;

fn main() -> std::process::ExitCode {
    atomix_conformance::conformance(&(std::sync::Arc::new(disk::Disk::default()) as _))
}
