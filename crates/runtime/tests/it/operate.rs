// SPDX-License-Identifier: Apache-2.0
//! The commands of operators: close and delete primitives, disconnect stores if nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use atomix_env::WallTime;
use atomix_primitives::{Counter, Election, Error, Kind, List, Lock, Map, Reason};
use atomix_runtime::{Deletion, Runtime, StoreState, Usage};
use atomix_store::Durability;
use futures::StreamExt;

use crate::ground::{World, pass, reason, settle, soon, store};

fn worlds() -> [World; 3] {
    [World::new(Durability::Process, false), World::alone(), World::shared()]
}

fn deletion(kind: Kind, name: &str, force: bool) -> Deletion {
    Deletion { kind, name: name.to_owned(), store: None, tags: Vec::new(), force, dry_run: false }
}

async fn delete(runtime: &Runtime, kind: Kind, name: &str, force: bool) -> Result<Usage, Error> {
    soon(runtime.delete_primitive(deletion(kind, name, force))).await
}

#[tokio::test]
async fn a_primitive_is_deleted_with_all_of_its_content_and_only_if_that_is_forced() {
    for world in worlds() {
        let node = world.start().await;
        let client = node.client();
        let map = client.create::<Map>("m").await;
        for at in 0..300 {
            map.put(&format!("k{at}"), "v".into(), Some(Duration::from_mins(1)), 0).await.unwrap();
        }
        client.create::<Map>("other").await.put("k", "v".into(), None, 0).await.unwrap();
        let mut events = map.events(&map.caller(), None).await.unwrap();
        drop(map);

        let refused = delete(&node.runtime, Kind::Map, "m", false).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::InUse);
        assert!(refused.message().contains("sessions=`1`"), "{refused}");
        let looked = Deletion { dry_run: true, ..deletion(Kind::Map, "m", true) };
        let looked = soon(node.runtime.delete_primitive(looked)).await.unwrap();
        assert!(looked.entries >= 300 && looked.sessions == 1, "{looked:?}");
        assert_eq!(client.call::<Map>("m").await.unwrap().size().await, Ok(300), "nothing was changed");

        assert_eq!(delete(&node.runtime, Kind::Map, "m", true).await.unwrap(), looked);
        assert_eq!(world.count("map/m").await, 0);
        assert!(
            soon(events.next()).await.is_none(),
            "the watch ends, and brings no removal that was not asked for"
        );
        assert!(client.call::<Map>("m").await.is_none(), "it is not known any more");
        assert_eq!(client.call::<Map>("other").await.unwrap().size().await, Ok(1));
        assert_eq!(reason(delete(&node.runtime, Kind::Map, "m", true).await), Reason::NotKnown);
        let map = client.create::<Map>("m").await;
        assert_eq!(map.size().await, Ok(0));
        map.put("k", "v".into(), None, 0).await.unwrap();
    }
}

#[tokio::test]
async fn every_kind_is_deleted() {
    for world in worlds() {
        let node = world.start().await;
        let client = node.client();
        client.create::<Counter>("x").await.set(5).await.unwrap();
        let list = client.create::<List>("x").await;
        for _ in 0..500 {
            list.append("item".into()).await.unwrap();
        }
        drop(list);
        let election = client.create::<Election>("x").await;
        election.enter(&election.caller(), "me").await.unwrap();
        drop(election);
        for kind in [Kind::Counter, Kind::List, Kind::Election] {
            delete(&node.runtime, kind, "x", true).await.unwrap();
            assert_eq!(world.count(&format!("{kind}/x")).await, 0, "{kind}");
        }
        assert_eq!(client.create::<Election>("x").await.term().await.unwrap().term, 0);
        assert_eq!(client.create::<Counter>("x").await.get().await, Ok(0));
    }
}

