// SPDX-License-Identifier: Apache-2.0
//! Reads: entries, scans, counts, moments.

use atomix_store::{Found, Order, Range, Read, Txn, Write};
use bytes::Bytes;
use futures::future::join;

use super::{Fixture, bytes, cases, count, get, keys, put, scan};

cases! {
    an_absent_keyspace_reads_like_an_empty_one;
    a_scan_is_in_the_requested_order;
    a_scan_stops_at_its_limit_and_reports_whether_there_is_more;
    a_scan_of_keys_brings_no_values;
    a_scan_of_large_values_is_cut_and_goes_on;
    a_range_takes_its_start_and_leaves_its_end;
    counts_count_any_range;
    all_reads_of_a_call_are_of_one_moment;
}

async fn an_absent_keyspace_reads_like_an_empty_one(fixture: Fixture) {
    let snapshot = fixture.read(vec![get("a"), scan("", Order::Key, 10), count("")]).await;
    assert_eq!(snapshot.reads[0], Found::Entry(None));
    assert_eq!(snapshot.reads[1], Found::Entries { entries: Vec::new(), more: false });
    assert_eq!(snapshot.reads[2], Found::Count(0));
    assert!(snapshot.revision < fixture.put("a", "1").await.revision, "it is before the first commit");
}

async fn a_scan_is_in_the_requested_order(fixture: Fixture) {
    for key in ["b", "a", "c", "aa", "b\0"] {
        fixture.put(key, key).await;
    }
    let found = fixture.find(scan("", Order::Key, usize::MAX)).await;
    assert_eq!(keys(found.entries()), [&b"a"[..], b"aa", b"b", b"b\0", b"c"]);
    let found = fixture.find(scan("", Order::KeyDescending, usize::MAX)).await;
    assert_eq!(keys(found.entries()), [&b"c"[..], b"b\0", b"b", b"aa", b"a"]);
    let found = fixture.find(scan("b", Order::KeyDescending, 1)).await;
    assert_eq!(keys(found.entries()), [&b"b\0"[..]]);
}

async fn a_scan_stops_at_its_limit_and_reports_whether_there_is_more(fixture: Fixture) {
    for key in ["a", "b", "c"] {
        fixture.put(key, "x").await;
    }
    for (limit, len, more) in [(1, 1, true), (2, 2, true), (3, 3, false), (4, 3, false)] {
        let found = fixture.find(scan("", Order::Key, limit)).await;
        assert_eq!((found.entries().len(), found.more()), (len, more), "{limit}");
    }
}

async fn a_scan_of_keys_brings_no_values(fixture: Fixture) {
    let revision = fixture.put("a", "value").await.revision;
    let range = Range::prefix(bytes(""));
    let found = fixture.find(Read::Scan { range, order: Order::Key, limit: 10, keys_only: true }).await;
    let entry = &found.entries()[0];
    assert_eq!((entry.key.as_ref(), entry.value.as_ref(), entry.created), (&b"a"[..], &b""[..], revision));
}

async fn a_scan_of_large_values_is_cut_and_goes_on(fixture: Fixture) {
    let value = Bytes::from(vec![b'v'; 300 * 1024]);
    for key in 0..10 {
        let key = Bytes::from(format!("k{key}"));
        fixture.commit(Txn::new().write(Write::Put { key, value: value.clone() })).await;
    }
    let (mut range, mut seen, mut pages) = (Range::prefix(bytes("k")), Vec::new(), 0);
    loop {
        let read =
            Read::Scan { range: range.clone(), order: Order::Key, limit: usize::MAX, keys_only: false };
        let found = fixture.find(read).await;
        assert!(!found.entries().is_empty(), "a page has at least one entry");
        seen.extend(found.entries().iter().map(|entry| entry.key.clone()));
        pages += 1;
        if !found.more() {
            break;
        }
        range = range.after(seen.last().expect("a page is not empty"));
    }
    let expected: Vec<_> = (0..10).map(|key| Bytes::from(format!("k{key}"))).collect();
    assert_eq!(seen, expected);
    let bound = fixture.store.profile().limits.scan_bytes_max;
    assert!(pages > 1 || bound >= 10 * value.len(), "{pages} pages");
}

async fn a_range_takes_its_start_and_leaves_its_end(fixture: Fixture) {
    for key in ["a", "b", "c", "d"] {
        fixture.put(key, "x").await;
    }
    let between = async |start: &str, end: Option<&str>| {
        let range = Range { start: bytes(start), end: end.map(bytes) };
        let read = Read::Scan { range, order: Order::Key, limit: usize::MAX, keys_only: true };
        let found = fixture.find(read).await;
        found
            .entries()
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.key).into_owned())
            .collect::<String>()
    };
    assert_eq!(between("b", Some("d")).await, "bc");
    assert_eq!(between("b", None).await, "bcd");
    assert_eq!(between("", Some("b")).await, "a");
    assert_eq!(between("c", Some("b")).await, "");
    assert_eq!(between("b", Some("b")).await, "");
    assert_eq!(between("aa", Some("bb")).await, "b");
}

async fn counts_count_any_range(fixture: Fixture) {
    for key in ["a", "b", "b1", "b2", "c"] {
        fixture.put(key, "x").await;
    }
    fixture.commit(Txn::new().write(super::delete("b1"))).await;
    for (prefix, expected) in [("", 4), ("a", 1), ("b", 2), ("b2", 1), ("x", 0)] {
        assert_eq!(fixture.find(count(prefix)).await.count(), expected, "{prefix}");
    }
    let range = Range { start: bytes("a1"), end: Some(bytes("b2")) };
    assert_eq!(fixture.find(Read::Count { range }).await.count(), 1);
}

async fn all_reads_of_a_call_are_of_one_moment(fixture: Fixture) {
    let write = async {
        for round in 0..300 {
            let value = round.to_string();
            fixture.commit(Txn::new().write(put("a", &value)).write(put("b", &value))).await;
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        for _ in 0..300 {
            let snapshot = fixture.read(vec![get("a"), get("b")]).await;
            let value = |at: usize| snapshot.reads[at].entry().map(|entry| entry.value.clone());
            assert_eq!(value(0), value(1));
            tokio::task::yield_now().await;
        }
    };
    join(write, read).await;
}
