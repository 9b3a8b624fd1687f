// SPDX-License-Identifier: Apache-2.0
//! Every known HTTP/2 abuse against the built program: bounded growth, and another client is served all the while.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "the program is watched in real time and its growth is shown"
)]

use std::time::{Duration, Instant};

use atomix_chaos::Server;
use atomix_transport::abuse::{Attack, Call, Target};
use bytes::Bytes;

const MIB: u64 = 1024 * 1024;
/// How long each attack lasts.
const ATTACK: Duration = Duration::from_millis(1200);

/// A call by hand, because the attacker writes frames by hand: `id` is field 1 and its `name` field 1 in that.
fn call(path: &str, name: u8, key: &[u8]) -> Call {
    let mut message = vec![0x0a, 3, 0x0a, 1, name];
    if !key.is_empty() {
        message.extend([0x12, u8::try_from(key.len()).unwrap()]);
        message.extend(key);
    }
    Call { path: path.to_owned(), message }
}

async fn survives(attack: Attack) {
    let server = Server::start();
    let client = server.client().await;
    let counter = client.counter("c").open().await.unwrap();
    let map = client.map("m").open().await.unwrap();
    map.put("big", &Bytes::from(vec![7; 1024 * 1024 - 64])).await.unwrap();
    let target = Target {
        address: server.listen().parse().unwrap(),
        small: call("/atomix.runtime.counter.v1.Counter/Get", b'c', b""),
        large: call("/atomix.runtime.map.v1.Map/Get", b'm', b"big"),
    };
    counter.increment(1).await.unwrap();
    let before = server.resident();
    let attacker = tokio::task::spawn_blocking(move || attack.run(&target, ATTACK));
    let (mut worst, mut peak) = (Duration::ZERO, before);
    while !attacker.is_finished() {
        let start = Instant::now();
        counter.increment(1).await.unwrap();
        worst = worst.max(start.elapsed());
        peak = peak.max(server.resident());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let report = attacker.await.unwrap().unwrap();
    let grown = peak - before;
    println!("{attack:?}: grew {:.1} MiB, worst call {worst:?}, {report:?}", grown as f64 / MIB as f64);
    assert!(grown <= 16 * MIB, "{attack:?}: grew by {grown} bytes, {report:?}");
    assert!(worst < Duration::from_secs(2), "{attack:?}: a call took {worst:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_abuse_grows_the_program_or_starves_another_client() {
    for attack in Attack::ALL {
        survives(attack).await;
    }
}
