// SPDX-License-Identifier: Apache-2.0
//! Tasks that must live are started again after a panic, and go on where they were.

use std::time::Duration;

use atomix_primitives::{Lock, Map};
use atomix_runtime::StoreState;

use crate::ground::{Node, TIMEOUT, World, pass, soon};

/// Within this a member that died has been found dead by all others, and a task was started again.
const FOUND: Duration = Duration::from_secs(15);

/// Lets a task of this name panic, and be started again.
async fn kill(node: &Node, others: &[&Node], task: &'static str) {
    let before = restarts(node, task);
    node.faults.kill(task);
    for _ in 0..100 {
        pass(others, Duration::from_millis(200)).await;
        if !node.faults.is_pending(task) && restarts(node, task) > before {
            return;
        }
    }
    panic!("`{task}` was not started again");
}

fn restarts(node: &Node, task: &str) -> u64 {
    let restarts = node.runtime.env().restarts();
    restarts.iter().find(|(name, _)| *name == task).map_or(0, |(_, count)| *count)
}

#[tokio::test]
async fn a_heartbeat_that_panics_goes_on_before_others_take_its_member_for_dead() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let held = one.client().create::<Lock>("l").await;
    held.lock(&held.caller(), None).await.unwrap();
    let lock = two.client().create::<Lock>("l").await;
    let next = lock.clone();
    let waiting = tokio::spawn(async move { next.lock(&next.caller(), None).await });
    for _ in 0..3 {
        kill(&one, &[&one, &two], "heartbeat").await;
        kill(&two, &[&one, &two], "heartbeat").await;
    }
    pass(&[&one, &two], 3 * TIMEOUT).await;
    assert!(!waiting.is_finished(), "the member lives");
    assert_eq!(world.count("host").await, 2);
    one.kill();
    pass(&[&two], FOUND).await;
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_recovery_that_panics_gives_back_what_it_was_about_to() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let held = one.client().create::<Lock>("l").await;
    held.lock(&held.caller(), None).await.unwrap();
    let lock = two.client().create::<Lock>("l").await;
    let waiting = tokio::spawn(async move { lock.lock(&lock.caller(), None).await });
    kill(&two, &[&one, &two], "recovery").await;
    one.kill();
    // The next panic comes when the death is found, after this task was woken by it.
    pass(&[&two], FOUND).await;
    kill(&two, &[&two], "recovery").await;
    pass(&[&two], FOUND).await;
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_that_ends_gives_its_lock_back_although_the_release_panics() {
    let world = World::alone();
    let node = world.start().await;
    let client = node.client();
    let held = client.create::<Lock>("l").await;
    held.lock(&held.caller(), None).await.unwrap();
    let lock = node.client().create::<Lock>("l").await;
    let waiting = tokio::spawn(async move { lock.lock(&lock.caller(), None).await });
    node.faults.kill("release");
    client.end();
    pass(&[&node], Duration::from_secs(1)).await;
    assert_eq!(restarts(&node, "release"), 1);
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_store_is_still_checked_after_a_panic() {
    let world = World::shared();
    let node = world.start().await;
    kill(&node, &[&node], "store").await;
    node.cut();
    pass(&[&node], Duration::from_secs(12)).await;
    assert_eq!(node.runtime.stores()[0].state, StoreState::Degraded);
    node.mend();
    pass(&[&node], Duration::from_secs(12)).await;
    assert_eq!(node.runtime.stores()[0].state, StoreState::Ready);
}

#[tokio::test]
async fn entries_expire_although_the_tasks_that_watch_and_reap_them_panic() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let written = one.client().create::<Map>("m").await;
    let ttl = Some(Duration::from_secs(20));
    written.put("own", "v".into(), ttl, 0).await.unwrap();
    let seen = two.client().create::<Map>("m").await;
    kill(&two, &[&one, &two], "ttl-watch").await;
    kill(&two, &[&one, &two], "ttl-reaper").await;
    written.put("other", "v".into(), ttl, 0).await.unwrap();
    pass(&[&one, &two], Duration::from_secs(1)).await;
    assert_eq!(seen.size().await, Ok(2));
    // The runtimes that watched a deadline reap it when its writer cannot any more.
    one.kill();
    pass(&[&two], Duration::from_secs(30)).await;
    assert_eq!(seen.size().await, Ok(0));
}
