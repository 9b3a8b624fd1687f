// SPDX-License-Identifier: Apache-2.0
//! The commands of the README and of the tutorials in `docs/tutorials/`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use atomix_chaos::Server;

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
    assert_eq!(run("map get users missing").status.code(), Some(3));
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
    let refused = server.run(&["store", "disconnect", "second"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{why}");
    assert!(why.contains("primitives-with-content=`1`") && why.contains("--force"), "{why}");
    assert_eq!(text(&server.run(&["map", "get", "users", "alice", "--tag", "fast"])), "1");
    text(&server.run(&["store", "disconnect", "second", "--force"]));
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
fn a_server_that_is_not_there_gives_a_plain_error() {
    let server = Server::start();
    let output = server
        .command(&["counter", "get", "hits"])
        .env("ATOMIX_SERVER", "http://127.0.0.1:9")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("atomix serve"), "{output:?}");
}

/// Runs a command with this standard input.
fn fed(server: &Server, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = server.command(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn error(output: &Output) -> serde_json::Value {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_str(stderr.trim()).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

#[test]
fn values_come_back_byte_for_byte() {
    let server = Server::start();
    let bytes = b"\x00\xff two\nlines\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    std::fs::write(&file, bytes).unwrap();
    let from_file = format!("@{}", file.display());
    let pairs = [
        (vec!["map", "put", "m", "k"], vec!["map", "get", "m", "k"]),
        (vec!["value", "set", "v"], vec!["value", "get", "v"]),
        (vec!["list", "append", "l"], vec!["list", "get", "l", "0"]),
        (vec!["indexedmap", "append", "i", "k"], vec!["indexedmap", "get", "i", "k"]),
    ];
    for (write, read) in pairs {
        assert!(fed(&server, &[&write[..], &["-"]].concat(), bytes).status.success(), "{write:?}");
        assert_eq!(server.run(&read).stdout, bytes, "{read:?}");
        assert_eq!(server.run(&[&read[..], &["--raw"]].concat()).stdout, bytes, "{read:?}");
    }
    text(&server.run(&["map", "put", "m", "file", &from_file]));
    assert_eq!(server.run(&["map", "remove", "m", "file"]).stdout, bytes);
    text(&server.run(&["map", "put", "m", "name", "--literal", &from_file]));
    assert_eq!(server.run(&["map", "get", "m", "name"]).stdout, from_file.as_bytes());
    let missing = server.run(&["map", "put", "m", "none", "@/no/such/file"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert_eq!(server.run(&["map", "get", "m", "none"]).status.code(), Some(3));
}

#[test]
fn elements_come_from_input_and_files_too() {
    let server = Server::start();
    assert!(fed(&server, &["set", "add", "s", "-"], b"from input").status.success());
    assert!(fed(&server, &["multimap", "put", "m", "k", "-", "beside"], b"from input").status.success());
    assert_eq!(text(&server.run(&["set", "list", "s"])), "from input");
    assert_eq!(text(&server.run(&["multimap", "get", "m", "k"])), "beside\nfrom input");
    text(&server.run(&["set", "add", "s", "--literal", "-"]));
    assert_eq!(text(&server.run(&["set", "contains", "s", "--literal", "-"])), "true");
    assert_eq!(fed(&server, &["multimap", "put", "m", "k", "-", "-"], b"x").status.code(), Some(2));
    assert_eq!(fed(&server, &["set", "add", "s", "-"], b"\xff").status.code(), Some(2));
}

#[test]
fn lines_of_a_list_are_not_confused() {
    let server = Server::start();
    text(&server.run(&["map", "put", "m", "x", "a\\nb"]));
    text(&server.run(&["map", "put", "m", "y", "a\nb"]));
    let list = text(&server.run(&["map", "list", "m"]));
    let without_version = |line: &str| line.rsplit_once('\t').unwrap().0.to_owned();
    let lines: Vec<String> = list.lines().map(without_version).collect();
    assert_eq!(lines, ["x\ta\\\\nb", "y\ta\\nb"]);
}

#[test]
fn a_failure_has_a_kind_and_a_code_for_programs() {
    let server = Server::start();
    text(&server.run(&["list", "append", "l", "only"]));
    let absent = [
        ("map get m k", "KEY_NOT_FOUND"),
        ("map remove m k", "KEY_NOT_FOUND"),
        ("countermap get c k", "KEY_NOT_FOUND"),
        ("multimap get m k", "KEY_NOT_FOUND"),
        ("indexedmap first i", "KEY_NOT_FOUND"),
        ("value get v", "VALUE_NOT_SET"),
        ("list get l 1", "KEY_NOT_FOUND"),
        ("list set l 1 x", "KEY_NOT_FOUND"),
        ("list remove l 7", "KEY_NOT_FOUND"),
    ];
    for (line, reason) in absent {
        let arguments: Vec<_> = line.split_whitespace().chain(["-o", "json"]).collect();
        let output = server.run(&arguments);
        assert_eq!(output.status.code(), Some(3), "{line}: {output:?}");
        let error = error(&output);
        assert_eq!(
            (&error["kind"], &error["reason"]),
            (&"not found".into(), &reason.into()),
            "{line}: {error}"
        );
    }
    let wrong = server.run(&["map", "get", "m", "--output", "json"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(error(&wrong)["kind"], "usage", "{wrong:?}");
}

#[test]
fn an_election_reports_when_nothing_changed() {
    let server = Server::start();
    for verb in ["anoint", "promote", "demote", "evict", "withdraw"] {
        let output = server.run(&["election", verb, "e", "nosuch"]);
        assert_eq!(output.status.code(), Some(3), "{verb}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing changed"), "{verb}: {output:?}");
    }
}

#[test]
fn a_lock_that_is_not_obtained_has_the_requested_exit_code() {
    let server = Server::start();
    let (holder, mut lines) =
        lines(&server, &["lock", "run", "door", "--", "sh", "-c", "echo held; exec sleep 60"]);
    assert_eq!(lines.next().unwrap(), "held");
    let refused = server.run(&["lock", "run", "door", "--timeout", "0", "-E", "77", "--", "true"]);
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    // A server that stands still is not waited for any longer than the lock would be.
    server.pause();
    let timeout = ["--timeout", "300ms", "--unavailable-exit-code", "78", "--", "true"];
    let silent = server.run(&[&["lock", "run", "door", "-o", "json"][..], &timeout].concat());
    assert_eq!(silent.status.code(), Some(78), "{silent:?}");
    assert_eq!(error(&silent)["kind"], "timeout", "{silent:?}");
    let elect = server.run(&[&["elect", "boss", "-o", "json"][..], &timeout].concat());
    assert_eq!(elect.status.code(), Some(78), "{elect:?}");
    server.resume();
    stop(holder);
}

#[test]
fn routes_are_shown_before_they_change_and_not_all_taken_away_by_mistake() {
    let server = Server::start();
    let routes = r#"[{"store":{"name":"elsewhere"},"rules":[{"kind":"Map","tags":["fast"]}]}]"#;
    let dry = server.run(&["route", "program", "--dry-run", routes]);
    assert_eq!(text(&dry), "- memory: everything\n+ elsewhere: type Map, tags fast");
    assert!(String::from_utf8_lossy(&dry.stderr).contains("elsewhere is not connected"), "{dry:?}");
    let refused = server.run(&["route", "program", "[]"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    text(&server.run(&["map", "put", "users", "alice", "1"]));
    let programmed = server.run(&["route", "program", r#"[{"store":{"name":"memory"}}]"#]);
    assert!(String::from_utf8_lossy(&programmed.stderr).contains("until the server ends"), "{programmed:?}");
    text(&server.run(&["route", "program", "[]", "--force"]));
    assert_ne!(server.run(&["map", "put", "others", "alice", "1", "--timeout", "1s"]).status.code(), Some(0));
}

#[test]
fn health_is_checked_and_awaited() {
    let server = Server::start();
    assert_eq!(text(&server.run(&["health"])), "healthy");
    assert_eq!(text(&server.run(&["wait", "--store", "memory"])), "healthy");
    assert_eq!(server.run(&["health", "--store", "nosuch"]).status.code(), Some(3));
    let gone = server
        .command(&["wait", "--timeout", "300ms"])
        .env("ATOMIX_SERVER", "http://127.0.0.1:9")
        .output()
        .unwrap();
    assert_eq!(gone.status.code(), Some(5), "{gone:?}");
    assert!(text(&server.run(&["version"])).starts_with("atomix "));
}

#[test]
fn what_the_greeting_proposes_works_as_it_is_printed() {
    let mut command = std::process::Command::new(atomix_chaos::program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let export = lines.find_map(|line| line.strip_prefix("try: ").map(str::to_owned)).unwrap();
    let script = format!("{export}\nset -e\n$0 counter incr hits\n$0 inspect stores\n");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).arg(atomix_chaos::program());
    let output = shell.env_remove("ATOMIX_SERVER").env_remove("ATOMIX_CONTROL_SERVER").output().unwrap();
    stop(child);
    assert!(text(&output).starts_with("1\n"), "{output:?}");
}
