// SPDX-License-Identifier: Apache-2.0
//! Real clients of four languages compete for locks and leaderships and give up in bad moments: at their deadline, by a
//! cancellation, by a connection that ends. Afterwards, while their connections are still open, a fresh client can take
//! every lock, and nothing is left in the queues.
//!
//! Run by `tests/contention`: all kinds and modes, `CONTENTION_SECONDS` for each of them. Without that variable each test takes
//! one short round for each kind.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "processes are awaited in real time, and the figures of a run are its result"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use atomix_chaos::faults::deployment::{Backend, Deployment, Kind, Runtime, SESSIONS};
use atomix_chaos::faults::fault::Fault;
use atomix_chaos::faults::seed;
use atomix_chaos::foreign::{clients, command, finish, is_there};
use atomix_conformance::Dice;
use atomix_proto::{countermap, election, lock, map, runtime::PrimitiveId};
use futures::future::join_all;
use tokio::sync::Mutex;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Callers in each language: every fifth competes for one name, the others for the rest.
const CALLERS: usize = 20;
/// Names of a round.
const NAMES: usize = 20;
/// How long a fresh client waits for a lock. A lock that stays is held for ever, so a busy machine may take its time.
const WITHIN: Duration = Duration::from_secs(5);
const KINDS: [&str; 4] = ["lock", "map", "countermap", "election"];
const MODES: [&str; 4] = ["equal", "shorter", "cancel", "cut"];

/// The callers of one language, ready to be started.
struct Language {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(&'static str, PathBuf)>,
}

/// Callers at work.
struct Callers {
    name: &'static str,
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

// === impl Language ===

impl Language {
    fn new(name: &'static str, program: impl Into<PathBuf>) -> Self {
        Self { name, program: program.into(), arguments: Vec::new(), variables: Vec::new() }
    }

    /// Makes the callers of all languages that are installed, once.
    fn all() -> &'static [Self] {
        static READY: OnceLock<Vec<Language>> = OnceLock::new();
        READY.get_or_init(|| {
            [Self::go(), Self::java(), Self::python(), Self::node()].into_iter().flatten().collect()
        })
    }

    fn go() -> Option<Self> {
        is_there("go", "version").then(|| {
            let program = scratch("contend-go");
            finish(command(Path::new("go"), &["build", "-o", text(&program), "./contend"], "go"));
            Self::new("Go", program)
        })
    }

    fn java() -> Option<Self> {
        is_there("mvn", "--version").then(|| {
            let classpath = scratch("contend-java.classpath");
            let output = format!("-Dmdep.outputFile={}", classpath.display());
            let arguments = ["-q", "-B", "test-compile", "dependency:build-classpath", &output];
            finish(command(Path::new("mvn"), &arguments, "java"));
            let built = clients().join("java/target");
            let libraries = std::fs::read_to_string(classpath).unwrap();
            let classpath = format!("{0}/test-classes:{0}/classes:{1}", built.display(), libraries.trim());
            let memory = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
            let arguments = memory.into_iter().chain(["-cp", &classpath, "atomix.clients.Contend"]);
            Self { arguments: arguments.map(str::to_owned).collect(), ..Self::new("Java", "java") }
        })
    }

    fn python() -> Option<Self> {
        is_there("python3", "--version").then(|| {
            let folder = scratch("contend-python");
            let (python, stubs) = (folder.join("bin/python"), folder.join("stubs"));
            if !stubs.join("atomix").exists() {
                finish(command(Path::new("python3"), &["-m", "venv", text(&folder)], "python"));
                let install = ["-m", "pip", "install", "-q", "-r", "requirements.txt"];
                finish(command(&python, &install, "python"));
                std::fs::create_dir_all(&stubs).unwrap();
            }
            let proto = clients().join("../proto");
            let mut generate = command(&python, &["-m", "grpc_tools.protoc"], "python");
            generate.arg(format!("-I{}", proto.display()));
            generate.arg(format!("--python_out={}", stubs.display()));
            generate.arg(format!("--grpc_python_out={}", stubs.display()));
            generate.arg(proto.join("atomix/runtime/v1/primitive.proto"));
            for kind in KINDS {
                for file in [kind.to_owned(), format!("{kind}s")] {
                    generate.arg(proto.join(format!("atomix/runtime/{kind}/v1/{file}.proto")));
                }
            }
            finish(generate);
            let program = text(&clients().join("python/contend.py")).to_owned();
            let variables = vec![("PYTHONPATH", stubs)];
            Self { arguments: vec![program], variables, ..Self::new("Python", python) }
        })
    }

