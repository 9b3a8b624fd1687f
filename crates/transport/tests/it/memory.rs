// SPDX-License-Identifier: Apache-2.0
//! The buffers of all connections together.

use std::time::{Duration, Instant};

use atomix_transport::abuse::{Attack, Client, Raw};
use atomix_transport::{End, Limits, Refusal};

use crate::server::{Server, call, eventually};

const BUFFERS: usize = 8 << 20;
const ENHANCE_YOUR_CALM: u32 = 11;

fn limits() -> Limits {
    Limits { buffers_bytes_max: BUFFERS, ..Limits::default() }
}

/// Runs an attack on many connections, while another client calls. Returns the longest of its calls.
fn attack(server: &Server, attack: Attack, connections: usize) -> Duration {
    let mut client = Client::connect(server.target.address).unwrap();
    client.call(&server.target.small).unwrap();
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| attack.run(&server.target, Duration::from_secs(2)).unwrap()))
            .collect();
        let mut longest = Duration::ZERO;
        while !attackers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let begun = Instant::now();
            client.call(&server.target.small).unwrap();
            longest = longest.max(begun.elapsed());
        }
        longest
    })
}

#[test]
fn readers_that_never_read_are_cut_before_all_of_them_fill_the_memory() {
    let server = Server::start(limits());
    let mut client = Client::connect(server.target.address).unwrap();
    let window = (u32::MAX >> 1) - 65_535;
    let raws: Vec<Raw> = (0..16)
        .map(|_| {
            let mut raw = Raw::connect(server.target.address).unwrap();
            raw.begin(&[(4, u32::MAX >> 1)]);
            raw.frame(8, 0, 0, &window.to_be_bytes());
            // Answers of 64 MiB each.
            raw.call(&call("/stream"));
            raw.call(&call("/stream"));
            assert!(raw.push().unwrap());
            raw
        })
        .collect();
    // Each may have 4 MiB, all together 8.
    eventually(|| server.counters.ended(End::Memory) > 8);
    client.call(&server.target.small).unwrap();
    drop(raws);
    eventually(|| server.counters.open() == 1);
}

#[test]
fn requests_that_are_never_finished_are_cut_or_refused() {
    let server = Server::start(limits());
    let longest = attack(&server, Attack::UnfinishedMessages, 8);
    println!("the longest call of the other client: {longest:?}");
    let cut = server.counters.ended(End::Memory);
    assert!(cut + server.counters.calls_refused() > 0, "each may have 8 MiB, all together 8");
}

#[test]
fn a_stalled_connection_gets_the_reason_of_its_end() {
    let server = Server::start(limits());
    let headers = 4;
    let mut raws: Vec<Raw> = (0..2)
        .map(|_| {
            let mut raw = Raw::connect(server.target.address).unwrap();
            raw.begin(&[]);
            let mut client = Client::connect(server.target.address).unwrap();
            client.call(&server.target.small).unwrap();
            // A message of 4 MiB of which the first byte comes.
            let stream = raw.open(headers, &server.target.small.headers());
            raw.frame(0, 0, stream, &[0, 0, 0x40, 0, 0, 1]);
            assert!(raw.push().unwrap());
            raw
        })
        .collect();
    eventually(|| server.counters.ended(End::Memory) == 1);
    let reasons = raws.iter_mut().filter_map(|raw| {
        while raw.pull().is_ok_and(|frames| !frames.is_empty()) {}
        raw.go_away().filter(|(code, _)| *code == ENHANCE_YOUR_CALM).map(|(_, reason)| reason.to_owned())
    });
    let reasons: Vec<String> = reasons.collect();
    assert!(reasons.iter().any(|reason| reason.contains("limits.buffers-bytes-max")), "{reasons:?}");
}

#[test]
fn a_peer_beyond_its_limit_hears_which_one() {
    let server = Server::start(Limits { connections_per_peer_max: 1, ..Limits::default() });
    let mut first = Client::connect(server.target.address).unwrap();
    first.call(&server.target.small).unwrap();
    let mut second = Client::connect(server.target.address).unwrap();
    assert!(second.wait_for_the_end().unwrap());
    let (code, reason) = second.raw().go_away().unwrap();
    assert_eq!(code, ENHANCE_YOUR_CALM);
    assert!(reason.contains("limits.connections-per-peer-max: limit=1"), "{reason}");
    assert_eq!(server.counters.refused(Refusal::PeerFull), 1);
    first.call(&server.target.small).unwrap();
}
