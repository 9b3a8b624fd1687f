// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use atomix_env::{Clock, Env, ManualClock};
use atomix_primitives::election::Term;
use atomix_primitives::{Election, Kind, Limits, Reason};
use futures::future::join_all;

use crate::ground::{
    Amnesiac, Cut, Faulty, Ground, caller, eventually, next, reason, settle, silent, soon, take,
};
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
    assert_eq!(
        election.demote("A").await,
        Ok(term(1, "A", "")),
        "without a waiting candidate nothing happens"
    );
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
async fn a_candidate_has_a_name_within_bounds() {
    let ground = Ground::real().limited(Limits { waiters_max: 1, key_bytes_max: 8, ..Limits::default() });
    let election = open(&ground).await;
    assert_eq!(reason(election.enter(&caller(1), "too long a name").await), Reason::Invalid);
    election.enter(&caller(1), "A").await.unwrap();
    election.enter(&caller(2), "B").await.unwrap();
    assert_eq!(reason(election.enter(&caller(3), "C").await), Reason::WaitersFull);
}

#[tokio::test]
async fn a_candidate_without_a_name_gets_one_that_only_its_session_has() {
    let election = open(&Ground::real()).await;
    let (a, b) = (caller(1), caller(2));
    let (first, second) = (a.owner.to_string(), b.owner.to_string());
    assert_eq!(election.enter(&a, "").await, Ok(term(1, &first, "")));
    assert_eq!(election.enter(&a, "").await, Ok(term(1, &first, "")), "it is stable");
    assert_eq!(election.enter(&b, "").await, Ok(term(1, &first, &second)));
    assert_eq!(election.withdraw(&a, "").await, Ok(term(2, &second, "")));
    assert_eq!(election.withdraw(&a, "").await, Ok(term(2, &second, "")));
}

/// Asserts that nothing but the term is left.
async fn nothing_is_left(election: &Election) {
    eventually(async || {
        let state = election.state().await.unwrap();
        state.leader.is_none() && state.waiting.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_candidate_whose_call_got_no_answer_is_taken_back() {
    let faulty = Faulty::new(store());
    let ground = Ground::on(faulty.clone(), Env::real());
    ground.membership.join().await.unwrap();
    let election = open(&ground).await;
    faulty.lose(1);
    assert_eq!(reason(election.enter(&caller(1), "A").await), Reason::OutcomeUnknown);
    nothing_is_left(&election).await;
    // Changes take turns: after this one the work for A, whose answer may come later than its effect, has ended.
    assert_eq!(election.withdraw(&caller(2), "X").await.unwrap().leader, "");
    // The same, and the change arrives when it is settled already.
    faulty.delay();
    faulty.lose(1);
    assert_eq!(reason(election.enter(&caller(1), "B").await), Reason::OutcomeUnknown);
    faulty.pass();
    assert_eq!(election.withdraw(&caller(2), "X").await.unwrap().leader, "");
    faulty.answer();
    settle().await;
    nothing_is_left(&election).await;
}

#[tokio::test]
async fn a_call_that_is_made_again_after_an_unknown_outcome_keeps_what_the_first_has_done() {
    let (faulty, clock) = (Faulty::new(store()), ManualClock::new());
    let ground = Ground::on(faulty.clone(), Env::simulated(Arc::clone(&clock), 1));
    ground.membership.join().await.unwrap();
    let election = open(&ground).await;
    faulty.lose(1);
    assert_eq!(reason(election.enter(&caller(1), "A").await), Reason::OutcomeUnknown);
    assert_eq!(election.enter(&caller(1), "A").await, Ok(term(1, "A", "")));
    for _ in 0..10 {
        clock.advance(std::time::Duration::from_secs(1));
        settle().await;
    }
    assert_eq!(election.term().await, Ok(term(1, "A", "")));
}

#[tokio::test]
async fn a_call_that_is_dropped_at_any_of_its_steps_leaves_no_candidate() {
    let ground = Ground::on(Faulty::distant(store()), Env::real());
    ground.membership.join().await.unwrap();
    let (election, a) = (open(&ground).await, caller(1));
    for polls in 1..100 {
        if let Some(entered) = Cut::after(polls, election.enter(&a, "A")).await {
            assert_eq!(entered.unwrap().leader, "A");
            return;
        }
        let sooner = election.enter(&caller(2), "B").await.unwrap();
        assert!(sooner.leader == "B" || sooner.candidates == ["B"], "{sooner:?}");
        eventually(async || election.term().await.unwrap().leader == "B").await;
        election.withdraw(&caller(2), "B").await.unwrap();
        nothing_is_left(&election).await;
    }
    panic!("the call never ended");
}

#[tokio::test]
async fn a_candidacy_that_is_revoked_ends_unless_a_later_call_entered_it_again() {
    let election = open(&Ground::real()).await;
    let a = caller(1);
    let enter = async || election.candidacy(&a, "A").await.unwrap().1;
    let first = enter().await.expect("it is new");
    let second = enter().await.expect("the answer to the first call may be lost");
    first.revoke();
    settle().await;
    assert_eq!(election.term().await, Ok(term(1, "A", "")));
    second.revoke();
    nothing_is_left(&election).await;
    // The client got the answer to the first of two calls.
    let third = enter().await.expect("it is new again");
    let fourth = enter().await.expect("the answer to the third call may be lost");
    drop(third);
    fourth.revoke();
    settle().await;
    assert_eq!(election.term().await, Ok(term(2, "A", "")));
    assert!(enter().await.is_none(), "the client knows of it");
    election.withdraw(&a, "A").await.unwrap();
    enter().await.expect("it is new once more").revoke();
    nothing_is_left(&election).await;
}

#[tokio::test]
async fn nothing_is_entered_after_the_deadline_of_the_caller() {
    let (ground, clock) = Ground::manual();
    let (election, mut a) = (open(&ground).await, caller(1));
    a.deadline = Some(clock.now());
    assert_eq!(reason(election.enter(&a, "A").await), Reason::DeadlineExceeded);
    nothing_is_left(&election).await;
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
    ground.membership.join().await.unwrap();
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
    ground.membership.join().await.unwrap();
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