    fn node() -> Option<Self> {
        (is_there("node", "--version") && is_there("npm", "--version")).then(|| {
            let folder = scratch("contend-node");
            if !folder.join("node_modules/@grpc/grpc-js").exists() {
                std::fs::create_dir_all(&folder).unwrap();
                for file in ["package.json", "package-lock.json"] {
                    std::fs::copy(clients().join("node").join(file), folder.join(file)).unwrap();
                }
                let prefix = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", text(&folder)];
                finish(command(Path::new("npm"), &prefix, "node"));
            }
            let program = text(&clients().join("node/contend.js")).to_owned();
            let variables = vec![("MODULES", folder), ("PROTO", clients().join("../proto"))];
            Self { arguments: vec![program], variables, ..Self::new("Node", "node") }
        })
    }

    fn start(&'static self, addrs: &str, kind: &str, mode: &str, prefix: &str, time: Duration) -> Callers {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args([addrs, kind, mode, prefix, &NAMES.to_string(), &CALLERS.to_string()])
            .args([time.as_secs().to_string(), chosen_seed().to_string()])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if std::env::var_os("CONTENTION_STDERR").is_some() {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Callers { name: self.name, child, output }
    }
}

// === impl Callers ===

impl Callers {
    /// Waits for the end of the work and returns the figures. The connections stay open.
    fn figures(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.starts_with("granted="), "{}: no figures: {line:?}", self.name);
        line.trim().to_owned()
    }

    /// Returns whether the process has the connection whose near end is `peer`.
    fn has_connection(&self, peer: &str) -> bool {
        let port = peer.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let Some(inode) = port.and_then(inode) else { return false };
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let socket = Path::new(&format!("socket:[{inode}]")).to_owned();
        files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == socket))
    }
}

/// Returns the inode of the socket that is bound to a local port, as `/proc/net/tcp` and `tcp6` list it.
fn inode(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap());
    tables.iter().flat_map(|table| table.lines().skip(1)).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (_, local) = columns.get(1)?.rsplit_once(':')?;
        let found = u16::from_str_radix(local, 16) == Ok(port);
        found.then(|| columns.get(9).map(|inode| (*inode).to_owned())).flatten()
    })
}

impl Drop for Callers {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The seed of the run: `FAULT_SEED`, or one drawn once.
fn chosen_seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(seed)
}

