// SPDX-License-Identifier: Apache-2.0
//! Runs the programs of `clients/`, which are written in other languages, with what they need.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tools are awaited in real time, and a test prints what it skips"
)]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds are enough with warm caches. The rest is for the first run, which fetches and compiles what it needs.
const LIMIT: Duration = Duration::from_mins(10);

/// Prepares a tool to run in a folder of `clients/`.
pub fn command(tool: &Path, arguments: &[&str], folder: &str) -> Command {
    let mut command = Command::new(tool);
    command.args(arguments).current_dir(clients().join(folder));
    command
}

/// Returns the folder of the programs.
pub fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients")
}

/// Runs a command to its end, and panics with its output if it fails or takes longer than ten minutes.
pub fn finish(mut command: Command) {
    let output = tempfile::NamedTempFile::new().expect("a place for the output");
    let sink = || Stdio::from(File::options().append(true).open(output.path()).expect("it was just made"));
    // A group of its own, so that an overdue tool ends with the processes that it started.
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(sink())
        .stderr(sink())
        .spawn()
        .expect("the tool is there");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break status.to_string();
        }
        if start.elapsed() > LIMIT {
            let group = rustix::process::Pid::from_child(&child);
            // It may have ended by itself in this moment.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
            child.wait().expect("the child is ours");
            break format!("not finished after {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = std::fs::read(output.path()).expect("the file is ours");
    let text = String::from_utf8_lossy(&text);
    assert!(status == "exit status: 0", "{command:?}: {status}\n{text}");
}

/// Returns whether a tool is installed. With `CI=true` it must be.
pub fn is_there(tool: &str, question: &str) -> bool {
    let Err(error) = Command::new(tool).arg(question).output() else { return true };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{tool} must be installed: {error}");
    println!("skipped: {tool} is not installed: {error}");
    false
}
