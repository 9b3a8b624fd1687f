// SPDX-License-Identifier: Apache-2.0

use atomix_proto::election::{
    AnointRequest, DemoteRequest, EnterRequest, EvictRequest, GetTermRequest, PromoteRequest, Term,
    WatchRequest, WithdrawRequest,
};

use crate::served::{Served, id, next, opened};

pub(crate) async fn call(served: &Served) {
    let mut election = opened!(
        served,
        election,
        leader_election_client::LeaderElectionClient,
        leader_elections_client::LeaderElectionsClient
    );
    let term = |term, leader: &str, candidates: &[&str]| {
        let candidates = candidates.iter().map(ToString::to_string).collect();
        Some(Term { term, leader: leader.to_owned(), candidates })
    };
    for (candidate, expected) in
        [("a", term(1, "a", &[])), ("b", term(1, "a", &["b"])), ("c", term(1, "a", &["b", "c"]))]
    {
        let enter = EnterRequest { id: id("p"), candidate: candidate.to_owned() };
        assert_eq!(election.enter(enter).await.unwrap().into_inner().term, expected);
    }
    let mut terms = election.watch(WatchRequest { id: id("p") }).await.unwrap().into_inner();
    assert_eq!(next(&mut terms).await.term, term(1, "a", &["b", "c"]));
    let promote = PromoteRequest { id: id("p"), candidate: "c".to_owned() };
    assert_eq!(election.promote(promote).await.unwrap().into_inner().term, term(1, "a", &["c", "b"]));
    let demote = DemoteRequest { id: id("p"), candidate: "c".to_owned() };
    assert_eq!(election.demote(demote).await.unwrap().into_inner().term, term(1, "a", &["b", "c"]));
    let anoint = AnointRequest { id: id("p"), candidate: "c".to_owned() };
    let anointed = election.anoint(anoint).await.unwrap().into_inner().term.unwrap();
    assert_eq!((anointed.term, anointed.leader.as_str()), (2, "c"));
    let evict = EvictRequest { id: id("p"), candidate: "a".to_owned() };
    assert_eq!(election.evict(evict).await.unwrap().into_inner().term, term(2, "c", &["b"]));
    let withdraw = WithdrawRequest { id: id("p"), candidate: "c".to_owned() };
    assert_eq!(election.withdraw(withdraw).await.unwrap().into_inner().term, term(3, "b", &[]));
    let get = GetTermRequest { id: id("p") };
    assert_eq!(election.get_term(get).await.unwrap().into_inner().term, term(3, "b", &[]));
    let mut last = next(&mut terms).await.term;
    while last != term(3, "b", &[]) {
        last = next(&mut terms).await.term;
    }
}
