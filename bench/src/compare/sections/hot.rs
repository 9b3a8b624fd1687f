// SPDX-License-Identifier: Apache-2.0
//! What hot paths take, counted by valgrind: figures that do not depend on how busy the machine is.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::compare::lab::Lab;

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

pub(super) fn hot(lab: &mut Lab) -> Result<()> {
    // The count is the same every time.
    if lab.run > 0 {
        return Ok(());
    }
    for (path, what) in PATHS {
        let each = |tool, before, after| -> Result<f64> {
            let few = count(lab, tool, path, FEW, before, after)?;
            let many = count(lab, tool, path, MANY, before, after)?;
            Ok((many - few) / f64::from(MANY - FEW))
        };
        let instructions = each("callgrind", "Collected :", "")?;
        let allocations = each("memcheck", "total heap usage:", " allocs")?;
        lab.add(what, [("instructions", instructions), ("allocations", allocations)].into());
    }
    Ok(())
}

/// Returns the number that a tool of valgrind says between two texts.
fn count(lab: &Lab, tool: &str, path: &str, rounds: u32, before: &str, after: &str) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.arg(format!("--tool={tool}"));
    if tool == "callgrind" {
        command.arg("--callgrind-out-file=/dev/null");
    }
    command.arg(lab.ground.programs.join("atomix-bench")).arg("hot").arg(path).arg(rounds.to_string());
    let output = command.output().context("valgrind is not there")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{path} failed: {said}");
    let number = said.split_once(before).context("valgrind says no count")?.1.trim_start();
    let number = if after.is_empty() {
        number.lines().next().unwrap_or_default()
    } else {
        number.split(after).next().unwrap_or_default()
    };
    number.trim().replace(',', "").parse().with_context(|| format!("`{number}` is no count"))
}
