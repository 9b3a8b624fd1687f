// SPDX-License-Identifier: Apache-2.0
//! A name that nothing uses costs nothing: after many names that were used once, by sessions that then ended, the tables of the
//! runtime, the store and the memory of both are as after the first of them. Content stays.
//!
//! An election that had a leader keeps its term, which is content: see [`Use::keeps`]. `tests/names` runs the long form,
//! with `NAMES_COUNT` names of each kind instead of some thousands.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a process is awaited in real time, and the figures of a run are its result"
)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atomix_chaos::Server;
use atomix_client::Client;
use atomix_proto::runtime::PrimitiveId;
use atomix_proto::{counter, election, lock, map};
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use counter::counter_client::CounterClient;
use election::leader_election_client::LeaderElectionClient;
use futures::{StreamExt, TryStreamExt, stream};
use lock::lock_client::LockClient;
use map::map_client::MapClient;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const MIB: u64 = 1 << 20;
/// Sessions at once, the names that each uses, and how many of them at once.
const SESSIONS: usize = 8;
const NAMES_OF_A_SESSION: usize = 100;
const AT_ONCE: usize = 16;
/// One of so many names keeps its content.
const KEPT: usize = 100;
/// After so many names of each kind, or a quarter of all if that is less, everything is measured for the first time.
const FIRST: usize = 10_000;
/// Names that are used one after the other to measure how long that takes.
const TIMED: usize = 100;
/// Their numbers are beyond this.
const FOR_TIME: usize = 1 << 40;
/// A primitive is closed two seconds after its last session ended, its keyspace is given back two seconds later, and facts
/// are up to five seconds old. The rest is for a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_mins(3);
/// The sessions of the client that asks for figures, one on each port.
const OWN_SESSIONS: usize = 2;
/// Of a name with content: bytes of the store and of the runtime.
const KEPT_BYTES: u64 = 8 << 10;
/// Room for all that may come and go beside the names: connections, buffers, and the floors of Redis, 6 MB.
const SLACK_BYTES: u64 = 8 * MIB;
/// Memory that the allocator of the runtime keeps of the open primitives of its busiest moment.
const SLACK_RESIDENT: u64 = 64 * MIB;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lock,
    Map,
    Counter,
    Election,
}

const KINDS: [Kind; 4] = [Kind::Lock, Kind::Map, Kind::Counter, Kind::Election];

/// A name, and how it is used.
#[derive(Debug, Clone, Copy)]
struct Use {
    kind: Kind,
    number: usize,
    closes: bool,
}

/// The store, with its data.
enum Backend {
    Memory,
    Disk(TempDir),
    Etcd(Etcd),
    Redis(Redis),
}

struct TestEnv {
    server: Server,
    client: Client,
    backend: Backend,
    /// How many names have content.
    kept: u64,
    timed: usize,
    _folder: TempDir,
}

/// The sizes of everything when the runtime is idle.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Primitives and sessions in the tables of the runtime.
    primitives: u64,
    sessions: usize,
    /// Resident memory of the runtime.
    resident: u64,
    /// Keyspaces on memory and disk, keys otherwise.
    entries: u64,
    /// Bytes that the store counts, or reports as used.
    bytes: u64,
    /// The files of a disk store.
    files: u64,
}

// === impl Use ===

impl Use {
    fn new(kind: Kind, number: usize) -> Self {
        // All names of a session are closed, or none.
        Self { kind, number, closes: (number / NAMES_OF_A_SESSION).is_multiple_of(2) }
    }

    fn id(self) -> PrimitiveId {
        PrimitiveId { name: format!("order-{}", self.number) }
    }

    /// Returns whether there is content afterwards. The term of an election is content, also without candidates.
    fn keeps(self) -> bool {
        match self.kind {
            Kind::Lock => false,
            Kind::Map | Kind::Counter => self.number.is_multiple_of(KEPT),
            Kind::Election => true,
        }
    }