#[tokio::test]
async fn a_lock_is_taken_from_its_holder_and_waiters_who_are_told_and_tokens_go_on() {
    for world in worlds() {
        let node = world.start().await;
        let (holder, waiter) = (node.client(), node.client());
        let lock = holder.create::<Lock>("l").await;
        let first = lock.lock(&lock.caller(), None).await.unwrap();
        drop(lock);
        let lock = waiter.create::<Lock>("l").await;
        let waiting = tokio::spawn(async move { lock.lock(&lock.caller(), None).await });
        settle().await;
        assert_eq!(reason(delete(&node.runtime, Kind::Lock, "l", false).await), Reason::InUse);
        let deleting = {
            let runtime = Arc::clone(&node.runtime);
            tokio::spawn(async move { delete(&runtime, Kind::Lock, "l", true).await })
        };
        assert_eq!(reason(soon(waiting).await.unwrap()), Reason::Closed);
        pass(&[&node], Duration::from_millis(500)).await;
        assert_eq!(soon(deleting).await.unwrap().unwrap().waiters, 1);
        assert_eq!(world.count("lock/l").await, 0);
        assert!(!node.connected().contains(&holder.session.id()), "the holder has to know of its loss");
        let lock = waiter.create::<Lock>("l").await;
        assert!(lock.lock(&lock.caller(), None).await.unwrap() > first);
    }
}

#[tokio::test]
async fn a_deletion_waits_for_calls_that_run_and_nothing_comes_between() {
    let node = World::shared().start().await;
    let client = node.client();
    let map = client.create::<Map>("m").await;
    map.put("k", "v".into(), None, 0).await.unwrap();
    let deleting = {
        let runtime = Arc::clone(&node.runtime);
        tokio::spawn(async move { delete(&runtime, Kind::Map, "m", true).await })
    };
    settle().await;
    // A call that found the primitive before it was closed is still on its way to the store.
    assert!(!deleting.is_finished());
    map.put("late", "v".into(), None, 0).await.unwrap();
    let created = node.runtime.create(&client.session, Kind::Map, "m", &[]).await;
    assert_eq!(reason(created), Reason::NotOpen, "its content would be deleted");
    assert_eq!(reason(delete(&node.runtime, Kind::Map, "m", true).await), Reason::Contention);
    drop(map);
    pass(&[&node], Duration::from_millis(500)).await;
    soon(deleting).await.unwrap().unwrap();
    assert_eq!(client.create::<Map>("m").await.size().await, Ok(0));
}

#[tokio::test]
async fn a_call_that_does_not_end_keeps_the_content() {
    let world = World::shared();
    let node = world.start().await;
    let client = node.client();
    let map = client.create::<Map>("m").await;
    map.put("k", "v".into(), None, 0).await.unwrap();
    let deleting = {
        let runtime = Arc::clone(&node.runtime);
        tokio::spawn(async move { delete(&runtime, Kind::Map, "m", true).await })
    };
    settle().await;
    pass(&[&node], Duration::from_secs(3)).await;
    assert_eq!(reason(soon(deleting).await.unwrap()), Reason::DeadlineExceeded);
    assert_eq!(map.size().await, Ok(1));
    drop(map);
    delete(&node.runtime, Kind::Map, "m", true).await.unwrap();
    assert_eq!(world.count("map/m").await, 0);
}

#[tokio::test]
async fn what_sessions_of_other_runtimes_own_is_not_taken_away() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let (here, there) = (one.client(), two.client());
    let lock = there.create::<Lock>("l").await;
    lock.lock(&lock.caller(), None).await.unwrap();
    let election = there.create::<Election>("e").await;
    election.enter(&election.caller(), "a").await.unwrap();
    here.create::<Lock>("l").await;
    for (kind, name) in [(Kind::Lock, "l"), (Kind::Election, "e")] {
        let refused = delete(&one.runtime, kind, name, true).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::InUse);
        assert!(refused.message().contains("owning-processes=`1`"), "{refused}");
        assert_eq!(world.count(&format!("{kind}/{name}")).await, 1);
    }
    assert!(here.call::<Lock>("l").await.is_some(), "nothing was changed");
    there.create::<Map>("m").await.put("k", "v".into(), None, 0).await.unwrap();
    let refused = delete(&one.runtime, Kind::Map, "m", false).await.unwrap_err();
    assert!(refused.message().contains("other-processes=`1`"), "{refused}");
    // Content has no owner: the other runtime goes on with an empty map.
    delete(&one.runtime, Kind::Map, "m", true).await.unwrap();
    assert_eq!(there.call::<Map>("m").await.unwrap().size().await, Ok(0));
}

