// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;
use std::time::Duration;

use atomix_primitives::indexedmap::{Address, Entry, EntryChange, Event};
use atomix_primitives::{IndexedMap, Kind, Reason};
use futures::future::join_all;

use crate::ground::{Ground, all, caller, eventually, next, reason, silent, take};

async fn open(ground: &Ground) -> IndexedMap {
    IndexedMap::open(ground.backing(Kind::IndexedMap)).await.unwrap()
}

fn by_key(key: &str) -> Address<'_> {
    Address { key, index: 0 }
}

fn by_index(index: u64) -> Address<'static> {
    Address { key: "", index }
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.index).collect()
}

#[tokio::test]
async fn the_sequence_of_the_contract_holds() {
    let map = open(&Ground::real()).await;
    assert_eq!(reason(map.get(by_key("foo")).await), Reason::KeyNotFound);
    assert_eq!(reason(map.get(by_index(0)).await), Reason::KeyNotFound);
    let foo = map.append("foo", "bar".into(), None).await.unwrap();
    assert_eq!((foo.index, foo.value.value.as_ref()), (1, &b"bar"[..]));
    assert_ne!(foo.value.version, 0);
    assert_eq!(map.get(by_key("foo")).await.as_ref(), Ok(&foo));
    assert_eq!(map.get(by_index(1)).await.as_ref(), Ok(&foo));
    assert_eq!(map.size().await, Ok(1));
    assert_eq!(map.remove(by_key("foo"), 0).await, Ok(foo));
    let foo = map.append("foo", "bar".into(), None).await.unwrap();
    assert_eq!(foo.index, 2);
    let baz = map.update(by_key("foo"), "baz".into(), None, foo.value.version).await.unwrap();
    assert!(baz.value.version > foo.value.version);
    let outdated = map.update(by_key("foo"), "x".into(), None, foo.value.version).await;
    assert_eq!(reason(outdated), Reason::VersionMismatch);
    assert_eq!(reason(map.remove(by_key("foo"), foo.value.version).await), Reason::VersionMismatch);
    assert_eq!(map.remove(by_key("foo"), baz.value.version).await, Ok(baz));
    map.append("foo", "1".into(), None).await.unwrap();
    map.append("bar", "baz".into(), None).await.unwrap();
    assert_eq!(map.update(by_key("foo"), "2".into(), None, 0).await.unwrap().index, 3);
    let index = |entry: Result<Entry, _>| entry.unwrap().index;
    assert_eq!((index(map.first().await), index(map.last().await)), (3, 4));
    assert_eq!((index(map.prev(4).await), index(map.next(2).await), index(map.next(3).await)), (3, 3, 4));
    assert_eq!(
        (reason(map.prev(3).await), reason(map.next(4).await)),
        (Reason::KeyNotFound, Reason::KeyNotFound)
    );
    assert_eq!(index(map.next(0).await), 3);
    assert_eq!(index(map.prev(u64::MAX).await), 4);
    assert_eq!(indexes(&all(map.entries(&caller(1), false).await.unwrap()).await), [3, 4]);
    assert_eq!(map.remove(by_index(4), 0).await.unwrap().key, "bar");
    map.clear().await.unwrap();
    assert_eq!(map.size().await, Ok(0));
    assert_eq!(map.append("foo", "x".into(), None).await.unwrap().index, 5, "an index is never given again");
}

#[tokio::test]
async fn a_key_is_appended_once() {
    let map = open(&Ground::real()).await;
    map.append("k", "1".into(), None).await.unwrap();
    assert_eq!(reason(map.append("k", "2".into(), None).await), Reason::KeyExists);
    assert_eq!(map.append("l", "2".into(), None).await.unwrap().index, 2, "a refused append takes no index");
}

#[tokio::test]
async fn key_and_index_must_name_the_same_entry() {
    let map = open(&Ground::real()).await;
    map.append("a", "1".into(), None).await.unwrap();
    let both = |key, index| Address { key, index };
    assert_eq!(reason(map.update(both("b", 1), "x".into(), None, 0).await), Reason::Invalid);
    assert_eq!(reason(map.remove(both("b", 1), 0).await), Reason::Invalid);
    assert_eq!(reason(map.update(both("", 0), "x".into(), None, 0).await), Reason::Invalid);
    assert_eq!(reason(map.remove(both("", 0), 0).await), Reason::KeyNotFound);
    map.update(both("a", 1), "x".into(), None, 0).await.unwrap();
    assert_eq!(map.get(both("ignored", 1)).await.unwrap().key, "a");
    map.remove(both("a", 1), 0).await.unwrap();
}

#[tokio::test]
async fn the_same_bytes_keep_the_version_and_make_no_event() {
    let map = open(&Ground::real()).await;
    let entry = map.append("k", "1".into(), None).await.unwrap();
    let mut events = map.events(&caller(1), None).await.unwrap();
    assert_eq!(map.update(by_key("k"), "1".into(), None, 0).await, Ok(entry));
    silent(&mut events).await;
}

