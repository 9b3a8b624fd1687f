// SPDX-License-Identifier: Apache-2.0
//! Checks, new configurations, the end.

use std::time::Duration;

use atomix_store::{
    ErrorKind, JsonObject, Reconfigured, Revision, Txn, WatchFrom, WatchItem, Written, number,
};
use futures::StreamExt;

use super::{Fixture, add, after, bytes, cases, delete, get, put, stamp};

cases! {
    a_working_store_passes_its_check;
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

async fn a_working_store_passes_its_check(fixture: Fixture) {
    fixture.store.check().await.expect("it works");
}

async fn a_new_configuration_in_place_keeps_entries_and_watches(fixture: Fixture) {
    fixture.put("k", "1").await;
    let mut watch = fixture.watch(WatchFrom::Now).await;
    if fixture.store.reconfigure(&fixture.config).await.expect("the store was made with it")
        == Reconfigured::InPlace
    {
        assert_eq!(fixture.value("k").await, Some(bytes("1")));
        let revision = fixture.put("k", "2").await.revision;
        assert_eq!(fixture.next(&mut watch).await.revision, revision);
    }
}

async fn a_wrong_configuration_changes_nothing(fixture: Fixture) {
    fixture.put("k", "1").await;
    let wrong = JsonObject::from_iter([("no-such-field".to_owned(), true.into())]);
    match fixture.store.reconfigure(&wrong).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Config),
        Ok(reconfigured) => {
            assert_eq!(reconfigured, Reconfigured::Connect, "the driver would refuse it then");
        }
    }
    assert_eq!(fixture.value("k").await, Some(bytes("1")));
}

/// By the names that our drivers have for the place of their content.
async fn a_configuration_that_leads_to_other_content_is_refused(fixture: Fixture) {
    for place in ["dir", "prefix", "key-prefix"] {
        let mut config = fixture.config.clone();
        let Some(value) = config.get_mut(place) else { continue };
        *value = format!("{}-elsewhere", value.as_str().expect("a place is a text")).into();
        let error = fixture.store.reconfigure(&config).await.expect_err("it is another place");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
}

async fn a_closed_store_refuses_everything_and_ends_its_watches(fixture: Fixture) {
    fixture.put("k", "1").await;
    let mut watch = fixture.watch(WatchFrom::Now).await;
    fixture.store.close(Duration::from_secs(1)).await;
    assert_eq!(fixture.end(&mut watch).await, ErrorKind::Closed);
    assert_eq!(fixture.refused(Txn::new().write(put("k", "2"))).await, ErrorKind::Closed);
    let read = fixture.store.read(&fixture.keyspace, vec![get("k")]).await;
    assert_eq!(read.expect_err("it is closed").kind(), ErrorKind::Closed);
    assert!(fixture.store.watch(&fixture.keyspace, WatchFrom::Now).await.is_err());
    assert_eq!(fixture.store.check().await.expect_err("it is closed").kind(), ErrorKind::Closed);
}

async fn closing_twice_is_harmless(fixture: Fixture) {
    fixture.store.close(Duration::ZERO).await;
    fixture.store.close(Duration::ZERO).await;
}

async fn a_keyspace_that_is_given_back_goes_on_beyond_its_revisions(fixture: Fixture) {
    let other = fixture.beside();
    for round in 0..3 {
        let token = fixture.commit(Txn::new().write(stamp("l", "owner"))).await;
        let Written::Stamped { key } = &token.writes[0] else { panic!("a stamp is answered as one") };
        let key = String::from_utf8_lossy(key).into_owned();
        let all = fixture.all().await;
        assert_eq!(all.len(), 1, "{key}");
        let gone = fixture.commit(Txn::new().write(super::delete_range("l"))).await;
        assert!(gone.revision > token.revision);
        // Keyspaces beside it are given back as well, with greater revisions.
        for _ in 0..5 {
            other.put("k", "v").await;
        }
        other.commit(Txn::new().write(delete("k"))).await;
        other.reclaim().await;
        fixture.reclaim().await;
        fixture.reclaim().await;
        assert_eq!(fixture.all().await, []);
        let again = fixture.commit(Txn::new().write(stamp("l", "owner"))).await;
        assert!(again.revision > gone.revision, "round {round}: {again:?} after {gone:?}");
        let entry = &fixture.all().await[0];
        assert_eq!((entry.created, entry.modified), (again.revision, again.revision));
        fixture.commit(Txn::new().write(super::delete_range("l"))).await;
    }
}

async fn a_keyspace_that_is_needed_is_not_given_back(fixture: Fixture) {
    // It holds something.
    let kept = fixture.put("k", "1").await.revision;
    fixture.reclaim().await;
    assert_eq!(fixture.get("k").await.map(|entry| entry.created), Some(kept));
    fixture.commit(Txn::new().write(delete("k"))).await;
    // It is watched.
    let mut watch = fixture.watch(WatchFrom::Now).await;
    fixture.reclaim().await;
    let revision = fixture.put("k", "2").await.revision;
    assert_eq!(fixture.next(&mut watch).await.revision, revision);
    fixture.commit(Txn::new().write(delete("k"))).await;
    drop(watch);
    // It remembers a request.
    let other = fixture.beside();
    let named = || Txn::new().write(delete("k")).once("name");
    other.put("k", "1").await;
    let first = other.commit(named()).await;
    other.reclaim().await;
    assert_eq!(other.commit(named()).await, first);
}

async fn a_watch_that_begins_before_a_keyspace_was_given_back_skips_nothing(fixture: Fixture) {
    let first = fixture.put("k", "1").await.revision;
    let second = fixture.commit(Txn::new().write(delete("k"))).await.revision;
    fixture.reclaim().await;
    let third = fixture.put("k", "2").await.revision;
    for (seen, missing) in [(first, vec![second, third]), (second, vec![third]), (third, vec![])] {
        let mut watch = match fixture.store.watch(&fixture.keyspace, after(seen)).await {
            Ok(watch) => watch,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
                assert_ne!(seen, third, "nothing was given back after it");
                continue;
            }
        };
        for expected in missing {
            let revision: Revision = match watch.next().await.expect("it goes on or ends with a reason") {
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

async fn nothing_is_lost_while_a_keyspace_is_given_back(fixture: Fixture) {
    const CALLERS: usize = 4;
    const ROUNDS: usize = 40;
    let work = async |fixture: Fixture| {
        let (mut taken, mut last) = (0, Revision(0));
        for _ in 0..ROUNDS {
            let added = fixture.commit(Txn::new().write(add("k", 1))).await.revision;
            let deleted = fixture.commit(Txn::new().write(delete("k"))).await;
            if let Written::Deleted { previous: Some(entry) } = &deleted.writes[0] {
                taken += number(&entry.value).expect("only numbers were written");
                assert!(deleted.revision > added && added > last);
                last = deleted.revision;
            }
            fixture.reclaim().await;
        }
        taken
    };
    let taken: i64 =
        futures::future::join_all((0..CALLERS).map(|_| work(fixture.clone()))).await.into_iter().sum();
    assert_eq!(
        taken,
        i64::try_from(CALLERS * ROUNDS).expect("it is small"),
        "each addition was taken away once"
    );
}
