// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use atomix_env::Env;
use atomix_primitives::election::Term;
use atomix_primitives::{Election, Kind, Limits, Reason};
use futures::future::join_all;

use crate::ground::{Amnesiac, Faulty, Ground, caller, eventually, next, reason, settle, silent, soon, take};
use crate::stores::store;

async fn open(ground: &Ground) -> Election {
    Election::open(ground.backing(Kind::Election)).await.unwrap()
}

fn term(term: u64, leader: &str, candidates: &str) -> Term {
    let candidates = candidates.split_whitespace().map(str::to_owned).collect();
    Term { term, leader: leader.to_owned(), candidates }
}

#[tokio::test]
async fn the_worked_example_is_answered_and_shown_step_by_step() {
    let ground = Ground::real();
    let (one, other, third) = (open(&ground).await, open(&ground).await, open(&ground).await);
    let (a, b, c) = (caller(1), caller(2), caller(3));
    let mut shown = one.watch(&caller(9)).await.unwrap();
    silent(&mut shown).await;
    let steps = [
        (one.enter(&a, "A").await, term(1, "A", "")),
        (other.enter(&b, "B").await, term(1, "A", "B")),
        (third.enter(&c, "C").await, term(1, "A", "B C")),
        (one.promote("C").await, term(1, "A", "C B")),
        (one.promote("C").await, term(2, "C", "A B")),
        (one.anoint("B").await, term(3, "B", "C A")),
        (other.withdraw(&b, "B").await, term(4, "C", "A")),
        (one.evict("C").await, term(5, "A", "")),
        (other.enter(&b, "B").await, term(5, "A", "B")),
        (one.anoint("B").await, term(6, "B", "A")),
    ];
    for (answered, expected) in steps {
        assert_eq!(answered.as_ref(), Ok(&expected));
        assert_eq!(next(&mut shown).await, expected);
    }
    other.release_all(b.owner).await;
    one.release_all(a.owner).await;
    assert_eq!(take(&mut shown, 2).await, [term(7, "A", ""), term(7, "", "")]);
    silent(&mut shown).await;
    assert_eq!(open(&ground).await.term().await, Ok(term(7, "", "")), "the term survives all users");
    let mut late = third.watch(&caller(8)).await.unwrap();
    assert_eq!(next(&mut late).await, term(7, "", ""));
}

#[tokio::test]
async fn what_is_not_possible_changes_nothing_and_is_not_shown() {
    let election = open(&Ground::real()).await;
    let (a, b) = (caller(1), caller(2));
    assert_eq!(election.evict("A").await, Ok(term(0, "", "")));
    election.enter(&a, "A").await.unwrap();
    election.enter(&b, "B").await.unwrap();
    let mut shown = election.watch(&caller(9)).await.unwrap();
    let now = term(1, "A", "B");
    assert_eq!(next(&mut shown).await, now);
    for answered in [
        election.enter(&a, "A").await,
        election.enter(&b, "B").await,
        election.withdraw(&a, "B").await,
        election.withdraw(&b, "A").await,
        election.anoint("A").await,
        election.anoint("X").await,
        election.promote("A").await,
        election.promote("X").await,
        election.demote("B").await,
        election.demote("X").await,
        election.evict("X").await,
    ] {
        assert_eq!(answered, Ok(now.clone()));
    }
    silent(&mut shown).await;
}

#[tokio::test]
async fn a_demoted_leader_waits_as_the_first() {
    let election = open(&Ground::real()).await;
    election.enter(&caller(1), "A").await.unwrap();
    assert_eq!(election.demote("A").await, Ok(term(1, "A", "")), "with nobody waiting nothing happens");
    election.enter(&caller(2), "B").await.unwrap();
    election.enter(&caller(3), "C").await.unwrap();
    assert_eq!(election.demote("A").await, Ok(term(2, "B", "A C")));
    assert_eq!(election.demote("A").await, Ok(term(2, "B", "C A")));
}

#[tokio::test]
async fn a_session_takes_back_only_what_it_entered() {
    let election = open(&Ground::real()).await;
    let (a, b) = (caller(1), caller(2));
    election.enter(&a, "A").await.unwrap();
    election.enter(&a, "A2").await.unwrap();
    election.enter(&b, "B").await.unwrap();
    assert_eq!(
        election.withdraw(&a, "A2").await,
        Ok(term(1, "A", "B")),
        "a waiting candidate can be withdrawn"
    );
    election.release_all(a.owner).await;
    assert_eq!(election.term().await, Ok(term(2, "B", "")));
}

