// SPDX-License-Identifier: Apache-2.0

use atomix_env::Env;
use bytes::Bytes;

use atomix_primitives::list::{Event, Item, ItemChange};
use atomix_primitives::{Kind, List, Reason};
use futures::future::join_all;

use crate::ground::{Faulty, Ground, all, caller, next, reason, silent, take};
use crate::stores::store;

fn open(ground: &Ground) -> List {
    List::open(ground.backing(Kind::List), false)
}

fn item(index: u32, value: &str) -> Item {
    Item { index, value: value.to_owned().into() }
}

/// Applies an event to a vector.
fn apply(model: &mut Vec<Bytes>, event: Event) {
    let index = event.index as usize;
    match event.change {
        ItemChange::Appended { value } => {
            assert_eq!(index, model.len());
            model.push(value);
        }
        ItemChange::Inserted { value } => model.insert(index, value),
        ItemChange::Updated { value, previous } => {
            assert_eq!(std::mem::replace(&mut model[index], value), previous);
        }
        ItemChange::Removed { value } => assert_eq!(model.remove(index), value),
    }
}

async fn items(list: &List) -> Vec<Bytes> {
    let items = all(list.items(&caller(1), false).await.unwrap()).await;
    for (at, item) in items.iter().enumerate() {
        assert_eq!(item.index as usize, at);
    }
    items.into_iter().map(|item| item.value).collect()
}

#[tokio::test]
async fn an_empty_list_has_no_items_and_says_which_index_is_wrong() {
    let list = open(&Ground::real());
    assert_eq!(list.size().await, Ok(0));
    for refused in [list.get(0).await, list.set(0, "x".into()).await, list.insert(1, "x".into()).await] {
        assert_eq!(reason(refused), Reason::Invalid);
    }
    assert_eq!(reason(list.remove(u32::MAX).await), Reason::Invalid);
    list.clear().await.unwrap();
}

#[tokio::test]
async fn the_sequence_of_the_contract_holds() {
    let ground = Ground::real();
    let list = open(&ground);
    list.append("foo".into()).await.unwrap();
    list.append("bar".into()).await.unwrap();
    assert_eq!(list.insert(1, "baz".into()).await, Ok(item(1, "baz")));
    assert_eq!(items(&list).await, ["foo", "baz", "bar"]);
    let mut events = list.events(&caller(1), false).await.unwrap();
    list.append("w".into()).await.unwrap();
    list.insert(2, "x".into()).await.unwrap();
    assert_eq!(list.remove(1).await, Ok(item(1, "baz")));
    assert_eq!(list.set(1, "y".into()).await, Ok(item(1, "y")));
    let expected = [
        Event { index: 3, change: ItemChange::Appended { value: "w".into() } },
        Event { index: 2, change: ItemChange::Inserted { value: "x".into() } },
        Event { index: 1, change: ItemChange::Removed { value: "baz".into() } },
        Event { index: 1, change: ItemChange::Updated { value: "y".into(), previous: "x".into() } },
    ];
    assert_eq!(take(&mut events, 4).await, expected);
    assert_eq!(open(&ground).size().await, Ok(4), "another runtime sees the same list");
}

#[tokio::test]
async fn a_clear_is_shown_from_the_last_item_to_the_first() {
    let list = open(&Ground::real());
    for value in ["a", "b", "c"] {
        list.append(value.into()).await.unwrap();
    }
    let mut events = list.events(&caller(1), false).await.unwrap();
    list.clear().await.unwrap();
    let removed =
        |index, value: &'static str| Event { index, change: ItemChange::Removed { value: value.into() } };
    assert_eq!(take(&mut events, 3).await, [removed(2, "c"), removed(1, "b"), removed(0, "a")]);
    list.append("d".into()).await.unwrap();
    assert_eq!(
        next(&mut events).await,
        Event { index: 0, change: ItemChange::Appended { value: "d".into() } }
    );
    silent(&mut events).await;
}

#[tokio::test]
async fn appended_items_come_as_inserted_ones_where_the_route_says_so() {
    let list = List::open(Ground::real().backing(Kind::List), true);
    list.append("a".into()).await.unwrap();
    let mut events = list.events(&caller(1), true).await.unwrap();
    list.append("b".into()).await.unwrap();
    let inserted =
        |index, value: &'static str| Event { index, change: ItemChange::Inserted { value: value.into() } };
    assert_eq!(take(&mut events, 2).await, [inserted(0, "a"), inserted(1, "b")]);
}

