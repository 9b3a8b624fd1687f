// SPDX-License-Identifier: Apache-2.0
//! The program's beginning, its end, and its clients' ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atomix_chaos::{Server, program};
use atomix_client::Kind;

fn terminate(server: &Server) {
    let id = rustix::process::Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn it_is_ready_within_a_second_without_any_configuration() {
    let start = Instant::now();
    let server = Server::start();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(server.run(&["counter", "incr", "hits"]).status.success());
}

#[test]
fn a_wrong_setting_is_named_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("atomix.yaml");
    std::fs::write(&file, "limits: { value-bytes-maxx: 1MiB }\n").unwrap();
    let output = Command::new(program()).args(["serve", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("limits.value-bytes-maxx") && message.contains("limits.value-bytes-max"),
        "{message}"
    );
}

#[test]
fn a_data_folder_that_cannot_be_made_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    // Looked at, nothing is there and something could be made: only the attempt shows that it cannot.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path().join("gone/away"), &link).unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"];
    let output = Command::new(program()).args(arguments).arg(&link).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains(link.to_str().unwrap()) && message.contains("another path"), "{message}");
}

#[test]
fn the_configuration_is_checked_and_printed_with_origins() {
    let check = Command::new(program()).args(["serve", "--check-config"]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    let print = Command::new(program())
        .args(["serve", "--print-config", "--listen", "127.0.0.1:7"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&print.stdout).into_owned();
    assert!(printed.contains("127.0.0.1:7") && printed.contains("flag --listen"), "{printed}");
}

#[test]
fn stores_and_routes_of_a_file_are_there_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("atomix.yaml");
    let config = "stores:\n  - { name: one, driver: { name: memory, version: v1 } }\n  - { name: two, driver: { name: memory, version: v1 } }\nroutes:\n  - { store: { name: two }, tags: [fast] }\n  - { store: { name: one } }\n";
    std::fs::write(&file, config).unwrap();
    let server = Server::start_with(&["--config", file.to_str().unwrap()]);
    for (tag, store) in [("fast", "two"), ("slow", "one")] {
        let explained = server.run(&["route", "explain", "Map", "m", "--tag", tag, "--output", "json"]);
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(explained.contains(store), "{explained}");
    }
}

#[tokio::test]
async fn sigterm_drains_and_exits_with_zero() {
    let mut server = Server::start();
    let client = server.client().await;
    let map = client.map("m").open().await.unwrap();
    let mut events = map.events().await.unwrap();
    let lock = client.lock("l").open().await.unwrap();
    let held = lock.acquire().await.unwrap();
    let other = server.client().await;
    let waiting = other.lock("l").open().await.unwrap();
    let waiting = tokio::spawn(async move { waiting.acquire().timeout(Duration::from_mins(1)).await });
    server.until_waiting(1).await;
    terminate(&server);
    // The stream ends with the code that makes clients open it elsewhere; the waiting call ends as well.
    let error = events.next().await.expect("an ending with a reason").unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    // It is granted if the connection of the holder is closed first.
    drop(
        tokio::time::timeout(Duration::from_mins(1), waiting).await.expect("the waiting call ends").unwrap(),
    );
    assert_eq!(server.wait(Duration::from_secs(12)), Some(0));
    drop(held);
}

#[tokio::test]
async fn a_killed_client_frees_its_candidacy_within_a_second() {
    let server = Server::start();
    let client = server.client().await;
    let election = client.election("boss").open().await.unwrap();
    let mut leader =
        server.command(&["elect", "boss", "--candidate", "a", "--", "sleep", "60"]).spawn().unwrap();
    let mut terms = election.watch().await.unwrap();
    let first = terms.next().await.unwrap().unwrap();
    assert!(first.leader.as_deref().is_some_and(|leader| leader.starts_with("a-")), "{first:?}");
    election.enter("b").await.unwrap();
    leader.kill().unwrap();
    leader.wait().unwrap();
    let killed = Instant::now();
    loop {
        let term = terms.next().await.unwrap().unwrap();
        if term.leader.as_deref() == Some("b") {
            break;
        }
    }
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
}

/// Two hosts of one name: both give the same `--candidate`.
#[tokio::test]
async fn candidates_with_one_name_lead_one_after_the_other() {
    let server = Server::start();
    let client = server.client().await;
    let election = client.election("boss").open().await.unwrap();
    let mut terms = election.watch().await.unwrap();
    let elect = || {
        // It leads until its input ends.
        let script = "echo $ATOMIX_TERM $ATOMIX_CANDIDATE; cat";
        let mut command = server.command(&["elect", "boss", "--candidate", "same", "--", "sh", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (mut first, mut first_lines) = elect();
    let led = terms.next().await.unwrap().unwrap();
    let leader = led.leader.expect("the first leads");
    assert_eq!(first_lines.next().unwrap().unwrap(), format!("1 {leader}"));
    let (mut second, mut second_lines) = elect();
    let waiting = terms.next().await.unwrap().unwrap();
    assert_eq!((waiting.number, waiting.leader.as_deref()), (1, Some(leader.as_str())));
    let [candidate] = waiting.candidates.as_slice() else { panic!("one waits: {waiting:?}") };
    assert_ne!(*candidate, leader);
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
    // Its command begins now, and ends only when it wants to.
    assert_eq!(second_lines.next().unwrap().unwrap(), format!("2 {candidate}"));
    drop(second.stdin.take());
    assert!(second.wait().unwrap().success());
}

#[tokio::test]
async fn two_clients_of_one_runtime_exclude_each_other() {
    let server = Server::start();
    let (one, other) = (server.client().await, server.client().await);
    let (one, other) = (one.lock("l").open().await.unwrap(), other.lock("l").open().await.unwrap());
    let held = one.acquire().await.unwrap();
    assert!(other.try_acquire().await.unwrap().is_none());
    let first = held.token();
    held.release().await.unwrap();
    let second = other.try_acquire().await.unwrap().expect("free").token();
    assert!(second > first);
}

#[tokio::test]
async fn with_the_identity_of_the_runtime_all_clients_are_one_owner() {
    let server = Server::start_with(&["--set", "sessions.identity=runtime"]);
    let (one, other) = (server.client().await, server.client().await);
    let one = one.map("m").open().await.unwrap();
    let held = one.lock(["k"]).await.unwrap();
    let other = other.map("m").open().await.unwrap();
    other.unlock(["k"]).await.unwrap();
    drop(held);
}

#[test]
fn a_unix_socket_serves_like_a_port_and_goes_with_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("atomix.sock");
    let address = format!("unix:{}", socket.display());
    let mut server = Server::start_with(&["--listen", &address]);
    let run =
        || server.command(&["counter", "incr", "hits"]).env("ATOMIX_SERVER", &address).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&run().stdout).trim(), "1");
    assert_eq!(String::from_utf8_lossy(&server.run(&["counter", "get", "hits"]).stdout).trim(), "1");
    let second =
        Command::new(program()).args(["serve", "--listen", &address, "--control", "127.0.0.1:0"]).output();
    let refused = String::from_utf8_lossy(&second.unwrap().stderr).into_owned();
    assert!(refused.contains("another process listens"), "{refused}");
    terminate(&server);
    assert_eq!(server.wait(Duration::from_secs(12)), Some(0));
    assert!(!socket.exists());
}