#[tokio::test]
async fn a_restarted_application_takes_over_under_its_name() {
    let election = open(&Ground::real()).await;
    let (old, new) = (caller(1), caller(2));
    election.enter(&old, "A").await.unwrap();
    assert_eq!(election.enter(&new, "A").await, Ok(term(1, "A", "A")));
    election.release_all(old.owner).await;
    assert_eq!(election.term().await, Ok(term(2, "A", "")));
    election.release_all(old.owner).await;
    assert_eq!(election.term().await, Ok(term(2, "A", "")), "the new session leads, not the old one");
}

#[tokio::test]
async fn a_candidate_needs_a_name_within_bounds() {
    let ground = Ground::real().limited(Limits { waiters_max: 1, key_bytes_max: 8, ..Limits::default() });
    let election = open(&ground).await;
    assert_eq!(reason(election.enter(&caller(1), "").await), Reason::Invalid);
    assert_eq!(reason(election.enter(&caller(1), "too long a name").await), Reason::Invalid);
    election.enter(&caller(1), "A").await.unwrap();
    election.enter(&caller(2), "B").await.unwrap();
    assert_eq!(reason(election.enter(&caller(3), "C").await), Reason::WaitersFull);
}

#[tokio::test]
async fn a_session_that_ended_while_it_entered_leaves_no_candidate() {
    let election = open(&Ground::real()).await;
    let gone = caller(1);
    gone.closed.cancel();
    assert_eq!(reason(election.enter(&gone, "A").await), Reason::Closed);
    assert_eq!(election.term().await.unwrap().leader, "");
}

#[tokio::test]
async fn a_session_that_ended_before_its_candidate_arrived_leaves_none() {
    let faulty = Faulty::new(store());
    let ground = Ground::on(Arc::clone(&faulty) as _, Env::real());
    let election = open(&ground).await;
    ground.hosts.join().await.unwrap();
    let gone = caller(1);
    faulty.delay();
    let call = {
        let (election, gone) = (election.clone(), gone.clone());
        tokio::spawn(async move { election.enter(&gone, "A").await })
    };
    settle().await;
    call.abort();
    gone.closed.cancel();
    let release = {
        let election = election.clone();
        tokio::spawn(async move { election.release_all(gone.owner).await })
    };
    settle().await;
    faulty.answer();
    soon(release).await.unwrap();
    eventually(async || {
        let term = election.term().await.unwrap();
        (term.term, term.leader.as_str()) == (1, "")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_candidates_of_two_runtimes_all_find_their_place() {
    let ground = Ground::real();
    let elections = [open(&ground).await, open(&ground).await];
    let mut shown = elections[0].watch(&caller(9)).await.unwrap();
    let enter = (0..60u64).map(|session| {
        let election = &elections[usize::try_from(session % 2).unwrap()];
        async move { election.enter(&caller(session), &format!("c{session}")).await.unwrap() }
    });
    join_all(enter).await;
    let last = take(&mut shown, 60).await.pop().unwrap();
    assert_eq!((last.term, last.candidates.len()), (1, 59));
    let leave = (0..60u64).map(|session| elections[0].release_all(caller(session).owner));
    join_all(leave).await;
    let end = elections[1].term().await.unwrap();
    assert_eq!((end.leader.as_str(), end.candidates.len()), ("", 0));
}

#[tokio::test]
async fn an_entry_that_arrives_after_its_session_ended_does_not_lead() {
    let faulty = Faulty::new(store());
    let ground = Ground::on(faulty.clone(), Env::real());
    // As the runtime does; the fault is for what follows.
    ground.hosts.join().await.unwrap();
    let (election, a) = (open(&ground).await, caller(1));
    faulty.delay();
    faulty.lose(1);
    assert_eq!(reason(election.enter(&a, "A").await), Reason::OutcomeUnknown);
    faulty.pass();
    election.release_all(a.owner).await;
    settle().await;
    faulty.answer();
    settle().await;
    let state = election.state().await.unwrap();
    assert_eq!((state.leader, state.waiting), (None, Vec::new()));
    assert_eq!(election.enter(&caller(2), "B").await, Ok(term(1, "B", "")));
}

#[tokio::test]
async fn a_record_that_the_store_lost_does_not_replace_a_new_one() {
    let store = Amnesiac::new();
    let ground = Ground::on(store.clone(), Env::real());
    let (one, other, a, b) = (open(&ground).await, open(&ground).await, caller(1), caller(2));
    assert_eq!(one.enter(&a, "A").await, Ok(term(1, "A", "")));
    store.forget();
    assert_eq!(other.enter(&b, "B").await, Ok(term(1, "B", "")));
    one.release_all(a.owner).await;
    assert_eq!(other.term().await, Ok(term(1, "B", "")));
}