    /// Creates, uses, and perhaps closes it.
    async fn once(self, channel: Channel) -> Result<(), Status> {
        let id = Some(self.id());
        match self.kind {
            Kind::Lock => {
                let mut client = LockClient::new(channel);
                client.create(lock::CreateRequest { id: id.clone(), tags: Vec::new() }).await?;
                client.lock(lock::LockRequest { id: id.clone(), timeout: None }).await?;
                client.unlock(lock::UnlockRequest { id: id.clone() }).await?;
                if self.closes {
                    client.close(lock::CloseRequest { id }).await?;
                }
            }
            Kind::Map => {
                let mut client = MapClient::new(channel);
                client.create(map::CreateRequest { id: id.clone(), tags: Vec::new() }).await?;
                let (key, value) = ("k".to_owned(), self.number.to_string().into());
                client
                    .put(map::PutRequest { id: id.clone(), key, value, ttl: None, prev_version: 0 })
                    .await?;
                if !self.keeps() {
                    let key = "k".to_owned();
                    client.remove(map::RemoveRequest { id: id.clone(), key, prev_version: 0 }).await?;
                }
                if self.closes {
                    client.close(map::CloseRequest { id }).await?;
                }
            }
            Kind::Counter => {
                let mut client = CounterClient::new(channel);
                client.create(counter::CreateRequest { id: id.clone(), tags: Vec::new() }).await?;
                let delta = self.delta();
                client.increment(counter::IncrementRequest { id: id.clone(), delta }).await?;
                if !self.keeps() {
                    client.set(counter::SetRequest { id: id.clone(), value: 0 }).await?;
                }
                if self.closes {
                    client.close(counter::CloseRequest { id }).await?;
                }
            }
            Kind::Election => {
                let mut client = LeaderElectionClient::new(channel);
                let candidate = "c".to_owned();
                client.create(election::CreateRequest { id: id.clone(), tags: Vec::new() }).await?;
                client.enter(election::EnterRequest { id: id.clone(), candidate: candidate.clone() }).await?;
                client.withdraw(election::WithdrawRequest { id: id.clone(), candidate }).await?;
                if self.closes {
                    client.close(election::CloseRequest { id }).await?;
                }
            }
        }
        Ok(())
    }

    fn delta(self) -> i64 {
        i64::try_from(self.number).unwrap() + 1
    }

    /// Reads the content that was kept. A name that was not closed is found without being created.
    async fn read_back(self, channel: Channel) -> Result<(), Status> {
        let id = Some(self.id());
        match self.kind {
            Kind::Lock => {}
            Kind::Map => {
                let mut client = MapClient::new(channel);
                if self.closes {
                    client.create(map::CreateRequest { id: id.clone(), tags: Vec::new() }).await?;
                }
                let entry = client.get(map::GetRequest { id, key: "k".to_owned() }).await?.into_inner();
                assert_eq!(entry.value.unwrap().value, self.number.to_string());
            }
            Kind::Counter => {
                let mut client = CounterClient::new(channel);
                if self.closes {
                    client.create(counter::CreateRequest { id: id.clone(), tags: Vec::new() }).await?;
                }
                let value = client.get(counter::GetRequest { id }).await?.into_inner().value;
                assert_eq!(value, self.delta());
            }
            Kind::Election => {
                let mut client = LeaderElectionClient::new(channel);
                if self.closes {
                    client.create(election::CreateRequest { id: id.clone(), tags: Vec::new() }).await?;
                }
                let term = client.get_term(election::GetTermRequest { id }).await?.into_inner().term;
                assert_eq!(term.unwrap().term, 1, "{self:?}");
            }
        }
        Ok(())
    }
}

// === impl Backend ===

impl Backend {
    fn store(&self, folder: &Path) -> String {
        let (driver, config) = match self {
            Self::Memory => ("memory, version: v1", String::new()),
            Self::Disk(data) => {
                ("disk, version: v1", format!("dir: {}/data, log-bytes-max: 1048576", data.path().display()))
            }
            Self::Etcd(etcd) => ("etcd, version: v3", format!("endpoints: ['{}']", etcd.endpoint())),
            Self::Redis(redis) => ("redis, version: v1", format!("address: '{}'", redis.address())),
        };
        let file = folder.join("atomix.yaml");
        let store =
            format!("stores: [{{ name: s, driver: {{ name: {driver} }}, config: {{ {config} }} }}]\n");
        std::fs::write(&file, store).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Returns how many entries a name with content has at most, and how many there may be beside the names.
    fn entries_max(&self) -> (u64, u64) {
        match self {
            // Keyspaces, and that of the names of primitives.
            Self::Memory | Self::Disk(_) => (1, 1),
            // Keys, and those of the runtime itself.
            Self::Etcd(_) | Self::Redis(_) => (4, 8),
        }
    }
}

// === impl TestEnv ===

impl TestEnv {
    async fn start(backend: Backend) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start_with(&["--config", &backend.store(folder.path())]);
        let client = server.client().await;
        Self { server, client, backend, kept: 0, timed: 0, _folder: folder }
    }

