// SPDX-License-Identifier: Apache-2.0
//! Redis against the engine.

mod fixture;

use atomix_conformance::{differential, from_environment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_random_transactions_are_answered_as_the_engine_does() {
    let fixture = fixture::Fixture::start(&[]).await;
    let (seed, transactions) = from_environment();
    if let Err(mismatch) = differential(&fixture, seed, transactions).await {
        panic!("{mismatch}");
    }
}
