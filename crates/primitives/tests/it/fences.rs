// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::time::Duration;

use atomix_conformance::planted::{Bug, Planted};
use atomix_env::{Clock, Env, WallTime};
use atomix_primitives::indexedmap::Address;
use atomix_primitives::{
    Counter, CounterMap, Election, Error, Fence, IndexedMap, Kind, List, Lock, Map, MultiMap, Reason, Set,
    Topic, Value, fenced,
};
use atomix_store::{Range, Read, Store};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};

use crate::ground::{Ground, all, caller, reason};
use crate::stores::store;

/// Presents a token of the lock `guard` while `call` runs.
async fn holding<T>(token: u64, call: impl Future<Output = T>) -> T {
    let fence = Fence::new(Kind::Lock, "guard".to_owned(), token).unwrap();
    fenced([fence].into(), call).await
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn a_smaller_token_changes_nothing_and_the_same_and_greater_ones_do() {
    let map = Map::open(Ground::real().backing(Kind::Map)).await.unwrap();
    let put = async |token, value: &str| holding(token, map.put("k", bytes(value), None, 0)).await;
    put(5, "five").await.unwrap();
    put(5, "five again").await.unwrap();
    assert_eq!(reason(put(4, "four").await), Reason::Fenced);
    assert_eq!(map.get("k").await.unwrap().value, "five again");
    put(7, "seven").await.unwrap();
    assert_eq!(reason(put(5, "five").await), Reason::Fenced);
    // A call without a token is not concerned.
    map.put("k", bytes("none"), None, 0).await.unwrap();
    assert_eq!(map.get("k").await.unwrap().value, "none");
    assert_eq!(map.size().await, Ok(1));
    assert_eq!(all(map.entries(&caller(1), false).await.unwrap()).await.len(), 1);
}

#[tokio::test]
async fn a_refusal_of_the_call_itself_is_reported_as_without_a_token() {
    let map = Map::open(Ground::real().backing(Kind::Map)).await.unwrap();
    let stored = holding(1, map.insert("k", bytes("v"), None)).await.unwrap();
    for token in [1, 2] {
        assert_eq!(reason(holding(token, map.insert("k", bytes("v"), None)).await), Reason::KeyExists);
        let wrong = stored.version + 1000;
        assert_eq!(reason(holding(token, map.remove("k", wrong)).await), Reason::VersionMismatch);
        assert_eq!(reason(holding(token, map.remove("other", 0)).await), Reason::KeyNotFound);
    }
    assert_eq!(holding(2, map.remove("k", stored.version)).await.unwrap().value, "v");
}

#[tokio::test]
async fn each_guard_of_a_call_must_hold() {
    let counter = Counter::open(Ground::real().backing(Kind::Counter));
    let fences = |lock, term| -> Arc<[Fence]> {
        let lock = Fence::new(Kind::Lock, "a".to_owned(), lock).unwrap();
        let election = Fence::new(Kind::Election, "a".to_owned(), term).unwrap();
        [lock, election].into()
    };
    assert_eq!(fenced(fences(3, 1), counter.increment(1, None)).await, Ok(1));
    assert_eq!(fenced(fences(3, 2), counter.increment(1, None)).await, Ok(2));
    assert_eq!(reason(fenced(fences(3, 1), counter.increment(1, None)).await), Reason::Fenced);
    assert_eq!(reason(fenced(fences(2, 2), counter.increment(1, None)).await), Reason::Fenced);
    assert_eq!(counter.get().await, Ok(2));
    assert_eq!(reason(Fence::new(Kind::Map, "a".to_owned(), 1)), Reason::Invalid);
}

#[tokio::test]
async fn a_repeated_request_gets_its_first_answer_under_a_later_token_too() {
    let counter = Counter::open(Ground::real().backing(Kind::Counter));
    let name = || Some(bytes("request"));
    assert_eq!(holding(1, counter.increment(5, name())).await, Ok(5));
    assert_eq!(holding(2, counter.increment(1, None)).await, Ok(6));
    assert_eq!(holding(2, counter.increment(5, name())).await, Ok(5));
    // The holder that lost the lock learns what became of its request, and nothing else.
    assert_eq!(holding(1, counter.increment(5, name())).await, Ok(5));
    assert_eq!(reason(holding(1, counter.increment(5, Some(bytes("later")))).await), Reason::Fenced);
    assert_eq!(counter.get().await, Ok(6));
}

/// A change of a primitive, by its name.
type Change<'a> = (&'static str, BoxFuture<'a, Result<(), Error>>);

macro_rules! changes {
    ($($name:literal: $call:expr,)+) => {
        vec![$(($name, Box::pin(async { $call.await.map(drop) }) as BoxFuture<'_, Result<(), Error>>),)+]
    };
}

#[tokio::test]
async fn every_change_of_every_primitive_is_refused() {
    let ground = Ground::real();
    ground.membership.join().await.unwrap();
    let counter = Counter::open(ground.backing(Kind::Counter));
    let counters = CounterMap::open(ground.backing(Kind::CounterMap)).await.unwrap();
    let election = Election::open(ground.backing(Kind::Election)).await.unwrap();
    let indexed = IndexedMap::open(ground.backing(Kind::IndexedMap)).await.unwrap();
    let list = List::open(ground.backing(Kind::List), false);
    let lock = Lock::open(ground.backing(Kind::Lock)).await.unwrap();
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    let multimap = MultiMap::open(ground.backing(Kind::MultiMap));
    let set = Set::open(ground.backing(Kind::Set)).await.unwrap();
    let topic = Topic::open(ground.backing(Kind::Topic));
    let value = Value::open(ground.backing(Kind::Value)).await.unwrap();
    let one = caller(1);
    let v = || bytes("v");
    let key = || vec![("k".to_owned(), vec!["v".to_owned()])];
    // Each makes the next ones possible, so that all of them write.
    let changes = || -> Vec<Change<'_>> {
        changes! {
            "counter set": counter.set(1),
            "counter update": counter.update(1, 1),
            "counter increment": counter.increment(1, None),
            "countermap set": counters.set("k", 1),
            "countermap insert": counters.insert("other", 1),
            "countermap update": counters.update("k", 1, 1),
            "countermap increment": counters.increment("k", 1, None),
            "countermap remove": counters.remove("other", 1),
            "countermap clear": counters.clear(),
            "countermap lock": counters.lock_table().acquire(&one, &["k".to_owned()], Some(Duration::ZERO)),
            "countermap unlock": counters.lock_table().release(&one, &["k".to_owned()]),
            "election enter": election.enter(&one, "a"),
            "election withdraw": election.withdraw(&one, "a"),
            "indexedmap append": indexed.append("k", v(), None),
            "indexedmap update": indexed.update(Address { index: 0, key: "k" }, v(), None, 0),
            "indexedmap remove": indexed.remove(Address { index: 0, key: "k" }, 0),
            "indexedmap clear": indexed.clear(),
            "list append": list.append(v()),
            "list insert": list.insert(0, v()),
            "list set": list.set(0, v()),
            "list remove": list.remove(0),
            "list clear": list.clear(),
            "lock lock": lock.lock(&one, Some(Duration::ZERO)),
            "lock unlock": lock.unlock(&one),
            "map put": map.put("k", v(), None, 0),
            "map insert": map.insert("other", v(), None),
            "map update": map.update("k", v(), None, 0),
            "map remove": map.remove("other", 0),
            "map clear": map.clear(),
            "map lock": map.lock_table().acquire(&one, &["k".to_owned()], Some(Duration::ZERO)),
            "map unlock": map.lock_table().release(&one, &["k".to_owned()]),
            "multimap put": multimap.put("k", "w".to_owned()),
            "multimap put entries": multimap.put_entries(key()),
            "multimap replace": multimap.replace("k", vec!["x".to_owned(), "w".to_owned()]),
            "multimap remove": multimap.remove("k", "w"),
            "multimap remove all": multimap.remove_all("k", &["x".to_owned()]),
            "multimap clear": multimap.clear(),
            "set add": set.add("e", None),
            "set remove": set.remove("e"),
            "set clear": set.clear(),
            "topic publish": topic.publish(v()),
            "value set": value.set(v(), None),
            "value update": value.update(v(), None, 0),
            "value delete": value.delete(0),
        }
    };
    for (name, change) in changes() {
        holding(2, change).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let mut step = 0;
    loop {
        // The changes before this one are done with the right token, so that this one would write.
        let mut refused = None;
        for (at, (name, change)) in changes().into_iter().enumerate() {
            if at == step {
                refused = Some((name, holding(1, change).await));
                break;
            }
            holding(2, change).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let Some((name, refused)) = refused else { break };
        assert_eq!(refused.map_err(|error| error.reason()), Err(Reason::Fenced), "{name}");
        reset(&ground, &one, &lock, &map, &counters, &election).await;
        step += 1;
    }
    assert_eq!(step, changes().len());
}

/// Takes back what a run of changes that was cut short has left.
async fn reset(
    ground: &Ground,
    caller: &atomix_primitives::Caller,
    lock: &Lock,
    map: &Map,
    counters: &CounterMap,
    election: &Election,
) {
    lock.lock_table().release_all(caller.owner).await;
    map.lock_table().release_all(caller.owner).await;
    counters.lock_table().release_all(caller.owner).await;
    election.release_all(caller.owner).await;
    for kind in
        [Kind::CounterMap, Kind::IndexedMap, Kind::List, Kind::Map, Kind::MultiMap, Kind::Set, Kind::Value]
    {
        let entries = Range { start: "h".into(), end: None };
        let txn = atomix_store::Txn::new().write(atomix_store::Write::DeleteRange { range: entries });
        ground.store.commit(&kind.keyspace("it"), txn).await.unwrap();
    }
}

/// Lets writers with several tokens append to a list at the same time. Returns whether a token came after a greater one, or the
/// greatest one did not come last.
async fn append_concurrently(store: Arc<dyn Store>) -> bool {
    let ground = Ground::on(store, Env::real());
    let list = Arc::new(List::open(ground.backing(Kind::List), false));
    let writers = (1..=8u64).map(|token| {
        let list = Arc::clone(&list);
        tokio::spawn(async move {
            for _ in 0..8 {
                match holding(token, list.append(bytes(&token.to_string()))).await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) => assert_eq!(error.reason(), Reason::Fenced),
                }
            }
        })
    });
    for ended in join_all(writers).await {
        ended.unwrap();
    }
    let items = all(list.items(&caller(1), false).await.unwrap()).await;
    let tokens: Vec<u64> =
        items.iter().map(|item| std::str::from_utf8(&item.value).unwrap().parse().unwrap()).collect();
    tokens.last() != Some(&8) || !tokens.is_sorted()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_accepted_after_a_greater_one() {
    for _ in 0..4 {
        assert!(!append_concurrently(store()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_the_guards_is_found() {
    let mut found = false;
    for _ in 0..50 {
        found = found || append_concurrently(Arc::new(Planted::new(store(), Bug::ForgottenValue))).await;
    }
    assert!(found);
}

#[tokio::test]
async fn old_fences_are_deleted_and_those_that_were_raised_again_are_not() {
    let (ground, clock) = Ground::manual();
    let map = Map::open(ground.backing(Kind::Map)).await.unwrap();
    let put = async |name: &str, token| {
        let fence = Fence::new(Kind::Lock, name.to_owned(), token).unwrap();
        fenced([fence].into(), map.put("k", bytes("v"), None, 0)).await
    };
    let fences = async || {
        let count = |first: &'static str| Read::Count { range: Range::prefix(first) };
        let found = ground.store.read(&Kind::Map.keyspace("it"), vec![count("f"), count("g")]).await.unwrap();
        (found.reads[0].count(), found.reads[1].count())
    };
    let day = Duration::from_hours(24);
    let later = |days| clock.set_wall(WallTime::from_unix(clock.wall().since_unix() + day * days));
    for at in 0..20 {
        put(&format!("once-{at}"), 1).await.unwrap();
    }
    put("again", 1).await.unwrap();
    assert_eq!(fences().await, (21, 21));
    later(1);
    put("again", 2).await.unwrap();
    assert_eq!(fences().await, (21, 22));
    assert_eq!(reason(put("once-0", 0).await), Reason::Fenced);
    later(1);
    for at in 0..6 {
        put(&format!("new-{at}"), 1).await.unwrap();
    }
    assert_eq!(fences().await, (7, 7));
    assert_eq!(reason(put("again", 1).await), Reason::Fenced);
}
