// SPDX-License-Identifier: Apache-2.0
//! The programs of the benchmark: one binary, because each would be linked for minutes. `README.md` describes them.

mod bare;
mod baseline;
mod candidate;
mod compare;
mod etcd;
mod hot;

use clap::Parser;

/// The programs of the benchmark.
#[derive(Debug, Parser)]
#[command(name = "atomix-bench")]
enum Program {
    Candidate(candidate::Candidate),
    Compare(compare::Compare),
    Baseline(baseline::Baseline),
    Hot(hot::Hot),
}

fn main() -> anyhow::Result<()> {
    match Program::parse() {
        Program::Candidate(candidate) => candidate::run(&candidate),
        Program::Compare(compare) => compare::run(&compare),
        Program::Baseline(baseline) => baseline::run(&baseline),
        Program::Hot(hot) => hot::run(hot),
    }
}
