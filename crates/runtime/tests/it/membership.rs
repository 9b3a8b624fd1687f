// SPDX-License-Identifier: Apache-2.0
//! Several runtimes on one store: one dies, one stands still, one goes.

use std::time::Duration;

use atomix_primitives::{CounterMap, Election, Lock, Map, Owner, Reason};
use atomix_store::{Txn, Write};
use futures::StreamExt;
use tokio::task::JoinHandle;

use crate::ground::{Has, Node, TIMEOUT, World, pass, reason, settle, soon, store};

const NOW: Option<Duration> = Some(Duration::ZERO);
/// Within this a member that died has been found dead by all others: the timeout, a tenth, and what a member may have seen
/// late.
const FOUND: Duration = Duration::from_secs(14);

type Granted = JoinHandle<Result<u64, atomix_primitives::Error>>;

async fn wait(lock: &Has<Lock>) -> Granted {
    let lock = lock.clone();
    let waiting = tokio::spawn(async move { lock.lock(&lock.caller(), None).await });
    settle().await;
    waiting
}

/// Lets time go by for all but `still`, whose way is cut: it stands still, like a process under SIGSTOP.
async fn stop(still: &Node, others: &[&Node], time: Duration) {
    still.cut();
    pass(others, time).await;
}

/// Lets the time of a node that stood still go on from where the others are.
fn wake(still: &Node, time: Duration) {
    still.mend();
    still.clock.advance(time);
}

#[tokio::test]
async fn the_locks_of_a_killed_runtime_go_to_the_next_in_line_once_and_not_too_early() {
    let world = World::shared();
    let (one, two, three) = (world.start().await, world.start().await, world.start().await);
    let held = one.client().create::<Lock>("l").await;
    let first = held.lock(&held.caller(), None).await.unwrap();
    let dead_waiter = one.client().create::<Lock>("l").await;
    let gone = wait(&dead_waiter).await;
    let (second, third) = (two.client().create::<Lock>("l").await, three.client().create::<Lock>("l").await);
    let (next, last) = (wait(&second).await, wait(&third).await);
    one.kill();
    gone.abort();
    pass(&[&two, &three], Duration::from_secs(9)).await;
    assert!(!next.is_finished(), "it may still live");
    pass(&[&two, &three], FOUND.saturating_sub(Duration::from_secs(9))).await;
    let token = soon(next).await.unwrap().unwrap();
    assert!(token > first);
    assert_eq!(second.token().await, Ok(token));
    pass(&[&two, &three], 3 * TIMEOUT).await;
    assert!(!last.is_finished(), "only one was granted the lock");
    second.unlock(&second.caller()).await.unwrap();
    assert!(soon(last).await.unwrap().unwrap() > token);
    assert_eq!(world.count("host").await, 2);
}

#[tokio::test]
async fn an_election_moves_on_when_its_leader_is_killed() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let there = one.client().create::<Election>("e").await;
    there.enter(&there.caller(), "a").await.unwrap();
    let here = two.client().create::<Election>("e").await;
    here.enter(&here.caller(), "b").await.unwrap();
    there.enter(&there.caller(), "c").await.unwrap();
    let mut shown = here.watch(&here.caller()).await.unwrap();
    shown.next().await.unwrap().unwrap();
    one.kill();
    pass(&[&two], FOUND).await;
    let term = soon(shown.next()).await.unwrap().unwrap();
    assert_eq!((term.term, term.leader.as_str(), term.candidates.len()), (2, "b", 0));
}

