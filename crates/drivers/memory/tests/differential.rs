// SPDX-License-Identifier: Apache-2.0
//! The memory store against the engine, and planted bugs against the test.

mod memory;

use std::sync::Arc;

use atomix_conformance::planted::{Bug, Planted};
use atomix_conformance::{Subject, differential, from_environment};
use atomix_store::{Error, Store};
use futures::future::BoxFuture;

#[derive(Debug)]
struct Faulty(Bug);

impl Subject for Faulty {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(async {
            let store: Arc<dyn Store> = Arc::new(Planted::new(memory::Memory.open().await?, self.0));
            Ok(store)
        })
    }
}

#[tokio::test]
async fn a_hundred_thousand_random_transactions_are_answered_as_the_engine_does() {
    let (seed, transactions) = from_environment();
    if let Err(mismatch) = differential(&memory::Memory, seed, transactions).await {
        panic!("{mismatch}");
    }
}

#[tokio::test]
async fn every_planted_bug_is_found_and_made_small() {
    for bug in Bug::ALL {
        let mismatch =
            differential(&Faulty(bug), 1, 20_000).await.expect_err(&format!("{bug:?} is not found"));
        assert!(mismatch.steps.len() <= 6, "{bug:?}: {mismatch}");
    }
}
