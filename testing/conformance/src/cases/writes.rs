// SPDX-License-Identifier: Apache-2.0
//! Transactions: guards, writes, revisions, stamps, numbers, names of requests, limits.

use atomix_store::{ErrorKind, Guard, Order, Range, Revision, Txn, Write, Written, number, number_bytes};
use bytes::Bytes;
use futures::future::join_all;

use super::{Fixture, Needs, add, bytes, cases, count, delete, delete_range, get, put, scan, stamp};

cases! {
    a_commit_is_shown_by_the_read_that_follows;
    a_commit_has_the_next_revision_and_its_entry_shows_it;
    a_commit_without_a_change_has_no_revision_of_its_own;
    an_entry_that_was_deleted_begins_anew;
    every_guard_holds_when_it_should_and_only_then;
    a_refused_transaction_changes_nothing_and_reads_the_untouched_state;
    an_applied_transaction_reads_what_it_wrote;
    what_only_explains_a_refusal_is_not_read_of_what_applies;
    all_guards_must_hold;
    all_writes_of_a_transaction_are_one_commit;
    writes_answer_with_what_was_there;
    a_range_is_deleted_whole_and_counted;
    numbers_start_at_zero_and_wrap_around;
    an_addition_to_no_number_refuses_the_whole_transaction;
    stamps_are_unique_and_ordered_by_creation;
    stamps_of_racing_transactions_are_unique_and_ordered_by_creation;
    a_key_is_written_at_most_once;
    limits_are_kept;
    a_named_request_is_applied_once;
    a_named_request_that_was_refused_stays_refused;
    a_named_request_is_remembered_however_many_others_come;
    named_requests_beyond_the_bound_are_refused_and_none_is_forgotten: Needs::Small(64 * 1024);
    racing_additions_lose_nothing;
    racing_guarded_writes_lose_nothing;
    keyspaces_know_nothing_of_each_other;
    a_full_store_refuses_writes_and_takes_deletes: Needs::Small(64 * 1024);
}

async fn a_commit_is_shown_by_the_read_that_follows(fixture: Fixture) {
    for round in 0..100 {
        let value = round.to_string();
        fixture.put("k", &value).await;
        assert_eq!(fixture.value("k").await, Some(bytes(&value)));
    }
}

async fn a_commit_has_the_next_revision_and_its_entry_shows_it(fixture: Fixture) {
    let first = fixture.put("a", "1").await;
    assert!(first.applied && first.revision > Revision(0));
    let second = fixture.put("a", "2").await;
    assert!(second.revision > first.revision);
    let entry = fixture.get("a").await.expect("it was put");
    assert_eq!((entry.created, entry.modified), (first.revision, second.revision));
    assert!(fixture.read(vec![]).await.revision >= second.revision);
}

async fn a_commit_without_a_change_has_no_revision_of_its_own(fixture: Fixture) {
    let last = fixture.put("a", "1").await.revision;
    let outcome = fixture.commit(Txn::new().write(delete("absent")).write(delete_range("none"))).await;
    assert!(outcome.applied);
    assert!(outcome.revision >= last);
    let mut watch = fixture.watch(super::after(last)).await;
    let next = fixture.put("a", "2").await.revision;
    assert_eq!(fixture.next(&mut watch).await.revision, next);
}

async fn an_entry_that_was_deleted_begins_anew(fixture: Fixture) {
    let first = fixture.put("a", "1").await.revision;
    fixture.commit(Txn::new().write(delete("a"))).await;
    assert_eq!(fixture.get("a").await, None);
    let second = fixture.put("a", "1").await.revision;
    assert!(second > first);
    let entry = fixture.get("a").await.expect("it was put");
    assert_eq!((entry.created, entry.modified), (second, second));
}