#[tokio::test]
async fn a_damaged_record_does_not_keep_what_later_failures_release() {
    let world = World::shared();
    let (one, two, three) = (world.start().await, world.start().await, world.start().await);
    let election = three.client().create::<Election>("e").await;
    let lock = three.client().create::<Lock>("l").await;
    let damage =
        |key: &'static [u8]| Txn::new().write(Write::Put { key: key.into(), value: "damage".into() });
    world.write("election/e", damage(b"v")).await;
    world.write("lock/l", damage(b"l\0\0\0\x01x")).await;
    one.kill();
    pass(&[&two, &three], FOUND).await;
    assert_eq!(reason(election.term().await), Reason::StoreCorrupt);
    let held = two.client().create::<Map>("m").await;
    let keys = ["a".to_owned()];
    held.lock_table().acquire(&held.caller(), &keys, None).await.unwrap();
    let map = three.client().create::<Map>("m").await;
    two.kill();
    pass(&[&three], FOUND).await;
    map.lock_table().acquire(&map.caller(), &keys, NOW).await.unwrap();
    assert!(lock.lock(&lock.caller(), NOW).await.is_ok());
}

#[tokio::test]
async fn keys_of_a_killed_runtime_are_unlocked() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let (a, ab) = (["a".to_owned()], ["a".to_owned(), "b".to_owned()]);
    let map = one.client().create::<Map>("m").await;
    map.lock_table().acquire(&map.caller(), &a, None).await.unwrap();
    let counters = one.client().create::<CounterMap>("c").await;
    counters.lock_table().acquire(&counters.caller(), &a, None).await.unwrap();
    let (map, counters) =
        (two.client().create::<Map>("m").await, two.client().create::<CounterMap>("c").await);
    let waiting = tokio::spawn(async move {
        map.lock_table().acquire(&map.caller(), &ab, None).await.unwrap();
        counters.lock_table().acquire(&counters.caller(), &ab, None).await
    });
    settle().await;
    one.kill();
    pass(&[&two], FOUND).await;
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_waiting_call_is_granted_what_a_client_of_another_runtime_gives_back() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let (client, other) = (one.client(), two.client());
    let held = client.create::<Lock>("l").await;
    let lock = other.create::<Lock>("l").await;
    let first = held.lock(&held.caller(), None).await.unwrap();
    let waiting = wait(&lock).await;
    held.unlock(&held.caller()).await.unwrap();
    let second = soon(waiting).await.unwrap().unwrap();
    assert!(second > first);
    // And back, by the end of the connection.
    let waiting = wait(&held).await;
    other.end();
    assert!(soon(waiting).await.unwrap().unwrap() > second);
}

#[tokio::test]
async fn a_clean_stop_hands_over_at_once_and_leaves_no_host() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let held = one.client().create::<Lock>("l").await;
    held.lock(&held.caller(), None).await.unwrap();
    let lock = two.client().create::<Lock>("l").await;
    let waiting = wait(&lock).await;
    one.runtime.shut_down().await;
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(world.count("host").await, 1);
}

#[tokio::test]
async fn a_primitive_that_is_opened_after_a_death_is_free() {
    let world = World::shared();
    let one = world.start().await;
    let held = one.client().create::<Lock>("l").await;
    let first = held.lock(&held.caller(), None).await.unwrap();
    let two = world.start().await;
    one.kill();
    pass(&[&two], FOUND).await;
    let lock = two.client().create::<Lock>("l").await;
    assert!(lock.lock(&lock.caller(), NOW).await.unwrap() > first);
}

