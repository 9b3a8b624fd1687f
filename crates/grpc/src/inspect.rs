// SPDX-License-Identifier: Apache-2.0
//! `atomix.inspect.v1`: what an operator may ask.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use atomix_config::StoreId;
use atomix_env::{Env, Instant, WallTime};
use atomix_primitives::{
    Election, Error, Holding, Kind, MemberDetails, Ownership, QueueState, TypedPrimitive, election,
};
use atomix_proto::{inspect, runtime};
use atomix_runtime::{
    Deletion, OwnerDetails, PrimitiveHandle, Routes, Session, StoreState, Usage, kind_named,
};
use atomix_store::Profile;
use futures::StreamExt;
use futures::future::join_all;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, services};
use crate::convert::{store_id, store_id_message, timestamp};
use crate::status::status;

/// Entries of a page when the request does not say, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// Locks, waiters and holdings that are shown of one primitive.
const SHOWN_MAX: usize = 1000;
/// The time in which a store must return its owners. A store that answers later is left out.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// The tolerated difference of the wall clocks of machines, and of one machine at two times.
const CLOCKS_APART: Duration = Duration::from_secs(2);

services!(inspect::inspector_server::InspectorServer);

#[tonic::async_trait]
impl inspect::inspector_server::Inspector for Services {
    async fn list_drivers(
        &self,
        _request: Request<inspect::ListDriversRequest>,
    ) -> Result<Response<inspect::ListDriversResponse>, Status> {
        let stores = self.runtime.stores();
        let drivers = self.runtime.drivers().into_iter().map(|driver| {
            let profile = stores
                .iter()
                .filter(|store| store.driver == driver.id)
                .find_map(|store| store.profile.as_ref());
            inspect::Driver {
                name: driver.id.name,
                version: driver.id.version,
                aliases: driver.aliases.iter().map(ToString::to_string).collect(),
                description: driver.description,
                profile: profile.map(profile_message),
            }
        });
        Ok(Response::new(inspect::ListDriversResponse { drivers: drivers.collect() }))
    }

    async fn list_stores(
        &self,
        _request: Request<inspect::ListStoresRequest>,
    ) -> Result<Response<inspect::ListStoresResponse>, Status> {
        let stores = self.runtime.stores().into_iter().map(|store| inspect::Store {
            store_id: Some(store_id_message(&store.id)),
            driver_id: Some(runtime::DriverId { name: store.driver.name, version: store.driver.version }),
            state: match store.state {
                StoreState::Connecting => inspect::StoreState::Connecting,
                StoreState::Ready => inspect::StoreState::Ready,
                StoreState::Degraded => inspect::StoreState::Degraded,
                StoreState::Closed => inspect::StoreState::Closed,
            }
            .into(),
            error: store.error,
            since: Some(timestamp(store.since)),
            primitives: store.primitives as u64,
            generation: store.generation,
            profile: store.profile.as_ref().map(profile_message),
            hosts: store.members.iter().map(member_message).collect(),
            clock_distrusted: store.profile.as_ref().is_some_and(|profile| profile.shared)
                && !store.clock_trusted,
            facts: store.facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect(),
        });
        Ok(Response::new(inspect::ListStoresResponse { stores: stores.collect() }))
    }

    async fn list_routes(
        &self,
        _request: Request<inspect::ListRoutesRequest>,
    ) -> Result<Response<inspect::ListRoutesResponse>, Status> {
        let routes = self.runtime.routes();
        let (style, listed) = match routes.as_deref() {
            None => (inspect::RouteStyle::Unspecified, Vec::new()),
            Some(Routes::Seed(routes)) => {
                let route = |route: &atomix_config::SeedRoute| inspect::Route {
                    store_id: Some(store_id_message(&route.store)),
                    tags: route.tags.clone(),
                    services: route.services.iter().map(|service| service.name.clone()).collect(),
                    rules: Vec::new(),
                };
                (inspect::RouteStyle::Seed, routes.iter().map(route).collect())
            }
            Some(routes @ Routes::Later(listed)) => {
                let rules = routes.rules();
                let route = |(at, route): (usize, &atomix_config::LaterRoute)| inspect::Route {
                    store_id: Some(store_id_message(&route.store)),
                    rules: rules[at].clone(),
                    ..inspect::Route::default()
                };
                (inspect::RouteStyle::Later, listed.iter().enumerate().map(route).collect())
            }
        };
        let programmed = routes.is_some();
        Ok(Response::new(inspect::ListRoutesResponse { programmed, style: style.into(), routes: listed }))
    }