async fn every_guard_holds_when_it_should_and_only_then(fixture: Fixture) {
    let created = fixture.put("k", "1").await.revision;
    let modified = fixture.put("k", "2").await.revision;
    let (here, none) = (bytes("k"), bytes("none"));
    let cases = [
        (Guard::Absent { key: none.clone() }, true),
        (Guard::Absent { key: here.clone() }, false),
        (Guard::Present { key: here.clone() }, true),
        (Guard::Present { key: none.clone() }, false),
        (Guard::ModifiedAt { key: here.clone(), revision: modified }, true),
        (Guard::ModifiedAt { key: here.clone(), revision: created }, false),
        (Guard::ModifiedAt { key: none.clone(), revision: modified }, false),
        (Guard::ModifiedAt { key: none.clone(), revision: Revision(0) }, false),
        (Guard::ValueIs { key: here.clone(), value: bytes("2") }, true),
        (Guard::ValueIs { key: here.clone(), value: bytes("1") }, false),
        (Guard::ValueIs { key: none.clone(), value: bytes("2") }, false),
        (Guard::ValueIs { key: none.clone(), value: Bytes::new() }, false),
        (Guard::ValueIsNot { key: here.clone(), value: bytes("1") }, true),
        (Guard::ValueIsNot { key: here, value: bytes("2") }, false),
        (Guard::ValueIsNot { key: none.clone(), value: bytes("2") }, true),
        (Guard::ValueIsNot { key: none, value: Bytes::new() }, true),
    ];
    for (guard, holds) in cases {
        let outcome = fixture.commit(Txn::new().guard(guard.clone())).await;
        assert_eq!(outcome.applied, holds, "{guard:?}");
    }
}

async fn a_refused_transaction_changes_nothing_and_reads_the_untouched_state(fixture: Fixture) {
    let last = fixture.put("a", "1").await.revision;
    let txn = Txn::new()
        .guard(Guard::Absent { key: bytes("a") })
        .write(put("a", "2"))
        .write(put("b", "2"))
        .write(add("n", 1))
        .write(stamp("s", "x"))
        .read(get("a"))
        .read(count(""));
    let outcome = fixture.commit(txn).await;
    assert!(!outcome.applied && outcome.writes.is_empty());
    assert_eq!(outcome.reads[0].entry().expect("it is there").value, "1");
    assert_eq!(outcome.reads[1].count(), 1);
    assert_eq!(fixture.all().await.len(), 1);
    let mut watch = fixture.watch(super::after(last)).await;
    let next = fixture.put("c", "3").await.revision;
    assert_eq!(fixture.next(&mut watch).await.revision, next, "a refused transaction is no commit");
}

async fn an_applied_transaction_reads_what_it_wrote(fixture: Fixture) {
    let txn =
        Txn::new().write(put("a", "1")).write(add("n", 5)).read(get("a")).read(get("n")).read(count(""));
    let outcome = fixture.commit(txn).await;
    assert_eq!(outcome.reads[0].entry().expect("it was put").value, "1");
    assert_eq!(number(&outcome.reads[1].entry().expect("it was added").value), Some(5));
    assert_eq!(outcome.reads[2].count(), 2);
}

async fn what_only_explains_a_refusal_is_not_read_of_what_applies(fixture: Fixture) {
    let txn =
        Txn::new().guard(Guard::Absent { key: bytes("a") }).write(put("a", "1")).read(get("a")).if_refused();
    let applied = fixture.commit(txn.clone().once("named")).await;
    assert!(applied.applied && applied.writes.len() == 1 && applied.reads.is_empty());
    assert_eq!(fixture.commit(txn.clone().once("named")).await, applied, "it is the same request");
    let refused = fixture.commit(txn.read(count(""))).await;
    assert!(!refused.applied && refused.writes.is_empty());
    assert_eq!(refused.reads[0].entry().expect("it is there").value, "1");
    assert_eq!(refused.reads[1].count(), 1);
}

async fn all_guards_must_hold(fixture: Fixture) {
    let txn = Txn::new().guard(Guard::Absent { key: bytes("a") }).guard(Guard::Present { key: bytes("b") });
    assert!(!fixture.commit(txn.clone().write(put("c", "1"))).await.applied);
    fixture.put("b", "1").await;
    assert!(fixture.commit(txn.write(put("c", "1"))).await.applied);
}

