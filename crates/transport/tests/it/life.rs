// SPDX-License-Identifier: Apache-2.0
//! The life of connections: who they are, and when they end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atomix_transport::abuse::{Attack, Client, Outcome, Raw};
use atomix_transport::{End, Limits, Listener, Peer, Refusal};

use crate::server::{LARGE, Server, WAIT_TIMEOUT, call, eventually};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

fn client(server: &Server) -> Client {
    Client::connect(server.target.address).unwrap()
}

#[test]
fn every_call_knows_its_connection() {
    let server = Server::start(Limits::default());
    let (mut one, mut other) = (client(&server), client(&server));
    let first = one.call(&call("/peer")).unwrap();
    assert_eq!(one.call(&call("/peer")).unwrap(), first);
    assert_ne!(other.call(&call("/peer")).unwrap(), first);
    let opened = server.events.opened.lock().unwrap();
    assert_eq!(opened.len(), 2);
    assert!(matches!(opened[0].peer(), Peer::Tcp(address) if address.ip().is_loopback()));
    assert_eq!(first, format!("{} {}", opened[0].id(), opened[0].peer()).as_bytes());
}

#[test]
fn connections_are_spread_over_the_workers_and_stay_there() {
    let server = Server::start(Limits::default());
    let mut clients: Vec<_> = (0..4).map(|_| client(&server)).collect();
    let mut threads =
        || -> Vec<_> { clients.iter_mut().map(|client| client.call(&call("/thread")).unwrap()).collect() };
    let first = threads();
    assert_eq!(threads(), first);
    for worker in ["worker-0", "worker-1"] {
        assert_eq!(first.iter().filter(|thread| thread == &worker.as_bytes()).count(), 2, "{first:?}");
    }
}

#[test]
fn a_call_that_panics_ends_alone() {
    let server = Server::start(Limits::default());
    let mut client = client(&server);
    client.start(&call("/wait")).unwrap();
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 1);
    assert!(client.call(&call("/panic")).is_err());
    client.call(&server.target.small).unwrap();
    assert_eq!(server.events.waiting.load(Ordering::SeqCst), 1);
    assert_eq!(server.counters.open(), 1);
}

#[test]
fn a_large_answer_comes_whole() {
    let server = Server::start(Limits::default());
    let mut client = client(&server);
    assert_eq!(client.call(&call("/stream")).unwrap().len(), 64 * LARGE);
    let large = client.call(&server.target.large).unwrap();
    assert!(large.len() == LARGE && large.iter().all(|byte| *byte == 7));
    eventually(|| server.events.opened.lock().unwrap()[0].calls() == 0);
}

#[test]
fn the_end_of_the_peer_is_reported_once_and_drops_its_calls() {
    let server = Server::start(Limits::default());
    let mut client = client(&server);
    for _ in 0..10 {
        client.start(&call("/wait")).unwrap();
    }
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 10);
    drop(client);
    server.wait_for_closed(1);
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 0);
    assert_eq!(server.counters.ended(End::Left), 1);
    assert_eq!(server.counters.open(), 0);
}

#[test]
fn a_reset_by_the_peer_ends_the_connection() {
    let server = Server::start(Limits::default());
    let mut raw = Raw::connect(server.target.address).unwrap();
    raw.begin(&[]);
    raw.call(&call("/wait"));
    raw.push().unwrap();
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 1);
    // The server's first frames are unread, so the kernel answers with RST.
    drop(raw);
    server.wait_for_closed(1);
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_peer_that_only_stops_sending_has_left() {
    let server = Server::start(Limits::default());
    let stream = TcpStream::connect(server.target.address).unwrap();
    (&stream).write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    eventually(|| server.events.opened.lock().unwrap().len() == 1);
    stream.shutdown(Shutdown::Write).unwrap();
    server.wait_for_closed(1);
}

#[test]
fn a_closed_connection_sends_goaway_and_drops_its_calls() {
    let server = Server::start(Limits::default());
    let (mut closed, mut other) = (client(&server), client(&server));
    closed.start(&call("/wait")).unwrap();
    other.call(&server.target.small).unwrap();
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 1);
    let connection = {
        let opened = server.events.opened.lock().unwrap();
        opened.iter().find(|connection| connection.calls() == 1).unwrap().clone()
    };
    connection.close();
    connection.close();
    assert!(closed.wait_for_the_end().unwrap(), "a GOAWAY");
    server.wait_for_closed(1);
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 0);
    assert_eq!(server.counters.ended(End::Closed), 1);
    other.call(&server.target.small).unwrap();
}

