// SPDX-License-Identifier: Apache-2.0
//! Real servers for tests: on free ports of the loopback, with their data in a folder that goes with them.

pub mod etcd;
pub mod proxy;
pub mod redis;

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomix_env::{Env, Instant};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server process of a test. It is killed when this is dropped, and also when the test is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Kills the server when the test ends without doing so. The end of its input is the signal.
    guard: Child,
}

/// Timeout of the start of a server.
pub const START_TIMEOUT: Duration = Duration::from_mins(2);
/// Timeout of one answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Repeats a question until its answer is yes.
///
/// # Panics
/// If that takes longer than `timeout`.
pub async fn eventually(timeout: Duration, what: &str, mut question: impl FnMut() -> bool) {
    const PAUSE: Duration = Duration::from_millis(20);
    let env = Env::real();
    let begun = env.now();
    while !question() {
        assert!(env.now().since(begun) < timeout, "{what}: it never comes");
        env.sleep(PAUSE).await;
    }
}

// === impl Process ===

impl Process {
    /// Starts `program`. Its output is shown if `ATOMIX_TEST_SERVER_OUTPUT` is set.
    pub fn start<A: AsRef<OsStr>>(
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::start_command(command)
    }

    /// Starts a command that was prepared.
    pub fn start_command(mut command: Command) -> std::io::Result<Self> {
        command.stdin(Stdio::null());
        if std::env::var_os("ATOMIX_TEST_SERVER_OUTPUT").is_none() {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            std::io::Error::new(
                error.kind(),
                format!("{program} cannot be started; is it installed? {error}"),
            )
        })?;
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\"", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, guard })
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the server without a warning and waits until it is gone.
    pub fn kill(&mut self) {
        // The guard first, so that it kills no later process with the same id. A process that has ended by
        // itself is gone as well.
        for child in [&mut self.guard, &mut self.child] {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Kills the server without a warning, and does not wait until it is gone.
    pub fn strike(&self) {
        self.signal(Signal::KILL);
    }

    /// Stops the server as a debugger would: it answers nothing, and its connections stay.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .expect("the server is ours and was not waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a free port, another one each time. It lies below those that the system gives to connections:
/// one of them may take such a port while a server that is to come back to it is away.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other processes begin elsewhere.
    let begin = std::process::id().wrapping_mul(197);
    let ports = std::iter::repeat_with(|| {
        let port = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT + FIRST;
        u16::try_from(port).expect("the range ends before")
    });
    ports
        .take(COUNT as usize)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("the loopback has a port")
}

/// Sends one HTTP request and returns status and body. Servers that tell their health by HTTP are few and simple.
async fn http(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let exchange = exchange(port, method, path, body);
    Env::real().timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

async fn exchange(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| std::io::Error::other("no HTTP"))
}

/// Waits for a server, with a time limit.
struct Waiting {
    what: &'static str,
    env: Env,
    begun: Instant,
}

impl Waiting {
    fn new(what: &'static str) -> Self {
        let env = Env::real();
        Self { what, begun: env.now(), env }
    }

    /// Waits a little; panics when it was enough.
    async fn pause(&self) {
        assert!(self.env.now().since(self.begun) < START_TIMEOUT, "{} does not answer", self.what);
        self.env.sleep(Duration::from_millis(20)).await;
    }
}
