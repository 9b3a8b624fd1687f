// SPDX-License-Identifier: Apache-2.0
//! The cost of hot paths, counted by valgrind: figures that do not depend on how busy the machine is.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::compare::harness::Harness;

const PATHS: [(&str, &str); 10] = [
    ("decode", "decode a put of 100 bytes"),
    ("encode", "encode its answer"),
    ("lookup", "find an open primitive"),
    ("engine-add", "engine: add"),
    ("engine-put", "engine: put"),
    ("increment", "counter increment on the memory store"),
    ("get", "map get on the memory store"),
    ("put", "map put on the memory store"),
    ("call-bare", "call: put to a bare server and back, client included"),
    ("call-ours", "call: put to ours and back, client included"),
];

/// Rounds of the two runs whose difference is taken.
const FEW: u32 = 500;
const MANY: u32 = 1500;

pub(super) fn hot(harness: &mut Harness) -> Result<()> {
    // The count is the same every time.
    if harness.run > 0 {
        return Ok(());
    }
    for (path, what) in PATHS {
        let each = |tool, before, after| -> Result<f64> {
            let few = count(harness, tool, path, FEW, before, after)?;
            let many = count(harness, tool, path, MANY, before, after)?;
            Ok((many - few) / f64::from(MANY - FEW))
        };
        let instructions = each("callgrind", "Collected :", "")?;
        let allocations = each("memcheck", "total heap usage:", " allocs")?;
        harness.add(what, [("instructions", instructions), ("allocations", allocations)].into());
    }
    Ok(())
}

/// Returns the number that a tool of valgrind prints between two texts.
fn count(harness: &Harness, tool: &str, path: &str, rounds: u32, before: &str, after: &str) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.arg(format!("--tool={tool}"));
    if tool == "callgrind" {
        command.arg("--callgrind-out-file=/dev/null");
    }
    command
        .arg(harness.environment.programs.join("atomix-bench"))
        .arg("hot")
        .arg(path)
        .arg(rounds.to_string());
    let output = command.output().context("valgrind is not there")?;
    let output_of = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{path} failed: {output_of}");
    let number = output_of.split_once(before).context("valgrind says no count")?.1.trim_start();
    let number = if after.is_empty() {
        number.lines().next().unwrap_or_default()
    } else {
        number.split(after).next().unwrap_or_default()
    };
    number.trim().replace(',', "").parse().with_context(|| format!("`{number}` is no count"))
}
