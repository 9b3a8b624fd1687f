// SPDX-License-Identifier: Apache-2.0
//! Runs the scenarios of `clients/` against the built program.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "processes are awaited in real time"
)]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atomix_tests::Server;

/// Seconds are enough with warm caches. The rest is for the first run, which fetches and compiles what it needs.
const LIMIT: Duration = Duration::from_mins(10);

/// Runs a tool in a folder of `clients/`, against a server of its own.
fn run(tool: &str, arguments: &[&str], folder: &str) {
    if let Err(error) = Command::new(tool).arg(version_of(tool)).output() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{tool} must be installed: {error}");
        println!("skipped: {tool} is not installed: {error}");
        return;
    }
    let server = Server::start();
    let output = tempfile::NamedTempFile::new().expect("a place for the output");
    let sink = || Stdio::from(File::options().append(true).open(output.path()).expect("it was just made"));
    // A group of its own, so that an overdue tool ends with the processes that it started.
    let mut child = Command::new(tool)
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients").join(folder))
        .env("ATOMIX_TEST_ADDRS", server.listen())
        .env("ATOMIX_TEST_CONTROL", server.control())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(sink())
        .stderr(sink())
        .spawn()
        .expect("it answered a moment ago");
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
    assert!(status == "exit status: 0", "{tool} {arguments:?} in clients/{folder}: {status}\n{text}");
}

fn version_of(tool: &str) -> &'static str {
    if tool == "go" { "version" } else { "--version" }
}

#[test]
fn the_go_sdk_works() {
    run("go", &["test", "-count=1", "-timeout=120s", "./..."], "go");
}

#[test]
fn the_java_calls_work() {
    run("mvn", &["-q", "-B", "test"], "java");
}
