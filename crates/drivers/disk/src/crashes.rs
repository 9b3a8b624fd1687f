// SPDX-License-Identifier: Apache-2.0
//! Stores on a disk that fails, and what is left of them.
//!
//! A *run* is a client that commits one transaction after the other and takes note of the answers, and a reader that takes
//! note of what it was shown. Each transaction touches four kinds of keys, so that half of one would be seen. After the
//! run the store is opened from what is left of the disk, and every answer must still be true.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use atomix_conformance::Dice;
use atomix_env::Env;
use atomix_store::{
    Commit, Error, ErrorKind, Guard, HistoryBudget, Keyspace, Order, Range, Read, Revision, Store, Txn,
    WatchFrom, WatchItem, Write, number,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use crate::config::{Settings, Syncing};
use crate::core::Core;
use crate::files::Files;
use crate::layout::{UNFINISHED, log_name};
use crate::recover::recover;
use crate::sim::{Disk, Faults};
use crate::space::Space;
use crate::store::DiskStore;

/// The answers that a client got.
#[derive(Debug, Default)]
struct Told {
    done: Vec<u64>,
    refused: Vec<u64>,
    unknown: Vec<u64>,
    /// The greatest number of transactions that a read has shown.
    shown: usize,
    errors: Vec<Error>,
}

/// The content of a store.
#[derive(Debug)]
struct Held {
    /// The transactions, in the order in which they were applied.
    applied: Vec<u64>,
    commits: Vec<Commit>,
}

/// Transactions of a run.
const RUN: u64 = 24;

pub(crate) fn settings(log_bytes_max: u64) -> Settings {
    Settings {
        dir: "simulated".to_owned(),
        durability: Syncing::Sync,
        sync_interval: Duration::from_millis(1),
        bytes_max: 16 << 20,
        history_commits_max: 4096,
        history_bytes_max: 4 << 20,
        histories_bytes_max: HistoryBudget::BYTES_MAX,
        history_age_max: Duration::from_hours(1),
        log_bytes_max,
    }
}

fn open(disk: &Disk, settings: Settings) -> Result<DiskStore, Error> {
    DiskStore::open(Arc::new(disk.clone()), settings, Env::real())
}

fn keyspace() -> Keyspace {
    Keyspace::new("map/it")
}

fn transaction(at: u64, filler: usize) -> Txn {
    let text: Bytes = at.to_string().into();
    let mut value = text.to_vec();
    value.resize(text.len() + filler, b'.');
    Txn::new()
        .write(Write::Put { key: "k".into(), value: value.into() })
        .write(Write::Add { key: "from".into(), delta: -1 })
        .write(Write::Add { key: "to".into(), delta: 1 })
        .write(Write::Stamp { prefix: "q/".into(), value: text.clone() })
        .once(text)
}

/// Commits as many transactions as a run has, with any outcome.
async fn run(store: &DiskStore, from: u64, filler: usize) -> Told {
    let mut told = Told::default();
    let name = keyspace();
    for at in from..from + RUN {
        let commit = store.commit(&name, transaction(at, filler));
        // While the commit is on its way: the same request again, a read, and a refusal, which is a read as well.
        let count = Read::Count { range: Range::prefix("q") };
        let again = store.commit(&name, transaction(at, filler));
        let read = store.read(&name, vec![count.clone()]);
        let refusal = Txn::new().guard(Guard::Present { key: "nothing".into() }).read(count);
        let refusal = store.commit(&name, refusal);
        let (outcome, again, read, refusal) = futures::join!(commit, again, read, refusal);
        let read = read.map(|snapshot| snapshot.reads[0].count());
        let refusal = refusal.map(|refused| refused.reads[0].count());
        for shown in [read, refusal].into_iter().flatten() {
            told.shown = told.shown.max(usize::try_from(shown).unwrap());
        }
        if again.is_ok() && outcome.is_err() {
            // The first one was taken back, and this one was the first then.
            told.done.push(at);
            continue;
        }
        match outcome {
            Ok(outcome) => {
                assert!(outcome.applied);
                told.done.push(at);
            }
            Err(error) => {
                if error.kind() == ErrorKind::OutcomeUnknown {
                    told.unknown.push(at);
                } else {
                    let refused = [ErrorKind::Unavailable, ErrorKind::Full, ErrorKind::Closed];
                    assert!(refused.contains(&error.kind()), "{error:?}");
                    told.refused.push(at);
                }
                told.errors.push(error);
            }
        }
    }
    told
}

/// Reads everything, and checks what must hold in every store at any time.
async fn held(store: &DiskStore) -> Held {
    let (held, floor) = held_after(store).await;
    assert_eq!(floor, 0, "the history is whole");
    held
}

/// The same after errors of this kind. A snapshot on a full disk has no history, and the threads decide whether there was one.
async fn held_under(kind: io::ErrorKind, store: &DiskStore) -> Held {
    if kind == io::ErrorKind::StorageFull { held_after(store).await.0 } else { held(store).await }
}

/// Reads everything, and after which revision its history begins.
async fn held_after(store: &DiskStore) -> (Held, u64) {
    let name = keyspace();
    let scan = Read::Scan { range: Range::prefix("q"), order: Order::Created, limit: 1000, keys_only: false };
    let get = |key: &'static str| Read::Get { key: key.into() };
    let reads = vec![scan, get("from"), get("to"), get("k")];
    let snapshot = store.read(&name, reads).await.unwrap();
    let applied: Vec<u64> = snapshot.reads[0]
        .entries()
        .iter()
        .map(|entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap())
        .collect();
    let value = |at: usize| snapshot.reads[at].entry().and_then(|entry| number(&entry.value)).unwrap_or(0);
    let count = i64::try_from(applied.len()).unwrap();
    assert_eq!((value(1), value(2)), (-count, count), "no transaction is there by half");
    let last = snapshot.reads[3].entry().map(|entry| entry.value.clone());
    let last = last.map(|value| String::from_utf8(value.to_vec()).unwrap().trim_end_matches('.').to_owned());
    assert_eq!(last, applied.last().map(u64::to_string));
    assert_eq!(snapshot.revision, Revision(applied.len() as u64));
    let mut floor = Revision(0);
    let mut watch = match store.watch(&name, WatchFrom::After(floor)).await {
        Ok(watch) => watch,
        Err(error) => {
            let ErrorKind::Compacted { oldest } = error.kind() else { panic!("{error}") };
            floor = oldest;
            store.watch(&name, WatchFrom::After(floor)).await.unwrap()
        }
    };
    let mut commits = Vec::new();
    while let Some(Some(Ok(WatchItem::Commit(commit)))) = watch.next().now_or_never() {
        commits.push(Commit::clone(&commit));
    }
    let revisions: Vec<u64> = commits.iter().map(|commit| commit.revision.0).collect();
    assert_eq!(revisions, (floor.0 + 1..=applied.len() as u64).collect::<Vec<_>>(), "the history is whole");
    (Held { applied, commits }, floor.0)
}

/// Checks that every answer is still true.
fn check(told: &Told, held: &Held, context: &str) {
    assert!(held.applied.is_sorted(), "{context}: {held:?}");
    for at in &told.done {
        assert!(held.applied.contains(at), "{context}: {at} was answered and is lost: {told:?} {held:?}");
    }
    for at in &told.refused {
        assert!(!held.applied.contains(at), "{context}: {at} was refused and is there: {told:?} {held:?}");
    }
    for at in &held.applied {
        assert!(told.done.contains(at) || told.unknown.contains(at), "{context}: {at} came from nowhere");
    }
    assert!(held.applied.len() >= told.shown, "{context}: what was shown is lost: {told:?} {held:?}");
}

/// A request that is repeated after all of this is applied once.
async fn repeat(store: &DiskStore, held: &Held) {
    for at in &held.applied {
        store.commit(&keyspace(), transaction(*at, 0)).await.unwrap();
    }
    // After a full disk the history may begin later; then it does so before and after this.
    let (again, _) = held_after(store).await;
    assert_eq!(again.applied, held.applied, "a named request was applied twice");
    assert_eq!(again.commits, held.commits);
}

/// Returns the number of operations of a run without faults.
async fn operations(settings: &Settings, filler: usize) -> u64 {
    let disk = Disk::default();
    let store = open(&disk, settings.clone()).unwrap();
    let told = run(&store, 1, filler).await;
    assert_eq!(told.done.len() as u64, RUN);
    store.close(Duration::from_secs(5)).await;
    disk.operations()
}

#[tokio::test]
async fn a_store_that_was_closed_is_read_as_it_was() {
    let disk = Disk::default();
    let mut told = Told::default();
    for round in 0..4 {
        let store = open(&disk, settings(1 << 20)).unwrap();
        let more = run(&store, 1 + round * RUN, 100).await;
        told.done.extend(more.done);
        let before = held(&store).await;
        store.close(Duration::from_secs(5)).await;
        let store = open(&disk, settings(1 << 20)).unwrap();
        let after = held(&store).await;
        check(&told, &after, "closed");
        assert_eq!(before.commits, after.commits);
        repeat(&store, &after).await;
        store.close(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_power_cut_at_every_operation_loses_nothing_that_was_answered() {
    for log_bytes_max in [1 << 20, 2000] {
        let settings = settings(log_bytes_max);
        for dead_at in 1..operations(&settings, 300).await + 10 {
            let mut dice = Dice::new(dead_at);
            let context = format!("log {log_bytes_max}, dead at {dead_at}");
            let disk = Disk::default();
            disk.set(Faults { dead_at: Some(dead_at), ..Faults::default() });
            let told = match open(&disk, settings.clone()) {
                Ok(store) => run(&store, 1, 300).await,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
                    Told::default()
                }
            };
            for left in [disk.after_power_cut(&mut dice), disk.after_kill()] {
                let store =
                    open(&left, settings.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
                let held = held(&store).await;
                check(&told, &held, &context);
                repeat(&store, &held).await;
                // And once more, with a cut in the middle of what comes after.
                let more = run(&store, 1000, 10).await;
                let again = open(&left.after_power_cut(&mut dice), settings.clone()).unwrap();
                let all = Told { done: [held.applied, more.done].concat(), ..Told::default() };
                check(&all, &self::held(&again).await, &context);
            }
        }
    }
}

#[tokio::test]
async fn an_operation_that_fails_makes_no_answer_untrue() {
    for (log_bytes_max, count, kind) in [
        (1 << 20, 1, io::ErrorKind::Other),
        (2000, 1, io::ErrorKind::Other),
        (2000, 3, io::ErrorKind::StorageFull),
        (2000, 40, io::ErrorKind::Other),
    ] {
        let settings = settings(log_bytes_max);
        for at in 1..operations(&settings, 300).await {
            let context = format!("log {log_bytes_max}, {count} times {kind:?} from {at}");
            let disk = Disk::default();
            disk.set(Faults { fail: Some((at, count, kind)), ..Faults::default() });
            let Ok(store) = open(&disk, settings.clone()) else { continue };
            let told = run(&store, 1, 300).await;
            if count == 1 {
                assert!(told.unknown.len() <= 1, "{context}: one failure is one batch: {told:?}");
            }
            let living = held_under(kind, &store).await;
            for left in [disk.after_power_cut(&mut Dice::new(at)), disk.after_kill()] {
                let store =
                    open(&left, settings.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
                let held = held_under(kind, &store).await;
                check(&told, &held, &context);
                repeat(&store, &held).await;
            }
            assert!(living.applied.len() >= told.done.len(), "{context}");
        }
    }
}

#[tokio::test]
async fn a_disk_that_works_again_is_written_again_without_a_restart() {
    let disk = Disk::default();
    let store = open(&disk, settings(1 << 20)).unwrap();
    let first = run(&store, 1, 10).await;
    disk.set(Faults { fail: Some((0, u64::MAX, io::ErrorKind::Other)), ..Faults::default() });
    let broken = run(&store, 100, 10).await;
    assert!(broken.done.is_empty());
    assert_eq!(broken.unknown.len(), 1, "only the first may be on the disk: {broken:?}");
    assert_eq!(held(&store).await.applied, first.done, "reads go on and show what is on the disk");
    assert_eq!(store.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
    disk.set(Faults::default());
    Env::real().sleep(Duration::from_millis(500)).await;
    store.check().await.unwrap();
    let last = run(&store, 200, 10).await;
    assert_eq!(last.done.len() as u64, RUN);
    let left = open(&disk.after_power_cut(&mut Dice::new(1)), settings(1 << 20)).unwrap();
    assert_eq!(held(&left).await.applied, [first.done, last.done].concat());
}

#[tokio::test]
async fn a_full_disk_refuses_what_grows_and_takes_it_again_when_there_is_room() {
    let disk = Disk::default();
    let store = open(&disk, settings(1 << 20)).unwrap();
    disk.set(Faults { capacity: Some(30_000), ..Faults::default() });
    let told = run(&store, 1, 1000).await;
    assert!(!told.done.is_empty() && !told.refused.is_empty() && told.unknown.is_empty(), "{told:?}");
    assert!(told.errors.iter().all(|error| error.kind() == ErrorKind::Full), "{told:?}");
    let kept = held(&store).await;
    check(&told, &kept, "full");
    assert_eq!(store.check().await.unwrap_err().kind(), ErrorKind::Full);
    let delete = Txn::new().write(Write::Delete { key: "unrelated".into() });
    store.commit(&keyspace(), delete).await.unwrap();
    let delete = Txn::new().write(Write::Delete { key: "k".into() });
    let deleted = store.commit(&keyspace(), delete).await.unwrap();
    assert!(deleted.writes[0].previous().is_some(), "deletes go on");
    disk.set(Faults::default());
    Env::real().sleep(Duration::from_millis(900)).await;
    store.check().await.unwrap();
    store.commit(&keyspace(), transaction(500, 1000)).await.unwrap();
    let left = open(&disk.after_power_cut(&mut Dice::new(2)), settings(1 << 20)).unwrap();
    assert_eq!(held_loosely(&left).await.last(), Some(&500));
}

/// Deletes the entries that the transactions of a run have left.
fn delete_all() -> Txn {
    let delete = |key: &'static str| Write::Delete { key: key.into() };
    let queue = Write::DeleteRange { range: Range::prefix("q") };
    Txn::new().write(queue).write(delete("k")).write(delete("from")).write(delete("to"))
}

async fn entries(store: &DiskStore) -> u64 {
    let count = Read::Count { range: Range::prefix("") };
    store.read(&keyspace(), vec![count]).await.unwrap().reads[0].count()
}

/// Waits until the store takes what grows.
async fn writable(store: &DiskStore, context: &str) {
    let env = Env::real();
    let open = async {
        while store.check().await.is_err() {
            env.sleep(Duration::from_millis(5)).await;
        }
    };
    env.timeout(Duration::from_mins(2), open)
        .await
        .unwrap_or_else(|_| panic!("{context}: the room of what was deleted is given back"));
}

#[tokio::test]
async fn a_disk_that_is_full_from_any_operation_on_loses_nothing_and_takes_deletions() {
    for log_bytes_max in [1 << 20, 2000] {
        let settings = settings(log_bytes_max);
        for at in 1..operations(&settings, 300).await + 10 {
            let context = format!("log {log_bytes_max}, full from {at}");
            let disk = Disk::default();
            disk.set(Faults { full_from: Some(at), ..Faults::default() });
            let store = open(&disk, settings.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
            let told = run(&store, 1, 300).await;
            assert!(told.unknown.is_empty(), "{context}: {told:?}");
            let refused = told.errors.iter().all(|error| error.kind() == ErrorKind::Full);
            assert!(refused, "{context}: {told:?}");
            // A snapshot on a full disk has no history.
            check(&told, &held_after(&store).await.0, &context);
            let mut dice = Dice::new(at);
            let cut = disk.after_power_cut(&mut dice);
            for (left, how) in [(cut, "cut"), (disk.after_kill(), "killed")] {
                let context = format!("{context}, {how}");
                left.set(Faults { full_from: Some(0), ..Faults::default() });
                let again =
                    open(&left, settings.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
                let (found, _) = held_after(&again).await;
                check(&told, &found, &context);
                if let Some(at) = found.applied.last() {
                    // A repeated request needs no room, a deletion little.
                    again.commit(&keyspace(), transaction(*at, 300)).await.unwrap();
                    // The start may have removed incomplete files of the crash, so there may be space again.
                    let more = again.commit(&keyspace(), transaction(500, 300)).await;
                    assert!(more.err().is_none_or(|error| error.kind() == ErrorKind::Full), "{context}");
                    again
                        .commit(&keyspace(), delete_all())
                        .await
                        .unwrap_or_else(|e| panic!("{context}: {e}"));
                }
                let kept = left.after_power_cut(&mut dice);
                kept.set(Faults { full_from: Some(0), ..Faults::default() });
                let last = open(&kept, settings.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(entries(&last).await, 0, "{context}");
                drop(last);
                // Space that was freed is used immediately by the next start.
                let free = open(&kept.after_kill(), settings.clone()).unwrap();
                free.commit(&keyspace(), transaction(900, 300)).await.unwrap();
                assert_eq!(entries(&free).await, 4, "{context}");
            }
            if told.done.is_empty() {
                continue;
            }
            store.commit(&keyspace(), delete_all()).await.unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(entries(&store).await, 0, "{context}");
        }
    }
}

#[tokio::test]
async fn deletions_make_room_on_a_full_disk_before_and_after_a_restart() {
    let case = async |capacity: u64, restart: bool| {
        let context = format!("capacity {capacity}, restart {restart}");
        let disk = Disk::default();
        let faults = Faults { capacity: Some(capacity), ..Faults::default() };
        disk.set(faults);
        let mut store = open(&disk, settings(1 << 20)).unwrap();
        let mut stored = 0;
        let put = |at: u64| Write::Put { key: format!("k{at}").into(), value: vec![b'.'; 3000].into() };
        loop {
            match store.commit(&keyspace(), Txn::new().write(put(stored))).await {
                Ok(_) => stored += 1,
                Err(error) => break assert_eq!(error.kind(), ErrorKind::Full, "{context}: {error}"),
            }
            assert!(stored < 1000, "{context}");
        }
        assert!(stored > 0, "{context}");
        if restart {
            drop(store);
            let left = disk.after_kill();
            left.set(faults);
            store = open(&left, settings(1 << 20)).unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        assert_eq!(entries(&store).await, stored, "{context}");
        for at in 0..stored {
            let delete = Txn::new().write(Write::Delete { key: format!("k{at}").into() });
            let deleted = store.commit(&keyspace(), delete).await;
            let deleted = deleted.unwrap_or_else(|error| panic!("{context}: {at} of {stored}: {error}"));
            assert_eq!(deleted.writes[0].previous().map(|entry| entry.value.len()), Some(3000), "{context}");
        }
        writable(&store, &context).await;
        for at in 0..stored / 2 {
            // The room comes back with each snapshot, so the disk may be full once more in between.
            while let Err(error) = store.commit(&keyspace(), Txn::new().write(put(at))).await {
                assert_eq!(error.kind(), ErrorKind::Full, "{context}: {error}");
                writable(&store, &context).await;
            }
        }
        store.close(Duration::from_secs(5)).await;
    };
    let cases = (26..60).flat_map(|capacity| [(capacity << 10, false), (capacity << 10, true)]);
    futures::future::join_all(cases.map(|(capacity, restart)| case(capacity, restart))).await;
}

#[tokio::test]
async fn a_watch_resumes_over_deletions_whose_values_are_not_in_the_log() {
    let disk = Disk::default();
    let store = open(&disk, settings(1 << 20)).unwrap();
    run(&store, 1, 1000).await;
    disk.set(Faults { full_from: Some(0), ..Faults::default() });
    store.journal().full.store(true, std::sync::atomic::Ordering::Release);
    let before = held(&store).await;
    let delete = Txn::new().write(Write::Delete { key: "k".into() });
    let deleted = store.commit(&keyspace(), delete).await.unwrap();
    let left = open(&disk.after_kill(), settings(1 << 20)).unwrap();
    let mut watch = left.watch(&keyspace(), WatchFrom::After(Revision(RUN))).await.unwrap();
    let Some(Some(Ok(WatchItem::Commit(commit)))) = watch.next().now_or_never() else { panic!("no commit") };
    assert_eq!(commit.revision, deleted.revision);
    assert_eq!(commit.changes[0].previous.as_ref(), deleted.writes[0].previous());
    assert_eq!(before.applied.len() as u64, RUN);
}

/// The transactions of a store from which something was deleted.
async fn held_loosely(store: &DiskStore) -> Vec<u64> {
    let scan = Read::Scan { range: Range::prefix("q"), order: Order::Created, limit: 1000, keys_only: false };
    let snapshot = store.read(&keyspace(), vec![scan]).await.unwrap();
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
    snapshot.reads[0].entries().iter().map(|entry| text(&entry.value).parse().unwrap()).collect()
}

#[tokio::test]
async fn lies_about_syncs_are_found_or_leave_a_beginning() {
    let (mut found, mut beginnings) = (0, 0);
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let disk = Disk::default();
        disk.set(Faults { lies_from: Some(dice.roll(40)), ..Faults::default() });
        let Ok(store) = open(&disk, settings(2000)) else { continue };
        let told = run(&store, 1, 300).await;
        match open(&disk.after_power_cut(&mut dice), settings(2000)) {
            Ok(left) => {
                let held = held(&left).await;
                assert_eq!(held.applied, told.done[..held.applied.len()], "seed {seed}");
                beginnings += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "seed {seed}: {error}");
                found += 1;
            }
        }
    }
    assert!(found > 0 && beginnings > 0, "found {found}, beginnings {beginnings}");
}

#[tokio::test]
async fn flipped_bits_and_cut_tails_are_found_and_nothing_wrong_is_served() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let disk = Disk::default();
        let store = open(&disk, settings(if seed % 2 == 0 { 1 << 20 } else { 2000 })).unwrap();
        let told = run(&store, 1, 100).await;
        if seed % 3 == 0 {
            store.close(Duration::from_secs(5)).await;
        }
        let left = disk.after_kill();
        let names = left.list().unwrap().into_iter();
        let names: Vec<String> = names.filter(|name| !name.ends_with(UNFINISHED)).collect();
        let name = &names[dice.index(names.len())];
        let cut = dice.roll(4) == 0;
        left.damage(name, |bytes| {
            let core = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let at = dice.index(core);
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << dice.roll(8);
            }
        });
        match open(&left, settings(1 << 20)) {
            Ok(left) => {
                let held = held(&left).await;
                // Padding of a frame is never read, nor the part of a log behind the beginning of the next
                // one.
                check(&told, &held, &format!("seed {seed} in {name}"));
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Config),
                "seed {seed}: {error}"
            ),
        }
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_found() {
    for log_bytes_max in [1 << 20, 2000] {
        let mut whole = Disk::default();
        for round in 0..3 {
            let store = open(&whole, settings(log_bytes_max)).unwrap();
            assert_eq!(run(&store, 1 + round * RUN, 300).await.done.len() as u64, RUN);
            store.close(Duration::from_secs(5)).await;
            // A snapshot may still be running, which on a real disk keeps the folder locked.
            whole = whole.after_kill();
        }
        let names = whole.list().unwrap().into_iter();
        let needed: Vec<String> = {
            let recovered = recover(&whole, Core::default()).unwrap();
            recovered.obsolete.iter().for_each(|name| whole.remove(name).unwrap());
            let logs = recovered.logs.iter().map(|log| log_name(*log));
            logs.chain(recovered.snapshot).collect()
        };
        for name in names.filter(|name| needed.contains(name)) {
            let left = whole.after_kill();
            left.remove(&name).unwrap();
            let error = open(&left, settings(1 << 20)).expect_err(&name);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_backup_taken_under_load_is_a_beginning_that_holds_what_was_answered_before() {
    let disk = Disk::default();
    let store = open(&disk, settings(3000)).unwrap();
    let before = run(&store, 1, 100).await;
    let load = async {
        let mut done = Vec::new();
        for round in 1..20 {
            done.extend(run(&store, round * 1000, 100).await.done);
        }
        done
    };
    let backup = async {
        let mut bytes = Vec::new();
        let mut pieces = store.backup().await.unwrap();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        bytes
    };
    let (during, bytes) = futures::join!(load, backup);
    let folder = tempfile::tempdir().unwrap();
    let (file, dir) = (folder.path().join("backup"), folder.path().join("store"));
    std::fs::write(&file, &bytes).unwrap();
    let report = crate::restore(&file, &dir).unwrap();
    assert_eq!(crate::verify(&file).unwrap(), report);
    assert_eq!(crate::verify(&dir).unwrap(), report);
    assert_eq!(crate::restore(&file, &dir).unwrap_err().kind(), ErrorKind::Config, "the folder is not empty");
    let folder = Arc::new(crate::files::Folder::open(&dir).unwrap());
    let restored = DiskStore::open(folder, settings(3000), Env::real()).unwrap();
    let held = held(&restored).await;
    let all = [before.done.clone(), during].concat();
    assert!(held.applied.len() >= before.done.len());
    assert_eq!(held.applied, all[..held.applied.len()]);
    // It is a store like any other.
    assert_eq!(run(&restored, 100_000, 10).await.done.len() as u64, RUN);
    for at in 0..bytes.len() / 97 {
        let mut bytes = bytes.clone();
        bytes[at * 97] ^= 4;
        std::fs::write(&file, &bytes).unwrap();
        if let Ok(found) = crate::verify(&file) {
            assert_eq!(found, report, "only what fills frames up may change");
        }
        if at > 300 {
            break;
        }
    }
}

#[tokio::test]
async fn with_an_interval_a_kill_takes_nothing_and_a_power_cut_only_the_end() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let interval = Settings {
            durability: Syncing::Interval,
            sync_interval: Duration::from_millis(if seed % 2 == 0 { 1 } else { 60_000 }),
            ..settings(if seed % 4 < 2 { 1 << 20 } else { 2000 })
        };
        let disk = Disk::default();
        let store = open(&disk, interval.clone()).unwrap();
        let fail = (seed % 5 == 0).then(|| (10 + dice.roll(40), 1, io::ErrorKind::Other));
        disk.set(Faults { fail, ..Faults::default() });
        let told = run(&store, 1, 300).await;
        let kill = disk.after_kill();
        let cut = disk.after_power_cut(&mut dice);
        let held_after = held(&open(&kill, interval.clone()).unwrap()).await;
        check(&told, &held_after, &format!("seed {seed}, killed"));
        let left = open(&cut, interval).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let held_after = held(&left).await;
        assert_eq!(held_after.applied, told.done[..held_after.applied.len()], "seed {seed}, power cut");
    }
}

#[tokio::test]
async fn a_watch_resumes_across_a_restart_or_ends_with_compacted() {
    let disk = Disk::default();
    let forgetful = Settings { history_commits_max: 10, ..settings(2000) };
    let store = open(&disk, forgetful.clone()).unwrap();
    let told = run(&store, 1, 10).await;
    drop(store);
    let last = told.done.len() as u64;
    let store = open(&disk.after_kill(), forgetful).unwrap();
    let mut resumed = store.watch(&keyspace(), WatchFrom::After(Revision(last - 10))).await.unwrap();
    for revision in last - 9..=last {
        let item = resumed.next().now_or_never().flatten().unwrap().unwrap();
        assert!(matches!(item, WatchItem::Commit(commit) if commit.revision == Revision(revision)));
    }
    let more = run(&store, 1000, 10).await;
    assert_eq!(more.done.len() as u64, RUN);
    let item = resumed.next().now_or_never().flatten().unwrap();
    assert!(item.is_ok() || item.is_err_and(|error| matches!(error.kind(), ErrorKind::Compacted { .. })));
    let error = store.watch(&keyspace(), WatchFrom::After(Revision(1))).await.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::Compacted { .. }), "{error}");
}

#[tokio::test]
async fn commits_are_forgotten_when_they_are_old() {
    let disk = Disk::default();
    let store = open(&disk, settings(1 << 20)).unwrap();
    run(&store, 1, 10).await;
    let space = store.journal().core.open(&keyspace());
    let tip = space.history.tip();
    for _ in 0..Space::TICKS {
        space.tick();
        assert_eq!(space.history.floor(), Revision(0));
    }
    run(&store, 1000, 10).await;
    space.tick();
    assert_eq!(space.history.floor(), tip);
    assert!(space.history.tip() > tip);
}

#[tokio::test]
async fn a_snapshot_across_a_disk_error_does_not_count() {
    for at in 0..40 {
        let disk = Disk::default();
        let store = open(&disk, settings(1 << 20)).unwrap();
        let mut told = run(&store, 1, 100).await;
        // The disk fails at some point of the snapshot, which rolls a commit back that the snapshot may have
        // seen.
        let journal = store.journal();
        let fail = Some((disk.operations() + at, 2, io::ErrorKind::Other));
        disk.set(Faults { fail, ..Faults::default() });
        #[allow(
            clippy::disallowed_methods,
            reason = "a snapshot blocks, and the failure must come during it"
        )]
        let copying = std::thread::spawn(move || crate::snapshot::snapshot(&journal));
        let more = run(&store, 1000, 100).await;
        told.done.extend(more.done);
        told.refused.extend(more.refused);
        told.unknown.extend(more.unknown);
        let copying = copying.join().expect("no panic");
        for left in [disk.after_kill(), disk.after_power_cut(&mut Dice::new(at))] {
            let left = open(&left, settings(1 << 20)).unwrap_or_else(|error| panic!("{at}: {error}"));
            check(&told, &held(&left).await, &format!("failure at {at}, {copying:?}"));
        }
    }
}

#[tokio::test]
async fn with_an_interval_a_kill_takes_nothing_also_while_a_new_log_is_begun() {
    let interval = Settings { durability: Syncing::Interval, ..settings(2000) };
    for at in 5..60 {
        for dead_at in at + 1..at + 8 {
            let disk = Disk::default();
            let store = open(&disk, interval.clone()).unwrap();
            let fail = Some((at, 1, io::ErrorKind::Other));
            disk.set(Faults { fail, dead_at: Some(dead_at), ..Faults::default() });
            let told = run(&store, 1, 300).await;
            let left = open(&disk.after_kill(), interval.clone()).unwrap();
            check(&told, &held(&left).await, &format!("failed at {at}, dead at {dead_at}"));
        }
    }
}

#[tokio::test]
async fn nothing_of_a_closed_store_lives_on() {
    for round in 0..20 {
        let disk = Disk::default();
        let store = open(&disk, settings(1 << 20)).unwrap();
        run(&store, 1, 10).await;
        store.journal().want_snapshot();
        let journal = Arc::downgrade(&store.journal());
        if round % 2 == 0 {
            store.close(Duration::from_secs(5)).await;
        }
        drop(store);
        let env = Env::real();
        let gone = async {
            while journal.upgrade().is_some() {
                env.sleep(Duration::from_millis(1)).await;
            }
        };
        env.timeout(Duration::from_secs(10), gone)
            .await
            .expect("the threads end, and the folder is free again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_disk_that_keeps_up_is_not_said_to_lag() {
    let (disk, env) = (Disk::default(), Env::real());
    let interval = Settings { durability: Syncing::Interval, ..settings(1 << 20) };
    let store = Arc::new(open(&disk, interval).unwrap());
    let (sender, mut lags) = tokio::sync::mpsc::channel(8);
    for caller in 0..8 {
        let (store, sender) = (Arc::clone(&store), sender.clone());
        env.spawn(async move {
            let (name, mut refused) = (Keyspace::new(format!("map/{caller}")), None);
            for at in 0..3000u64 {
                let write = Write::Put { key: format!("k{caller}").into(), value: at.to_string().into() };
                refused = store.commit(&name, Txn::new().write(write)).await.err().or(refused);
            }
            sender.send(refused).await.unwrap();
        });
    }
    for _ in 0..8 {
        assert_eq!(lags.recv().await.unwrap().map(|error| error.to_string()), None);
    }
}

#[tokio::test]
async fn a_keyspace_that_was_given_back_goes_on_beyond_its_revisions_after_a_restart() {
    let stamp = || Txn::new().write(Write::Stamp { prefix: "l".into(), value: "owner".into() });
    let clear = || Txn::new().write(Write::DeleteRange { range: Range::prefix("l") });
    let kept = Keyspace::new("map/kept");
    for snapshots in 0..3 {
        let disk = Disk::default();
        let mut last = Revision(0);
        for _ in 0..3 {
            let store = open(&disk, settings(1 << 20)).unwrap();
            for _ in 0..5 {
                let token = store.commit(&keyspace(), stamp()).await.unwrap().revision;
                assert!(token > last, "{snapshots} snapshots");
                last = store.commit(&keyspace(), clear()).await.unwrap().revision;
            }
            store.commit(&kept, stamp()).await.unwrap();
            store.reclaim(&keyspace()).await.unwrap();
            let journal = store.journal();
            assert!(journal.core.spaces.find(&keyspace()).is_none());
            for _ in 0..snapshots {
                let journal = Arc::clone(&journal);
                #[allow(clippy::disallowed_methods, reason = "a snapshot blocks")]
                let copying = std::thread::spawn(move || crate::snapshot::snapshot(&journal));
                copying.join().unwrap().unwrap();
            }
            store.close(Duration::ZERO).await;
        }
        let store = open(&disk, settings(1 << 20)).unwrap();
        assert_eq!(store.journal().core.spaces.len(), 1, "what holds nothing is not kept");
        assert!(store.commit(&keyspace(), stamp()).await.unwrap().revision > last);
    }
}

#[tokio::test]
async fn a_small_store_holds_any_number_of_names_one_after_the_other() {
    let disk = Disk::default();
    let store = open(&disk, Settings { bytes_max: 64 << 10, ..settings(1 << 20) }).unwrap();
    for at in 0..500 {
        let name = Keyspace::new(format!("lock/{at}"));
        let put = Write::Put { key: "k".into(), value: "v".into() };
        store.commit(&name, Txn::new().write(put)).await.unwrap();
        store.commit(&name, Txn::new().write(Write::Delete { key: "k".into() })).await.unwrap();
    }
    assert!(store.journal().core.budget.bytes() <= 64 << 10);
}
