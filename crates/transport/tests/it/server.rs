// SPDX-License-Identifier: Apache-2.0
//! A small service, in this process or in a child.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use atomix_env::{Env, Shutdown, TaskFaults, Workers};
use atomix_transport::abuse::{Call, Target};
use atomix_transport::{
    Connection, Counters, Drained, Kind, Limits, Listener, Observer, Peer, Receipt, RequestBody, Transport,
    Undelivered,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;

/// The bytes of a large answer.
pub(crate) const LARGE: usize = 1 << 20;

/// The events of the observer, and the running calls.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) opened: Mutex<Vec<Arc<Connection>>>,
    pub(crate) closed: Mutex<Vec<u64>>,
    /// How often an idle connection was kept because a session holds something.
    pub(crate) kept: AtomicUsize,
    pub(crate) busy: AtomicUsize,
    /// The addresses of peers that hold something.
    holds: Mutex<Vec<IpAddr>>,
    pub(crate) waiting: AtomicUsize,
    /// The receipts that were settled, by the names of their calls; `None` was confirmed.
    pub(crate) settled: Mutex<Vec<(String, Option<Undelivered>)>>,
}

/// Notes how a receipt was settled.
struct Settles {
    events: Arc<Events>,
    name: String,
    outcome: Option<Undelivered>,
}

/// A server in this process.
pub(crate) struct Server {
    pub(crate) runtime: Runtime,
    pub(crate) target: Target,
    pub(crate) events: Arc<Events>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) env: Env,
    /// Panics of its tasks.
    pub(crate) faults: Arc<TaskFaults>,
    shutdown: Shutdown,
    ended: Option<tokio::task::JoinHandle<Drained>>,
}

/// A server in a process of its own, so that its memory can be measured.
pub(crate) struct ChildServer {
    child: Child,
    pub(crate) target: Target,
}

struct Recorder(Arc<Events>);

/// An answer that is made when it is asked for.
enum Reply {
    Small(Option<Bytes>),
    Large(usize),
}

/// Counts calls of `/wait` that were not dropped.
struct Waits(Arc<Events>);

impl Events {
    /// Reports that a peer holds something on each of its connections.
    pub(crate) fn hold(&self, peer: IpAddr) {
        self.holds.lock().unwrap().push(peer);
    }
}

impl Observer for Recorder {
    fn opened(&self, connection: &Arc<Connection>) {
        connection.set_owner(connection.id());
        self.0.opened.lock().unwrap().push(Arc::clone(connection));
    }

    fn closed(&self, connection: &Arc<Connection>) {
        self.0.closed.lock().unwrap().push(connection.id());
    }

    fn may_close(&self, connection: &Arc<Connection>) -> bool {
        let holds = |held: &IpAddr| matches!(connection.peer(), Peer::Tcp(address) if address.ip() == *held);
        let may = self.0.busy.load(Ordering::SeqCst) == 0 && !self.0.holds.lock().unwrap().iter().any(holds);
        self.0.kept.fetch_add(usize::from(!may), Ordering::SeqCst);
        may
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(match &mut *self {
            Self::Small(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Large(0) => None,
            Self::Large(rest) => {
                *rest -= 1;
                Some(Ok(Frame::data(vec![7; LARGE].into())))
            }
        })
    }
}

impl Drop for Settles {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.events.settled.lock().unwrap().push((name, self.outcome));
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(events: Arc<Events>, request: Request<RequestBody>) -> Result<Response<Reply>, Infallible> {
    let connection = Arc::clone(request.extensions().get::<Arc<Connection>>().unwrap());
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let text = |text: String| Reply::Small(Some(text.into()));
    let receipt = path.strip_prefix("/grant").map(|rest| {
        // The deadline of a late one is over before its proof can come, that of an unhurried one never comes, and the others
        // are near: they are proved at once.
        let near = if rest.contains("late") { Duration::ZERO } else { Duration::from_secs(5) };
        let deadline = (!rest.contains("unhurried")).then(|| connection.opened() + near);
        let settles = Settles { events: Arc::clone(&events), name: rest.to_owned(), outcome: None };
        Receipt::new(deadline, move |outcome| {
            let mut settles = settles;
            settles.outcome = Some(outcome);
        })
    });
    let reply = match (path.as_str(), body) {
        (_, Err(error)) => text(error.to_string()),
        ("/peer", _) => text(format!("{} {}", connection.owner::<u64>().unwrap(), connection.peer())),
        ("/large", _) => Reply::Large(1),
        ("/stream", _) => Reply::Large(64),
        ("/nap", _) => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            text("rested".to_owned())
        }
        ("/panic", _) => panic!("the panic of this path"),
        ("/thread", _) => text(std::thread::current().name().unwrap_or_default().to_owned()),
        ("/wait", _) => {
            events.waiting.fetch_add(1, Ordering::SeqCst);
            let _waits = Waits(events);
            std::future::pending().await
        }
        (_, Ok(body)) => Reply::Small(Some(body.to_bytes())),
    };
    let mut response = Response::new(reply);
    if let Some(receipt) = receipt {
        response.extensions_mut().insert(receipt);
    }
    Ok(response)
}

async fn run(
    transport: Transport,
    events: Arc<Events>,
    listeners: Vec<Listener>,
    workers: &Workers,
    shutdown: Shutdown,
) {
    let service = tower::service_fn(move |request| answer(Arc::clone(&events), request));
    transport.serve(listeners, Some(workers), service, Kind::Primitives, shutdown).await;
}

pub(crate) fn call(path: &str) -> Call {
    Call { path: path.to_owned(), message: b"hello".to_vec() }
}

fn target(address: SocketAddr) -> Target {
    Target { address, small: call("/echo"), large: call("/large") }
}

impl Server {
    pub(crate) fn start(limits: Limits) -> Self {
        Self::start_at(limits, |_| Vec::new())
    }

