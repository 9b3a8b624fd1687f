// SPDX-License-Identifier: Apache-2.0
//! The state of a server: drivers, stores, routes, primitives, sessions, locks.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use atomix_proto::inspect as wire;
use bytes::Bytes;
use futures::StreamExt;
use serde::{Serialize, Serializer};
use wire::inspector_client::InspectorClient;

use crate::client::{Client, Limit};
use crate::error::{Access, Error, Result};
use crate::open::rpc;
use crate::store::{DriverId, StoreId};
use crate::stream::Subscription;
use crate::topic::system_time;

/// The calls that show the state of the server, and those that change it for operators: they end sessions, close and delete
/// primitives, disconnect stores. The calls that show are cancel safe; one that changes may be applied although it was given up.
#[derive(Debug, Clone)]
pub struct Inspect {
    client: Client,
}

/// A driver that the server was built with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Driver {
    /// The name and version.
    pub driver: DriverId,
    /// Other names under which stores may ask for it.
    pub aliases: Vec<String>,
    /// A description for people.
    pub description: String,
    /// The guarantees of its stores.
    pub profile: Profile,
}

/// The guarantees of a store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Profile {
    /// Such as `linearizable`.
    pub consistency: String,
    /// Such as `fsync`.
    pub durability: String,
    /// Abilities and limits by name.
    pub facts: BTreeMap<String, String>,
}

/// A connected store.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Store {
    /// Its name.
    pub store: StoreId,
    /// Its driver.
    pub driver: DriverId,
    /// The state.
    pub state: StoreState,
    /// The last error, empty if there is none.
    pub error: String,
    /// When the state began.
    #[serde(serialize_with = "unix_seconds")]
    pub since: SystemTime,
    /// The number of open primitives that live in it.
    pub primitives: u64,
    /// Grows with every configuration that was applied.
    pub generation: u64,
    /// Its guarantees, known after the first connection.
    pub profile: Option<Profile>,
    /// The processes that work on it; none if it is not shared.
    pub hosts: Vec<Host>,
    /// Whether the wall clock of the process does not decide that entries in it have expired, because it is ahead of that of another
    /// process, or may be.
    pub clock_distrusted: bool,
    /// Facts of the last check that succeeded, such as `bytes`; each driver has its own.
    pub facts: BTreeMap<String, String>,
}

/// A process as a shared store sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Host {
    /// Drawn by chance.
    pub id: String,
    /// Whether it is the asked process.
    pub own: bool,
    /// The time since that process saw its last heartbeat.
    #[serde(serialize_with = "seconds")]
    pub age: Duration,
    /// The time without a heartbeat after which the others consider it failed.
    #[serde(serialize_with = "seconds")]
    pub timeout: Duration,
    /// The seconds by which its wall clock is ahead of that of the asked process; negative if it is behind. `None` for that process,
    /// and as long as it is not known.
    pub clock_offset: Option<f64>,
    /// By how many seconds `clock_offset` may be wrong, in both directions.
    pub clock_uncertainty: Option<f64>,
}

/// The state of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StoreState {
    /// A state that this client does not know.
    Unknown,
    /// Never reached yet.
    Connecting,
    /// Reached, and in order.
    Ready,
    /// Was reached, but not with the last check or call.
    Degraded,
    /// Disconnected; calls in flight come to their end.
    Closed,
}

/// The routes of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Routes {
    /// Whether routes are programmed.
    pub programmed: bool,
    /// The rules that choose among them.
    pub style: RouteStyle,
    /// The routes in the order in which they are tried.
    pub routes: Vec<RouteText>,
}

/// The rules that choose among routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RouteStyle {
    /// A style that this client does not know, or no routes.
    Unknown,
    /// The first route whose tags the primitive has.
    Seed,
    /// Rules by name, tags, type.
    Later,
}

/// A route as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RouteText {
    /// The store.
    pub store: StoreId,
    /// One line for each rule.
    pub rules: Vec<String>,
    /// The tags of a route of style seed.
    pub tags: Vec<String>,
    /// One line for each service of a route of style seed.
    pub services: Vec<String>,
}

/// The store that a primitive would be placed in, and the steps that lead there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The store, if a route matches.
    pub store: Option<StoreId>,
    /// The JSON text of the primitive's configuration, perhaps empty.
    pub config: String,
    /// The steps that narrowed down the candidates.
    pub steps: Vec<Step>,
}

