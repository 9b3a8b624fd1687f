// SPDX-License-Identifier: Apache-2.0
//! Standard output and standard error that are closed, full, or never read: the program serves, keeps its locks and ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::fs::OpenOptions;
use std::io::{PipeReader, Read, pipe};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atomix_chaos::program;
use atomix_client::Client;
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The place of the output.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sink {
    /// The reader of the pipe is gone.
    Closed,
    /// Every write finds no room.
    Full,
    /// The pipe is there, and nothing reads it.
    Unread,
}

const SINKS: [Sink; 3] = [Sink::Closed, Sink::Full, Sink::Unread];

/// A server whose greeting cannot be read: it listens on sockets in a folder of its own.
struct Mute {
    child: Child,
    folder: TempDir,
    /// The readable end of standard error, if there is one.
    unread: Option<PipeReader>,
}

impl Mute {
    fn start(sink: Sink, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program());
        let address = |name: &str| format!("unix:{}", folder.path().join(name).display());
        command.args(["serve", "--listen", &address("p"), "--control", &address("c")]).args(arguments);
        let mut unread = None;
        let mut stream = || match sink {
            Sink::Full => Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap()),
            Sink::Closed => Stdio::from(pipe().unwrap().1),
            Sink::Unread => {
                let (reader, writer) = pipe().unwrap();
                unread = Some(reader);
                Stdio::from(writer)
            }
        };
        let child = command.stdout(stream()).stderr(stream()).spawn().unwrap();
        Self { child, folder, unread }
    }

    async fn client(&self) -> Client {
        let socket = |name: &str| format!("unix:{}", self.folder.path().join(name).display());
        let begin = Instant::now();
        loop {
            match Client::builder().endpoint(socket("p")).control(socket("c")).connect().await {
                Ok(client) => return client,
                Err(error) => assert!(begin.elapsed() < Duration::from_secs(20), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Ends the server in order, and returns what it had written to standard error.
    async fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(12), "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.code(), Some(0));
        let mut text = String::new();
        if let Some(mut unread) = self.unread.take() {
            unread.read_to_string(&mut text).unwrap();
        }
        text
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn serves_and_ends(sink: Sink, arguments: &[&str]) {
    let server = Mute::start(sink, &[arguments, &["--set", "log.level=trace"]].concat());
    let client = server.client().await;
    let counter = client.counter("hits").open().await.unwrap();
    // Enough for a pipe and the buffer before it to be full.
    for round in 1..=400 {
        assert_eq!(counter.increment(1).await.unwrap(), round, "{sink:?}");
    }
    let held = client.lock("l").open().await.unwrap().acquire().await.unwrap();
    server.stop().await;
    drop(held);
}

#[tokio::test]
async fn a_memory_store_serves_without_its_output() {
    for sink in SINKS {
        serves_and_ends(sink, &[]).await;
    }
}

#[tokio::test]
async fn a_disk_store_serves_without_its_output_and_keeps_its_writes() {
    for sink in SINKS {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let data = ["--data", data.to_str().unwrap()];
        serves_and_ends(sink, &data).await;
        let again = Mute::start(sink, &data);
        let counter = again.client().await.counter("hits").open().await.unwrap();
        assert_eq!(counter.get().await.unwrap(), 400);
        again.stop().await;
    }
}

/// Two runtimes on one store that goes away for a moment, which both log. The lock keeps its holder.
async fn one_holder(sink: Sink, store: &str, mut fault: impl AsyncFnMut()) {
    let store = format!("stores=[{store}]");
    let arguments = ["--set", "sessions.timeout=3s", "--set", &store];
    let (one, other) = (Mute::start(sink, &arguments), Mute::start(sink, &arguments));
    let (client, second) = (one.client().await, other.client().await);
    let held = client.lock("l").open().await.unwrap().acquire().await.unwrap();
    let lock = second.lock("l").open().await.unwrap();
    fault().await;
    // Far longer than a member may be silent.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(6) {
        if let Ok(Some(stolen)) = lock.try_acquire().await {
            panic!("{sink:?}: two holders, tokens {} and {}", held.token(), stolen.token());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    held.release().await.unwrap();
    let next = lock.acquire().timeout(Duration::from_secs(10)).await.unwrap();
    drop(next);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn two_runtimes_on_redis_keep_one_holder_without_their_output() {
    let redis = Redis::start(&[]).await;
    let store = format!(
        r#"{{"name": "r", "driver": {{"name": "redis", "version": "v1"}}, "config": {{"address": "{}"}}}}"#,
        redis.address()
    );
    for sink in SINKS {
        one_holder(sink, &store, async || {
            redis.pause();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            redis.resume();
        })
        .await;
        redis.ask(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn two_runtimes_on_etcd_keep_one_holder_without_their_output() {
    let mut etcd = Etcd::start(&[]).await;
    let store = format!(
        r#"{{"name": "e", "driver": {{"name": "etcd", "version": "v3"}}, "config": {{"endpoints": ["{}"]}}}}"#,
        etcd.endpoint()
    );
    for sink in SINKS {
        one_holder(sink, &store, async || {
            etcd.kill();
            tokio::time::sleep(Duration::from_secs(1)).await;
            etcd.restart().await;
        })
        .await;
    }
}

#[tokio::test]
async fn lines_that_are_missing_are_counted_when_the_log_is_read_again() {
    let mut server = Mute::start(Sink::Unread, &["--set", "log.level=trace"]);
    let client = server.client().await;
    let map = client.map("m").open().await.unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut unread = server.unread.take().unwrap();
    // Until more has been logged than the pipe and the buffer take.
    for round in 0..1500 {
        map.put(format!("k{round}"), &"v".into()).await.unwrap();
    }
    std::thread::spawn(move || {
        let mut text = String::new();
        unread.read_to_string(&mut text).unwrap();
        sender.send(text).unwrap();
    });
    map.put("last", &"v".into()).await.unwrap();
    server.stop().await;
    let text = receiver.recv().unwrap();
    assert!(text.contains(" log lines were dropped"), "{} bytes were logged", text.len());
    assert!(text.lines().last().unwrap().contains("stopped"), "the end is written");
}

#[tokio::test]
async fn signals_reload_or_change_nothing_and_the_manager_is_notified() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let notified = || {
        let mut buffer = [0; 256];
        let bytes = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..bytes]).lines().next().unwrap().to_owned()
    };
    let file = folder.path().join("atomix.yaml");
    let store = |name: &str| format!("  - {{ name: {name}, driver: {{ name: memory, version: v1 }} }}\n");
    std::fs::write(&file, format!("stores:\n{}", store("one"))).unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--config"]).arg(&file);
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let mut server = Mute { child: command.spawn().unwrap(), folder, unread: None };
    assert_eq!(notified(), "READY=1");
    // The log has a thread of its own: a line may come a little later than the notification.
    let reload = |server: &Mute, until: &str| {
        server.signal(Signal::HUP);
        assert_eq!(notified(), "RELOADING=1");
        assert_eq!(notified(), "READY=1");
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if text.contains(until) {
                return text;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{text}");
        }
    };
    std::fs::write(&file, "stores: [\n").unwrap();
    reload(&server, "the old one stays in force");
    let new = format!("log: {{ level: debug }}\nworkers: 7\nstores:\n{}{}", store("one"), store("two"));
    std::fs::write(&file, new).unwrap();
    server.signal(Signal::USR1);
    server.signal(Signal::USR2);
    let text = reload(&server, "the configuration was reloaded");
    for part in ["`log.level`", "store=/two", "keys=\"workers\""] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(server.child.try_wait().unwrap().is_none(), "it goes on");
    server.signal(Signal::QUIT);
    assert_eq!(notified(), "STOPPING=1");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn local_mistakes_end_the_start_and_are_found_by_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let config = folder.path().join("atomix.yaml");
    std::fs::write(
        &config,
        "stores:\n  - { name: one, driver: { name: memory, version: v1 } }\nroutes:\n  - { store: { name: one } }\n",
    )
    .unwrap();
    let inside = file.join("data");
    let (file, inside) = (file.to_str().unwrap(), inside.to_str().unwrap());
    let data = folder.path().join("data");
    let certificate = r#"stores=[{"name":"e","driver":{"name":"etcd","version":"v3"},"config":{"endpoints":["https://127.0.0.1:1"],"tls":{"ca":"/no/such/file"}}}]"#;
    let mistakes: [(&[&str], &str); 4] = [
        (&["--data", file], "there is a file in the way"),
        (&["--data", inside], "cannot be the folder of a store"),
        (&["--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()], "routes[0].store"),
        (&["--set", certificate], "file cannot be found: path=`/no/such/file`"),
    ];
    for (arguments, message) in mistakes {
        for check in [&["--check-config"][..], &[]] {
            let mut command = Command::new(program());
            command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
            let output = command.args(arguments).args(check).output().unwrap();
            assert_eq!(output.status.code(), Some(78), "{output:?}");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains(message), "{text}");
        }
    }
    assert!(!data.exists(), "the check makes nothing");
}

#[test]
fn an_answer_without_a_reader_ends_in_silence() {
    for arguments in [&["serve", "--print-config"][..], &["--help"], &["completions", "bash"]] {
        let child = Command::new(program())
            .args(arguments)
            .stdout(Stdio::from(pipe().unwrap().1))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}