    async fn explain_route(
        &self,
        request: Request<inspect::ExplainRouteRequest>,
    ) -> Result<Response<inspect::ExplainRouteResponse>, Status> {
        let request = request.into_inner();
        let kind = kind_named(&request.kind).map_err(status)?;
        let explained =
            self.runtime.explain(kind, &request.version, &request.name, &request.tags).map_err(status)?;
        let step = |step: atomix_runtime::Step| inspect::RouteStep {
            name: step.name.to_owned(),
            remaining: step.remaining,
            note: step.note,
        };
        let config = explained.placement.as_ref().map(|placement| &placement.config);
        Ok(Response::new(inspect::ExplainRouteResponse {
            matched: explained.placement.is_some(),
            config: config.filter(|config| !config.is_empty()).map(json).unwrap_or_default(),
            store_id: explained.placement.as_ref().map(|placement| store_id_message(&placement.store_id)),
            steps: explained.steps.into_iter().map(step).collect(),
        }))
    }

    async fn list_primitives(
        &self,
        request: Request<inspect::ListPrimitivesRequest>,
    ) -> Result<Response<inspect::ListPrimitivesResponse>, Status> {
        let request = request.into_inner();
        let of_kind = optional_kind(&request.kind).map_err(status)?;
        let of_store = request.store_id.map(|id| store_id(Some(id)));
        let after = match request.page_token.split_once('/') {
            Some((kind, name)) => Some((kind_named(kind).map_err(status)?, name)),
            None => None,
        };
        let size = page_size(request.page_size);
        let wanted = |open: &PrimitiveHandle| {
            of_kind.is_none_or(|kind| open.kind() == kind)
                && of_store.as_ref().is_none_or(|store| open.store_id() == store)
        };
        let mut found = self.runtime.primitives(after, size + 1, wanted);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        let next_page_token = last.map(|open| format!("{}/{}", open.kind(), open.name())).unwrap_or_default();
        let primitives = found.iter().map(|open| inspect::Primitive {
            kind: open.kind().type_name().to_owned(),
            name: open.name().to_owned(),
            store_id: Some(store_id_message(open.store_id())),
            tags: open.tags().to_vec(),
            sessions: open.users() as u64,
            streams: open.streams() as u64,
            waiters: open.waiters() as u64,
            orphans_swept: open.ownership().map_or(0, Ownership::orphans_swept),
        });
        Ok(Response::new(inspect::ListPrimitivesResponse {
            primitives: primitives.collect(),
            next_page_token,
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<inspect::ListSessionsRequest>,
    ) -> Result<Response<inspect::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let wrong = |_| status(Error::invalid("the page token is not one of this server"));
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(wrong)?),
        };
        let size = page_size(request.page_size);
        let mut found = self.runtime.sessions(after, size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        let next_page_token = last.map(|session| session.id().to_string()).unwrap_or_default();
        let env = self.runtime.env();
        let sessions = found.iter().map(|session| session_message(session, env, self.long_calls_max));
        let sessions = join_all(sessions).await;
        Ok(Response::new(inspect::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn list_locks(
        &self,
        request: Request<inspect::ListLocksRequest>,
    ) -> Result<Response<inspect::ListLocksResponse>, Status> {
        let request = request.into_inner();
        let of_kind = optional_kind(&request.kind).map_err(status)?;
        let wanted = |open: &PrimitiveHandle| {
            of_kind.is_none_or(|kind| open.kind() == kind)
                && (request.name.is_empty() || open.name() == request.name)
                && open.ownership().is_some()
        };
        let asked = self.runtime.primitives(None, SHOWN_MAX, wanted);
        // Concurrently: one store that does not answer must not hide the answers of the others.
        let answers = join_all(asked.iter().map(|open| self.owned(open))).await;
        let (mut locks, mut elections) = (Vec::new(), Vec::new());
        let mut unanswered: BTreeMap<&StoreId, inspect::UnansweredStore> = BTreeMap::new();
        for (open, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(Owned::Locks(found)) => locks.extend(found),
                Ok(Owned::Election(found)) => elections.push(found),
                Err(error) => {
                    let store = open.store_id();
                    let entry = unanswered.entry(store).or_insert_with(|| inspect::UnansweredStore {
                        store_id: Some(store_id_message(store)),
                        error,
                        primitives: 0,
                    });
                    entry.primitives += 1;
                }
            }
        }
        let unanswered = unanswered.into_values().collect();
        Ok(Response::new(inspect::ListLocksResponse { locks, elections, unanswered }))
    }

    async fn end_session(
        &self,
        request: Request<inspect::EndSessionRequest>,
    ) -> Result<Response<inspect::EndSessionResponse>, Status> {
        self.runtime.end_session(&request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(inspect::EndSessionResponse {}))
    }

    async fn close_primitive(
        &self,
        request: Request<inspect::ClosePrimitiveRequest>,
    ) -> Result<Response<inspect::ClosePrimitiveResponse>, Status> {
        let request = request.into_inner();
        let kind = kind_named(&request.kind).map_err(status)?;
        let usage = self.runtime.close_primitive(kind, &request.name).await.map_err(status)?;
        Ok(Response::new(inspect::ClosePrimitiveResponse { usage: Some(usage_message(&usage)) }))
    }

    async fn delete_primitive(
        &self,
        request: Request<inspect::DeletePrimitiveRequest>,
    ) -> Result<Response<inspect::DeletePrimitiveResponse>, Status> {
        let request = request.into_inner();
        let deletion = Deletion {
            kind: kind_named(&request.kind).map_err(status)?,
            name: request.name,
            store: request.store_id.map(|id| store_id(Some(id))),
            tags: request.tags,
            force: request.force,
            dry_run: request.dry_run,
        };
        let usage = self.runtime.delete_primitive(deletion).await.map_err(status)?;
        Ok(Response::new(inspect::DeletePrimitiveResponse { usage: Some(usage_message(&usage)) }))
    }

    async fn disconnect_store(
        &self,
        request: Request<inspect::DisconnectStoreRequest>,
    ) -> Result<Response<inspect::DisconnectStoreResponse>, Status> {
        let request = request.into_inner();
        let id = store_id(request.store_id);
        let disconnected = if request.force {
            self.runtime.disconnect(&id).await
        } else {
            self.runtime.disconnect_unless_lost(&id).await
        };
        disconnected.map_err(status)?;
        Ok(Response::new(inspect::DisconnectStoreResponse {}))
    }

    type BackupStoreStream = Answers<inspect::BackupStoreResponse>;

    async fn backup_store(
        &self,
        request: Request<inspect::BackupStoreRequest>,
    ) -> Result<Response<Self::BackupStoreStream>, Status> {
        let id = store_id(request.into_inner().store_id);
        let pieces = self.runtime.backup(&id).await.map_err(status)?;
        let answers = pieces.map(|piece| match piece {
            Ok(piece) => Ok(inspect::BackupStoreResponse { piece }),
            Err(error) => Err(status(error.into())),
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// The holders and waiters of one primitive.
enum Owned {
    Locks(Vec<inspect::Lock>),
    Election(inspect::Election),
}

impl Services {
    /// Asks the store of a primitive for its owners; fails with a text if it does not answer in time.
    async fn owned(&self, open: &PrimitiveHandle) -> Result<Owned, String> {
        let ask = async {
            if let Some(election) = Election::downcast(open.primitive()) {
                return Ok(Owned::Election(self.election(open.name(), election.state().await?)));
            }
            let locks = open.primitive().locks(SHOWN_MAX).await?.into_iter();
            Ok::<_, Error>(Owned::Locks(locks.map(|lock| self.lock(open, lock)).collect()))
        };
        match self.runtime.env().timeout(STORE_TIMEOUT, ask).await {
            Ok(Ok(owned)) => Ok(owned),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", STORE_TIMEOUT.as_secs())),
        }
    }

    fn lock(&self, open: &PrimitiveHandle, lock: QueueState) -> inspect::Lock {
        let mut queue = lock.queue.into_iter();
        inspect::Lock {
            kind: open.kind().type_name().to_owned(),
            name: open.name().to_owned(),
            key: lock.key,
            holder: queue.next().map(|holder| {
                let OwnerDetails { session, opened, ended } = self.runtime.owner_details(holder.owner);
                let since = since(self.runtime.env(), holder.since, opened);
                inspect::Holder { session, token: holder.token, since, session_ended: ended }
            }),
            waiters: queue
                .map(|waiter: Holding| {
                    let OwnerDetails { session, opened, ended } = self.runtime.owner_details(waiter.owner);
                    let since = since(self.runtime.env(), waiter.since, opened);
                    inspect::Waiter { session, since, session_ended: ended }
                })
                .collect(),
        }
    }

    fn election(&self, name: &str, state: election::State) -> inspect::Election {
        let candidate = |candidate: election::Candidate| {
            let OwnerDetails { session, ended, .. } = self.runtime.owner_details(candidate.owner);
            inspect::Candidate { candidate: candidate.name, session, session_ended: ended }
        };
        inspect::Election {
            name: name.to_owned(),
            term: state.term,
            leader: state.leader.map(candidate),
            candidates: state.waiting.into_iter().take(SHOWN_MAX).map(candidate).collect(),
        }
    }
}

/// Shows since when a place in a queue is taken, which the store has by the wall clock of that moment. Nothing if it cannot be: if
/// it is to come, or was before the session that has the place. A wall clock has jumped then.
fn since(env: &Env, taken: WallTime, opened: Option<Instant>) -> Option<prost_types::Timestamp> {
    let possible =
        opened.is_none_or(|opened| env.wall_of(opened) <= later(taken)) && taken <= later(env.wall());
    possible.then(|| timestamp(taken))
}

/// Returns a time by which clocks that agree may be apart.
fn later(time: WallTime) -> WallTime {
    WallTime::from_unix(time.since_unix() + CLOCKS_APART)
}

async fn session_message(session: &Session, env: &Env, long_calls_max: u32) -> inspect::Session {
    let holdings = session.holdings(env, STORE_TIMEOUT, PAGE_DEFAULT).await.into_iter().map(|holding| {
        inspect::Holding {
            kind: holding.kind.type_name().to_owned(),
            name: holding.name,
            key: holding.key,
            token: holding.token,
        }
    });
    inspect::Session {
        id: session.name(),
        peer: session.peer().to_owned(),
        connected: Some(timestamp(env.wall_of(session.opened()))),
        primitives: session.primitives() as u64,
        holdings: holdings.take(SHOWN_MAX).collect(),
        calls_in_flight: session.calls() as u64,
        long_calls: session.long_calls() as u64,
        long_calls_max: u64::from(long_calls_max),
    }
}

fn usage_message(usage: &Usage) -> inspect::PrimitiveUse {
    inspect::PrimitiveUse {
        store_id: Some(store_id_message(&usage.store)),
        entries: usage.entries,
        sessions: usage.sessions as u64,
        streams: usage.streams as u64,
        waiters: usage.waiters as u64,
        other_processes: usage.elsewhere as u64,
    }
}

fn member_message(member: &MemberDetails) -> inspect::Host {
    inspect::Host {
        id: format!("{:016x}", member.id),
        own: member.own,
        age: member.age.try_into().ok(),
        timeout: member.timeout.try_into().ok(),
        clock_offset: member.clock.map(|clock| milliseconds(clock.millis)),
        clock_uncertainty: member
            .clock
            .and_then(|clock| Duration::from_millis(clock.uncertainty).try_into().ok()),
    }
}

fn milliseconds(millis: i64) -> prost_types::Duration {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default();
    prost_types::Duration { seconds: millis / 1000, nanos }
}

fn profile_message(profile: &Profile) -> inspect::Profile {
    let limits = &profile.limits;
    let facts = [
        ("shared", profile.shared.to_string()),
        ("key-bytes-max", limits.key_bytes_max.to_string()),
        ("value-bytes-max", limits.value_bytes_max.to_string()),
        ("guards-max", limits.guards_max.to_string()),
        ("writes-max", limits.writes_max.to_string()),
        ("reads-max", limits.reads_max.to_string()),
    ];
    // Stores in this process bound the bytes of named requests and not their number.
    let once = Some(limits.once_max).filter(|max| *max < usize::MAX);
    let once = once.map(|max| ("once-max", max.to_string()));
    let facts: HashMap<String, String> =
        facts.into_iter().chain(once).map(|(name, fact)| (name.to_owned(), fact)).collect();
    inspect::Profile {
        consistency: profile.consistency.to_string(),
        durability: profile.durability.to_string(),
        facts,
    }
}

fn json(config: &atomix_config::JsonObject) -> String {
    serde_json::Value::Object(config.clone()).to_string()
}

fn optional_kind(name: &str) -> Result<Option<Kind>, Error> {
    if name.is_empty() { Ok(None) } else { kind_named(name).map(Some) }
}

fn page_size(wanted: u32) -> usize {
    if wanted == 0 { PAGE_DEFAULT } else { (wanted as usize).min(PAGE_MAX) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use atomix_config::{Config, DriverId, JsonObject, LaterRoute, Rule};
    use atomix_conformance::FixedStoreDriver;
    use atomix_driver_memory::{MemoryDriver, MemoryStore, Settings};
    use atomix_primitives::Lock;
    use atomix_runtime::Runtime;
    use atomix_store::{Health, Keyspace, Outcome, Read, Snapshot, Store, Txn, WatchFrom, WatchStream};
    use futures::future::BoxFuture;
    use inspect::inspector_server::Inspector;

    use super::*;

    /// A store that answers nothing while it is frozen.
    #[derive(Debug)]
    struct Freezer {
        store: MemoryStore,
        frozen: AtomicBool,
    }

    impl Freezer {
        async fn thawed(&self) {
            if self.frozen.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        }
    }

    impl Store for Freezer {
        fn profile(&self) -> &Profile {
            self.store.profile()
        }

        fn read<'a>(
            &'a self,
            keyspace: &'a Keyspace,
            reads: Vec<Read>,
        ) -> BoxFuture<'a, Result<Snapshot, atomix_store::Error>> {
            Box::pin(async move {
                self.thawed().await;
                self.store.read(keyspace, reads).await
            })
        }

        fn commit<'a>(
            &'a self,
            keyspace: &'a Keyspace,
            txn: Txn,
        ) -> BoxFuture<'a, Result<Outcome, atomix_store::Error>> {
            Box::pin(async move {
                self.thawed().await;
                self.store.commit(keyspace, txn).await
            })
        }

        fn watch<'a>(
            &'a self,
            keyspace: &'a Keyspace,
            from: WatchFrom,
        ) -> BoxFuture<'a, Result<WatchStream, atomix_store::Error>> {
            self.store.watch(keyspace, from)
        }

        fn check(&self) -> BoxFuture<'_, Result<Health, atomix_store::Error>> {
            self.store.check()
        }

        fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
            self.store.close(grace)
        }
    }