/// One step of an [`Explanation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// The name of the step.
    pub name: String,
    /// The candidates that were left.
    pub remaining: Vec<String>,
    /// Why.
    pub note: String,
}

/// An open primitive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Primitive {
    /// The type, such as `Map`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The store that it lives in.
    pub store: StoreId,
    /// The tags with which it was opened.
    pub tags: Vec<String>,
    /// Sessions that have it open.
    pub sessions: u64,
    /// Open streams.
    pub streams: u64,
    /// Calls that wait for a lock.
    pub waiters: u64,
}

/// The content and the users of a primitive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PrimitiveUse {
    /// The store that it lives in.
    pub store: StoreId,
    /// Entries in the store; 0 where they are not counted.
    pub entries: u64,
    /// Sessions of the server that use it.
    pub sessions: u64,
    /// Their streams.
    pub streams: u64,
    /// Their calls that wait for a lock.
    pub waiters: u64,
    /// Other processes that have it open.
    pub other_processes: u64,
}

/// The options of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delete {
    /// The store that has the content. `None` for the store in which the primitive is open, else the one that remembers
    /// it, else the one to which the routes lead it.
    pub store: Option<StoreId>,
    /// The tags, for routes that look at them.
    pub tags: Vec<String>,
    /// Delete it although it has content or users.
    pub force: bool,
    /// Look, and change nothing.
    pub dry_run: bool,
}

/// A client as the server sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Session {
    /// Its identity, for [`Inspect::end_session`].
    pub id: String,
    /// The address of the client.
    pub peer: String,
    /// When it came.
    #[serde(serialize_with = "unix_seconds")]
    pub connected: SystemTime,
    /// The number of primitives that it has open.
    pub primitives: u64,
    /// The locks and candidacies that it owns.
    pub holdings: Vec<Holding>,
    /// Calls that are not answered yet, streams included.
    pub calls_in_flight: u64,
    /// The number of these calls that wait for a lock or stream.
    pub long_calls: u64,
    /// As many of those as the server lets one connection have; 0 if the server does not know this field.
    pub long_calls_max: u64,
}

/// Something that a session owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holding {
    /// The type of the primitive.
    pub kind: String,
    /// The name of the primitive.
    pub name: String,
    /// The key of a map, or the candidate of an election.
    pub key: String,
    /// The fencing token, or the term that the candidate leads.
    pub token: u64,
}

/// The holders and waiters of locks and elections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Locks {
    /// Locks, and locked keys of maps and counter maps.
    pub locks: Vec<LockState>,
    /// Elections.
    pub elections: Vec<ElectionState>,
    /// Stores that gave no answer: what lives there is missing above.
    pub unanswered: Vec<UnansweredStore>,
}

/// A store that was asked in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnansweredStore {
    /// Its name.
    pub store: StoreId,
    /// The reason why there was no answer.
    pub error: String,
    /// The number of primitives that are missing because of it.
    pub primitives: u64,
}

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockState {
    /// `Lock`, `Map` or `CounterMap`.
    pub kind: String,
    /// The name of the primitive.
    pub name: String,
    /// The key of a map or counter map.
    pub key: String,
    /// The holder.
    pub holder: Option<Holder>,
    /// The waiters, in order.
    pub waiters: Vec<Waiter>,
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// The session, empty if it belongs to another server process.
    pub session: String,
    /// The fencing token.
    pub token: u64,
    /// Since when, if that is known.
    #[serde(serialize_with = "unix_seconds_if_known")]
    pub since: Option<SystemTime>,
    /// Whether the session has ended; if that lasts, [`Inspect::end_session`] frees the lock.
    pub session_ended: bool,
}

/// A waiter for a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Waiter {
    /// The session, empty if it belongs to another server process.
    pub session: String,
    /// Since when, if that is known.
    #[serde(serialize_with = "unix_seconds_if_known")]
    pub since: Option<SystemTime>,
    /// Whether the session has ended.
    pub session_ended: bool,
}

/// One election.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ElectionState {
    /// The name.
    pub name: String,
    /// The number of the term.
    pub term: u64,
    /// The leader.
    pub leader: Option<Candidate>,
    /// The waiting candidates, in order.
    pub candidates: Vec<Candidate>,
}

/// A candidate and its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The name.
    pub candidate: String,
    /// The session, empty if it belongs to another server process.
    pub session: String,
    /// Whether the session has ended.
    pub session_ended: bool,
}

// === impl Client ===

impl Client {
    /// Returns the calls that show the state of the server.
    pub fn inspect(&self) -> Inspect {
        Inspect { client: self.clone() }
    }
}

