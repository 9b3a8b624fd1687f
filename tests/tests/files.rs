// SPDX-License-Identifier: Apache-2.0
//! A runtime that may have few files open, and clients that use up all of them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atomix_chaos::{Server, program};
use atomix_servers::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The soft and the hard limit of open files of the runtime.
const FILES: usize = 256;
const WAIT_TIMEOUT: Duration = Duration::from_mins(1);
/// How a client of HTTP/2 begins: the preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
// Types of frames.
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;

fn start(log: &Path, more: &[&str]) -> Server {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {FILES}; exec \"$0\" \"$@\"")]).arg(program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]).args(more);
    command.stderr(Stdio::from(File::create(log).unwrap()));
    Server::start_command(command)
}

/// Opens a connection from `127.0.0.LAST` and begins to speak HTTP/2.
async fn connect(server: &Server, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    let address = server.listen().parse().unwrap();
    let mut stream = tokio::time::timeout(WAIT_TIMEOUT, socket.connect(address)).await.unwrap().unwrap();
    // A connection that is refused may be gone already.
    stream.write_all(PREFACE).await.ok();
    stream
}

/// Reads a frame: its type, and what it carries.
async fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    tokio::time::timeout(WAIT_TIMEOUT, stream.read_exact(&mut head)).await.unwrap().unwrap();
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    tokio::time::timeout(WAIT_TIMEOUT, stream.read_exact(&mut payload)).await.unwrap().unwrap();
    (head[3], payload)
}

/// Reads what follows the settings of the server: nothing if the connection is served, else the reason why it is not.
async fn refusal(stream: &mut TcpStream) -> Option<String> {
    assert_eq!(frame(stream).await.0, SETTINGS);
    match frame(stream).await {
        (GO_AWAY, payload) => Some(String::from_utf8_lossy(&payload[8..]).into_owned()),
        _ => None,
    }
}

fn control_answers(server: &Server) {
    for verb in [&["inspect", "stores"][..], &["inspect", "sessions", "-o", "json"], &["inspect", "locks"]] {
        let output = server.run(verb);
        assert!(output.status.success(), "{verb:?}: {output:?}");
    }
}

/// A client of its own can work, as soon as the runtime has noticed that others are gone.
async fn serves_again(server: &Server) {
    let again = || server.run(&["--timeout", "2s", "counter", "incr", "hits"]).status.success();
    eventually(WAIT_TIMEOUT, "a new client is served", again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_beyond_the_few_files_are_refused_with_a_reason_and_operators_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let server = start(&log, &[]);
    // A thread of the program writes the log.
    let warned = || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("few open files, raise the hard limit"))
    };
    eventually(WAIT_TIMEOUT, "the log has the warning", warned).await;

    let (mut streams, mut from_address, mut in_all) = (Vec::new(), 0, 0);
    for number in 0..FILES + 64 {
        // Three addresses, so that the limit for one is met as well as that for all.
        let mut stream = connect(&server, 1 + u8::try_from(number / 140).unwrap()).await;
        match refusal(&mut stream).await {
            None => streams.push(stream),
            Some(reason) if reason.contains("raise limits.connections-per-peer-max") => from_address += 1,
            Some(reason) => {
                assert!(reason.contains("too many connections: close some"), "{reason}");
                assert!(reason.contains("raise limits.connections-max: limit=160"), "{reason}");
                in_all += 1;
            }
        }
    }
    // Some of them may have made room for those of addresses that had fewer.
    assert!(streams.len() >= 160, "{}", streams.len());
    assert!(from_address > 0 && in_all > 0, "{from_address} {in_all}");
    control_answers(&server);
    for command in [&["--timeout", "2s", "counter", "incr", "hits"][..], &["health"]] {
        // The transport of the client may see nothing but the end of the connection, now and then.
        let began = Instant::now();
        loop {
            let refused = server.run(command);
            let output = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success(), "{refused:?}");
            if output.contains("limits.connections") {
                break;
            }
            assert!(began.elapsed() < WAIT_TIMEOUT, "{command:?}: {output}");
        }
    }
    // The others go on, such as the last, which frees no memory: a ping, and its answer.
    let last = streams.last_mut().unwrap();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], b"pingpong"].concat();
    last.write_all(&ping).await.unwrap();
    let answer = loop {
        let (kind, payload) = frame(last).await;
        // Window updates come before it.
        if kind == PING {
            break payload;
        }
    };
    assert_eq!(answer, b"pingpong");

    drop(streams);
    serves_again(&server).await;
    control_answers(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_every_file_leave_operators_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // Limits that the operator set wrongly: only the kernel bounds the connections.
    let limits = ["--set", "limits.connections-max=10000", "--set", "limits.connections-per-peer-max=10000"];
    let server = start(&log, &limits);
    let warned = |text: String| text.contains("open-files=`256`") && text.contains("limits.connections-max");
    let log_warns = || std::fs::read_to_string(&log).is_ok_and(warned);
    eventually(WAIT_TIMEOUT, "the log has the warning", log_warns).await;

    let mut streams = Vec::new();
    for _ in 0..FILES + 64 {
        streams.push(connect(&server, 1).await);
    }
    let line = "cannot accept connections, raise the limit of open files";
    eventually(WAIT_TIMEOUT, line, || std::fs::read_to_string(&log).unwrap().contains(line)).await;
    for _ in 0..3 {
        control_answers(&server);
    }
    drop(streams);
    serves_again(&server).await;
    control_answers(&server);
}