#[tokio::test]
async fn events_tell_position_value_and_previous_value() {
    let map = open(&Ground::real()).await;
    let mut events = map.events(&caller(1), Some("k".to_owned())).await.unwrap();
    map.append("other", "x".into(), None).await.unwrap();
    let one = map.append("k", "1".into(), None).await.unwrap().value;
    let two = map.update(by_index(2), "2".into(), None, 0).await.unwrap().value;
    map.remove(by_index(2), 0).await.unwrap();
    let event = |change| Event { key: "k".to_owned(), index: 2, change };
    let expected = [
        event(EntryChange::Inserted { value: one.clone() }),
        event(EntryChange::Updated { value: two.clone(), previous: one }),
        event(EntryChange::Removed { value: two, expired: false }),
    ];
    assert_eq!(take(&mut events, 3).await, expected);
    silent(&mut events).await;
}

#[tokio::test]
async fn a_watched_listing_stays_open_and_shows_removed_entries_as_they_were() {
    let map = open(&Ground::real()).await;
    let one = map.append("a", "1".into(), None).await.unwrap();
    let mut shown = map.entries(&caller(1), true).await.unwrap();
    assert_eq!(next(&mut shown).await, one);
    let two = map.append("b", "2".into(), None).await.unwrap();
    map.remove(by_key("a"), 0).await.unwrap();
    assert_eq!(take(&mut shown, 2).await, [two, one]);
    silent(&mut shown).await;
}

#[tokio::test]
async fn an_entry_expires_in_time_and_its_key_is_free() {
    let map = open(&Ground::real()).await;
    let mut events = map.events(&caller(1), None).await.unwrap();
    let entry = map.append("k", "1".into(), Some(Duration::from_millis(50))).await.unwrap();
    next(&mut events).await;
    let change = EntryChange::Removed { value: entry.value, expired: true };
    assert_eq!(next(&mut events).await, Event { key: "k".to_owned(), index: 1, change });
    eventually(async || map.size().await == Ok(0)).await;
    assert_eq!(map.append("k", "2".into(), None).await.unwrap().index, 2);
}

#[tokio::test]
async fn a_removed_entry_takes_its_time_to_live_with_it() {
    let map = open(&Ground::real()).await;
    map.append("k", "1".into(), Some(Duration::from_millis(40))).await.unwrap();
    map.remove(by_index(1), 0).await.unwrap();
    map.append("k", "2".into(), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(map.get(by_key("k")).await.unwrap().index, 2);
}

#[tokio::test]
async fn an_update_without_a_time_to_live_takes_it_away() {
    let map = open(&Ground::real()).await;
    map.append("k", "1".into(), Some(Duration::from_millis(40))).await.unwrap();
    map.update(by_key("k"), "1".into(), None, 0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(map.size().await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_appends_of_two_runtimes_give_every_index_once() {
    let ground = Ground::real();
    let (one, other) = (open(&ground).await, open(&ground).await);
    let write = |map, name: char| async move {
        let map: &IndexedMap = map;
        let mut given = Vec::new();
        for round in 0..150 {
            given.push(map.append(&format!("{name}{round}"), "x".into(), None).await.unwrap().index);
            tokio::task::yield_now().await;
        }
        given
    };
    let mut given = join_all([write(&one, 'a'), write(&other, 'b')]).await.concat();
    given.sort_unstable();
    assert_eq!(given, (1..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn random_calls_do_what_an_ordered_map_does() {
    let map = open(&Ground::real()).await;
    let mut model = BTreeMap::<u64, (String, String)>::new();
    let (mut last, mut dice) = (0, 1u64);
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    for round in 0..2000 {
        let key = format!("k{}", roll(12));
        let here = model.iter().find(|(_, (known, _))| *known == key).map(|(index, _)| *index);
        match roll(4) {
            0 | 1 => match map.append(&key, round.to_string().into(), None).await {
                Ok(entry) => {
                    last += 1;
                    assert_eq!((entry.index, here), (last, None));
                    model.insert(last, (key, round.to_string()));
                }
                Err(error) => assert_eq!((error.reason(), here.is_some()), (Reason::KeyExists, true)),
            },
            2 => match (map.update(by_key(&key), round.to_string().into(), None, 0).await, here) {
                (Ok(entry), Some(index)) => {
                    assert_eq!(entry.index, index);
                    model.insert(index, (key, round.to_string()));
                }
                (outcome, _) => assert_eq!((reason(outcome), here), (Reason::KeyNotFound, None)),
            },
            _ => match (map.remove(by_key(&key), 0).await, here) {
                (Ok(entry), Some(index)) => {
                    assert_eq!((entry.index, model.remove(&index).is_some()), (index, true));
                }
                (outcome, _) => assert_eq!((reason(outcome), here), (Reason::KeyNotFound, None)),
            },
        }
        let probe = roll(last + 2);
        let index = |entry: Result<Entry, _>| entry.ok().map(|entry| entry.index);
        assert_eq!(index(map.next(probe).await), model.range(probe + 1..).next().map(|(index, _)| *index));
        assert_eq!(index(map.prev(probe).await), model.range(..probe).next_back().map(|(index, _)| *index));
    }
    let listed = all(map.entries(&caller(1), false).await.unwrap()).await;
    let listed: BTreeMap<u64, (String, String)> = listed
        .into_iter()
        .map(|entry| (entry.index, (entry.key, String::from_utf8(entry.value.value.to_vec()).unwrap())))
        .collect();
    assert_eq!(listed, model);
}