#[test]
fn a_drain_lets_running_calls_end() {
    let mut server = Server::start(Limits::default());
    let mut client = client(&server);
    client.call(&server.target.small).unwrap();
    let nap = client.start(&call("/nap")).unwrap();
    eventually(|| server.events.opened.lock().unwrap()[0].calls() == 1);
    let napping = std::thread::spawn(move || {
        let answer = client.finish(nap).unwrap();
        (answer, client.wait_for_the_end().unwrap())
    });
    let drained = server.drain();
    assert_eq!((drained.cut, drained.calls_cut), (0, 0));
    assert_eq!(napping.join().unwrap(), (b"rested".to_vec(), true));
    assert_eq!(server.counters.ended(End::Drained), 1);
    assert!(TcpStream::connect(server.target.address).is_err(), "the port is closed");
}

#[test]
fn a_drain_cuts_what_runs_beyond_the_grace_and_counts_it() {
    let mut server = Server::start(Limits::default());
    let (mut busy, mut idle) = (client(&server), client(&server));
    let _silent = Raw::connect(server.target.address).unwrap();
    busy.start(&call("/wait")).unwrap();
    busy.start(&call("/wait")).unwrap();
    idle.call(&server.target.small).unwrap();
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 2 && server.counters.accepted() == 3);
    let drained = server.drain();
    assert_eq!((drained.cut, drained.calls_cut), (1, 2));
    assert_eq!(server.counters.ended(End::Cut), 1);
    assert_eq!(server.counters.ended(End::Drained), 2);
    assert_eq!(server.events.closed.lock().unwrap().len(), 3);
}

#[test]
fn a_peer_without_a_preface_is_closed_in_time() {
    let limits = Limits { preface_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(limits);
    let _silent = Raw::connect(server.target.address).unwrap();
    let mut slow = Raw::connect(server.target.address).unwrap();
    slow.write(&atomix_transport::abuse::PREFACE[..20]);
    slow.push().unwrap();
    let mut good = client(&server);
    server.wait_for_closed(2);
    good.call(&server.target.small).unwrap();
    assert_eq!(server.counters.ended(End::PrefaceTimeout), 2);
}

#[test]
fn a_connection_with_garbage_is_closed() {
    let server = Server::start(Limits::default());
    let report = Attack::OtherProtocol.run(&server.target, Duration::from_secs(2)).unwrap();
    assert!(matches!(report.outcome, Outcome::GoAway { .. } | Outcome::Closed), "{report:?}");
    eventually(|| server.counters.ended(End::Violation) == 1);
}

#[test]
fn a_request_of_http_1_gets_an_answer_that_it_can_read() {
    let server = Server::start(Limits::default());
    for pieces in
        [&[&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..]][..], &[b"PO", b"ST / HTTP/1.0\r\n\r\n"]]
    {
        let mut stream = TcpStream::connect(server.target.address).unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            stream.write_all(piece).unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("\r\n\r\nThis port speaks gRPC"), "{answer}");
    }
    eventually(|| server.counters.ended(End::Violation) == 2);
}

#[test]
fn a_message_that_is_too_large_is_refused_with_the_limit() {
    let server = Server::start(Limits { message_bytes_max: 50_000, ..Limits::default() });
    let mut client = client(&server);
    client.call(&server.target.small).unwrap();
    let mut large = call("/echo");
    large.message = vec![9; 50_000];
    assert_eq!(client.call(&large).unwrap().len(), 50_005);
    large.message.push(9);
    let refusal = client.call(&large).unwrap();
    let refusal = String::from_utf8_lossy(&refusal);
    assert!(refusal.contains("raise limits.message-bytes-max: bytes=`50001`, max=`50000`"), "{refusal}");
}

#[test]
fn an_idle_connection_ends_unless_it_is_of_use() {
    let limits = Limits { idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits);
    server.events.busy.store(1, Ordering::SeqCst);
    let (mut idle, mut active) = (client(&server), client(&server));
    idle.call(&server.target.small).unwrap();
    active.start(&call("/wait")).unwrap();
    // The connection was idle for long enough, twice, and was kept.
    eventually(|| server.events.kept.load(Ordering::SeqCst) >= 2);
    assert_eq!(server.events.closed.lock().unwrap().len(), 0, "a session holds something");
    server.events.busy.store(0, Ordering::SeqCst);
    server.wait_for_closed(1);
    assert!(idle.wait_for_the_end().unwrap());
    assert_eq!(server.counters.ended(End::Idle), 1);
    // A connection that is opened later and has no call ends first.
    let mut later = client(&server);
    later.call(&server.target.small).unwrap();
    assert!(later.wait_for_the_end().unwrap());
    server.wait_for_closed(2);
    assert_eq!(server.counters.open(), 1, "a call that runs keeps its connection");
}