    async fn connect(&self) -> Channel {
        let begun = Instant::now();
        loop {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.server.listen())).unwrap();
            let channel = endpoint.connect().await.unwrap();
            // The store may have to be reached first.
            let probe = Use { kind: Kind::Lock, number: usize::MAX, closes: true };
            match probe.once(channel.clone()).await {
                Ok(()) => return channel,
                Err(status)
                    if begun.elapsed() < WAIT_TIMEOUT && status.code() == tonic::Code::Unavailable =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) => panic!("{status}"),
            }
        }
    }

    /// Uses the names with these numbers, each once.
    async fn use_names(&mut self, kind: Kind, numbers: std::ops::Range<usize>) {
        let begun = Instant::now();
        let sessions = stream::iter(numbers.clone().step_by(NAMES_OF_A_SESSION));
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server.listen())).unwrap();
        sessions
            .map(|first| {
                let (endpoint, end) = (endpoint.clone(), (first + NAMES_OF_A_SESSION).min(numbers.end));
                let session = async move {
                    let channel = endpoint.connect().await.unwrap();
                    let names = stream::iter(first..end);
                    let calls = names.map(|number| Use::new(kind, number).once(channel.clone()));
                    calls.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.unwrap();
                };
                tokio::spawn(session)
            })
            .buffer_unordered(SESSIONS)
            .for_each(async |ended| ended.unwrap())
            .await;
        self.kept += numbers.clone().filter(|number| Use::new(kind, *number).keeps()).count() as u64;
        let (count, took) = (numbers.len(), begun.elapsed());
        println!(
            "  {count} names of kind {kind:?} in {took:.1?}, {:.0} a second",
            count as f64 / took.as_secs_f64()
        );
    }

    /// Uses new names one after the other, and returns the median of how long that took.
    async fn time(&mut self, kind: Kind) -> Duration {
        let channel = self.connect().await;
        let mut took = Vec::new();
        for _ in 0..TIMED {
            self.timed += 1;
            let name = Use { kind, number: FOR_TIME + self.timed * KEPT + 1, closes: false };
            let begun = Instant::now();
            name.once(channel.clone()).await.unwrap();
            took.push(begun.elapsed());
            self.kept += u64::from(name.keeps());
        }
        took.sort_unstable();
        took[TIMED / 2]
    }

    async fn figures(&self) -> Figures {
        let inspect = self.client.inspect();
        let store = inspect.stores().await.unwrap().remove(0);
        let fact = |name: &str| store.facts.get(name).and_then(|fact| fact.parse().ok()).unwrap_or(0);
        let (entries, bytes, files) = match &self.backend {
            Backend::Memory => (fact("keyspaces"), fact("bytes"), 0),
            Backend::Disk(folder) => (fact("keyspaces"), fact("bytes"), size(folder.path().to_owned())),
            Backend::Etcd(etcd) => {
                etcd.compact(etcd.revision().await).await;
                let all = r#"{"key":"AA==","range_end":"AA==","count_only":true}"#;
                let keys = number(&etcd.post("/v3/kv/range", all).await, "\"count\":\"");
                let status = etcd.post("/v3/maintenance/status", "{}").await;
                (keys, number(&status, "\"dbSizeInUse\":\""), 0)
            }
            Backend::Redis(redis) => {
                let floors = redis.ask(&["KEYS", "*{%s*}f"]).lines().count() as u64;
                let keys: u64 = redis.ask(&["DBSIZE"]).parse().unwrap();
                (keys - floors, number(&redis.ask(&["INFO", "memory"]), "used_memory:"), 0)
            }
        };
        let sessions = inspect.sessions().await.unwrap().len();
        let resident = self.server.resident();
        Figures { primitives: store.primitives, sessions, resident, entries, bytes, files }
    }

    /// Waits until nothing is left of the names that were used since `before`, but their content.
    async fn settled(&self, before: Option<&Figures>, kept_before: u64) -> Figures {
        let begun = Instant::now();
        loop {
            let now = self.figures().await;
            let kept = self.kept - kept_before;
            let is_idle = now.primitives == 0 && now.sessions <= OWN_SESSIONS;
            let is_small = before.is_none_or(|before| {
                let (each, slack) = self.backend.entries_max();
                now.entries >= self.kept
                    && now.entries <= before.entries + kept * each + slack
                    && now.bytes <= before.bytes + kept * KEPT_BYTES + SLACK_BYTES
                    && now.files <= before.files + 3 * now.bytes + SLACK_BYTES
            });
            if is_idle && is_small {
                return now;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "{kept} names have content: {before:?}, now {now:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        write!(
            f,
            "{} primitives, {} sessions, resident {:.1} MiB; store: {} entries, {:.2} MiB, files {:.2} MiB",
            self.primitives,
            self.sessions,
            mib(self.resident),
            self.entries,
            mib(self.bytes),
            mib(self.files)
        )
    }
}

