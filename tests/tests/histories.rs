// SPDX-License-Identifier: Apache-2.0
//! Histories of the real program on each store, with faults in the middle, checked.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes in real time")]
#![allow(clippy::print_stdout, reason = "a test prints its seed and its result")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atomix_chaos::record::{self, Options};
use atomix_chaos::{Server, program};
use atomix_env::Env;
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// Recordings need both cores.
static TURN: Mutex<()> = Mutex::const_new(());

/// How long a history is.
const LONG: Duration = Duration::from_secs(9);

/// Runtimes of one configuration, each behind a socket that stays the same.
struct Runtimes {
    folder: PathBuf,
    servers: Vec<Server>,
}

impl Runtimes {
    fn start(folder: &Path, count: usize, store: &str) -> Self {
        let config = format!("sessions: {{ timeout: 1s }}\nstores: [{store}]\n");
        std::fs::write(folder.join("atomix.yaml"), config).unwrap();
        let mut runtimes = Self { folder: folder.to_owned(), servers: Vec::new() };
        for number in 0..count {
            runtimes.servers.push(runtimes.serve(number));
        }
        runtimes
    }

    fn socket(&self, number: usize) -> String {
        format!("unix:{}", self.folder.join(format!("{number}.sock")).display())
    }

    fn serve(&self, number: usize) -> Server {
        let mut command = Command::new(program());
        command.args(["serve", "--control", "127.0.0.1:0", "--listen", &self.socket(number), "--config"]);
        command.arg(self.folder.join("atomix.yaml"));
        Server::start_command(command)
    }

    fn endpoints(&self) -> Vec<String> {
        (0..self.servers.len()).map(|number| self.socket(number)).collect()
    }

    /// Kills a runtime without a warning, and starts it again a while later.
    async fn kill(&mut self, number: usize, gone: Duration) {
        self.servers[number].kill();
        sleep(gone).await;
        self.servers[number] = self.serve(number);
    }

    /// Pauses a runtime for a while.
    async fn pause(&self, number: usize, time: Duration) {
        let signal = |signal| {
            let id = i32::try_from(self.servers[number].id()).unwrap();
            kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
        };
        signal(Signal::STOP);
        sleep(time).await;
        signal(Signal::CONT);
    }
}

/// Records while `faults` are injected, and asserts that nothing is wrong.
async fn judge(store: &str, endpoints: Vec<String>, options: Options, faults: impl Future<Output = ()>) {
    let seed = Env::real().random();
    println!("{store}: seed {seed}");
    let (recording, ()) =
        tokio::join!(Box::pin(record::run(&endpoints, seed, LONG, &options)), Box::pin(faults));
    match recording.judge() {
        Ok(summary) => {
            println!("{store}: {summary}");
            assert!(summary.done >= 10, "too little was done to be judged");
        }
        Err(violations) => panic!("{store}: {violations}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_paused() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let store = "{ name: s, driver: { name: memory, version: v1 } }";
    let runtimes = Runtimes::start(folder.path(), 1, store);
    let options = Options { late: Some(Duration::from_secs(6)), stalls: false, ..Options::with_faults() };
    let faults = async {
        sleep(LONG / 3).await;
        runtimes.pause(0, Duration::from_secs(2)).await;
    };
    judge("memory", runtimes.endpoints(), options, faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_is_killed() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.display();
    let store = format!("{{ name: s, driver: {{ name: disk, version: v1 }}, config: {{ dir: '{data}' }} }}");
    let mut runtimes = Runtimes::start(folder.path(), 1, &store);
    let options = Options { late: Some(Duration::from_secs(6)), stalls: false, ..Options::with_faults() };
    let endpoints = runtimes.endpoints();
    let faults = async {
        sleep(LONG / 3).await;
        runtimes.kill(0, Duration::from_millis(500)).await;
        sleep(LONG / 4).await;
        runtimes.kill(0, Duration::ZERO).await;
    };
    judge("disk", endpoints, options, faults).await;
}

/// Three runtimes, of which one is killed, and one stopped for longer than its timeout.
async fn shared(name: &str, store: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut runtimes = Runtimes::start(folder.path(), 3, store);
    let endpoints = runtimes.endpoints();
    let faults = async {
        sleep(LONG / 5).await;
        runtimes.kill(0, Duration::from_secs(1)).await;
        sleep(LONG / 5).await;
        runtimes.pause(1, Duration::from_millis(2500)).await;
    };
    judge(name, endpoints, Options::with_faults(), faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtimes_on_etcd_are_killed_and_paused() {
    let _turn = TURN.lock().await;
    let etcd = Etcd::start(&[]).await;
    let endpoint = etcd.endpoint();
    shared(
        "etcd",
        &format!(
            "{{ name: s, driver: {{ name: etcd, version: v3 }}, config: {{ endpoints: ['{endpoint}'] }} }}"
        ),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtimes_on_redis_are_killed_and_paused() {
    let _turn = TURN.lock().await;
    let redis = Redis::start(&[]).await;
    let address = redis.address();
    shared(
        "redis",
        &format!("{{ name: s, driver: {{ name: redis, version: v1 }}, config: {{ address: '{address}' }} }}"),
    )
    .await;
}