#[tokio::test]
async fn what_was_closed_with_content_and_what_has_none_can_be_deleted() {
    for world in worlds() {
        let node = world.start().await;
        let client = node.client();
        client.create::<Counter>("c").await.set(5).await.unwrap();
        client.close(Kind::Counter, "c").await;
        assert_eq!(reason(delete(&node.runtime, Kind::Counter, "c", false).await), Reason::InUse);
        delete(&node.runtime, Kind::Counter, "c", true).await.unwrap();
        assert_eq!(world.count("counter/c").await, 0);
        client.create::<Counter>("d").await;
        client.end();
        settle().await;
        delete(&node.runtime, Kind::Counter, "d", false).await.unwrap();
        let client = node.client();
        assert!(client.call::<Counter>("d").await.is_none());
        assert_eq!(world.count("known").await, 0);
    }
}

#[tokio::test]
async fn a_primitive_is_closed_for_all_sessions_and_keeps_its_content() {
    for world in worlds() {
        let node = world.start().await;
        let (one, other) = (node.client(), node.client());
        one.create::<Map>("m").await.put("k", "v".into(), None, 0).await.unwrap();
        let map = other.create::<Map>("m").await;
        let mut events = map.events(&map.caller(), None).await.unwrap();
        drop(map);
        let usage = soon(node.runtime.close_primitive(Kind::Map, "m")).await.unwrap();
        assert_eq!(usage.sessions, 2);
        assert!(soon(events.next()).await.is_none());
        assert!(one.call::<Map>("m").await.is_none() && other.call::<Map>("m").await.is_none());
        assert_eq!(reason(soon(node.runtime.close_primitive(Kind::Map, "m")).await), Reason::NotKnown);
        assert_eq!(one.create::<Map>("m").await.size().await, Ok(1));
    }
}

#[tokio::test]
async fn a_store_is_disconnected_only_if_nothing_is_lost() {
    let world = World::new(Durability::Process, false);
    let node = world.start().await;
    let client = node.client();
    client.create::<Counter>("c").await.set(5).await.unwrap();
    client.create::<Map>("empty").await;
    // Its name is forgotten, its content is not.
    client.close(Kind::Counter, "c").await;
    let refused = node.runtime.disconnect_unless_lost(&store("s")).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InUse);
    let facts = "primitives-with-content=`1` primitives-in-use=`1`";
    assert!(refused.message().contains(facts), "{refused}");
    let counter = client.create::<Counter>("c").await;
    assert_eq!(counter.increment(1, None).await, Ok(6), "it works on");
    drop(counter);
    delete(&node.runtime, Kind::Counter, "c", true).await.unwrap();
    node.runtime.disconnect_unless_lost(&store("s")).await.unwrap();
    assert_eq!(reason(node.runtime.disconnect_unless_lost(&store("s")).await), Reason::NotKnown);

    // Content that is not lost is no reason.
    let node = World::alone().start().await;
    node.client().create::<Counter>("c").await.set(5).await.unwrap();
    node.runtime.disconnect_unless_lost(&store("s")).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_full_when_it_is_connected_says_so_at_once() {
    let node = World::alone().start_bare();
    node.fill();
    node.connect("s").await;
    settle().await;
    let store = node.runtime.stores().remove(0);
    assert_eq!(store.state, StoreState::Degraded);
    assert!(store.error.contains("filled by the test"), "{}", store.error);
}

#[tokio::test]
async fn times_that_operators_see_do_not_jump_with_the_wall_clock() {
    const YEARS: Duration = Duration::from_hours(20 * 365 * 24);
    let node = World::shared().start().await;
    let client = node.client();
    node.clock.advance(Duration::from_secs(5));
    for wall in [YEARS * 2, YEARS] {
        node.clock.set_wall(WallTime::from_unix(wall));
        let since = node.runtime.stores().remove(0).since;
        assert_eq!(since.since_unix(), wall.saturating_sub(Duration::from_secs(5)));
        let opened = node.runtime.env().wall_of(client.session.opened());
        assert_eq!(opened.since_unix(), wall.saturating_sub(Duration::from_secs(5)));
    }
}
