// SPDX-License-Identifier: Apache-2.0
//! The newcomer's tour of the README, by the commands alone.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use atomix_tests::Server;

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&text(output)).expect("one JSON object")
}

/// Runs a command and gives its lines one by one.
fn lines(server: &Server, arguments: &[&str]) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = server.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    (child, lines)
}

fn stop(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn every_primitive_works_from_the_command_line() {
    let server = Server::start();
    let run = |arguments: &str| server.run(&arguments.split_whitespace().collect::<Vec<_>>());
    assert_eq!(text(&run("counter incr hits")), "1");
    assert_eq!(text(&run("counter incr hits 41")), "42");
    assert_eq!(text(&run("counter get hits")), "42");
    text(&run("countermap incr stock apples 7"));
    assert!(text(&run("countermap get stock apples")).contains('7'));
    text(&run("map put users alice admin"));
    assert!(text(&run("map get users alice")).contains("admin"));
    assert_eq!(run("map get users nobody").status.code(), Some(3));
    assert_eq!(run("map insert users alice again").status.code(), Some(4));
    text(&run("set add colours red"));
    assert!(text(&run("set list colours")).contains("red"));
    text(&run("multimap put tags post rust"));
    assert!(text(&run("multimap get tags post")).contains("rust"));
    text(&run("list append queue first"));
    text(&run("list append queue second"));
    assert!(text(&run("list get queue 1")).contains("second"));
    text(&run("indexedmap append log a one"));
    assert!(text(&run("indexedmap get log a")).contains("one"));
    text(&run("value set leader me"));
    assert!(text(&run("value get leader")).contains("me"));
    assert_eq!(run("value get other").status.code(), Some(3));
    text(&run("topic publish news hello"));
    text(&run("election term boss"));
    assert_eq!(run("lock status door").status.code(), Some(3), "free");
}

#[test]
fn a_second_terminal_sees_changes_as_they_happen() {
    let server = Server::start();
    let (watch, mut seen) = lines(&server, &["map", "watch", "users", "--output", "json"]);
    // The watch is registered when a change that follows is seen; until then writes are repeated.
    let start = Instant::now();
    let mut writes = 0;
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| seen.next().unwrap());
        while !first.is_finished() {
            writes += 1;
            text(&server.run(&["map", "put", "users", "alice", &format!("v{writes}")]));
            assert!(start.elapsed() < Duration::from_secs(10), "the watch shows nothing");
        }
        first.join().unwrap()
    });
    assert!(first.contains("alice"), "{first}");
    stop(watch);
}

#[test]
fn a_second_store_is_connected_and_chosen_by_tag() {
    let server = Server::start();
    text(&server.run(&["store", "connect", "second", "memory/v1", "{}"]));
    let routes =
        r#"[{"store":{"name":"memory"},"rules":[]},{"store":{"name":"second"},"rules":[{"tags":["fast"]}]}]"#;
    text(&server.run(&["route", "program", routes]));
    let explained =
        text(&server.run(&["route", "explain", "Map", "users", "--tag", "fast", "--output", "json"]));
    assert!(explained.contains("second"), "{explained}");
    text(&server.run(&["map", "put", "users", "alice", "1", "--tag", "fast"]));
    let primitives = text(&server.run(&["inspect", "primitives", "--output", "json"]));
    assert!(primitives.contains("second"), "{primitives}");
    assert_eq!(server.run(&["store", "connect", "second", "memory/v1"]).status.code(), Some(4));
    text(&server.run(&["store", "disconnect", "second"]));
    assert_eq!(server.run(&["store", "disconnect", "second"]).status.code(), Some(3));
}