    fn named(name: &str) -> StoreId {
        StoreId { namespace: String::new(), name: name.to_owned() }
    }

    #[tokio::test]
    async fn a_store_that_is_away_hides_nothing_of_the_others() {
        let freezer = Arc::new(Freezer {
            store: MemoryStore::new(Settings::default()),
            frozen: AtomicBool::new(false),
        });
        let handed: Arc<dyn Store> = Arc::clone(&freezer) as _;
        let drivers: Vec<Arc<dyn atomix_store::Driver>> =
            vec![Arc::new(MemoryDriver), Arc::new(FixedStoreDriver::new(move || Arc::clone(&handed)))];
        let settings = atomix_runtime::Settings::new(&Config::default(), Env::real(), drivers);
        let runtime = Runtime::new(settings);
        for (store, driver) in [("near", "memory"), ("far", "test")] {
            let driver = DriverId { name: driver.to_owned(), version: String::new() };
            runtime.connect(named(store), driver, JsonObject::new()).await.unwrap();
        }
        let far = Rule { names: vec!["far".to_owned()], ..Rule::default() };
        let routes = vec![
            LaterRoute { store: named("far"), rules: vec![far] },
            LaterRoute { store: named("near"), rules: Vec::new() },
        ];
        runtime.stores_tried(Duration::from_secs(5)).await;
        runtime.program(Routes::Later(routes)).unwrap();
        let session = runtime.open_session("test".to_owned(), Box::new(|| {}));
        for name in ["near", "far"] {
            runtime.create(&session, Kind::Lock, name, &[]).await.unwrap();
            let open = runtime.find(Kind::Lock, name).unwrap();
            Lock::downcast(open.primitive()).unwrap().lock(&session.caller(&open), None).await.unwrap();
        }

        freezer.frozen.store(true, Ordering::SeqCst);
        let services = Services { runtime, long_calls_max: 9 };
        let request = Request::new(inspect::ListLocksRequest::default());
        let answer = services.list_locks(request).await.unwrap().into_inner();
        let names: Vec<_> = answer.locks.iter().map(|lock| lock.name.as_str()).collect();
        assert_eq!(names, ["near"]);
        let unanswered = inspect::UnansweredStore {
            store_id: Some(store_id_message(&named("far"))),
            error: "no answer within 1 s".to_owned(),
            primitives: 1,
        };
        assert_eq!(answer.unanswered, [unanswered]);
        let request = Request::new(inspect::ListSessionsRequest::default());
        let answer = services.list_sessions(request).await.unwrap().into_inner();
        let held: Vec<_> = answer.sessions[0].holdings.iter().map(|held| held.name.as_str()).collect();
        assert_eq!(held, ["near"]);
    }
}