async fn all_writes_of_a_transaction_are_one_commit(fixture: Fixture) {
    let last = fixture.read(vec![]).await.revision;
    let mut watch = fixture.watch(super::after(last)).await;
    let outcome =
        fixture.commit(Txn::new().write(put("a", "1")).write(put("b", "2")).write(add("n", 3))).await;
    let commit = fixture.next(&mut watch).await;
    assert_eq!(commit.revision, outcome.revision);
    let changed: Vec<_> = commit.changes.iter().map(|change| change.key.clone()).collect();
    assert_eq!(changed, ["a", "b", "n"]);
}

async fn writes_answer_with_what_was_there(fixture: Fixture) {
    assert_eq!(fixture.put("a", "1").await.writes[0], Written::Put { previous: None });
    let first = fixture.get("a").await;
    assert_eq!(fixture.put("a", "2").await.writes[0], Written::Put { previous: first });
    let second = fixture.get("a").await;
    let outcome = fixture.commit(Txn::new().write(delete("a")).write(delete("none"))).await;
    assert_eq!(outcome.writes, [Written::Deleted { previous: second }, Written::Deleted { previous: None }]);
}

async fn a_range_is_deleted_whole_and_counted(fixture: Fixture) {
    for key in ["a", "b1", "b2", "b3", "c"] {
        fixture.put(key, "x").await;
    }
    let outcome = fixture.commit(Txn::new().write(delete_range("b"))).await;
    assert_eq!(outcome.writes, [Written::RangeDeleted { count: 3 }]);
    assert_eq!(super::keys(&fixture.all().await), [b"a", b"c"]);
    let range = Range { start: bytes("c"), end: Some(bytes("a")) };
    let nothing = fixture.commit(Txn::new().write(Write::DeleteRange { range })).await;
    assert_eq!(nothing.writes, [Written::RangeDeleted { count: 0 }]);
}

async fn numbers_start_at_zero_and_wrap_around(fixture: Fixture) {
    let added = async |delta| fixture.commit(Txn::new().write(add("n", delta))).await.writes.remove(0);
    assert_eq!(added(i64::MAX).await, Written::Added { value: i64::MAX });
    assert_eq!(added(1).await, Written::Added { value: i64::MIN });
    assert_eq!(added(-1).await, Written::Added { value: i64::MAX });
    assert_eq!(added(0).await, Written::Added { value: i64::MAX });
    assert_eq!(fixture.value("n").await, Some(number_bytes(i64::MAX)));
    fixture.commit(Txn::new().write(Write::Put { key: bytes("n"), value: number_bytes(-7) })).await;
    assert_eq!(added(-1).await, Written::Added { value: -8 });
}

async fn an_addition_to_no_number_refuses_the_whole_transaction(fixture: Fixture) {
    fixture.put("text", "seven").await;
    let kind =
        fixture.refused(Txn::new().write(put("a", "1")).write(add("text", 1)).write(add("n", 1))).await;
    assert_eq!(kind, ErrorKind::Invalid);
    assert_eq!(super::keys(&fixture.all().await), [b"text"]);
}

async fn stamps_are_unique_and_ordered_by_creation(fixture: Fixture) {
    let mut made = Vec::new();
    for round in 0..50 {
        let outcome = fixture.commit(Txn::new().write(stamp("q/", &round.to_string()))).await;
        let Written::Stamped { key } = &outcome.writes[0] else { panic!("{outcome:?}") };
        assert!(key.starts_with(b"q/") && key.len() > 2);
        let entry =
            fixture.find(super::Read::Get { key: key.clone() }).await.entry().cloned().expect("it is there");
        assert_eq!(entry.created, outcome.revision);
        made.push(key.clone());
    }
    let scanned = fixture.find(scan("q/", Order::Created, usize::MAX)).await;
    let order: Vec<_> = scanned.entries().iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(order, made);
    let oldest = fixture.find(scan("q/", Order::Created, 1)).await;
    assert_eq!(oldest.entries()[0].key, made[0]);
}