    /// Also listens at `more`.
    pub(crate) fn start_at(limits: Limits, more: impl FnOnce(&Runtime) -> Vec<Listener>) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(Listener::tcp("127.0.0.1", 0)).unwrap();
        let target = target(listener.address().unwrap());
        let mut listeners = more(&runtime);
        listeners.push(listener);
        let (events, shutdown) = (Arc::<Events>::default(), Shutdown::new());
        let faults = Arc::new(TaskFaults::default());
        let env = Env::real().with_faults(Arc::clone(&faults));
        let transport = Transport::new(limits, Recorder(Arc::clone(&events)), env.clone());
        let counters = transport.counters();
        let (observed, stop) = (Arc::clone(&events), shutdown.clone());
        let ended = runtime.spawn(async move {
            let workers = Workers::start(2).unwrap();
            run(transport.clone(), observed, listeners, &workers, stop).await;
            transport.drained(Duration::from_secs(1)).await
        });
        Self { runtime, target, events, counters, env, faults, shutdown, ended: Some(ended) }
    }

    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Shuts down; returns the connections and calls that were cut.
    pub(crate) fn drain(&mut self) -> Drained {
        self.shut_down();
        let ended = self.ended.take().unwrap();
        self.runtime.block_on(ended).unwrap()
    }

    /// Waits until the observer got `count` ends.
    pub(crate) fn wait_for_closed(&self, count: usize) {
        eventually(|| self.events.closed.lock().unwrap().len() >= count);
        assert_eq!(self.events.closed.lock().unwrap().len(), count, "each end is reported once");
    }
}

/// Timeout of an expected event.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for a fact.
pub(crate) fn eventually(fact: impl Fn() -> bool) {
    let begun = Instant::now();
    while !fact() {
        assert!(begun.elapsed() < WAIT_TIMEOUT, "it did not come true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const CHILD: &str = "server::serves_the_attackers";

/// The child's part: this test binary again, with only this "test".
#[test]
#[ignore = "the suite starts it in a process of its own"]
fn serves_the_attackers() {
    let limits = Limits { preface_timeout: Duration::from_millis(800), ..Limits::default() };
    let server = Server::start(limits);
    println!("\nlistening={}", server.target.address);
    // Ends with the parent.
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).unwrap();
}

impl ChildServer {
    pub(crate) fn start() -> Self {
        Self::start_with_files(1_024)
    }

    /// Starts a server that may have so many files open.
    pub(crate) fn start_with_files(max: u32) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -n {max}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| line.strip_prefix("listening=").map(|it| it.parse().unwrap()));
        // The child goes on to print nothing.
        Self { child, target: target(address.unwrap()) }
    }

    /// Returns a line of the child's status, in KiB.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|it| it.starts_with(line)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl ChildServer {
    /// Returns the time that the child's threads have run, in ticks of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let numbers = stat.rsplit(')').next().unwrap().split_whitespace().skip(11);
        numbers.take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
