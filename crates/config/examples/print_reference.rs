// SPDX-License-Identifier: Apache-2.0
//! Prints the reference of all settings; from the root of the repository:
//! `cargo run -p atomix-config --example print_reference > docs/reference/configuration.md`.
#![allow(clippy::print_stdout, reason = "the output is the purpose")]

fn main() {
    print!("{}", atomix_config::reference());
}
