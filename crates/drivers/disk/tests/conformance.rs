// SPDX-License-Identifier: Apache-2.0
//! The conformance suite on the disk store.

mod disk;

fn main() -> std::process::ExitCode {
    atomix_kv_testkit::conformance(&(std::sync::Arc::new(disk::Disk::default()) as _))
}