/// Lets the callers of all languages compete, with faults or without, and returns what is wrong afterwards.
async fn round(
    deployment: &mut Deployment,
    kind: &str,
    mode: &str,
    time: Duration,
    faults: bool,
) -> Vec<String> {
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    let number = ROUNDS.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("contend-{}-{number}", std::process::id());
    let addrs = deployment.runtimes.iter().map(Runtime::listen).collect::<Vec<_>>();
    ready(&addrs).await;
    let languages = Language::all();
    let list = addrs.join(",");
    let start = |language: &'static Language| language.start(&list, kind, mode, &prefix, time);
    let mut callers: Vec<Callers> = languages.iter().map(start).collect();
    let mut killed = false;
    if faults {
        killed = inject_faults(deployment, time).await;
    }
    let mut figures = Vec::new();
    for callers in &mut callers {
        let line = tokio::task::block_in_place(|| callers.figures());
        figures.push(format!("{}: {line}", callers.name));
    }
    ready(&addrs).await;
    if killed {
        // Locks of a dead runtime are released when its session times out.
        tokio::time::sleep(SESSIONS * 2).await;
    }
    let began = Instant::now();
    let names = (0..NAMES).map(|name| format!("{prefix}-{name}"));
    let stuck = join_all(names.map(|name| taken(&addrs[0], kind, &prefix, name))).await;
    let mut wrong: Vec<String> = stuck.into_iter().flatten().collect();
    if figures.iter().all(|figures| figures.contains("granted=0 ")) {
        wrong.push(format!("no caller was granted anything: {figures:?}"));
    }
    println!(
        "  {kind:10} {mode:8} {}; a fresh client had everything after {:?}",
        figures.join("; "),
        began.elapsed()
    );
    let client = deployment.runtimes[0].direct_client(WITHIN);
    let left = client.inspect().locks("", "").await.unwrap();
    for lock in left.locks.iter().filter(|lock| lock.name.starts_with(&prefix)) {
        wrong.push(format!("left in a queue: {lock:?}"));
    }
    let runtimes = if wrong.is_empty() { &[] } else { &deployment.runtimes[..] };
    for runtime in runtimes {
        for session in runtime.direct_client(WITHIN).inspect().sessions().await.unwrap() {
            for holding in session.holdings.iter().filter(|holding| holding.name.starts_with(&prefix)) {
                let language = callers.iter().find(|callers| callers.has_connection(&session.peer));
                let language = language.map_or("another", |callers| callers.name);
                wrong.push(format!("{language} client {} has {holding:?}", session.peer));
            }
        }
    }
    for wrong in &wrong {
        println!("  WRONG {kind} {mode}: {wrong}");
    }
    wrong
}

/// Makes faults until the time is over, and mends them. True if something that held locks was killed or paused.
async fn inject_faults(deployment: &mut Deployment, time: Duration) -> bool {
    let mut dice = Dice::new(chosen_seed());
    let end = Instant::now() + time;
    let mut disturbed = false;
    while Instant::now() + Duration::from_millis(1500) < end {
        tokio::time::sleep(Duration::from_millis(300 + dice.roll(1200))).await;
        let fault = loop {
            let fault = Fault::draw(&mut dice, deployment);
            if matches!(
                fault,
                Fault::Killed(_) | Fault::Paused(_) | Fault::RuntimeKilled(_) | Fault::RuntimePaused(_)
            ) {
                break fault;
            }
        };
        println!("  {fault}");
        fault.inject(deployment).await;
        tokio::time::sleep(Duration::from_millis(100 + dice.roll(1500))).await;
        fault.repair(deployment).await;
        disturbed = true;
    }
    disturbed
}

