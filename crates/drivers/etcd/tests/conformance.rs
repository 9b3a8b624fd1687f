// SPDX-License-Identifier: Apache-2.0
//! The conformance suite on a real etcd.

mod cluster;

fn main() -> std::process::ExitCode {
    atomix_conformance::conformance(&(std::sync::Arc::new(cluster::Subjects::default()) as _))
}
