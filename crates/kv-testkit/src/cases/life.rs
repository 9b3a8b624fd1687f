// SPDX-License-Identifier: Apache-2.0
//! Checks, new configurations, the end.

use std::time::Duration;

use atomix_kv::{ErrorKind, Level, Reconfigured, StoreConfig, Txn, WatchFrom};

use super::{Ground, bytes, cases, get, put};

cases! {
    a_store_that_works_says_so;
    a_new_configuration_in_place_keeps_entries_and_watches;
    a_wrong_configuration_changes_nothing;
    a_configuration_that_leads_to_other_content_is_refused;
    a_closed_store_refuses_everything_and_ends_its_watches;
    closing_twice_is_harmless;
}

async fn a_store_that_works_says_so(ground: Ground) {
    ground.store.check().await.expect("it works");
}

async fn a_new_configuration_in_place_keeps_entries_and_watches(ground: Ground) {
    ground.put("k", "1").await;
    let mut watch = ground.watch(WatchFrom::Now).await;
    if ground.store.reconfigure(&ground.config).await.expect("the store was made with it")
        == Reconfigured::InPlace
    {
        assert_eq!(ground.value("k").await, Some(bytes("1")));
        let revision = ground.put("k", "2").await.revision;
        assert_eq!(ground.next(&mut watch).await.revision, revision);
    }
}

async fn a_wrong_configuration_changes_nothing(ground: Ground) {
    ground.put("k", "1").await;
    let wrong = StoreConfig::from_iter([("no-such-field".to_owned(), true.into())]);
    match ground.store.reconfigure(&wrong).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Config),
        Ok(reconfigured) => {
            assert_eq!(reconfigured, Reconfigured::Connect, "the driver would refuse it then");
        }
    }
    assert_eq!(ground.value("k").await, Some(bytes("1")));
}

/// By the names that our drivers have for the place of their content.
async fn a_configuration_that_leads_to_other_content_is_refused(ground: Ground) {
    for place in ["dir", "prefix", "key-prefix"] {
        let mut config = ground.config.clone();
        let Some(value) = config.get_mut(place) else { continue };
        *value = format!("{}-elsewhere", value.as_str().expect("a place is a text")).into();
        let error = ground.store.reconfigure(&config).await.expect_err("it is another place");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
}

async fn a_closed_store_refuses_everything_and_ends_its_watches(ground: Ground) {
    ground.put("k", "1").await;
    let mut watch = ground.watch(WatchFrom::Now).await;
    ground.store.close(Duration::from_secs(1)).await;
    assert_eq!(ground.end(&mut watch).await, ErrorKind::Closed);
    assert_eq!(ground.refused(Txn::new().write(put("k", "2"))).await, ErrorKind::Closed);
    let read = ground.store.read(&ground.keyspace, vec![get("k")], Level::Latest).await;
    assert_eq!(read.expect_err("it is closed").kind(), ErrorKind::Closed);
    assert!(ground.store.watch(&ground.keyspace, WatchFrom::Now).await.is_err());
    assert_eq!(ground.store.check().await.expect_err("it is closed").kind(), ErrorKind::Closed);
}

async fn closing_twice_is_harmless(ground: Ground) {
    ground.store.close(Duration::ZERO).await;
    ground.store.close(Duration::ZERO).await;
}