#[tokio::test]
async fn a_runtime_that_wakes_too_late_finds_that_it_has_lost_everything() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let held = one.client().create::<Lock>("l").await;
    let first = held.lock(&held.caller(), None).await.unwrap();
    let waits = one.client().create::<Lock>("l").await;
    let woken = wait(&waits).await;
    let there = one.client().create::<Election>("e").await;
    there.enter(&there.caller(), "a").await.unwrap();
    let mut shown = there.watch(&there.caller()).await.unwrap();
    assert_eq!(shown.next().await.unwrap().unwrap().leader, "a");

    let lock = two.client().create::<Lock>("l").await;
    let here = two.client().create::<Election>("e").await;
    here.enter(&here.caller(), "b").await.unwrap();
    let waiting = wait(&lock).await;
    stop(&one, &[&two], FOUND).await;
    let second = soon(waiting).await.unwrap().unwrap();
    assert!(second > first, "the token of the one who sleeps is older");

    wake(&one, FOUND);
    // The very first thing that it is asked, before anything in it has looked at a clock.
    assert_eq!(reason(held.unlock(&held.caller()).await), Reason::LockNotHeld);
    assert_eq!(held.token().await, Ok(second));
    settle().await;
    assert_eq!(reason(soon(woken).await.unwrap()), Reason::HostLost);
    let terms = [shown.next().await.unwrap().unwrap(), shown.next().await.unwrap().unwrap()];
    assert_eq!((terms[1].term, terms[1].leader.as_str(), terms[1].candidates.len()), (2, "b", 0));

    // It begins again, and the connections of those who held no lock go on.
    let held = waits;
    let again = wait(&held).await;
    assert!(!again.is_finished());
    lock.unlock(&lock.caller()).await.unwrap();
    assert!(soon(again).await.unwrap().unwrap() > second);
    assert_eq!(reason(lock.unlock(&lock.caller()).await), Reason::LockNotHeld);
    held.unlock(&held.caller()).await.unwrap();
    let term = there.enter(&there.caller(), "a").await.unwrap();
    assert_eq!((term.leader.as_str(), term.candidates), ("b", vec!["a".to_owned()]));
    pass(&[&one, &two], 3 * TIMEOUT).await;
    assert_eq!(here.term().await.unwrap().candidates.len(), 1, "the new name lives");
    assert_eq!(lock.queue(10).await.unwrap().len(), 0);
}

#[tokio::test]
async fn who_holds_a_lock_in_a_runtime_that_wakes_too_late_is_cut_off() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let (holder, of_keys, waiter, reader) = (one.client(), one.client(), one.client(), one.client());
    let held = holder.create::<Lock>("l").await;
    held.lock(&held.caller(), None).await.unwrap();
    let map = of_keys.create::<Map>("m").await;
    map.lock_table().acquire(&map.caller(), &["k".to_owned()], None).await.unwrap();
    let waits = waiter.create::<Lock>("l").await;
    let woken = wait(&waits).await;
    reader.create::<Map>("m").await;
    stop(&one, &[&two], FOUND).await;
    wake(&one, FOUND);
    pass(&[&one, &two], TIMEOUT).await;
    assert_eq!(reason(soon(woken).await.unwrap()), Reason::HostLost);
    assert_eq!(one.connected(), [waiter.session.id(), reader.session.id()]);
    // It owns the locks that it acquires afterwards.
    waits.lock(&waits.caller(), NOW).await.unwrap();
    pass(&[&one, &two], 3 * TIMEOUT).await;
    waits.unlock(&waits.caller()).await.unwrap();
}

#[tokio::test]
async fn who_holds_a_lock_in_a_store_that_is_disconnected_is_cut_off() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let (holder, reader) = (one.client(), one.client());
    let held = holder.create::<Lock>("l").await;
    held.lock(&held.caller(), None).await.unwrap();
    reader.create::<Lock>("l").await;
    let next = two.client().create::<Lock>("l").await;
    let waiting = wait(&next).await;
    one.runtime.disconnect(&store("s")).await.unwrap();
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(one.connected(), [reader.session.id()]);
}

