// SPDX-License-Identifier: Apache-2.0
//! Watches. The names of the first properties are those of etcd's own validator.

use std::collections::BTreeMap;
use std::sync::Arc;

use atomix_store::{Commit, Entry, ErrorKind, Range, Revision, Txn, WatchFrom, WatchItem};
use bytes::Bytes;
use futures::future::{join, join_all};
use futures::{FutureExt, StreamExt};

use super::{Fixture, Needs, add, after, cases, delete, delete_range, get, put, stamp};

cases! {
    a_watch_is_ordered_unique_atomic_and_reliable;
    a_watch_is_resumable_after_every_revision;
    a_watch_is_bookmarkable_it_begins_with_its_revision;
    a_watch_has_the_previous_value_and_marks_creations;
    a_watch_brings_the_changes_of_every_kind_of_write;
    a_watch_after_a_revision_that_is_not_there_is_refused_with_the_latest;
    a_watch_of_a_range_brings_what_happens_there_and_nothing_else;
    a_watch_begun_before_the_first_commit_sees_it;
    many_watches_see_the_same;
    a_dropped_watch_affects_no_other;
    a_slow_watch_ends_with_compacted_and_can_begin_there: Needs::Forgetful(8);
    a_watch_before_the_history_is_refused_with_where_it_begins: Needs::Forgetful(8);
}

async fn collect(fixture: &Fixture, from: Revision, to: Revision) -> Vec<Arc<Commit>> {
    let mut watch = fixture.watch(after(from)).await;
    let mut commits: Vec<Arc<Commit>> = Vec::new();
    while commits.last().map_or(from, |commit| commit.revision) < to {
        commits.push(fixture.next(&mut watch).await);
    }
    commits
}

fn replay(commits: &[Arc<Commit>]) -> BTreeMap<Bytes, Entry> {
    let mut state = BTreeMap::new();
    for commit in commits {
        for change in &commit.changes {
            assert_eq!(
                change.previous.as_ref(),
                state.get(&change.key),
                "the previous value is the one before"
            );
            match &change.current {
                Some(entry) => drop(state.insert(change.key.clone(), entry.clone())),
                None => drop(state.remove(&change.key)),
            }
        }
    }
    state
}