// === impl Inspect ===

impl Inspect {
    /// Lists the drivers that the server was built with.
    pub async fn drivers(&self) -> Result<Vec<Driver>> {
        let request = wire::ListDriversRequest {};
        let response =
            self.client.control_call(Access::Read, request, rpc!(InspectorClient.list_drivers)).await?;
        Ok(response.drivers.into_iter().map(Driver::from).collect())
    }

    /// Lists the connected stores.
    pub async fn stores(&self) -> Result<Vec<Store>> {
        let request = wire::ListStoresRequest {};
        let response =
            self.client.control_call(Access::Read, request, rpc!(InspectorClient.list_stores)).await?;
        Ok(response.stores.into_iter().map(Store::from).collect())
    }

    /// Lists the routes.
    pub async fn routes(&self) -> Result<Routes> {
        let request = wire::ListRoutesRequest {};
        let response =
            self.client.control_call(Access::Read, request, rpc!(InspectorClient.list_routes)).await?;
        let style = match response.style() {
            wire::RouteStyle::Unspecified => RouteStyle::Unknown,
            wire::RouteStyle::Seed => RouteStyle::Seed,
            wire::RouteStyle::Later => RouteStyle::Later,
        };
        let routes = response.routes.into_iter().map(RouteText::from).collect();
        Ok(Routes { programmed: response.programmed, style, routes })
    }

