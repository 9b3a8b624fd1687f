// SPDX-License-Identifier: Apache-2.0
//! The programs of the benchmark: one binary, because each would be linked for minutes. `README.md` says what they do.

mod bare;
mod candidate;
mod compare;
mod etcd;
mod floor;
mod hot;

use clap::Parser;

/// The programs of the benchmark.
#[derive(Debug, Parser)]
#[command(name = "atomix-bench")]
enum Program {
    Candidate(candidate::Candidate),
    Compare(compare::Compare),
    Floor(floor::Floor),
    Hot(hot::Hot),
}

fn main() -> anyhow::Result<()> {
    match Program::parse() {
        Program::Candidate(candidate) => candidate::run(&candidate),
        Program::Compare(compare) => compare::run(&compare),
        Program::Floor(floor) => floor::run(&floor),
        Program::Hot(hot) => hot::run(hot),
    }
}
