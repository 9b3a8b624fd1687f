// SPDX-License-Identifier: Apache-2.0
//! Streams and candidacies against a server whose streams the test writes.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomix_client::{Client, Kind, Subscription};
use atomix_proto::{election as e, topic as t};
use futures::{FutureExt, Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// Hands out the streams that the test has prepared, and notes the candidates that withdraw.
struct Server {
    terms: Mutex<Option<Receiver<Result<e::WatchResponse, Status>>>>,
    messages: Mutex<Option<Receiver<Result<t::SubscribeResponse, Status>>>>,
    /// The term that an entry is answered with, in which `me` stands for the candidate.
    entered: Mutex<Option<e::Term>>,
    /// The number of entries that are refused before that, and the candidates that tried.
    refusals: AtomicUsize,
    tried: Mutex<Vec<String>>,
    withdrawn: Mutex<Vec<String>>,
}

struct Test {
    server: Arc<Server>,
    terms: Sender<Result<e::WatchResponse, Status>>,
    messages: Sender<Result<t::SubscribeResponse, Status>>,
    client: Client,
    task: JoinHandle<()>,
}

struct Service(Arc<Server>);

fn term(number: u64, leader: &str, candidates: &[&str]) -> e::Term {
    let candidates = candidates.iter().map(|&candidate| candidate.to_owned()).collect();
    e::Term { term: number, leader: leader.to_owned(), candidates }
}

/// Writes `candidate` for `me`.
fn under(mut term: e::Term, candidate: &str) -> e::Term {
    for name in term.candidates.iter_mut().chain([&mut term.leader]).filter(|name| *name == "me") {
        candidate.clone_into(name);
    }
    term
}

/// Answers the calls that no test makes.
macro_rules! unused {
    ($($method:ident $Request:ty => $Response:ty;)*) => {
        $(
            #[allow(clippy::type_complexity, clippy::type_repetition_in_bounds, reason = "as async_trait writes it")]
            fn $method<'a, 'b>(
                &'a self,
                _: Request<$Request>,
            ) -> Pin<Box<dyn Future<Output = Answer<$Response>> + Send + 'b>>
            where
                'a: 'b,
                Self: 'b,
            {
                async { Err(Status::unimplemented("not in this test")) }.boxed()
            }
        )*
    };
}

#[tonic::async_trait]
impl e::leader_elections_server::LeaderElections for Service {
    async fn create(&self, _: Request<e::CreateRequest>) -> Answer<e::CreateResponse> {
        Ok(Response::new(e::CreateResponse::default()))
    }
    async fn close(&self, _: Request<e::CloseRequest>) -> Answer<e::CloseResponse> {
        Ok(Response::new(e::CloseResponse::default()))
    }
}

#[tonic::async_trait]
impl e::leader_election_server::LeaderElection for Service {
    type WatchStream = Messages<e::WatchResponse>;

    async fn watch(&self, _: Request<e::WatchRequest>) -> Answer<Self::WatchStream> {
        let terms = self.0.terms.lock().unwrap().take().unwrap();
        Ok(Response::new(ReceiverStream::new(terms).boxed()))
    }
    async fn enter(&self, request: Request<e::EnterRequest>) -> Answer<e::EnterResponse> {
        let candidate = request.into_inner().candidate;
        self.0.tried.lock().unwrap().push(candidate.clone());
        if self.0.refusals.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        {
            return Err(Status::unavailable("not now"));
        }
        let term = self.0.entered.lock().unwrap().clone();
        Ok(Response::new(e::EnterResponse { term: term.map(|term| under(term, &candidate)) }))
    }
    async fn withdraw(&self, request: Request<e::WithdrawRequest>) -> Answer<e::WithdrawResponse> {
        self.0.withdrawn.lock().unwrap().push(request.into_inner().candidate);
        Ok(Response::new(e::WithdrawResponse::default()))
    }
    unused! {
        create e::CreateRequest => e::CreateResponse;
        anoint e::AnointRequest => e::AnointResponse;
        promote e::PromoteRequest => e::PromoteResponse;
        demote e::DemoteRequest => e::DemoteResponse;
        evict e::EvictRequest => e::EvictResponse;
        get_term e::GetTermRequest => e::GetTermResponse;
        close e::CloseRequest => e::CloseResponse;
    }
}

#[tonic::async_trait]
impl t::topics_server::Topics for Service {
    async fn create(&self, _: Request<t::CreateRequest>) -> Answer<t::CreateResponse> {
        Ok(Response::new(t::CreateResponse::default()))
    }
    async fn close(&self, _: Request<t::CloseRequest>) -> Answer<t::CloseResponse> {
        Ok(Response::new(t::CloseResponse::default()))
    }
}

#[tonic::async_trait]
impl t::topic_server::Topic for Service {
    type SubscribeStream = Messages<t::SubscribeResponse>;

    async fn subscribe(&self, _: Request<t::SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        let messages = self.0.messages.lock().unwrap().take().unwrap();
        Ok(Response::new(ReceiverStream::new(messages).boxed()))
    }
    unused! {
        create t::CreateRequest => t::CreateResponse;
        publish t::PublishRequest => t::PublishResponse;
        close t::CloseRequest => t::CloseResponse;
    }
}

impl Test {
    async fn start(entered: e::Term) -> Self {
        let (terms, terms_out) = channel(16);
        let (messages, messages_out) = channel(16);
        let server = Arc::new(Server {
            terms: Mutex::new(Some(terms_out)),
            messages: Mutex::new(Some(messages_out)),
            entered: Mutex::new(Some(entered)),
            refusals: AtomicUsize::new(0),
            tried: Mutex::default(),
            withdrawn: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(e::leader_elections_server::LeaderElectionsServer::new(Service(Arc::clone(&server))))
            .add_service(e::leader_election_server::LeaderElectionServer::new(Service(Arc::clone(&server))))
            .add_service(t::topics_server::TopicsServer::new(Service(Arc::clone(&server))))
            .add_service(t::topic_server::TopicServer::new(Service(Arc::clone(&server))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(serving.map(Result::unwrap));
        let client = Client::builder().endpoint(address.to_string()).connect().await.unwrap();
        Self { server, terms, messages, client, task }
    }

    /// Sends a term to the watch, in which `me` stands for the candidate that entered last.
    async fn send(&self, term: e::Term) {
        let candidate = self.server.tried.lock().unwrap().last().cloned().unwrap_or_default();
        self.terms.send(Ok(e::WatchResponse { term: Some(under(term, &candidate)) })).await.unwrap();
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_candidate_is_elected_in_its_turn_and_withdraws_when_it_is_dropped() {
    let test = Test::start(term(4, "a", &["b", "me"])).await;
    let election = test.client.election("e").open().await.unwrap();
    // The watch begins before the entry.
    test.send(term(4, "a", &["b"])).await;
    let mut candidacy = election.candidacy("me").await.unwrap();
    assert!(!candidacy.leads());
    test.send(term(4, "a", &["b", "me"])).await;
    test.send(term(5, "b", &["me"])).await;
    test.send(term(6, "me", &[])).await;
    assert_eq!(candidacy.elected().await.unwrap().number, 6);
    test.send(term(6, "me", &["c"])).await;
    test.send(term(7, "c", &["me"])).await;
    assert_eq!(candidacy.deposed().await.unwrap().leader.as_deref(), Some("c"));
    let candidate = candidacy.candidate().to_owned();
    drop(candidacy);
    while test.server.withdrawn.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(*test.server.withdrawn.lock().unwrap(), [candidate]);
}

#[tokio::test]
async fn a_lead_under_the_same_name_is_not_taken_for_the_own_one() {
    let test = Test::start(term(1, "worker", &["me"])).await;
    let election = test.client.election("e").open().await.unwrap();
    let mut candidacy = election.candidacy("worker").await.unwrap();
    assert!(candidacy.candidate().starts_with("worker-"), "{}", candidacy.candidate());
    assert!(!candidacy.leads());
    test.send(term(1, "worker", &["me"])).await;
    test.send(term(2, "me", &[])).await;
    assert_eq!(candidacy.elected().await.unwrap().number, 2);
    assert!(candidacy.deposed().now_or_never().is_none());
}

#[tokio::test]
async fn each_attempt_to_enter_has_a_name_of_its_own() {
    let test = Test::start(term(1, "me", &[])).await;
    let election = test.client.election("e").open().await.unwrap();
    test.server.refusals.store(1, Ordering::SeqCst);
    let candidacy = election.candidacy("worker").await.unwrap();
    let tried = test.server.tried.lock().unwrap().clone();
    assert_eq!(tried.len(), 2);
    assert_ne!(tried[0], tried[1]);
    assert_eq!(candidacy.candidate(), tried[1]);
    assert!(candidacy.leads());
}

#[tokio::test]
async fn an_evicted_candidate_does_not_wait_for_ever() {
    let test = Test::start(term(1, "a", &["me"])).await;
    let election = test.client.election("e").open().await.unwrap();
    let mut candidacy = election.candidacy("me").await.unwrap();
    test.send(term(1, "a", &["me"])).await;
    test.send(term(1, "a", &[])).await;
    assert_eq!(candidacy.elected().await.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
async fn an_evicted_candidate_is_noticed_although_messages_were_merged() {
    let test = Test::start(term(1, "a", &["me"])).await;
    let election = test.client.election("e").open().await.unwrap();
    let mut candidacy = election.candidacy("me").await.unwrap();
    test.send(term(2, "b", &[])).await;
    assert_eq!(candidacy.elected().await.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
async fn a_leader_whose_connection_breaks_is_deposed() {
    let test = Test::start(term(1, "me", &[])).await;
    let election = test.client.election("e").open().await.unwrap();
    let mut candidacy = election.candidacy("me").await.unwrap();
    assert_eq!(candidacy.elected().await.unwrap().number, 1);
    test.terms.send(Err(Status::unavailable("server is stopping"))).await.unwrap();
    assert_eq!(candidacy.deposed().await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_subscription_is_there_before_its_first_message() {
    let test = Test::start(e::Term::default()).await;
    let topic = test.client.topic("news").text().open().await.unwrap();
    let mut messages: Subscription<_> = topic.subscribe().await.unwrap();
    assert!(messages.next().now_or_never().is_none());
    let message = t::SubscribeResponse { offset: 3, timestamp: None, payload: "hello".into() };
    test.messages.send(Ok(message)).await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!((message.offset, message.payload.as_str()), (3, "hello"));
    test.messages.send(Err(Status::data_loss("slow"))).await.unwrap();
    assert_eq!(messages.next().await.unwrap().unwrap_err().kind(), Kind::DataLoss);
    // An error is the end.
    assert!(messages.next().await.is_none());
}

#[tokio::test]
async fn an_answer_may_be_larger_than_the_default_of_grpc() {
    const BYTES: usize = 5_000_000;
    let test = Test::start(e::Term::default()).await;
    let topic = test.client.topic("news").open().await.unwrap();
    let mut messages = topic.subscribe().await.unwrap();
    let message = t::SubscribeResponse { offset: 1, timestamp: None, payload: vec![7; BYTES].into() };
    test.messages.send(Ok(message)).await.unwrap();
    assert_eq!(messages.next().await.unwrap().unwrap().payload.len(), BYTES);
}
