// SPDX-License-Identifier: Apache-2.0
//! The disk store against the engine.

mod disk;

use atomix_conformance::{differential, from_environment};

#[tokio::test]
async fn a_hundred_thousand_random_transactions_are_answered_as_the_engine_does() {
    let (seed, transactions) = from_environment();
    if let Err(mismatch) = differential(&disk::Disk::default(), seed, transactions).await {
        panic!("{mismatch}");
    }
}