    /// Explains where a primitive would be placed. `kind` is a type such as `Map`.
    pub async fn explain<T: Into<String>>(
        &self,
        kind: impl Into<String>,
        name: impl Into<String>,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<Explanation> {
        let request = wire::ExplainRouteRequest {
            kind: kind.into(),
            version: String::new(),
            name: name.into(),
            tags: tags.into_iter().map(Into::into).collect(),
        };
        let response =
            self.client.control_call(Access::Read, request, rpc!(InspectorClient.explain_route)).await?;
        let step =
            |step: wire::RouteStep| Step { name: step.name, remaining: step.remaining, note: step.note };
        Ok(Explanation {
            store: response.store_id.filter(|_| response.matched).map(StoreId::from),
            config: response.config,
            steps: response.steps.into_iter().map(step).collect(),
        })
    }

    /// Lists the open primitives: those of type `kind` unless it is empty, in `store` unless it is absent.
    /// The memory grows with their number.
    pub async fn primitives(&self, kind: &str, store: Option<&StoreId>) -> Result<Vec<Primitive>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = wire::ListPrimitivesRequest {
                kind: kind.to_owned(),
                store_id: store.cloned().map(StoreId::wire),
                page_size: 0,
                page_token,
            };
            let response = self
                .client
                .control_call(Access::Read, request, rpc!(InspectorClient.list_primitives))
                .await?;
            all.extend(response.primitives.into_iter().map(Primitive::from));
            if response.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = response.next_page_token;
        }
    }

    /// Lists the sessions. The memory grows with their number.
    pub async fn sessions(&self) -> Result<Vec<Session>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = wire::ListSessionsRequest { page_size: 0, page_token };
            let response =
                self.client.control_call(Access::Read, request, rpc!(InspectorClient.list_sessions)).await?;
            all.extend(response.sessions.into_iter().map(Session::from));
            if response.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = response.next_page_token;
        }
    }

    /// Lists locks and elections: those of type `kind` and of the name `name` unless they are empty. Stores that do not
    /// answer soon are named instead.
    pub async fn locks(&self, kind: &str, name: &str) -> Result<Locks> {
        let request = wire::ListLocksRequest { kind: kind.to_owned(), name: name.to_owned() };
        let response =
            self.client.control_call(Access::Read, request, rpc!(InspectorClient.list_locks)).await?;
        Ok(Locks {
            locks: response.locks.into_iter().map(LockState::from).collect(),
            elections: response.elections.into_iter().map(ElectionState::from).collect(),
            unanswered: response.unanswered.into_iter().map(UnansweredStore::from).collect(),
        })
    }

    /// Copies everything that a store keeps into one file, piece by piece, while the store works. What was answered before
    /// this call is in it. The file is complete only if the stream ends without an error.
    ///
    /// Fails with [`Kind::Unsupported`](crate::Kind::Unsupported) for stores that are backed up by their own means.
    pub async fn backup(&self, store: impl Into<StoreId>) -> Result<Subscription<Bytes>> {
        let request = wire::BackupStoreRequest { store_id: Some(store.into().wire()) };
        let link = self.client.control_link();
        let method = rpc!(InspectorClient.backup_store);
        let pieces = self.client.attempt(link, Access::Read, Limit::Open, request, &method).await?;
        // The stream keeps the client, and so the connection, alive.
        let client = self.client.clone();
        Ok(Subscription::new(pieces.map(move |piece| {
            let _alive = &client;
            piece.map(|piece| piece.piece).map_err(|status| Error::from_status(status, Access::Read))
        })))
    }

    /// Ends a session: its connection is closed and what it owns is released. May be applied although it was given
    /// up.
    ///
    /// Fails with [`Kind::NotFound`](crate::Kind::NotFound) if there is no such session.
    pub async fn end_session(&self, id: impl Into<String>) -> Result<()> {
        let request = wire::EndSessionRequest { id: id.into() };
        self.client.control_call(Access::Write, request, rpc!(InspectorClient.end_session)).await?;
        Ok(())
    }

    /// Closes a primitive in the server for all sessions. The content stays. May be applied although it was given up.
    ///
    /// Fails with [`Kind::NotFound`](crate::Kind::NotFound) if there is no such primitive.
    pub async fn close_primitive(
        &self,
        kind: impl Into<String>,
        name: impl Into<String>,
    ) -> Result<PrimitiveUse> {
        let request = wire::ClosePrimitiveRequest { kind: kind.into(), name: name.into() };
        let response =
            self.client.control_call(Access::Write, request, rpc!(InspectorClient.close_primitive)).await?;
        Ok(response.usage.unwrap_or_default().into())
    }

    /// Closes a primitive in the server for all sessions and deletes its content from the store. May be applied although it was
    /// given up, and repeated.
    ///
    /// Fails with [`Kind::Conflict`](crate::Kind::Conflict) if it has content or users and `options` do not force it, and
    /// with [`Kind::NotFound`](crate::Kind::NotFound) if there is no such primitive.
    pub async fn delete_primitive(
        &self,
        kind: impl Into<String>,
        name: impl Into<String>,
        options: Delete,
    ) -> Result<PrimitiveUse> {
        let Delete { store, tags, force, dry_run } = options;
        let (kind, name, store_id) = (kind.into(), name.into(), store.map(StoreId::wire));
        let request = wire::DeletePrimitiveRequest { kind, name, store_id, tags, force, dry_run };
        let response =
            self.client.control_call(Access::Write, request, rpc!(InspectorClient.delete_primitive)).await?;
        Ok(response.usage.unwrap_or_default().into())
    }

    /// Disconnects a store and drops its primitives from the server. May be applied although it was given up.
    ///
    /// Fails with [`Kind::Conflict`](crate::Kind::Conflict) if content would be lost, as that of a memory store, and `force`
    /// is not set; with [`Kind::NotFound`](crate::Kind::NotFound) if the store is not connected.
    pub async fn disconnect_store(&self, store: impl Into<StoreId>, force: bool) -> Result<()> {
        let request = wire::DisconnectStoreRequest { store_id: Some(store.into().wire()), force };
        self.client.control_call(Access::Write, request, rpc!(InspectorClient.disconnect_store)).await?;
        Ok(())
    }
}

// === impl From ===

impl From<wire::Driver> for Driver {
    fn from(wire: wire::Driver) -> Self {
        Self {
            driver: DriverId { name: wire.name, version: wire.version },
            aliases: wire.aliases,
            description: wire.description,
            profile: wire.profile.map(Profile::from).unwrap_or_default(),
        }
    }
}

impl From<wire::Profile> for Profile {
    fn from(wire: wire::Profile) -> Self {
        Self {
            consistency: wire.consistency,
            durability: wire.durability,
            facts: wire.facts.into_iter().collect(),
        }
    }
}

impl From<wire::PrimitiveUse> for PrimitiveUse {
    fn from(wire: wire::PrimitiveUse) -> Self {
        Self {
            store: StoreId::from(wire.store_id.unwrap_or_default()),
            entries: wire.entries,
            sessions: wire.sessions,
            streams: wire.streams,
            waiters: wire.waiters,
            other_processes: wire.other_processes,
        }
    }
}