#[test]
fn a_peer_that_does_not_answer_pings_is_lost() {
    let limits = Limits {
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(limits);
    let mut frozen = Raw::connect(server.target.address).unwrap();
    frozen.begin(&[]);
    frozen.push().unwrap();
    server.wait_for_closed(1);
    assert_eq!(server.counters.ended(End::Lost) + server.counters.ended(End::Stalled), 1);
}

#[test]
fn a_peer_that_reads_nothing_is_lost_even_when_its_socket_is_full() {
    let limits = Limits {
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(limits);
    let mut frozen = Raw::connect(server.target.address).unwrap();
    frozen.begin(&[(4, u32::MAX >> 1)]);
    frozen.frame(8, 0, 0, &((u32::MAX >> 1) - 65_535).to_be_bytes());
    for _ in 0..10 {
        frozen.call(&call("/stream"));
    }
    frozen.push().unwrap();
    server.wait_for_closed(1);
}

#[test]
fn a_peer_gets_no_more_connections_than_its_share() {
    let limits = Limits { connections_per_peer_max: 3, connections_max: 3, ..Limits::default() };
    let server = Server::start(limits.clone());
    let mut clients: Vec<Client> = (0..3).map(|_| client(&server)).collect();
    for client in &mut clients {
        client.call(&server.target.small).unwrap();
    }
    let refused = |server: &Server| client(server).call(&server.target.small).is_err();
    assert!(refused(&server));
    assert_eq!(server.counters.refused(Refusal::Full), 1);
    clients.pop();
    eventually(|| server.counters.open() == 2);
    clients.push(client(&server));
    clients[2].call(&server.target.small).unwrap();

    let server = Server::start(Limits { connections_max: 10, ..limits });
    let _clients: Vec<Client> = (0..3).map(|_| client(&server)).collect();
    eventually(|| server.counters.accepted() == 3);
    assert!(refused(&server));
    assert_eq!(server.counters.refused(Refusal::PeerFull), 1);
    assert_eq!(
        server.events.opened.lock().unwrap().len(),
        3,
        "the observer does not see refused connections"
    );
}

#[test]
fn a_peer_with_many_idle_connections_makes_room_for_one_with_few() {
    let server = Server::start(Limits { connections_max: 6, ..Limits::default() });
    let from =
        |last| Client::connect_from(Ipv4Addr::new(127, 0, 0, last).into(), server.target.address).unwrap();
    // One holds something on each of its connections, one runs calls, one is idle.
    let mut busy = [from(2), from(2)];
    let mut holds: Vec<Client> = (0..2).map(|_| from(3)).collect();
    let mut idle: Vec<Client> = (0..2).map(|_| from(4)).collect();
    for client in busy.iter_mut().chain(&mut holds).chain(&mut idle) {
        client.call(&server.target.small).unwrap();
    }
    for client in &mut busy {
        client.start(&call("/wait")).unwrap();
    }
    eventually(|| server.events.waiting.load(Ordering::SeqCst) == 2);
    server.events.hold(Ipv4Addr::new(127, 0, 0, 3).into());
    let refused = |last| from(last).call(&server.target.small).is_err();
    assert!(refused(4), "a peer makes no room for itself");
    // A connection is idle after a while, and is not looked at all the time.
    let begun = Instant::now();
    let mut new = loop {
        let mut new = from(5);
        if new.call(&server.target.small).is_ok() {
            break new;
        }
        assert!(begun.elapsed() < WAIT_TIMEOUT, "nothing made room");
        std::thread::sleep(PAUSE);
    };
    assert_eq!(server.counters.ended(End::Replaced), 1);
    assert_eq!(idle.iter_mut().filter_map(|client| client.call(&server.target.small).err()).count(), 1);
    for client in &mut holds {
        client.call(&server.target.small).unwrap();
    }
    new.call(&server.target.small).unwrap();
    // Of those that are left, none that is idle belongs to a peer with more than one connection more.
    for last in [4, 5, 6] {
        assert!(refused(last), "127.0.0.{last}");
    }
    assert_eq!((server.counters.open(), server.counters.ended(End::Replaced)), (6, 1));
    assert_eq!(server.events.waiting.load(Ordering::SeqCst), 2);
}

#[test]
fn large_messages_in_parallel_wait_their_turn_and_all_arrive() {
    let server = Server::start(Limits { connection_receive_bytes_max: 100_000, ..Limits::default() });
    let mut client = client(&server);
    // The server's windows are known after this, and the messages fit into them.
    client.call(&server.target.small).unwrap();
    let mut large = call("/echo");
    large.message = vec![9; 60_000];
    let streams: Vec<u32> = (0..8).map(|_| client.start(&large).unwrap()).collect();
    for answer in client.finish_first(&streams, 8).unwrap() {
        assert_eq!(answer.len(), 60_005);
    }
}

#[test]
fn more_waiting_messages_than_fit_the_window_are_refused() {
    let server = Server::start(Limits { connection_receive_bytes_max: 1 << 20, ..Limits::default() });
    let mut client = client(&server);
    let raw = client.raw();
    // Each declares a megabyte and stops: one is received, eight wait, one is too many, whichever that is.
    let mut streams = Vec::new();
    for _ in 0..10 {
        let headers = raw_headers("/echo");
        let stream = raw.open(4, &headers);
        let mut piece = vec![0, 0, 0x10, 0, 0];
        piece.resize(100, 7);
        raw.frame(0, 0, stream, &piece);
        streams.push(stream);
    }
    raw.push().unwrap();
    let refusal = client.finish_first(&streams, 1).unwrap().remove(0);
    assert!(String::from_utf8_lossy(&refusal).contains("too many large messages"), "{refusal:?}");
    assert_eq!(client.call(&server.target.small).unwrap(), b"\0\0\0\0\x05hello", "small ones pass");
}

fn raw_headers(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in
        [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

#[test]
fn a_tunnel_is_refused() {
    let server = Server::start(Limits::default());
    let mut client = client(&server);
    let mut block = Vec::new();
    for (name, value) in [(":method", "CONNECT"), (":authority", "localhost:1")] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let stream = client.raw().open(4, &block);
    client.raw().push().unwrap();
    assert_eq!(client.finish(stream).unwrap(), b"");
    client.call(&server.target.small).unwrap();
}

#[test]
fn a_unix_socket_knows_its_peer_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("atomix.sock");
    let mut server =
        Server::start_at(Limits::default(), |runtime| vec![runtime.block_on(Listener::unix(&path)).unwrap()]);
    let mut client = Client::connect_unix(&path).unwrap();
    let peer = String::from_utf8(client.call(&call("/peer")).unwrap()).unwrap();
    assert!(peer.contains(&format!("unix:pid={}", std::process::id())), "{peer}");
    let alive = server.runtime.block_on(Listener::unix(&path)).unwrap_err();
    assert!(alive.to_string().contains("another process listens"), "{alive}");
    client.call(&server.target.small).unwrap();
    drop(client);
    server.drain();
    assert!(!path.exists());
}

#[test]
fn only_a_socket_that_is_stale_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stale = folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let listener = runtime.block_on(Listener::unix(&stale)).unwrap();
    assert_eq!(listener.to_string(), format!("unix:{}", stale.display()));

    let file = folder.path().join("precious");
    std::fs::write(&file, "kept").unwrap();
    let error = runtime.block_on(Listener::unix(&file)).unwrap_err();
    assert!(error.to_string().contains("not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");

    // The file of another owner is not removed.
    std::fs::remove_file(&stale).unwrap();
    std::fs::write(&stale, "new").unwrap();
    drop(listener);
    assert!(stale.exists());
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let one = Listener::tcp("127.0.0.1", 0).await.unwrap();
        let port = one.address().unwrap().port();
        let taken = Listener::tcp("127.0.0.1", port).await.unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    });
}

#[test]
fn connections_are_accepted_and_swept_after_the_tasks_that_do_it_panicked() {
    let preface_timeout = Duration::from_millis(100);
    let server = Server::start(Limits { preface_timeout, ..Limits::default() });
    for task in ["accept", "sweep"] {
        server.faults.kill(task);
        eventually(|| server.env.restarts().contains(&(task, 1)));
    }
    client(&server).call(&server.target.small).unwrap();
    let silent = TcpStream::connect(server.target.address).unwrap();
    server.wait_for_closed(2);
    drop(silent);
}