#[tokio::test]
async fn a_runtime_that_wakes_too_late_is_not_granted_what_it_was_first_in_line_for() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let lock = two.client().create::<Lock>("l").await;
    lock.lock(&lock.caller(), None).await.unwrap();
    let waits = one.client().create::<Lock>("l").await;
    let woken = wait(&waits).await;
    stop(&one, &[&two], FOUND).await;
    assert_eq!(lock.queue(10).await.unwrap().len(), 1, "its place is gone");
    wake(&one, FOUND);
    lock.unlock(&lock.caller()).await.unwrap();
    assert_eq!(reason(soon(woken).await.unwrap()), Reason::HostLost);
    assert_eq!(lock.queue(10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_runtime_that_wakes_too_late_grants_nothing_under_its_old_name() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let client = one.client();
    let lock = client.create::<Lock>("l").await;
    let election = client.create::<Election>("e").await;
    stop(&one, &[&two], FOUND).await;
    wake(&one, FOUND);
    // Nothing in it has looked at a clock yet, and the lock is free.
    assert_eq!(reason(lock.lock(&lock.caller(), NOW).await), Reason::HostLost);
    assert_eq!(lock.queue(10).await, Ok(Vec::new()));
    lock.lock(&lock.caller(), NOW).await.unwrap();
    stop(&one, &[&two], FOUND).await;
    wake(&one, FOUND);
    assert_eq!(reason(election.enter(&election.caller(), "a").await), Reason::HostLost);
    assert_eq!(election.enter(&election.caller(), "a").await.unwrap().leader, "a");
}

#[tokio::test]
async fn a_runtime_that_was_not_missed_keeps_what_it_owns() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let held = one.client().create::<Lock>("l").await;
    let token = held.lock(&held.caller(), None).await.unwrap();
    // The store is away from both: no member can decide which one is dead.
    one.cut();
    two.cut();
    pass(&[&one, &two], 5 * TIMEOUT).await;
    assert_eq!(reason(held.lock(&held.caller(), NOW).await), Reason::StoreUnavailable);
    one.mend();
    two.mend();
    pass(&[&one, &two], 2 * TIMEOUT).await;
    let lock = two.client().create::<Lock>("l").await;
    assert_eq!(lock.token().await, Ok(token));
    held.unlock(&held.caller()).await.unwrap();
}

#[tokio::test]
async fn who_stood_still_does_not_take_the_others_for_dead() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let held = two.client().create::<Lock>("l").await;
    let token = held.lock(&held.caller(), None).await.unwrap();
    pass(&[&one, &two], TIMEOUT).await;
    // One has seen the last renewal of the other.
    pass(&[&one], TIMEOUT / 2).await;
    assert_eq!(one.members().len(), 2);
    // Both stand still, as on a machine that sleeps; the other one wakes first.
    one.clock.advance(10 * TIMEOUT);
    settle().await;
    two.clock.advance(10 * TIMEOUT);
    settle().await;
    assert_eq!(held.token().await, Ok(token));
    held.unlock(&held.caller()).await.unwrap();
}

#[tokio::test]
async fn what_a_dead_runtime_had_sent_and_arrives_late_blocks_nobody_for_long() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    let held = one.client().create::<Lock>("l").await;
    held.lock(&held.caller(), None).await.unwrap();
    let dead = held.caller().owner;
    let lock = two.client().create::<Lock>("l").await;
    one.kill();
    pass(&[&two], FOUND).await;
    assert_eq!(lock.queue(10).await, Ok(Vec::new()));
    world.write("lock/l", late_stamp(dead)).await;
    assert_eq!(reason(lock.lock(&lock.caller(), NOW).await), Reason::LockTimeout);
    let waiting = wait(&lock).await;
    pass(&[&two], TIMEOUT).await;
    soon(waiting).await.unwrap().unwrap();
}

/// The write with which `owner` asks for a lock.
fn late_stamp(owner: Owner) -> Txn {
    let prefix = [&b"l"[..], &[0; 4]].concat();
    let value = [owner.member, owner.session, 0, 0].map(u64::to_be_bytes).concat();
    Txn::new().write(Write::Stamp { prefix: prefix.into(), value: value.into() })
}

#[tokio::test]
async fn a_runtime_that_comes_and_goes_is_shown_to_operators() {
    let world = World::shared();
    let (one, two) = (world.start().await, world.start().await);
    pass(&[&one, &two], Duration::from_secs(6)).await;
    let members = two.members();
    assert_eq!(members.len(), 2);
    assert_eq!(members.iter().filter(|member| member.own).count(), 1);
    assert!(
        members.iter().all(|member| member.age <= TIMEOUT / 2 && member.timeout == TIMEOUT),
        "{members:?}"
    );
    one.kill();
    pass(&[&two], FOUND).await;
    assert_eq!(two.members().len(), 1);
}
