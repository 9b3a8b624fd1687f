// SPDX-License-Identifier: Apache-2.0
//! The etcd store against the engine, and planted bugs against the test.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail, and starts tasks"
)]

mod cluster;

use std::sync::Arc;

use atomix_conformance::planted::{Bug, Planted};
use atomix_conformance::{Subject, differential, from_environment_or};
use atomix_store::{Error, Store};
use futures::future::BoxFuture;

/// Stores with a bug.
#[derive(Debug)]
struct Faulty {
    subjects: cluster::Subjects,
    bug: Bug,
}

impl Subject for Faulty {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>> {
        Box::pin(async {
            let store: Arc<dyn Store> = Arc::new(Planted::new(self.subjects.open().await?, self.bug));
            Ok(store)
        })
    }

    fn is_foreign(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn random_transactions_are_answered_as_the_engine_does() {
    let subject = cluster::Subjects::default();
    let (seed, transactions) = from_environment_or(10_000);
    if let Err(mismatch) = differential(&subject, seed, transactions).await {
        panic!("{mismatch}");
    }
}

#[tokio::test]
async fn planted_bugs_are_found_although_revisions_and_stamps_are_foreign() {
    for bug in [Bug::LostPrevious, Bug::CountOffByOne, Bug::WatchWithoutPrevious, Bug::DoubleApply] {
        let faulty = Faulty { subjects: cluster::Subjects::default(), bug };
        let found = differential(&faulty, 1, 4_000).await;
        let mismatch = found.expect_err(&format!("{bug:?} is not found"));
        assert!(mismatch.steps.len() <= 6, "{bug:?}: {mismatch}");
    }
}
