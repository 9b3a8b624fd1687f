// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.election.v1`.

use atomix_primitives::{Election, Kind, election::Term};
use atomix_proto::election;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::handover::HandOver;
use crate::status::{status, stream_status};

services!(
    election::leader_election_server::LeaderElectionServer,
    election::leader_elections_server::LeaderElectionsServer
);

#[tonic::async_trait]
impl election::leader_elections_server::LeaderElections for Services {
    create_and_close!(Kind::Election, election, |config| election::Config {
        cache: Some(election::CacheConfig { enabled: config.cache_enabled }),
    });
}

#[tonic::async_trait]
impl election::leader_election_server::LeaderElection for Services {
    create_and_close!(Kind::Election, election, |config| election::Config {
        cache: Some(election::CacheConfig { enabled: config.cache_enabled }),
    });

    async fn enter(
        &self,
        request: Request<election::EnterRequest>,
    ) -> Result<Response<election::EnterResponse>, Status> {
        let handover = HandOver::begin(self.runtime.env(), &request);
        let (election, request) = call!(self, Election, request);
        let caller = handover.limit(election.caller());
        let (term, candidacy) = election.candidacy(&caller, &request.candidate).await.map_err(status)?;
        let answer = election::EnterResponse { term: Some(message(term)) };
        Ok(match candidacy {
            Some(candidacy) => handover.answer(answer, candidacy),
            None => Response::new(answer),
        })
    }

    async fn withdraw(
        &self,
        request: Request<election::WithdrawRequest>,
    ) -> Result<Response<election::WithdrawResponse>, Status> {
        let (election, request) = call!(self, Election, request);
        let term = election.withdraw(&election.caller(), &request.candidate).await.map_err(status)?;
        Ok(Response::new(election::WithdrawResponse { term: Some(message(term)) }))
    }

    async fn anoint(
        &self,
        request: Request<election::AnointRequest>,
    ) -> Result<Response<election::AnointResponse>, Status> {
        let (election, request) = call!(self, Election, request);
        let term = election.anoint(&request.candidate).await.map_err(status)?;
        Ok(Response::new(election::AnointResponse { term: Some(message(term)) }))
    }

    async fn promote(
        &self,
        request: Request<election::PromoteRequest>,
    ) -> Result<Response<election::PromoteResponse>, Status> {
        let (election, request) = call!(self, Election, request);
        let term = election.promote(&request.candidate).await.map_err(status)?;
        Ok(Response::new(election::PromoteResponse { term: Some(message(term)) }))
    }

    async fn demote(
        &self,
        request: Request<election::DemoteRequest>,
    ) -> Result<Response<election::DemoteResponse>, Status> {
        let (election, request) = call!(self, Election, request);
        let term = election.demote(&request.candidate).await.map_err(status)?;
        Ok(Response::new(election::DemoteResponse { term: Some(message(term)) }))
    }

    async fn evict(
        &self,
        request: Request<election::EvictRequest>,
    ) -> Result<Response<election::EvictResponse>, Status> {
        let (election, request) = call!(self, Election, request);
        let term = election.evict(&request.candidate).await.map_err(status)?;
        Ok(Response::new(election::EvictResponse { term: Some(message(term)) }))
    }

    async fn get_term(
        &self,
        request: Request<election::GetTermRequest>,
    ) -> Result<Response<election::GetTermResponse>, Status> {
        let (election, _) = call!(self, Election, request);
        let term = election.term().await.map_err(status)?;
        Ok(Response::new(election::GetTermResponse { term: Some(message(term)) }))
    }

    type WatchStream = Answers<election::WatchResponse>;

    async fn watch(
        &self,
        request: Request<election::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (election, _) = stream_call!(self, Election, request);
        let terms = election.watch(&election.caller()).await.map_err(stream_status)?;
        Ok(election.stream(None, terms, |term| election::WatchResponse { term: Some(message(term)) }))
    }
}

fn message(term: Term) -> election::Term {
    election::Term { term: term.term, leader: term.leader, candidates: term.candidates }
}
