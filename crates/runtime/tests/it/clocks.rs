// SPDX-License-Identifier: Apache-2.0
//! Several runtimes on one store whose wall clocks differ, and one whose clock jumps.

use std::time::Duration;

use atomix_env::{Clock, WallTime};
use atomix_primitives::{Kind, Map, Reason};

use crate::ground::{Has, Node, TIMEOUT, World, pass, reason, settle};

const TTL: Duration = Duration::from_mins(1);
const HOURS: Duration = Duration::from_hours(2);
/// In this time each runtime has seen a renewal of all others.
const SEEN: Duration = Duration::from_secs(4);
/// In this time a runtime that was killed has been found dead.
const FOUND: Duration = Duration::from_secs(14);

async fn put(map: &Has<Map>, key: &str) {
    map.put(key, "1".into(), Some(TTL), 0).await.unwrap();
}

fn ahead(node: &Node, by: Duration) {
    node.clock.set_wall(WallTime::from_unix(node.clock.wall().since_unix() + by));
}

fn back(node: &Node, by: Duration) {
    node.clock.set_wall(WallTime::from_unix(node.clock.wall().since_unix().saturating_sub(by)));
}

/// Starts a runtime whose clock is ahead from the beginning.
async fn start_ahead(world: &World, by: Duration) -> Node {
    let node = world.start_bare();
    ahead(&node, by);
    node.connect("s").await;
    node.route(&[("s", &[])]);
    settle().await;
    node
}

fn trusts(node: &Node) -> bool {
    node.runtime.stores().remove(0).clock_trusted
}

/// Returns by how many milliseconds the only other runtime is ahead, and how wrong that may be.
fn other(node: &Node) -> Option<(i64, u64)> {
    let other = node.members().into_iter().find(|member| !member.own).unwrap();
    other.clock.map(|clock| (clock.millis, clock.uncertainty))
}

#[tokio::test]
async fn a_runtime_that_is_ahead_deletes_nothing_early_and_expires_on_time_when_its_clock_is_set() {
    let world = World::shared();
    let one = world.start().await;
    let client = one.client();
    let map = client.create::<Map>("m").await;
    put(&map, "a").await;
    // It begins while the other one lives, and knows nothing else than one record.
    let two = start_ahead(&world, HOURS).await;
    assert!(!trusts(&two));
    let seen = two.client().call::<Map>("m").await.unwrap();
    assert_eq!(seen.size().await, Ok(1));
    pass(&[&one, &two], SEEN).await;
    let (millis, uncertainty) = other(&two).unwrap();
    assert!(
        (millis + 7_200_000).unsigned_abs() <= uncertainty && uncertainty <= 1000,
        "{millis} {uncertainty}"
    );
    let (millis, uncertainty) = other(&one).unwrap();
    assert!(
        (millis - 7_200_000).unsigned_abs() <= uncertainty && uncertainty <= 1000,
        "{millis} {uncertainty}"
    );
    assert!(trusts(&one), "the one that is behind is late at worst");
    assert!(!trusts(&two));
    assert_eq!(seen.size().await, Ok(1));

    // No other runtime is left to compare the clock with.
    one.kill();
    pass(&[&two], FOUND).await;
    assert_eq!((two.members().len(), trusts(&two)), (1, false));
    assert_eq!(seen.size().await, Ok(1));
    back(&two, HOURS);
    pass(&[&two], SEEN).await;
    assert!(trusts(&two));
    assert_eq!(seen.size().await, Ok(1), "it is not due");
    pass(&[&two], TTL.saturating_sub(SEEN + FOUND + SEEN)).await;
    assert_eq!(seen.size().await, Ok(0), "its whole time to live is over");
}

#[tokio::test]
async fn a_clock_that_stays_wrong_makes_entries_late_by_their_time_to_live_at_most() {
    let world = World::shared();
    let one = world.start().await;
    put(&one.client().create::<Map>("m").await, "a").await;
    let two = start_ahead(&world, HOURS).await;
    let seen = two.client().call::<Map>("m").await.unwrap();
    one.kill();
    pass(&[&two], TTL).await;
    assert_eq!(seen.size().await, Ok(0));
}

#[tokio::test]
async fn a_record_of_the_dead_holds_expiry_back_until_the_death_is_found() {
    let world = World::shared();
    let one = world.start().await;
    let client = one.client();
    put(&client.create::<Map>("m").await, "a").await;
    one.kill();
    // Hours later: the clocks agree, but from the record alone that cannot be known.
    let two = start_ahead(&world, HOURS).await;
    let seen = two.client().call::<Map>("m").await.unwrap();
    assert_eq!((seen.size().await, trusts(&two)), (Ok(1), false));
    pass(&[&two], FOUND).await;
    assert_eq!((seen.size().await, trusts(&two)), (Ok(0), true));
}

#[tokio::test]
async fn a_runtime_that_leaves_in_order_is_still_believed() {
    let world = World::shared();
    let one = world.start().await;
    let client = one.client();
    let map = client.create::<Map>("m").await;
    put(&map, "a").await;
    let two = start_ahead(&world, HOURS).await;
    pass(&[&one, &two], SEEN).await;
    client.end();
    one.runtime.shut_down().await;
    pass(&[&two], SEEN).await;
    assert_eq!(two.members().len(), 1);
    let seen = two.client().call::<Map>("m").await.unwrap();
    assert_eq!((seen.size().await, trusts(&two)), (Ok(1), false));
    // Started again with the right clock, then with one that agrees with the wrong one.
    let one = start_ahead(&world, 3 * SEEN).await;
    pass(&[&one, &two], SEEN).await;
    assert_eq!((seen.size().await, trusts(&one), trusts(&two)), (Ok(1), true, false));
    let three = start_ahead(&world, HOURS + 4 * SEEN).await;
    one.kill();
    pass(&[&two, &three], FOUND).await;
    assert!(trusts(&two), "two without another one");
}

#[tokio::test]
async fn a_difference_below_the_bound_changes_nothing() {
    let world = World::shared();
    let one = world.start().await;
    let map = one.client().create::<Map>("m").await;
    put(&map, "a").await;
    let two = start_ahead(&world, TIMEOUT.saturating_sub(SEEN)).await;
    pass(&[&one, &two], SEEN).await;
    assert!(trusts(&one) && trusts(&two));
    let (millis, uncertainty) = other(&two).unwrap();
    assert!((millis + 6000).unsigned_abs() <= uncertainty, "{millis} {uncertainty}");
}

#[tokio::test]
async fn a_jump_of_the_only_clock_ends_no_life_early_also_if_the_primitive_was_closed_meanwhile() {
    for world in [World::new(atomix_store::Durability::Process, false), World::alone(), World::shared()] {
        let one = world.start().await;
        let client = one.client();
        put(&client.create::<Map>("m").await, "a").await;
        // Its last user closes it, and it is read again when a session creates it.
        client.close(Kind::Map, "m").await;
        pass(&[&one], Duration::from_secs(10)).await;
        ahead(&one, HOURS);
        let map = client.create::<Map>("m").await;
        assert_eq!(map.size().await, Ok(1));
        pass(&[&one], TTL.saturating_sub(Duration::from_secs(10))).await;
        assert_eq!(map.size().await, Ok(0));
        assert_eq!(reason(map.get("a").await), Reason::KeyNotFound);
    }
}