async fn stamps_of_racing_transactions_are_unique_and_ordered_by_creation(fixture: Fixture) {
    let racers = (0..64)
        .map(|_| fixture.commit(Txn::new().write(stamp("q/", "x")).read(scan("q/", Order::Created, 1))));
    let outcomes = join_all(racers).await;
    let scanned = fixture.find(scan("q/", Order::Created, usize::MAX)).await;
    let entries = scanned.entries();
    assert_eq!(entries.len(), 64);
    assert!(entries.windows(2).all(|pair| pair[0].created < pair[1].created));
    let firsts = outcomes.iter().filter(|outcome| {
        matches!(&outcome.writes[0], Written::Stamped { key } if outcome.reads[0].entries()[0].key == *key)
    });
    assert_eq!(firsts.count(), 1, "exactly one was first when it stamped");
}

async fn a_key_is_written_at_most_once(fixture: Fixture) {
    for twice in [
        vec![put("a", "1"), put("a", "2")],
        vec![put("a", "1"), delete("a")],
        vec![add("a", 1), put("a", "2")],
        vec![put("ab", "1"), delete_range("a")],
        vec![stamp("s", "1"), stamp("s", "2")],
        vec![stamp("s", "1"), put("s1", "2")],
        vec![delete_range("a"), delete_range("ab")],
    ] {
        let txn = Txn { writes: twice.clone(), ..Txn::default() };
        assert_eq!(fixture.refused(txn).await, ErrorKind::Invalid, "{twice:?}");
    }
    assert!(fixture.all().await.is_empty());
}

async fn limits_are_kept(fixture: Fixture) {
    let limits = fixture.store.profile().limits.clone();
    let key = |len: usize| Bytes::from(vec![b'k'; len]);
    let value = |len: usize| Bytes::from(vec![b'v'; len]);
    let write = |key, value| Txn::new().write(Write::Put { key, value });
    assert_eq!(fixture.refused(write(Bytes::new(), Bytes::new())).await, ErrorKind::Invalid);
    assert_eq!(fixture.refused(write(key(limits.key_bytes_max + 1), Bytes::new())).await, ErrorKind::Invalid);
    assert_eq!(fixture.refused(write(key(1), value(limits.value_bytes_max + 1))).await, ErrorKind::Invalid);
    fixture.commit(write(key(limits.key_bytes_max), value(1))).await;
    let long = |len| Txn::new().once(vec![b'o'; len]);
    assert_eq!(fixture.refused(long(0)).await, ErrorKind::Invalid);
    assert_eq!(fixture.refused(long(atomix_store::Limits::ONCE_BYTES_MAX + 1)).await, ErrorKind::Invalid);
    fixture.commit(long(atomix_store::Limits::ONCE_BYTES_MAX)).await;
    assert_eq!(fixture.refused(Txn::new().read(scan("", Order::Key, 0))).await, ErrorKind::Invalid);
    assert_eq!(fixture.all().await.len(), 1);
}

async fn a_named_request_is_applied_once(fixture: Fixture) {
    let txn = || Txn::new().write(add("n", 1)).read(get("n")).once("request");
    let first = fixture.commit(txn()).await;
    fixture.commit(Txn::new().write(add("n", 10))).await;
    assert_eq!(fixture.commit(txn()).await, first, "the same answer, whatever happened since");
    assert_eq!(fixture.value("n").await, Some(number_bytes(11)));
    fixture.commit(Txn::new().write(add("n", 1)).once("another")).await;
    assert_eq!(fixture.value("n").await, Some(number_bytes(12)));
}

async fn a_named_request_that_was_refused_stays_refused(fixture: Fixture) {
    let txn = || Txn::new().guard(Guard::Present { key: bytes("a") }).write(put("b", "1")).once("request");
    let first = fixture.commit(txn()).await;
    assert!(!first.applied);
    fixture.put("a", "1").await;
    assert_eq!(fixture.commit(txn()).await, first);
    assert_eq!(fixture.get("b").await, None);
}