impl From<wire::Store> for Store {
    fn from(wire: wire::Store) -> Self {
        let state = match wire.state() {
            wire::StoreState::Unspecified => StoreState::Unknown,
            wire::StoreState::Connecting => StoreState::Connecting,
            wire::StoreState::Ready => StoreState::Ready,
            wire::StoreState::Degraded => StoreState::Degraded,
            wire::StoreState::Closed => StoreState::Closed,
        };
        Self {
            store: wire.store_id.unwrap_or_default().into(),
            driver: wire.driver_id.unwrap_or_default().into(),
            state,
            error: wire.error,
            since: system_time(wire.since),
            primitives: wire.primitives,
            generation: wire.generation,
            profile: wire.profile.map(Profile::from),
            hosts: wire.hosts.into_iter().map(Host::from).collect(),
            clock_distrusted: wire.clock_distrusted,
            facts: wire.facts.into_iter().collect(),
        }
    }
}

impl From<wire::Host> for Host {
    fn from(wire: wire::Host) -> Self {
        let duration = |wire: Option<prost_types::Duration>| {
            wire.and_then(|wire| Duration::try_from(wire).ok()).unwrap_or_default()
        };
        #[allow(clippy::cast_precision_loss, reason = "exact for 285 million years")]
        let signed = |wire: prost_types::Duration| wire.seconds as f64 + f64::from(wire.nanos) / 1e9;
        Self {
            id: wire.id,
            own: wire.own,
            age: duration(wire.age),
            timeout: duration(wire.timeout),
            clock_offset: wire.clock_offset.map(signed),
            clock_uncertainty: wire.clock_uncertainty.map(signed),
        }
    }
}

impl From<wire::Route> for RouteText {
    fn from(wire: wire::Route) -> Self {
        Self {
            store: wire.store_id.unwrap_or_default().into(),
            rules: wire.rules,
            tags: wire.tags,
            services: wire.services,
        }
    }
}

impl From<wire::Primitive> for Primitive {
    fn from(wire: wire::Primitive) -> Self {
        Self {
            kind: wire.kind,
            name: wire.name,
            store: wire.store_id.unwrap_or_default().into(),
            tags: wire.tags,
            sessions: wire.sessions,
            streams: wire.streams,
            waiters: wire.waiters,
        }
    }
}

impl From<wire::Session> for Session {
    fn from(wire: wire::Session) -> Self {
        Self {
            id: wire.id,
            peer: wire.peer,
            connected: system_time(wire.connected),
            primitives: wire.primitives,
            holdings: wire.holdings.into_iter().map(Holding::from).collect(),
            calls_in_flight: wire.calls_in_flight,
            long_calls: wire.long_calls,
            long_calls_max: wire.long_calls_max,
        }
    }
}

impl From<wire::Holding> for Holding {
    fn from(wire: wire::Holding) -> Self {
        Self { kind: wire.kind, name: wire.name, key: wire.key, token: wire.token }
    }
}

impl From<wire::Lock> for LockState {
    fn from(wire: wire::Lock) -> Self {
        let known = |since: Option<prost_types::Timestamp>| since.map(|since| system_time(Some(since)));
        let waiter = |waiter: wire::Waiter| Waiter {
            session: waiter.session,
            since: known(waiter.since),
            session_ended: waiter.session_ended,
        };
        Self {
            kind: wire.kind,
            name: wire.name,
            key: wire.key,
            holder: wire.holder.map(|holder| Holder {
                session: holder.session,
                token: holder.token,
                since: known(holder.since),
                session_ended: holder.session_ended,
            }),
            waiters: wire.waiters.into_iter().map(waiter).collect(),
        }
    }
}

impl From<wire::Election> for ElectionState {
    fn from(wire: wire::Election) -> Self {
        Self {
            name: wire.name,
            term: wire.term,
            leader: wire.leader.map(Candidate::from),
            candidates: wire.candidates.into_iter().map(Candidate::from).collect(),
        }
    }
}

impl From<wire::UnansweredStore> for UnansweredStore {
    fn from(wire: wire::UnansweredStore) -> Self {
        Self {
            store: wire.store_id.unwrap_or_default().into(),
            error: wire.error,
            primitives: wire.primitives,
        }
    }
}

impl From<wire::Candidate> for Candidate {
    fn from(wire: wire::Candidate) -> Self {
        Self { candidate: wire.candidate, session: wire.session, session_ended: wire.session_ended }
    }
}

/// Writes a time as seconds since 1970, which every JSON reader can compare.
fn unix_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64().serialize(serializer)
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    time.as_secs_f64().serialize(serializer)
}

#[allow(clippy::ref_option, reason = "serde calls it so")]
fn unix_seconds_if_known<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match time {
        Some(time) => unix_seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}
