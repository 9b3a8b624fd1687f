// SPDX-License-Identifier: Apache-2.0

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use atomix_env::Env;
use atomix_primitives::multimap::{Event, PairChange};
use atomix_primitives::{Kind, Limits, MultiMap, Reason};
use futures::future::join_all;

use crate::ground::{Faulty, Ground, all, caller, next, reason, settle, silent, soon, take};
use crate::stores::{needs, store};

fn open(ground: &Ground) -> MultiMap {
    MultiMap::open(ground.backing(Kind::MultiMap))
}

fn texts(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

fn added(key: &str, value: &str) -> Event {
    Event { key: key.to_owned(), change: PairChange::Added { value: value.to_owned() } }
}

fn removed(key: &str, value: &str) -> Event {
    Event { key: key.to_owned(), change: PairChange::Removed { value: value.to_owned() } }
}

#[tokio::test]
async fn a_pair_is_put_once() {
    let map = open(&Ground::real());
    map.put("k", "a".to_owned()).await.unwrap();
    assert_eq!(reason(map.put("k", "a".to_owned()).await), Reason::KeyExists);
    assert_eq!(map.get("k").await, Ok(texts("a")));
    assert_eq!((map.contains("k", "a").await, map.contains("k", "").await), (Ok(true), Ok(false)));
}

#[tokio::test]
async fn a_step_of_several_keys_is_based_on_one_state_of_all_of_them() {
    let inner = store();
    let faulty = Faulty::new(Arc::clone(&inner));
    let (map, other) =
        (open(&Ground::on(Arc::clone(&faulty) as _, Env::real())), open(&Ground::on(inner, Env::real())));
    other.put("a", "1".to_owned()).await.unwrap();
    let pairs = vec![("a".to_owned(), texts("1")), ("b".to_owned(), texts("2"))];
    faulty.delay();
    let call = tokio::spawn(async move { map.put_entries(pairs).await });
    settle().await;
    // The call has seen this pair, and adds the other one only.
    other.remove("a", "1").await.unwrap();
    faulty.answer();
    assert_eq!(soon(call).await.unwrap(), Ok(true));
    assert_eq!((other.get("a").await, other.get("b").await), (Ok(texts("1")), Ok(texts("2"))));
}

#[tokio::test]
async fn an_absent_key_reads_as_no_values() {
    let map = open(&Ground::real());
    assert_eq!(map.get("k").await, Ok(Vec::new()));
    assert_eq!(map.contains("k", "a").await, Ok(false));
}

#[tokio::test]
async fn the_size_is_the_number_of_keys() {
    let map = open(&Ground::real());
    assert_eq!(map.put_all("k", texts("a b c")).await, Ok(true));
    assert_eq!(map.put_all("k", texts("a b")).await, Ok(false));
    map.put("l", "a".to_owned()).await.unwrap();
    assert_eq!(map.size().await, Ok(2));
    map.clear().await.unwrap();
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn a_call_takes_as_many_values_as_the_limit_says() {
    let ground = Ground::real().limited(Limits { batch_max: 3, ..Limits::default() });
    let map = open(&ground);
    assert_eq!(map.put_all("k", texts("a b c")).await, Ok(true));
    assert_eq!(map.replace("k", texts("c d e")).await, Ok(texts("a b c")));
    assert_eq!(map.remove_all("k", &texts("c d e")).await, Ok(true));
    let entries = |words: &[&str]| words.iter().map(|values| ("k".to_owned(), texts(values))).collect();
    assert_eq!(map.put_entries(entries(&["a b", "c"])).await, Ok(true));
    assert_eq!(reason(map.put_all("k", texts("a b c d")).await), Reason::Invalid);
    assert_eq!(reason(map.put_entries(entries(&["a b", "c d"])).await), Reason::Invalid);
    // Keys without values are bounded as well.
    assert_eq!(reason(map.put_entries(entries(&["", "", "", ""])).await), Reason::Invalid);
}

#[tokio::test]
async fn a_key_without_values_does_not_exist() {
    let map = open(&Ground::real());
    assert_eq!(map.put_all("k", Vec::new()).await, Ok(false));
    assert_eq!(map.replace("k", Vec::new()).await, Ok(Vec::new()));
    assert_eq!(map.size().await, Ok(0));
    map.put("k", "a".to_owned()).await.unwrap();
    assert_eq!(map.replace("k", Vec::new()).await, Ok(texts("a")));
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn a_removal_returns_what_it_removed_and_an_empty_value_stands_for_all() {
    let map = open(&Ground::real());
    assert_eq!(reason(map.remove("k", "a").await), Reason::KeyNotFound);
    map.put_all("k", texts("a b c")).await.unwrap();
    assert_eq!(map.remove("k", "b").await, Ok(texts("b")));
    assert_eq!(reason(map.remove("k", "b").await), Reason::KeyNotFound);
    assert_eq!(map.remove("k", "").await, Ok(texts("a c")));
    assert_eq!(reason(map.remove("k", "").await), Reason::KeyNotFound);
    map.put_all("k", vec![String::new(), "a".to_owned()]).await.unwrap();
    assert_eq!(
        map.remove("k", "").await,
        Ok(vec![String::new()]),
        "an empty value that is there is that value"
    );
    assert_eq!(map.get("k").await, Ok(texts("a")));
}

#[tokio::test]
async fn removing_many_values_tells_whether_there_were_any() {
    let map = open(&Ground::real());
    assert_eq!(reason(map.remove_all("k", &texts("a")).await), Reason::KeyNotFound);
    map.put_all("k", texts("a b")).await.unwrap();
    assert_eq!(map.remove_all("k", &texts("x")).await, Ok(false));
    assert_eq!(map.remove_all("k", &texts("a x")).await, Ok(true));
    let entries = |words: &str| vec![("k".to_owned(), texts(words)), ("none".to_owned(), texts("a"))];
    assert_eq!(map.remove_entries(entries("b")).await, Ok(true));
    assert_eq!(map.remove_entries(entries("b")).await, Ok(false));
    assert_eq!(map.size().await, Ok(0));
}

#[tokio::test]
async fn several_keys_change_in_one_step() {
    let map = open(&Ground::real());
    let mut events = map.events(&caller(1), None).await.unwrap();
    let entries =
        vec![("b".to_owned(), texts("1")), ("a".to_owned(), texts("1")), ("b".to_owned(), texts("2"))];
    assert_eq!(map.put_entries(entries).await, Ok(true));
    assert_eq!(take(&mut events, 3).await, [added("a", "1"), added("b", "1"), added("b", "2")]);
    silent(&mut events).await;
}

#[tokio::test]
async fn a_replacement_shows_what_was_added_and_then_what_was_removed() {
    let map = open(&Ground::real());
    map.put_all("k", texts("a b")).await.unwrap();
    let mut events = map.events(&caller(1), Some("k".to_owned())).await.unwrap();
    map.put("other", "x".to_owned()).await.unwrap();
    assert_eq!(map.replace("k", texts("b c")).await, Ok(texts("a b")));
    assert_eq!(take(&mut events, 2).await, [added("k", "c"), removed("k", "a")]);
    map.clear().await.unwrap();
    assert_eq!(take(&mut events, 2).await, [removed("k", "b"), removed("k", "c")]);
    silent(&mut events).await;
}

#[tokio::test]
async fn a_watched_listing_shows_the_whole_set_after_each_change() {
    let map = open(&Ground::real());
    map.put_all("k", texts("a b")).await.unwrap();
    assert_eq!(all(map.entries(&caller(1), false).await.unwrap()).await, [("k".to_owned(), texts("a b"))]);
    let mut shown = map.entries(&caller(1), true).await.unwrap();
    assert_eq!(next(&mut shown).await, ("k".to_owned(), texts("a b")));
    map.remove_all("k", &texts("a")).await.unwrap();
    map.remove("k", "b").await.unwrap();
    assert_eq!(take(&mut shown, 2).await, [("k".to_owned(), texts("b")), ("k".to_owned(), Vec::new())]);
}

#[tokio::test]
async fn too_many_values_under_one_key_are_refused() {
    needs!(LargeValues);
    let map = open(&Ground::real());
    let value = |at: usize| at.to_string().repeat(1_000_000);
    for at in 0..8 {
        map.put("k", value(at)).await.unwrap();
    }
    assert_eq!(reason(map.put("k", value(8)).await), Reason::Invalid);
    assert_eq!(map.get("k").await.unwrap().len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_writers_of_two_runtimes_lose_nothing() {
    let ground = Ground::real();
    let (one, other) = (open(&ground), open(&ground));
    let mut events = one.events(&caller(1), None).await.unwrap();
    let write = |map, name: char| async move {
        let map: &MultiMap = map;
        for round in 0..200 {
            map.put(&format!("k{}", round % 3), format!("{name}{round}")).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    join_all([write(&one, 'a'), write(&other, 'b')]).await;
    let mut mirror = BTreeMap::<String, BTreeSet<String>>::new();
    for event in take(&mut events, 400).await {
        let PairChange::Added { value } = event.change else { panic!("nothing was removed") };
        assert!(mirror.entry(event.key).or_default().insert(value), "every pair is shown once");
    }
    for (key, values) in mirror {
        assert_eq!(other.get(&key).await.unwrap(), values.into_iter().collect::<Vec<_>>());
    }
}
