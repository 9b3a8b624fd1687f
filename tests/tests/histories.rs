// SPDX-License-Identifier: Apache-2.0
//! Histories of the real program on each store, with a fault in the middle, judged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes in real time")]

use std::time::Duration;

use atomix_tests::Server;
use atomix_tests::record::{self, Options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    let server = Server::start();
    let endpoints = [format!("http://{}", server.listen())];
    let seed = 7;
    let recording = record::run(&endpoints, seed, Duration::from_secs(5), &Options::default()).await;
    match recording.judge() {
        Ok(summary) => println!("{summary}"),
        Err(violations) => panic!("{violations}"),
    }
}
