// SPDX-License-Identifier: Apache-2.0
//! The etcd store against the engine.

mod cluster;

use atomix_kv_testkit::{differential, from_environment_or};

#[tokio::test]
async fn random_transactions_are_answered_as_the_engine_does() {
    let subject = cluster::Subjects::default();
    let (seed, transactions) = from_environment_or(10_000);
    if let Err(mismatch) = differential(&subject, seed, transactions).await {
        panic!("{mismatch}");
    }
}
