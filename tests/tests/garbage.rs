// SPDX-License-Identifier: Apache-2.0
//! Bytes that are no HTTP/2, calls that are no calls, arguments beyond every limit: an answer or a closed connection,
//! and other clients are not affected.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "sockets are awaited in real time")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use atomix_chaos::Server;
use atomix_client::Kind;
use bytes::Bytes;

const MIB: u64 = 1024 * 1024;

/// Numbers that look random and repeat: `xorshift64` (Marsaglia 2003).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0.to_le_bytes()[3];
        }
    }
}

fn throw(address: &str, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may close before everything is written.
    drop(socket.write_all(bytes));
    drop(socket.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    if let Err(error) = socket.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection stays open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_on_both_ports_harm_no_client() {
    let server = Server::start();
    let client = server.client().await;
    let counter = client.counter("c").open().await.unwrap();
    let before = server.resident();
    let mut noise = Noise(0x00dd_ba11);
    for round in 0..200 {
        let mut bytes = vec![0; 1 + (round * 37) % 4096];
        noise.fill(&mut bytes);
        let preface = if round % 2 == 0 { &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..] } else { &b""[..] };
        throw(server.listen(), &[preface, &bytes].concat());
        throw(server.control(), &[preface, &bytes].concat());
        assert_eq!(counter.increment(1).await.unwrap(), i64::try_from(round).unwrap() + 1);
    }
    throw(server.listen(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes");
}

#[tokio::test]
async fn arguments_beyond_the_limits_are_refused_with_what_to_do() {
    let server = Server::start();
    let client = server.client().await;
    let map = client.map("m").open().await.unwrap();
    let invalid = |outcome: atomix_client::Result<()>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    };
    invalid(map.put("k".repeat(4097), &Bytes::new()).await.map(drop));
    invalid(map.put("k", &vec![0; 1024 * 1024 + 1].into()).await.map(drop));
    invalid(map.lock((0..10_001).map(|key| key.to_string())).await.map(drop));
    // As in the original, the empty name is a name.
    client.map("").open().await.unwrap();
    invalid(client.map("n".repeat(1025)).open().await.map(drop));
    map.put("k".repeat(4096), &vec![0; 1024 * 1024].into()).await.unwrap();
}

#[tokio::test]
async fn a_message_larger_than_the_limit_is_refused_and_the_connection_lives() {
    let server = Server::start();
    let client = server.client().await;
    let map = client.map("m").open().await.unwrap();
    let error = map.put("k", &vec![0; 5 * 1024 * 1024].into()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Invalid | Kind::Unsupported), "{error:?}");
    map.put("k", &Bytes::from_static(b"small")).await.unwrap();
}