async fn a_watch_is_ordered_unique_atomic_and_reliable(fixture: Fixture) {
    let from = fixture.read(vec![]).await.revision;
    let writers = (0..8).map(|writer| {
        let fixture = fixture.clone();
        async move {
            for round in 0..50 {
                let key = format!("k{}", (writer + round) % 5);
                let txn = match round % 4 {
                    0 => Txn::new().write(delete(&key)).write(add("n", 1)),
                    1 => Txn::new().write(stamp("s/", "x")).write(put(&key, &round.to_string())),
                    _ => Txn::new().write(put(&key, &round.to_string())).write(add("n", 1)),
                };
                fixture.commit(txn).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let follow = async {
        let mut watch = fixture.watch(after(from)).await;
        let mut commits = Vec::new();
        while commits.len() < 400 {
            commits.push(fixture.next(&mut watch).await);
        }
        commits
    };
    let (_, commits) = join(join_all(writers), follow).await;
    assert!(commits.windows(2).all(|pair| pair[0].revision < pair[1].revision), "ordered and unique");
    let state = replay(&commits);
    let now: BTreeMap<Bytes, Entry> =
        fixture.all().await.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    assert_eq!(state, now, "nothing was lost, invented or torn");
    let last = commits.last().expect("there are commits").revision;
    assert_eq!(collect(&fixture, from, last).await, commits, "a later watch brings the same");
}

async fn a_watch_is_resumable_after_every_revision(fixture: Fixture) {
    let mut revisions = vec![fixture.read(vec![]).await.revision];
    for round in 0..20 {
        revisions.push(fixture.put("k", &round.to_string()).await.revision);
    }
    let last = *revisions.last().expect("there are revisions");
    for (at, from) in revisions.iter().enumerate() {
        let seen: Vec<_> =
            collect(&fixture, *from, last).await.iter().map(|commit| commit.revision).collect();
        assert_eq!(seen, revisions[at + 1..]);
    }
}

async fn a_watch_is_bookmarkable_it_begins_with_its_revision(fixture: Fixture) {
    let last = fixture.put("k", "1").await.revision;
    let mut watch = fixture.watch(WatchFrom::Now).await;
    let WatchItem::Progress(revision) = fixture.item(&mut watch).await.expect("it begins") else {
        panic!("the first item is not the revision")
    };
    assert!(revision >= last);
    let next = fixture.put("k", "2").await.revision;
    assert_eq!(fixture.next(&mut watch).await.revision, next);
}

async fn a_watch_has_the_previous_value_and_marks_creations(fixture: Fixture) {
    let from = fixture.read(vec![]).await.revision;
    let created = fixture.put("k", "1").await.revision;
    let updated = fixture.put("k", "2").await.revision;
    let deleted = fixture.commit(Txn::new().write(delete("k"))).await.revision;
    let commits = collect(&fixture, from, deleted).await;
    let change = |at: usize| commits[at].changes[0].clone();
    assert_eq!((change(0).previous, commits[0].revision), (None, created));
    let entry = change(1).current.expect("it was put");
    assert_eq!((entry.created, entry.modified), (created, updated));
    assert_eq!(change(1).previous.expect("there was one").value, "1");
    assert_eq!(change(2).previous, Some(entry));
    assert_eq!(change(2).current, None);
}

async fn a_watch_brings_the_changes_of_every_kind_of_write(fixture: Fixture) {
    let from = fixture.read(vec![]).await.revision;
    let mut last = from;
    for txn in [
        Txn::new().write(put("a1", "x")),
        Txn::new().write(put("a2", "x")),
        Txn::new().write(add("n", 5)),
        Txn::new().write(stamp("s/", "x")),
        Txn::new().write(put("a1", "x")),
        Txn::new().write(delete_range("a")),
    ] {
        // A read may return a later revision, where others share the backend, and no commit of this keyspace
        // has that one.
        last = fixture.commit(txn).await.revision;
    }
    let commits = collect(&fixture, from, last).await;
    assert_eq!(commits.len(), 6, "a put of the same value is a change");
    assert_eq!(commits[5].changes.len(), 2);
    assert_eq!(replay(&commits).len(), 2);
}

async fn a_watch_after_a_revision_that_is_not_there_is_refused_with_the_latest(fixture: Fixture) {
    let latest = fixture.put("k", "1").await.revision;
    for fixture in [fixture.beside(), fixture.clone(), fixture] {
        // Far enough also where others share the revisions of the backend.
        let lost = after(Revision(latest.0 + (1 << 40)));
        let refused = match fixture.store.watch(&fixture.keyspace, lost).await {
            Ok(mut watch) => fixture.end(&mut watch).await,
            Err(error) => error.kind(),
        };
        let ErrorKind::Compacted { oldest } = refused else { panic!("{refused:?}") };
        // The keyspace that was never written may be at its beginning.
        assert!(
            oldest
                >= fixture.read(vec![get("k")]).await.reads[0].entry().map_or(Revision(0), |it| it.modified)
        );
        let mut watch = fixture.watch(after(oldest)).await;
        let next = fixture.put("k", "2").await.revision;
        assert_eq!(fixture.next(&mut watch).await.revision, next);
    }
}

async fn a_watch_of_a_range_brings_what_happens_there_and_nothing_else(fixture: Fixture) {
    let range = Range::prefix("in/");
    let watch = fixture.store.watch_range(&fixture.keyspace, range.clone(), WatchFrom::Now).await;
    let mut watch = watch.expect("a range can be watched");
    let Some(Ok(WatchItem::Progress(begin))) = watch.next().await else {
        panic!("it begins with its revision")
    };
    let before = fixture.commit(Txn::new().write(put("a", "1"))).await.revision;
    assert!(begin < before);
    let both = Txn::new().write(put("in/a", "1")).write(put("z", "1"));
    let both = fixture.commit(both).await.revision;
    fixture.commit(Txn::new().write(put("a", "2")).write(delete("z"))).await;
    let deleted = fixture.commit(Txn::new().write(delete_range("in/")).write(add("n", 1))).await.revision;
    let mut writers = Vec::new();
    for writer in 0..20 {
        let key = if writer % 2 == 0 { format!("in/{writer}") } else { format!("out/{writer}") };
        writers.push(fixture.commit(Txn::new().write(put(&key, "1"))));
    }
    join_all(writers).await;

    let first = fixture.next(&mut watch).await;
    assert_eq!(first.changes.len(), 1);
    assert_eq!((&first.changes[0].key[..], first.revision), (&b"in/a"[..], both));
    let second = fixture.next(&mut watch).await;
    assert_eq!((second.changes.len(), second.revision), (1, deleted));
    assert_eq!(second.changes[0].previous, first.changes[0].current);
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let commit = fixture.next(&mut watch).await;
        seen.extend(commit.changes.iter().map(|change| change.key.clone()));
    }
    seen.sort();
    let mut expected: Vec<Bytes> = (0..20).step_by(2).map(|writer| format!("in/{writer}").into()).collect();
    expected.sort();
    assert_eq!(seen, expected);

    // Resumed in the middle.
    let again = fixture.store.watch_range(&fixture.keyspace, range, after(both)).await;
    assert_eq!(fixture.next(&mut again.expect("it can be resumed")).await.revision, deleted);
    let empty = Range { start: "b".into(), end: Some("a".into()) };
    let refused = fixture.store.watch_range(&fixture.keyspace, empty, WatchFrom::Now).await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Invalid));
}

async fn a_watch_begun_before_the_first_commit_sees_it(fixture: Fixture) {
    let mut watch = fixture.watch(after(Revision(0))).await;
    assert!(watch.next().now_or_never().is_none(), "there is no item yet");
    let first = fixture.put("k", "1").await.revision;
    assert_eq!(fixture.next(&mut watch).await.revision, first);
}

async fn many_watches_see_the_same(fixture: Fixture) {
    let from = fixture.read(vec![]).await.revision;
    let watches = join_all((0..100).map(|_| fixture.watch(after(from)))).await;
    for round in 0..20 {
        fixture.put("k", &round.to_string()).await;
    }
    let follow = watches.into_iter().map(|mut watch| {
        let fixture = fixture.clone();
        async move {
            let mut seen = Vec::new();
            for _ in 0..20 {
                seen.push(fixture.next(&mut watch).await.revision);
            }
            seen
        }
    });
    let seen = join_all(follow).await;
    assert!(seen.iter().all(|one| *one == seen[0]));
}

async fn a_dropped_watch_affects_no_other(fixture: Fixture) {
    let from = fixture.read(vec![]).await.revision;
    let mut kept = fixture.watch(after(from)).await;
    for _ in 0..100 {
        drop(fixture.watch(WatchFrom::Now).await);
    }
    let revision = fixture.put("k", "1").await.revision;
    assert_eq!(fixture.next(&mut kept).await.revision, revision);
}

async fn a_slow_watch_ends_with_compacted_and_can_begin_there(fixture: Fixture) {
    let mut slow = fixture.watch(WatchFrom::Now).await;
    let mut quick = fixture.watch(WatchFrom::Now).await;
    let mut last = Revision(0);
    for round in 0..500 {
        last = fixture.put("k", &round.to_string()).await.revision;
        // One that keeps up is not disturbed. When it has seen everything the history is what it will be.
        assert_eq!(fixture.next(&mut quick).await.revision, last);
    }
    let ErrorKind::Compacted { oldest } = fixture.end(&mut slow).await else {
        panic!("it ends with another reason")
    };
    assert!(oldest < last);
    let commits = collect(&fixture, oldest, last).await;
    assert!(!commits.is_empty() && commits[0].revision > oldest);
}

async fn a_watch_before_the_history_is_refused_with_where_it_begins(fixture: Fixture) {
    for round in 0..500 {
        fixture.put("k", &round.to_string()).await;
    }
    let refused = match fixture.store.watch(&fixture.keyspace, after(Revision(1))).await {
        Ok(mut watch) => fixture.end(&mut watch).await,
        Err(error) => error.kind(),
    };
    let ErrorKind::Compacted { oldest } = refused else { panic!("{refused:?}") };
    drop(fixture.watch(after(oldest)).await);
}