/// Waits until all runtimes answer with their store.
async fn ready(addrs: &[String]) {
    for addr in addrs {
        let began = Instant::now();
        loop {
            let mut locks = lock::locks_client::LocksClient::new(channel(addr));
            let id = Some(PrimitiveId { name: "ready".into() });
            let Err(error) = locks.create(lock::CreateRequest { id, tags: Vec::new() }).await else { break };
            assert!(began.elapsed() < Duration::from_secs(30), "{addr}: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn channel(addr: &str) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().timeout(2 * WITHIN).connect_lazy()
}

/// Takes a lock with a connection of its own and gives it back; for an election looks whether it is empty. Returns what
/// is wrong.
async fn taken(addr: &str, kind: &str, prefix: &str, name: String) -> Option<String> {
    let channel = channel(addr);
    let timeout = Some(prost_types::Duration { seconds: i64::try_from(WITHIN.as_secs()).unwrap(), nanos: 0 });
    let own = Some(PrimitiveId { name: name.clone() });
    let id = if kind == "lock" || kind == "election" {
        own
    } else {
        Some(PrimitiveId { name: prefix.to_owned() })
    };
    let tags = Vec::new();
    let outcome = match kind {
        "lock" => {
            let mut stub = lock::lock_client::LockClient::new(channel);
            stub.create(lock::CreateRequest { id: id.clone(), tags }).await.unwrap();
            let outcome = stub.lock(lock::LockRequest { id: id.clone(), timeout }).await.map(drop);
            if outcome.is_ok() {
                stub.unlock(lock::UnlockRequest { id }).await.unwrap();
            }
            outcome
        }
        "map" => {
            let mut stub = map::map_client::MapClient::new(channel);
            stub.create(map::CreateRequest { id: id.clone(), tags }).await.unwrap();
            let keys = vec![name.clone()];
            let outcome =
                stub.lock(map::LockRequest { id: id.clone(), keys: keys.clone(), timeout }).await.map(drop);
            if outcome.is_ok() {
                stub.unlock(map::UnlockRequest { id, keys }).await.unwrap();
            }
            outcome
        }
        "countermap" => {
            let mut stub = countermap::counter_map_client::CounterMapClient::new(channel);
            stub.create(countermap::CreateRequest { id: id.clone(), tags }).await.unwrap();
            let keys = vec![name.clone()];
            let outcome = stub
                .lock(countermap::LockRequest { id: id.clone(), keys: keys.clone(), timeout })
                .await
                .map(drop);
            if outcome.is_ok() {
                stub.unlock(countermap::UnlockRequest { id, keys }).await.unwrap();
            }
            outcome
        }
        _ => {
            let mut stub = election::leader_election_client::LeaderElectionClient::new(channel);
            stub.create(election::CreateRequest { id: id.clone(), tags }).await.unwrap();
            let began = Instant::now();
            loop {
                let answer = stub.get_term(election::GetTermRequest { id: id.clone() }).await.unwrap();
                let term = answer.into_inner().term.unwrap();
                if term.leader.is_empty() && term.candidates.is_empty() {
                    return None;
                }
                if began.elapsed() > WITHIN {
                    return Some(format!("{name}: still led: {term:?}"));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    outcome.err().map(|error| {
        assert_eq!(error.code(), Code::Aborted, "{error}");
        format!("{name}: {}", error.message())
    })
}

/// The rounds of a test: a few that differ from store to store, or all of them for so long.
fn rounds(first: usize) -> (Vec<(&'static str, &'static str)>, Duration) {
    let all = MODES.iter().flat_map(|mode| KINDS.iter().map(|kind| (*kind, *mode))).collect::<Vec<_>>();
    if let Ok(seconds) = std::env::var("CONTENTION_SECONDS") {
        return (all, Duration::from_secs(seconds.parse().unwrap()));
    }
    // Each kind once and each mode once, in other pairs on every store.
    let pair = |at: usize| (KINDS[at], MODES[(at + first) % MODES.len()]);
    ((0..KINDS.len()).map(pair).collect(), Duration::from_secs(5))
}

async fn contend(kind: Kind, first: usize, faults: bool) {
    // One store at a time: the machine is small, and callers should meet each other.
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let mut deployment = Deployment::start(kind, if kind.shared() { 2 } else { 1 }, None).await;
    let (rounds, time) = rounds(first);
    let members = if let Backend::Etcd(cluster) = &deployment.backend { cluster.members.len() } else { 1 };
    println!("{kind:?} ({members}), faults {faults}, seed {}:", chosen_seed());
    let mut wrong = Vec::new();
    for (kind, mode) in rounds {
        wrong.extend(Box::pin(round(&mut deployment, kind, mode, time, faults)).await);
    }
    assert!(wrong.is_empty(), "{kind:?}: {wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_in_memory() {
    contend(Kind::Memory, 0, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_on_disk() {
    contend(Kind::Disk, 1, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_on_etcd() {
    contend(Kind::EtcdAlone, 2, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_on_redis() {
    contend(Kind::Redis, 3, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_in_memory_with_faults() {
    contend(Kind::Memory, 1, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_on_disk_with_faults() {
    contend(Kind::Disk, 2, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_on_a_cluster_of_etcd_with_faults() {
    contend(Kind::Etcd, 3, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tests/contention"]
async fn no_lock_sticks_on_redis_with_faults() {
    contend(Kind::Redis, 0, true).await;
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}
