// SPDX-License-Identifier: Apache-2.0
//! The program in a container of 256 MiB, with default settings: stalled readers, unfinished requests, a flood of puts and
//! 10,000 connections, all at once. The kernel kills nothing, what is refused is refused with a reason, and another client is
//! served all the while, on the connection that it has and on new ones.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "the program is watched in real time and what was seen is shown"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use atomix_chaos::{Server, program};
use atomix_client::{Counter, Error, Map};
use atomix_servers::eventually;
use atomix_transport::abuse::{Call, Client, Raw};
use bytes::Bytes;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::{JoinHandle, spawn_blocking};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 256 * MIB;
/// Connections that read nothing, and as many that do not finish their requests.
const STALLED: u32 = 100;
/// Connections that do nothing, and the addresses from which they come.
const CONNECTIONS: u16 = 10_000;
const ADDRESSES: u16 = 200;
const WINDOW_MAX: u32 = u32::MAX >> 1;
/// A bound for a busy machine; nothing waits for it.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

/// A control group with a limit of memory.
struct Container {
    path: PathBuf,
    /// The file with the most that it has used.
    peak: &'static str,
}

/// The limit of memory that the program is under.
enum Limit {
    /// The kernel's.
    Container(Container),
    /// This user may make no control group: the settings that follow the memory limit are set as they would be in one.
    Settings,
}

// === impl Container ===