async fn a_named_request_is_remembered_however_many_others_come(fixture: Fixture) {
    const OTHERS: i64 = 2000;
    let first = || Txn::new().write(add("n", 1)).once("payment");
    let outcome = fixture.commit(first()).await;
    for other in 0..OTHERS {
        fixture.commit(Txn::new().write(add("n", 1)).once(other.to_string())).await;
    }
    assert_eq!(fixture.commit(first()).await, outcome);
    assert_eq!(fixture.value("n").await, Some(number_bytes(OTHERS + 1)));
}

async fn named_requests_beyond_the_bound_are_refused_and_none_is_forgotten(fixture: Fixture) {
    let named = |at: usize| Txn::new().write(add("n", 1)).once(at.to_string());
    let mut applied = 0;
    let error = loop {
        match fixture.try_commit(named(applied)).await {
            Ok(_) => applied += 1,
            Err(error) => break error,
        }
        assert!(applied < 10_000, "there is a bound");
    };
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(applied > 2, "{applied} of {error}");
    for at in 0..applied {
        fixture.commit(named(at)).await;
    }
    assert!(fixture.try_commit(named(applied)).await.is_err(), "it was not applied");
    let expected = i64::try_from(applied).expect("it is small");
    assert_eq!(fixture.value("n").await, Some(number_bytes(expected)));
    fixture.commit(Txn::new().write(add("n", 1))).await;
}

async fn racing_additions_lose_nothing(fixture: Fixture) {
    let racers = (0..64).map(|_| async {
        let mut seen = Vec::new();
        for _ in 0..25 {
            let outcome = fixture.commit(Txn::new().write(add("n", 1))).await;
            if let Written::Added { value } = outcome.writes[0] {
                seen.push(value);
            }
        }
        seen
    });
    let mut seen: Vec<i64> = join_all(racers).await.concat();
    seen.sort_unstable();
    assert_eq!(seen, (1..=1600).collect::<Vec<_>>(), "each writer has seen its own number");
}

async fn racing_guarded_writes_lose_nothing(fixture: Fixture) {
    fixture.commit(Txn::new().write(add("n", 0))).await;
    let racers = (0..8).map(|_| async {
        for _ in 0..25 {
            loop {
                let entry = fixture.get("n").await.expect("it is there");
                let next = number(&entry.value).expect("it is a number") + 1;
                let txn = Txn::new()
                    .guard(Guard::ModifiedAt { key: bytes("n"), revision: entry.modified })
                    .write(Write::Put { key: bytes("n"), value: number_bytes(next) });
                if fixture.commit(txn).await.applied {
                    break;
                }
            }
        }
    });
    join_all(racers).await;
    assert_eq!(fixture.value("n").await, Some(number_bytes(200)));
}

async fn keyspaces_know_nothing_of_each_other(fixture: Fixture) {
    let beside = fixture.beside();
    let mut watch = beside.watch(super::WatchFrom::Now).await;
    fixture.put("a", "1").await;
    assert_eq!(beside.get("a").await, None);
    beside.put("a", "2").await;
    assert_eq!(fixture.value("a").await, Some(bytes("1")));
    let commit = beside.next(&mut watch).await;
    assert_eq!(commit.changes[0].current.as_ref().expect("it was put").value, "2");
    fixture.commit(Txn::new().write(delete_range(""))).await;
    assert_eq!(beside.value("a").await, Some(bytes("2")));
}

async fn a_full_store_refuses_writes_and_takes_deletes(fixture: Fixture) {
    let value = "v".repeat(1024);
    let mut written = 0;
    let full = loop {
        match fixture.try_commit(Txn::new().write(put(&format!("k{written}"), &value))).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the store never fills");
    };
    assert_eq!(full.kind(), ErrorKind::Full);
    assert_eq!(fixture.all().await.len(), written, "a refused write leaves nothing");
    fixture.commit(Txn::new().write(delete("k0")).write(delete("k1"))).await;
    fixture.put("k0", &value).await;
}