/// Returns the number behind `name`, zero if there is none.
fn number(text: &str, name: &str) -> u64 {
    let rest = text.split(name).nth(1).unwrap_or_default();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Returns what the files of a folder take on the disk.
fn size(folder: PathBuf) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| match file.metadata() {
            Ok(data) if data.is_dir() => size(file.path()),
            Ok(data) => data.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Uses so many names of each kind, half of them with `Close`.
async fn names_cost_nothing(backend: Backend, store: &str, count: usize) {
    let count = std::env::var("NAMES_COUNT").map_or(count, |count| count.parse().unwrap());
    let first = FIRST.min(count / 4);
    let mut env = TestEnv::start(backend).await;
    drop(env.connect().await);
    println!("{store}: {count} names of each kind");
    let fresh = env.settled(None, 0).await;
    println!("  fresh: {fresh}");
    for kind in KINDS {
        env.use_names(kind, 0..first).await;
    }
    let before = env.settled(Some(&fresh), 0).await;
    println!("  after {first} of each: {before}");
    let (mut last, mut kept) = (before, env.kept);
    let mut took = Vec::new();
    for kind in KINDS {
        took.push(env.time(kind).await);
    }
    for (kind, took) in KINDS.into_iter().zip(took) {
        env.use_names(kind, first..count).await;
        let now = env.settled(Some(&last), kept).await;
        println!("  after {count} of kind {kind:?}: {now}");
        let resident = last.resident.max(before.resident) + (env.kept - kept) * KEPT_BYTES;
        assert!(now.resident <= resident + SLACK_RESIDENT, "{kind:?}: {last}, then {now}");
        (last, kept) = (now, env.kept);
        let later = env.time(kind).await;
        let ratio = later.as_secs_f64() / took.as_secs_f64();
        println!("  one name of kind {kind:?}: {took:?} after {first}, {later:?} after {count}: {ratio:.2}");
    }
    let channel = env.connect().await;
    let kept = KINDS.into_iter().flat_map(|kind| (0..count).map(move |number| Use::new(kind, number)));
    let reads = stream::iter(kept.filter(|name| name.keeps())).map(|name| name.read_back(channel.clone()));
    let read = reads.buffer_unordered(AT_ONCE).try_fold(0, async |count, ()| Ok(count + 1)).await.unwrap();
    println!("  the content of {read} names was read back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_cost_nothing_in_memory() {
    names_cost_nothing(Backend::Memory, "memory", 2_400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_cost_nothing_on_disk() {
    names_cost_nothing(Backend::Disk(tempfile::tempdir().unwrap()), "disk", 800).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_cost_nothing_on_etcd() {
    // Room for the history of a long run between two compactions.
    let arguments = [
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=1000",
        "--quota-backend-bytes=8589934592",
    ];
    names_cost_nothing(Backend::Etcd(Etcd::start(&arguments).await), "etcd", 800).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_cost_nothing_on_redis() {
    names_cost_nothing(Backend::Redis(Redis::start(&[]).await), "redis", 800).await;
}