impl Container {
    /// Makes one; none if this machine or user has no control groups of memory.
    fn new() -> Option<Self> {
        let name = format!("atomix-test-{}", std::process::id());
        let groups = [
            ("memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("", "memory.max", "memory.peak"),
            ("unified", "memory.max", "memory.peak"),
        ];
        groups.into_iter().find_map(|(folder, limit, peak)| {
            let path = PathBuf::from("/sys/fs/cgroup").join(folder).join(&name);
            fs::create_dir(&path).ok()?;
            let container = Self { path, peak };
            fs::write(container.path.join(limit), LIMIT.to_string()).ok()?;
            Some(container)
        })
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    /// Returns how many processes the kernel killed in it.
    fn kills(&self) -> u64 {
        let files =
            ["memory.oom_control", "memory.events"].map(|file| fs::read_to_string(self.path.join(file)));
        let text: String = files.into_iter().flatten().collect();
        let kills = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
        kills.map(|kills| kills.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let begun = Instant::now();
        // A process leaves a moment after it was killed.
        while fs::remove_dir(&self.path).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

// === impl Limit ===

impl Limit {
    fn new() -> Self {
        Container::new().map_or_else(
            || {
                println!("no control group can be made here: the limits are set as they follow from 256 MiB");
                Self::Settings
            },
            Self::Container,
        )
    }

    /// Starts the program under it.
    fn start(&self) -> Server {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"];
        let mut command = match self {
            Self::Container(container) => {
                let mut command = Command::new("sh");
                command.args(["-c", "echo $$ > \"$1/cgroup.procs\"; shift; exec \"$@\"", "sh"]);
                command.arg(&container.path).arg(program());
                command
            }
            Self::Settings => Command::new(program()),
        };
        command.args(serve);
        if let Self::Settings = self {
            let store = format!(
                r#"stores=[{{"name":"memory","driver":{{"name":"memory","version":"v1"}},"config":{{"bytes-max":{},"histories-bytes-max":{}}}}}]"#,
                LIMIT * 3 / 8,
                LIMIT / 16
            );
            command.args(["--set", &store, "--set", "limits.connections-max=1024"]);
            command.args([
                "--set",
                "limits.connections-per-peer-max=768",
                "--set",
                "limits.buffers-bytes-max=32MiB",
            ]);
            command.args(["--set", "limits.primitives-max=32768"]);
        }
        Server::start_command(command)
    }

    /// Asserts that the program was under it all the time.
    fn check(&self, server: &Server) {
        let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("the program runs");
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
        };
        // Without the pages of the program itself, of which a debug build has many: the kernel drops them when it needs room.
        let peak = bytes("VmHWM:").saturating_sub(bytes("RssFile:"));
        println!("the program had {} MiB at most", peak / MIB);
        assert!(peak < LIMIT, "{peak} bytes");
        if let Self::Container(container) = self {
            println!(
                "its container had {:?} MiB at most",
                container.number(container.peak).map(|it| it / MIB)
            );
            assert_eq!(container.kills(), 0);
        }
    }
}

/// A request whose `id` is this name of one byte.
fn call(path: &str, name: u8) -> Call {
    Call { path: format!("/atomix.runtime.{path}"), message: vec![0x0a, 3, 0x0a, 1, name] }
}

fn source(third: u8, last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, third, last).into()
}

/// Follows the events of the map four times, and reads none.
fn stalled_reader(address: SocketAddr) -> Option<Raw> {
    let mut raw = Raw::connect_from(source(0, 2), address).ok()?;
    raw.begin(&[(4, WINDOW_MAX)]);
    raw.frame(8, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
    for _ in 0..4 {
        raw.call(&call("map.v1.Map/Events", b'm'));
    }
    raw.push().ok()?;
    Some(raw)
}

/// Begins eight requests of 1 MiB.
fn unfinished_requests(address: SocketAddr) -> Option<Raw> {
    let mut raw = Raw::connect_from(source(0, 3), address).ok()?;
    raw.begin(&[]);
    let put = call("map.v1.Map/Put", b'm');
    for _ in 0..8 {
        let stream = raw.open(4, &put.headers());
        raw.frame(0, 0, stream, &[0, 0, 0x10, 0, 0]);
        raw.fill(stream);
    }
    raw.push().ok()?;
    Some(raw)
}

/// Begins HTTP/2 and makes no call.
fn idle(number: u16, address: SocketAddr) -> Option<Raw> {
    let last = u8::try_from(number % ADDRESSES).unwrap() + 1;
    let mut raw = Raw::connect_from(source(1, last), address).ok()?;
    raw.begin(&[]);
    raw.push().ok()?;
    Some(raw)
}

/// Puts values until the store is full. Returns how many it took, and the reasons of refusals.
async fn flood(map: Map<Bytes>) -> (u32, BTreeMap<String, u32>) {
    let value = Bytes::from(vec![7; 10_000]);
    let (mut stored, mut refusals) = (0, BTreeMap::<String, u32>::new());
    loop {
        match map.put(format!("key-{stored}"), &value).await {
            Ok(_) => stored += 1,
            Err(error) => {
                let reason = error.reason().map_or_else(|| error.to_string(), str::to_owned);
                let full = reason == "STORE_FULL";
                *refusals.entry(reason).or_default() += 1;
                if full {
                    return (stored, refusals);
                }
            }
        }
        assert!(stored < 25_000, "the store must be full before 250 MB");
    }
}

/// Calls until it is stopped, on one connection, and counts its calls.
async fn bystander(counter: Counter, stop: Arc<AtomicBool>, calls: Arc<AtomicU32>) -> Result<(), Error> {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::timeout(SERVED_WITHIN, counter.increment(1)).await.expect("a call is answered")?;
        calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Calls until it is stopped, each time on a new connection, which is tried until it is served, and counts those. Returns
/// how many tries were refused.
fn newcomer(address: SocketAddr, stop: &AtomicBool, served: &AtomicU32) -> u32 {
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let get = call("counter.v1.Counter/Get", b'c');
        let try_once =
            || Client::connect_from(source(0, 4), address).and_then(|mut client| client.call(&get));
        while let Err(error) = try_once() {
            refused += 1;
            assert!(begun.elapsed() < SERVED_WITHIN, "no new connection is served: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        served.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
    }
    refused
}

/// Raises the limit of open files of the test as far as it may be, and returns how many idle connections fit into it.
fn connections() -> u16 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let room = limit.current.unwrap_or(u64::MAX).saturating_sub(1_000);
    let connections = u16::try_from(room).map_or(CONNECTIONS, |room| room.min(CONNECTIONS));
    if connections < CONNECTIONS {
        println!("the limit of open files lets the test open only {connections} connections");
    }
    connections
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_container_survives_everything_at_once() {
    let (limit, connections) = (Limit::new(), connections());
    let server = limit.start();
    let address: SocketAddr = server.listen().parse().unwrap();
    let client = server.client().await;
    let counter = client.counter("c").open().await.unwrap();
    let map = client.map("m").open().await.unwrap();
    let attacker = server.once().await;
    let flooded = attacker.map("m").open().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (calls, newcomers) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let old = tokio::spawn(bystander(counter, Arc::clone(&stop), Arc::clone(&calls)));
    let new = {
        let (stop, newcomers) = (Arc::clone(&stop), Arc::clone(&newcomers));
        spawn_blocking(move || newcomer(address, &stop, &newcomers))
    };
    let readers = spawn_blocking(move || (0..STALLED).filter_map(|_| stalled_reader(address)).collect());
    let requests =
        spawn_blocking(move || (0..STALLED).filter_map(|_| unfinished_requests(address)).collect());
    let idle = spawn_blocking(move || (0..connections).filter_map(|number| idle(number, address)).collect());
    let load: [JoinHandle<Vec<Raw>>; 3] = [readers, requests, idle];
    let flood = tokio::spawn(flood(flooded));
    let mut held = Vec::new();
    for load in load {
        held.push(load.await.unwrap());
    }
    let (stored, refusals) = flood.await.unwrap();
    println!("{stored} values of 10 kB were stored; refusals: {refusals:?}");
    let counts: Vec<_> = held.iter().map(Vec::len).collect();
    println!("the kernel connected {counts:?} readers, requests and idle peers");
    // All connections are there now. Meanwhile calls and new connections are served.
    let before = [&calls, &newcomers].map(|count| count.load(Ordering::Relaxed));
    eventually(Duration::from_mins(2), "calls and new connections are served", || {
        calls.load(Ordering::Relaxed) >= before[0] + 20 && newcomers.load(Ordering::Relaxed) >= before[1] + 5
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    old.await.unwrap().unwrap();
    let refused = new.await.unwrap();
    println!("{calls:?} calls of the other client, {newcomers:?} new connections served, {refused} refused");
    limit.check(&server);
    assert!(
        refusals.keys().all(|reason| reason.chars().all(|it| it.is_ascii_uppercase() || it == '_')),
        "{refusals:?}"
    );
    // Deleting makes room again.
    map.remove("key-0").await.unwrap();
    map.put("again", &Bytes::from(vec![7; 1_000])).await.unwrap();
}
