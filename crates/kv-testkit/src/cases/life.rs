// SPDX-License-Identifier: Apache-2.0
//! Checks, new configurations, the end.

use std::time::Duration;

use atomix_kv::{ErrorKind, Reconfigured, Revision, StoreConfig, Txn, WatchFrom, WatchItem, Written, number};
use futures::StreamExt;

use super::{Ground, add, after, bytes, cases, delete, get, put, stamp};

cases! {
    a_store_that_works_says_so;
    a_new_configuration_in_place_keeps_entries_and_watches;
    a_wrong_configuration_changes_nothing;
    a_configuration_that_leads_to_other_content_is_refused;
    a_closed_store_refuses_everything_and_ends_its_watches;
    closing_twice_is_harmless;
    a_keyspace_that_is_given_back_goes_on_beyond_its_revisions;
    a_keyspace_that_is_needed_is_not_given_back;
    a_watch_that_begins_before_a_keyspace_was_given_back_skips_nothing;
    nothing_is_lost_while_a_keyspace_is_given_back;
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
    let read = ground.store.read(&ground.keyspace, vec![get("k")]).await;
    assert_eq!(read.expect_err("it is closed").kind(), ErrorKind::Closed);
    assert!(ground.store.watch(&ground.keyspace, WatchFrom::Now).await.is_err());
    assert_eq!(ground.store.check().await.expect_err("it is closed").kind(), ErrorKind::Closed);
}

async fn closing_twice_is_harmless(ground: Ground) {
    ground.store.close(Duration::ZERO).await;
    ground.store.close(Duration::ZERO).await;
}

async fn a_keyspace_that_is_given_back_goes_on_beyond_its_revisions(ground: Ground) {
    let other = ground.beside();
    for round in 0..3 {
        let token = ground.commit(Txn::new().write(stamp("l", "owner"))).await;
        let Written::Stamped { key } = &token.writes[0] else { panic!("a stamp is answered as one") };
        let key = String::from_utf8_lossy(key).into_owned();
        let all = ground.all().await;
        assert_eq!(all.len(), 1, "{key}");
        let gone = ground.commit(Txn::new().write(super::delete_range("l"))).await;
        assert!(gone.revision > token.revision);
        // Keyspaces beside it are given back as well, with greater revisions.
        for _ in 0..5 {
            other.put("k", "v").await;
        }
        other.commit(Txn::new().write(delete("k"))).await;
        other.reclaim().await;
        ground.reclaim().await;
        ground.reclaim().await;
        assert_eq!(ground.all().await, []);
        let again = ground.commit(Txn::new().write(stamp("l", "owner"))).await;
        assert!(again.revision > gone.revision, "round {round}: {again:?} after {gone:?}");
        let entry = &ground.all().await[0];
        assert_eq!((entry.created, entry.modified), (again.revision, again.revision));
        ground.commit(Txn::new().write(super::delete_range("l"))).await;
    }
}

async fn a_keyspace_that_is_needed_is_not_given_back(ground: Ground) {
    // It holds something.
    let kept = ground.put("k", "1").await.revision;
    ground.reclaim().await;
    assert_eq!(ground.get("k").await.map(|entry| entry.created), Some(kept));
    ground.commit(Txn::new().write(delete("k"))).await;
    // It is watched.
    let mut watch = ground.watch(WatchFrom::Now).await;
    ground.reclaim().await;
    let revision = ground.put("k", "2").await.revision;
    assert_eq!(ground.next(&mut watch).await.revision, revision);
    ground.commit(Txn::new().write(delete("k"))).await;
    drop(watch);
    // It remembers a request.
    let other = ground.beside();
    let named = || Txn::new().write(delete("k")).once("name");
    other.put("k", "1").await;
    let first = other.commit(named()).await;
    other.reclaim().await;
    assert_eq!(other.commit(named()).await, first);
}

async fn a_watch_that_begins_before_a_keyspace_was_given_back_skips_nothing(ground: Ground) {
    let first = ground.put("k", "1").await.revision;
    let second = ground.commit(Txn::new().write(delete("k"))).await.revision;
    ground.reclaim().await;
    let third = ground.put("k", "2").await.revision;
    for (seen, missing) in [(first, vec![second, third]), (second, vec![third]), (third, vec![])] {
        let mut watch = match ground.store.watch(&ground.keyspace, after(seen)).await {
            Ok(watch) => watch,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
                assert_ne!(seen, third, "nothing was given back after it");
                continue;
            }
        };
        for expected in missing {
            let revision: Revision = match watch.next().await.expect("it goes on or says why not") {
                Ok(WatchItem::Commit(commit)) => commit.revision,
                Ok(WatchItem::Progress(_)) => continue,
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
                    break;
                }
            };
            assert_eq!(revision, expected, "after {seen}");
        }
    }
}

async fn nothing_is_lost_while_a_keyspace_is_given_back(ground: Ground) {
    const CALLERS: usize = 4;
    const ROUNDS: usize = 40;
    let work = async |ground: Ground| {
        let (mut taken, mut last) = (0, Revision(0));
        for _ in 0..ROUNDS {
            let added = ground.commit(Txn::new().write(add("k", 1))).await.revision;
            let deleted = ground.commit(Txn::new().write(delete("k"))).await;
            if let Written::Deleted { previous: Some(entry) } = &deleted.writes[0] {
                taken += number(&entry.value).expect("only numbers were written");
                assert!(deleted.revision > added && added > last);
                last = deleted.revision;
            }
            ground.reclaim().await;
        }
        taken
    };
    let taken: i64 =
        futures::future::join_all((0..CALLERS).map(|_| work(ground.clone()))).await.into_iter().sum();
    assert_eq!(
        taken,
        i64::try_from(CALLERS * ROUNDS).expect("it is small"),
        "each addition was taken away once"
    );
}