#[tokio::test]
async fn a_watched_listing_goes_on_with_changes() {
    let list = open(&Ground::real());
    list.append("a".into()).await.unwrap();
    let mut shown = list.items(&caller(1), true).await.unwrap();
    assert_eq!(next(&mut shown).await, item(0, "a"));
    list.append("b".into()).await.unwrap();
    list.remove(0).await.unwrap();
    assert_eq!(take(&mut shown, 2).await, [item(1, "b"), item(0, "a")]);
    silent(&mut shown).await;
}

#[tokio::test]
async fn random_calls_do_what_a_vector_does_and_events_replay_it() {
    let list = open(&Ground::real());
    let (mut model, mut replayed) = (Vec::<Bytes>::new(), Vec::new());
    let mut events = list.events(&caller(1), false).await.unwrap();
    let mut dice = 1u64;
    let mut roll = |sides: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(dice >> 33).unwrap() % sides
    };
    for round in 0..3000 {
        // Now and then an item that fills a chunk of its own.
        let size = if roll(40) == 0 { 70_000 } else { roll(20) };
        let value = Bytes::from(format!("{round}{}", " ".repeat(size)));
        let index = roll(model.len() + 1);
        let at = u32::try_from(index).unwrap();
        let mut expected = 1;
        match roll(10) {
            0..=3 => {
                list.append(value.clone()).await.unwrap();
                model.push(value);
            }
            4..=6 => {
                list.insert(at, value.clone()).await.unwrap();
                model.insert(index, value);
            }
            7 if index < model.len() => {
                list.set(at, value.clone()).await.unwrap();
                model[index] = value;
            }
            8 if index < model.len() => {
                assert_eq!(list.remove(at).await.unwrap().value, model.remove(index));
            }
            9 if roll(200) == 0 => {
                list.clear().await.unwrap();
                expected = model.len();
                model.clear();
            }
            _ => expected = 0,
        }
        for event in take(&mut events, expected).await {
            apply(&mut replayed, event);
        }
        if round % 100 == 0 {
            assert_eq!(items(&list).await, model);
        }
        if !model.is_empty() {
            let index = roll(model.len());
            assert_eq!(list.get(u32::try_from(index).unwrap()).await.unwrap().value, model[index]);
        }
        assert_eq!(list.size().await.unwrap() as usize, model.len());
    }
    assert_eq!(replayed, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_writers_of_two_runtimes_lose_nothing() {
    let ground = Ground::real();
    let (one, other) = (open(&ground), open(&ground));
    let mut events = one.events(&caller(1), false).await.unwrap();
    let write = |list, name: char| async move {
        let list: &List = list;
        for round in 0..100 {
            list.insert(0, format!("{name}{round}").into()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    join_all([write(&one, 'a'), write(&other, 'b')]).await;
    let mut replayed = Vec::new();
    for event in take(&mut events, 200).await {
        apply(&mut replayed, event);
    }
    assert_eq!(items(&other).await, replayed);
    assert_eq!(replayed.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_its_changes_have_neither_gap_nor_repetition() {
    let ground = Ground::real();
    let list = open(&ground);
    for round in 0..20 {
        let writer = async {
            for at in 0..20 {
                list.append(format!("{round}.{at}").into()).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let reader = async {
            let before = list.size().await.unwrap();
            let mut events = list.events(&caller(1), true).await.unwrap();
            let mut replayed = Vec::new();
            while replayed.len() < (round + 1) * 20 {
                apply(&mut replayed, next(&mut events).await);
            }
            assert!(replayed.len() >= before as usize);
            replayed
        };
        let ((), replayed) = futures::future::join(writer, reader).await;
        assert_eq!(items(&list).await, replayed);
    }
}

#[tokio::test]
async fn a_list_of_more_chunks_than_the_store_answers_at_once_is_listed_and_replayed() {
    let ground = Ground::on(Faulty::narrow(store(), 4), Env::real());
    let list = List::open(ground.backing(Kind::List), false);
    // Each item is a chunk of its own.
    for number in 0..11u8 {
        list.append(vec![number; 40_000].into()).await.unwrap();
    }
    let items = all(list.items(&caller(1), false).await.unwrap()).await;
    assert_eq!(items.iter().map(|item| item.value[0]).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
    let mut events = list.events(&caller(1), true).await.unwrap();
    assert_eq!(take(&mut events, 11).await.len(), 11);
    list.append("last".into()).await.unwrap();
    assert_eq!(take(&mut events, 1).await[0].index, 11);
}
