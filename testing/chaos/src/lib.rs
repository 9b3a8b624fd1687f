// SPDX-License-Identifier: Apache-2.0
//! Starts the built `atomix` for black-box tests: on free ports of the loopback, stopped by process id.

pub mod disks;
pub mod faults;
pub mod foreign;
pub mod record;
pub mod rounds;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use atomix_client::Client;
use atomix_servers::eventually;
use rustix::process::{Pid, Signal, kill_process};

/// A running `atomix serve`. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    listen: String,
    control: String,
}

// === impl Server ===

impl Server {
    /// Starts the program on its embedded default.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts the program with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]).args(arguments);
        Self::start_command(command)
    }

    /// Starts the program by a command that was prepared, `serve` and its addresses included.
    pub fn start_command(mut command: Command) -> Self {
        // These are for tests, and the program takes each variable with its prefix for a setting.
        for name in ["ATOMIX_BIN", "ATOMIX_HISTORY_DIR", "ATOMIX_TEST_SERVER_OUTPUT", "ATOMIX_TEST_STORE"] {
            command.env_remove(name);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program was built");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let (mut listen, mut control) = (String::new(), String::new());
        let mut line = String::new();
        while output.read_line(&mut line).expect("the greeting is text") > 0 {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("primitives"), Some(address)) => address.trim_end_matches(',').clone_into(&mut listen),
                (Some("control"), Some(address)) => address.trim_end_matches(',').clone_into(&mut control),
                (Some("try:"), _) => break,
                _ => {}
            }
            line.clear();
        }
        assert!(!listen.is_empty() && !control.is_empty(), "the program did not start");
        // The pipe is read to its end, so that the program never waits for us.
        #[allow(clippy::disallowed_methods, reason = "a thread of a test harness")]
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            drop(output.read_to_end(&mut rest));
        });
        Self { child, listen, control }
    }

    /// Returns `host:port` of the primitives.
    pub fn listen(&self) -> &str {
        &self.listen
    }

    /// Returns `host:port` of the control services.
    pub fn control(&self) -> &str {
        &self.control
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Connects a client of its own: a session of its own.
    pub async fn client(&self) -> Client {
        Client::builder()
            .endpoint(format!("http://{}", self.listen))
            .control(format!("http://{}", self.control))
            .connect()
            .await
            .expect("the server answers")
    }

    /// Connects a client of its own that tries everything once.
    pub async fn once(&self) -> Client {
        let client = Client::builder()
            .endpoint(format!("http://{}", self.listen))
            .control(format!("http://{}", self.control))
            .retry_budget(Duration::ZERO);
        client.connect().await.expect("the server answers")
    }

    /// Runs a command of the program against this server.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program was built")
    }

    /// Waits until so many calls wait for locks of this server.
    ///
    /// # Panics
    /// If that takes longer than a minute.
    pub async fn until_waiting(&self, calls: usize) {
        eventually(Duration::from_mins(1), "calls wait for locks", || self.waiting() >= Some(calls)).await;
    }

    /// Waits until no call waits for a lock of this server.
    ///
    /// # Panics
    /// If that takes longer than a minute.
    pub async fn until_idle(&self) {
        eventually(Duration::from_mins(1), "no call waits", || self.waiting() == Some(0)).await;
    }

    fn waiting(&self) -> Option<usize> {
        let output = self.run(&["inspect", "primitives", "-o", "json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let counts = text.split("\"waiters\":").skip(1);
        let counts = counts.filter_map(|rest| rest.split(['}', ',']).next()?.parse::<usize>().ok());
        output.status.success().then(|| counts.sum())
    }

    /// Prepares a command of the program against this server.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env("ATOMIX_SERVER", format!("http://{}", self.listen))
            .env("ATOMIX_CONTROL_SERVER", format!("http://{}", self.control));
        command
    }

    /// Waits for the program to end by itself and returns its exit code.
    pub fn wait(&mut self, at_most: Duration) -> Option<i32> {
        let step = Duration::from_millis(20);
        for _ in 0..at_most.as_millis() / step.as_millis() {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status.code();
            }
            #[allow(clippy::disallowed_methods, reason = "the process is awaited in real time")]
            std::thread::sleep(step);
        }
        None
    }

    /// Kills the program, and returns when nothing of it is left, not even a write to a disk.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// Stops the program (SIGSTOP), until [`Server::resume`]. No thread of it runs when this returns.
    #[allow(clippy::disallowed_methods, reason = "a process is awaited in real time")]
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        while !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("the child is ours");
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // Behind the name, which may have anything in it. A thread that is gone does not run.
            stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" T"))
        })
    }

    /// Resumes the program (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child is ours and was not waited for");
    }

    /// Returns the resident memory of the program in bytes.
    pub fn resident(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the program runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux reports it");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
        kib * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns the path of the built program: `ATOMIX_BIN`, or the one beside the running test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("ATOMIX_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let built = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("tests lie in target/PROFILE/deps")
        .join("atomix");
    assert!(built.exists(), "build the program first: cargo build -p atomix");
    built
}