#[test]
fn a_lock_is_held_while_a_command_runs_and_freed_when_its_holder_is_killed() {
    let server = Server::start();
    let (mut holder, mut lines) = lines(
        &server,
        &["lock", "run", "door", "--", "sh", "-c", "echo token $ATOMIX_LOCK_TOKEN; exec sleep 60"],
    );
    let token = lines.next().unwrap();
    assert!(token.starts_with("token "), "{token}");
    let refused = server.run(&["lock", "run", "door", "--timeout", "200ms", "--", "true"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let killed = Instant::now();
    let next = server.run(&["lock", "run", "door", "--timeout", "5s", "--", "sh", "-c", "exit 7"]);
    assert_eq!(next.status.code(), Some(7), "{next:?}");
    assert!(killed.elapsed() < Duration::from_secs(1), "the lock was freed after {:?}", killed.elapsed());
    // The command ends with its holder, and so does its output.
    if cfg!(target_os = "linux") {
        assert_eq!(lines.next(), None);
        assert!(killed.elapsed() < Duration::from_secs(30), "the command goes on");
    }
}

#[test]
fn an_operator_finds_and_frees_a_stuck_lock() {
    let server = Server::start();
    let (holder, mut lines) =
        lines(&server, &["lock", "run", "door", "--", "sh", "-c", "echo held; exec sleep 60"]);
    assert_eq!(lines.next().unwrap(), "held");
    let locks = json(&server.run(&["inspect", "locks", "--output", "json"]));
    let locks = locks.to_string();
    assert!(locks.contains("door"), "{locks}");
    let sessions = text(&server.run(&["inspect", "sessions", "--output", "json"]));
    let session = sessions
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|session| session["holdings"].as_array().is_some_and(|holdings| !holdings.is_empty()))
        .expect("the holder is shown");
    text(&server.run(&["session", "end", session["id"].as_str().unwrap()]));
    let next = server.run(&["lock", "run", "door", "--timeout", "5s", "--", "true"]);
    assert!(next.status.success(), "{next:?}");
    stop(holder);
}

#[test]
fn load_is_made_and_nothing_fails() {
    let server = Server::start();
    let bench = |arguments: &str| {
        let all = format!("bench {arguments} --seconds 0.3 --warm-up 100ms --output json");
        json(&server.run(&all.split_whitespace().collect::<Vec<_>>()))
    };
    let loads = [
        "counter --callers 4",
        "get --keys 10 --callers 4 --threads 2",
        "mix get=2,put=2,remove=1,increment=1,set=1,publish=1 --keys 10 --rate 500",
        "lock --contenders 3",
    ];
    for load in loads {
        let summary = bench(load);
        assert!(summary["calls"].as_u64().unwrap() > 0, "{load}: {summary}");
        assert_eq!(summary["failed"], 0, "{load}: {summary}");
    }
    let summary = bench("watch --watchers 20 --stalled 1 --connections 2 --writers 2");
    for part in ["each", "last", "writes"] {
        assert!(summary[part]["calls"].as_u64().unwrap() > 0, "{part}: {summary}");
        assert_eq!(summary[part]["failed"], 0, "{part}: {summary}");
    }
    assert!(summary["delivered_per_second"].as_f64().unwrap() > 0.0, "{summary}");
    assert_eq!(summary["lost"], serde_json::json!({}), "{summary}");
    assert_eq!(server.run(&["bench", "put", "--rate", "0"]).status.code(), Some(2));
    let elsewhere =
        server.command(&["bench", "put"]).env("ATOMIX_SERVER", "http://127.0.0.1:9").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(5), "{elsewhere:?}");
}

#[test]
fn completions_and_help_need_no_server() {
    let server = Server::start();
    assert!(text(&server.run(&["completions", "bash"])).contains("atomix"));
    assert!(text(&server.run(&["help"])).contains("Exit codes"));
}

#[test]
fn a_server_that_is_not_there_is_told_plainly() {
    let server = Server::start();
    let output = server
        .command(&["counter", "get", "hits"])
        .env("ATOMIX_SERVER", "http://127.0.0.1:9")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("atomix serve"), "{output:?}");
}
