// SPDX-License-Identifier: Apache-2.0
//! Connections from accept to end: accept loop, sweep, drain.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use atomix_env::{Backoff, Env, Instant, Policy, Shutdown, Workers};
use bytes::Bytes;
use futures::future::{join_all, join3, select};
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tower::Service;

use crate::admission::{Admission, Kind};
use crate::connection::{Connection, End, Origin, Peer, Stage};
use crate::counters::{Counters, Refusal};
use crate::http2::{Broken, Server};
use crate::limits::Limits;
use crate::listen::Listener;
use crate::pool::Pool;
use crate::relief::{LOOK_INTERVAL, Relief};
use crate::request::{BoxError, RequestBody};
use crate::wire::{Socket, Wire};

/// The interval of the sweep. For timeouts below four times this interval the sweep runs more often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The time that a draining connection without calls has to complete the GOAWAY exchange: a few round trips.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);
/// The first and the longest pause after a failed accept.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The idle time after which a connection may be replaced by another.
const REPLACED_AFTER: Duration = Duration::from_secs(1);
/// The pause after a search that found no connection to replace.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);
/// The shortest interval between two log lines of the same kind.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// Observes connections.
pub trait Observer: Send + Sync + 'static {
    /// Called when a connection is accepted, before its first request. Must not block.
    fn opened(&self, connection: &Arc<Connection>);

    /// Called when a connection has ended: once for each that opened, as soon as either side closes the socket. Calls
    /// that still ran are being dropped, and some may not be gone yet. Must not block.
    fn closed(&self, connection: &Arc<Connection>);

    /// Returns whether a connection that ran no call for the idle timeout may end. The default is yes; a connection
    /// whose session holds something must stay.
    fn may_close(&self, connection: &Arc<Connection>) -> bool {
        let _ = connection;
        true
    }
}

/// Accepts and drives connections within limits, and drains them. Cheap to clone; clones are the same transport.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    observer: Box<dyn Observer>,
    env: Env,
    counters: Arc<Counters>,
    next_id: AtomicU64,
    admission: Arc<Admission>,
    pool: Arc<Pool>,
    /// Held by the call of [`Transport::serve`] that frees memory for all.
    relief: tokio::sync::Mutex<RateLimitedLog>,
    live: Live,
}

/// The connections and calls that a drain cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose calls ran beyond the grace.
    pub cut: usize,
    /// The calls that ran on them.
    pub calls_cut: usize,
}

/// The open connections.
#[derive(Default)]
struct Live {
    next_port: AtomicU64,
    connections: Mutex<HashMap<u64, Watched>>,
    left: Notify,
}

/// A connection and the times of its last activity.
struct Watched {
    /// The [`Port`] through which it came.
    port: u64,
    kind: Kind,
    connection: Arc<Connection>,
    /// The calls so far, and since when there were none more and none ran.
    quiet: (u64, Instant),
    /// The bytes written when the socket took no more, and since when.
    blocked: Option<(u64, Instant)>,
    /// The reads so far, and since when there were none more.
    heard: (u64, Instant),
    /// The number of the ping in flight, and since when.
    pinged: Option<(u64, Instant)>,
}

/// Takes connections from one listener.
struct Acceptor<'a> {
    shared: &'a Arc<Shared>,
    port: u64,
    kind: Kind,
    backoff: Backoff,
    errors: RateLimitedLog,
    refusals: RateLimitedLog,
    /// The time of the last search that found no connection to replace.
    no_room: Option<Instant>,
}

/// One [`Transport::serve`]. Drains or cuts its connections when it ends.
struct Port<'a> {
    shared: &'a Arc<Shared>,
    number: u64,
    /// It was served until the shutdown, not dropped before.
    served: bool,
}

/// The guard of an accepted connection. Dropping it releases its share of the limits, removes it from the list and
/// notifies the observer.
struct ConnectionGuard {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    kind: Kind,
    end: End,
}

/// Limits a log line to one in ten seconds, and counts the suppressed ones.
#[derive(Debug, Default)]
pub struct RateLimitedLog {
    last: Option<Instant>,
    suppressed: u64,
}

// === impl Transport ===

impl Transport {
    /// Makes a transport. Its limits hold over everything that it serves.
    pub fn new(limits: Limits, observer: impl Observer, env: Env) -> Self {
        // The numbers of different transports are disjoint, because they share one log.
        let next_id = AtomicU64::new(env.random() >> 32 << 32);
        let pool = Pool::new(limits.buffers_bytes_max);
        let shared = Shared {
            limits,
            observer: Box::new(observer),
            env,
            counters: Arc::default(),
            next_id,
            admission: Arc::default(),
            pool,
            relief: tokio::sync::Mutex::default(),
            live: Live::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the counters.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Passes every request that comes to `listeners` to a clone of `service`, until `shutdown`. Then it accepts no
    /// more and sends GOAWAY to the peers that came through these listeners, while their calls run on; for the
    /// end of those see [`Transport::drained`].
    ///
    /// Every request carries its `Arc<Connection>` in its extensions. Connections are spread over `workers`, or run on
    /// the tokio runtime of the caller if there are none. Several calls may run at the same time, also on several
    /// runtimes. `kind` selects the limits of the connections. Not cancel safe: dropping the future ends the connections that came through it.
    pub async fn serve<S, B>(
        &self,
        listeners: Vec<Listener>,
        workers: Option<&Workers>,
        service: S,
        kind: Kind,
        shutdown: Shutdown,
    ) where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let shared = &self.shared;
        if kind == Kind::Control {
            shared.admission.keep_spares();
        }
        let mut port =
            Port { shared, number: shared.live.next_port.fetch_add(1, Ordering::Relaxed), served: false };
        // The block drops the listeners before the drain: the kernel refuses later peers instead of queueing them.
        {
            let accept = join_all(listeners.into_iter().map(|listener| {
                let (service, port) = (&service, port.number);
                async move {
                    let accept = async || {
                        let mut acceptor = Acceptor::new(shared, port, kind);
                        loop {
                            let (socket, peer) = acceptor.next(&listener).await;
                            if let Some((socket, guard)) = acceptor.admit(socket, peer) {
                                shared.start(workers, service.clone(), socket, guard);
                            }
                        }
                    };
                    shared.env.supervised("accept", Policy::Restart, accept).await
                }
            }));
            let sweep = shared.env.supervised("sweep", Policy::Restart, || shared.sweep_for_ever());
            let relieve = shared.env.supervised("relief", Policy::Restart, || shared.relieve_for_ever());
            let work = pin!(join3(accept, sweep, relieve));
            drop(select(pin!(shutdown.cancelled()), work).await);
        }
        port.served = true;
    }

    /// Waits until all connections have ended, and cuts those whose calls run for longer than `grace`. Call it after
    /// every [`Transport::serve`] has ended or its shutdown is cancelled. Not cancel safe: the count of cut calls is
    /// lost.
    pub async fn drained(&self, grace: Duration) -> Drained {
        self.shared.drain(grace).await
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("limits", &self.shared.limits)
            .field("counters", &self.shared.counters)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Starts the task of a connection.
    fn start<S, B>(&self, workers: Option<&Workers>, service: S, socket: Socket, guard: ConnectionGuard)
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(workers) = workers else {
            self.env.detach(guard.serve(service, socket));
            return;
        };
        match socket.detach() {
            Ok(socket) => workers.detach(async move {
                match socket.attach() {
                    Ok(socket) => guard.serve(service, socket).await,
                    Err(error) => guard.fail(&error),
                }
            }),
            Err(error) => guard.fail(&error),
        }
    }

    async fn sweep_for_ever(&self) {
        let tick = self.tick();
        loop {
            self.env.sleep(tick).await;
            self.sweep();
        }
    }

    /// Frees memory when the buffers of all connections are full. One task at a time does it for all ports.
    async fn relieve_for_ever(&self) {
        let mut log = self.relief.lock().await;
        let mut refused_before = 0;
        loop {
            self.pool.exhausted().await;
            let mut relief = Relief::default();
            loop {
                let cut = {
                    let live = self.live.connections.lock();
                    relief.look(&self.pool, live.values().map(|watched| &watched.connection))
                };
                for connection in &cut {
                    connection.end(End::Memory);
                }
                let refused = self.pool.refusals() - refused_before;
                self.counters.count_calls_refused(refused);
                refused_before += refused;
                if (!cut.is_empty() || refused > 0)
                    && let Some(suppressed) = log.due(self.env.now())
                {
                    let peer = cut.first().map(|connection| connection.peer().to_string());
                    tracing::warn!(
                        cut = cut.len(),
                        peer,
                        calls_refused = refused,
                        bytes = self.pool.used(),
                        bytes_max = self.pool.bytes_max(),
                        suppressed,
                        "the buffers of all connections are full: the connections that use most and do not read are cut, \
                         raise `limits.buffers-bytes-max` or the memory of the process"
                    );
                }
                if relief.is_over() {
                    break;
                }
                self.env.sleep(LOOK_INTERVAL).await;
            }
        }
    }

    fn tick(&self) -> Duration {
        let limits = &self.limits;
        let pings = [limits.ping_interval, limits.ping_timeout];
        let shortest = [limits.preface_timeout, limits.idle_timeout]
            .into_iter()
            .chain(pings)
            .filter(|timeout| !timeout.is_zero())
            .fold(SWEEP_INTERVAL * 4, Duration::min);
        (shortest / 4).max(Duration::from_millis(1))
    }

    /// Returns the time without a read after which a peer cannot have answered a ping. Zero is never.
    fn stall_timeout(&self) -> Duration {
        if self.limits.ping_interval.is_zero() {
            return Duration::ZERO;
        }
        self.limits.ping_interval.saturating_add(self.limits.ping_timeout)
    }

    /// Ends the connections whose timeout is over. One task checks all of them, so a connection needs no timer and the
    /// path of a call reads no clock.
    fn sweep(&self) {
        let now = self.env.now();
        let mut idle = Vec::new();
        for watched in self.live.connections.lock().values_mut() {
            if watched.connection.receipts.sweep(now) {
                watched.connection.probe();
            }
            match self.verdict(watched, now) {
                Some(End::Idle) => idle.push(Arc::clone(&watched.connection)),
                Some(end) => watched.connection.end(end),
                None => {}
            }
        }
        // Outside of the lock, because the observer may take locks.
        idle.retain(|connection| self.observer.may_close(connection));
        for connection in idle {
            connection.end(End::Idle);
        }
    }

    fn verdict(&self, watched: &mut Watched, now: Instant) -> Option<End> {
        let over = |since: Instant, timeout: Duration| !timeout.is_zero() && now.since(since) >= timeout;
        let Watched { connection, quiet, blocked, heard, pinged, .. } = watched;
        let traffic = &connection.traffic;
        if !traffic.has_begun() {
            return over(connection.opened(), self.limits.preface_timeout).then_some(End::PrefaceTimeout);
        }
        *blocked = traffic.blocked_at().map(|written| match *blocked {
            Some((before, since)) if before == written => (before, since),
            _ => (written, now),
        });
        if blocked.is_some_and(|(_, since)| over(since, self.stall_timeout())) {
            return Some(End::Stalled);
        }
        if traffic.reads() != heard.0 {
            *heard = (traffic.reads(), now);
        }
        *pinged = traffic.ping_in_flight().map(|number| match *pinged {
            Some((before, since)) if before == number => (before, since),
            _ => (number, now),
        });
        if let Some((_, since)) = *pinged {
            // A peer that reads slowly answers late, and is heard until then. One that never answers ends as well.
            let silent = over(since.max(heard.1), self.limits.ping_timeout);
            if silent || over(since, self.limits.ping_interval.saturating_add(self.limits.ping_timeout)) {
                return Some(End::Lost);
            }
        } else if over(heard.1, self.limits.ping_interval) {
            connection.probe();
        }
        if connection.calls() > 0 || traffic.calls_total() != quiet.0 {
            *quiet = (traffic.calls_total(), now);
        }
        over(quiet.1, self.limits.idle_timeout).then_some(End::Idle)
    }

    async fn drain(&self, grace: Duration) -> Drained {
        let live = &self.live;
        let begun = self.env.now();
        live.each(Connection::drain);
        let mut drained = Drained::default();
        let mut cutting = false;
        while !live.connections.lock().is_empty() {
            let elapsed = self.env.now().since(begun);
            if elapsed >= grace && !cutting {
                cutting = true;
                live.each(|connection| {
                    let calls = connection.calls();
                    drained.cut += usize::from(calls > 0);
                    drained.calls_cut += calls;
                    connection.end(if calls > 0 { End::Cut } else { End::Drained });
                });
            }
            // A connection without calls and unsent answers waits only for the peer's part of the GOAWAY exchange, and
            // only if the peer has begun HTTP/2.
            let within_grace = elapsed < GOAWAY_GRACE;
            live.each(|connection| {
                if connection.is_quiet() && !(within_grace && connection.traffic.has_begun()) {
                    connection.end(End::Drained);
                }
            });
            let left = pin!(live.left.notified());
            let tick = pin!(self.env.sleep(Duration::from_millis(20)));
            select(left, tick).await;
        }
        drained
    }
}

// === impl Acceptor ===

impl<'a> Acceptor<'a> {
    fn new(shared: &'a Arc<Shared>, port: u64, kind: Kind) -> Self {
        Self {
            shared,
            port,
            kind,
            backoff: Backoff::new(ACCEPT_PAUSE_MIN, ACCEPT_PAUSE_MAX),
            errors: RateLimitedLog::default(),
            refusals: RateLimitedLog::default(),
            no_room: None,
        }
    }

    /// Waits for the next connection. Pauses after an error, for example when files run out.
    async fn next(&mut self, listener: &Listener) -> (Socket, Peer) {
        loop {
            match listener.accept().await {
                Ok(accepted) => {
                    self.backoff.reset();
                    return accepted;
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    if self.shared.admission.use_spare(self.kind, &error) {
                        continue;
                    }
                    self.shared.counters.count_accept_error();
                    if let Some(suppressed) = self.errors.due(self.shared.env.now()) {
                        tracing::warn!(%listener, %error, suppressed, "cannot accept connections, raise the limit of open files");
                    }
                    self.backoff.pause(&self.shared.env).await;
                }
            }
        }
    }

    /// Ends a connection that does nothing, of a peer that has more of them than `origin`: one peer after the other gets in,
    /// however many connections the others have.
    fn make_room(&mut self, origin: Origin) -> bool {
        let (shared, now) = (self.shared, self.shared.env.now());
        // Looking at all connections takes a while.
        if self.no_room.is_some_and(|looked| now.since(looked) < NO_ROOM_PAUSE) {
            return false;
        }
        let larger = shared.admission.larger(self.kind, origin);
        if larger.is_empty() {
            return false;
        }
        let mut idle = Vec::new();
        for watched in shared.live.connections.lock().values() {
            let share = larger.get(&watched.connection.peer().origin());
            if let Some(share) = share.filter(|_| watched.kind == self.kind)
                && watched.is_idle(now)
            {
                idle.push((*share, now.since(watched.quiet.1), Arc::clone(&watched.connection)));
            }
        }
        // Those of the peer that has most, and of these the one that is idle the longest.
        idle.sort_unstable_by_key(|(share, idle, _)| Reverse((*share, *idle)));
        let made = idle.iter().any(|(_, _, connection)| {
            // Outside of the lock, as in the sweep.
            shared.observer.may_close(connection)
                && shared.admission.replace(self.kind, || connection.end_first(End::Replaced))
        });
        self.no_room = (!made).then_some(now);
        made
    }

    /// Admits the connection, or counts, logs and answers the refusal.
    fn admit(&mut self, socket: Socket, peer: Peer) -> Option<(Socket, ConnectionGuard)> {
        let shared = self.shared;
        let (kind, origin) = (self.kind, peer.origin());
        let mut entered = shared.admission.enter(kind, origin, &shared.limits);
        if entered == Err(Refusal::Full) && self.make_room(origin) {
            entered = shared.admission.enter(kind, origin, &shared.limits);
        }
        match entered {
            Ok(()) => Some((socket, ConnectionGuard::new(shared, self.port, self.kind, peer))),
            Err(refusal) => {
                shared.counters.count_refused(refusal);
                let why = self.kind.message(refusal, &shared.limits);
                if let Some(suppressed) = self.refusals.due(shared.env.now()) {
                    tracing::warn!(%peer, reason = refusal.name(), suppressed, "refused a connection: {why}");
                }
                shared.admission.refuse(socket, &shared.env, &why);
                None
            }
        }
    }
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    fn new(shared: &Arc<Shared>, port: u64, kind: Kind, peer: Peer) -> Self {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Connection::new(id, peer, shared.env.clone(), &shared.limits, &shared.pool);
        let connection = Arc::new(connection);
        let quiet = (0, connection.opened());
        let watched = Watched {
            port,
            kind,
            connection: Arc::clone(&connection),
            quiet,
            blocked: None,
            heard: quiet,
            pinged: None,
        };
        shared.live.connections.lock().insert(id, watched);
        shared.counters.count_accepted();
        tracing::debug!(connection = id, %peer, "connection opened");
        shared.observer.opened(&connection);
        // The end that applies if the task is dropped, together with its runtime.
        Self { shared: Arc::clone(shared), connection, kind, end: End::Cut }
    }

    /// Drives the connection to its end. The connection knows the task's waker and ends it.
    async fn serve<S, B>(mut self, service: S, socket: Socket)
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let connection = Arc::clone(&self.connection);
        let wire = Wire::new(socket, Arc::clone(&connection), self.shared.limits.pings_per_second_max);
        // Declared after `self`, so that it is dropped before the guard reports the end.
        let mut served = Server::new(&self.shared.limits, wire, service, Arc::clone(&connection));
        let mut stage = Stage::Serve;
        self.end = std::future::poll_fn(|context| {
            let ordered = connection.ordered(context.waker());
            if ordered != stage {
                stage = ordered;
                served.graceful_shutdown();
            }
            let mut polled = false;
            loop {
                match served.poll(context) {
                    Poll::Ready(outcome) => return Poll::Ready(end_of(&connection, stage, outcome)),
                    // One poll was the chance to send GOAWAY.
                    Poll::Pending if stage == Stage::Close => {
                        return Poll::Ready(end_of(&connection, stage, Ok(())));
                    }
                    Poll::Pending if !served.has_begun_calls() => return Poll::Pending,
                    // A peer that calls as fast as it is answered would keep the thread from all others.
                    Poll::Pending if polled => {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Pending => {
                        served.poll_calls();
                        polled = true;
                    }
                }
            }
        })
        .await;
    }

    /// Ends a connection that never began.
    fn fail(mut self, error: &io::Error) {
        tracing::warn!(peer = %self.connection.peer(), %error, "cannot serve a connection");
        self.end = End::Lost;
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let Self { shared, connection, kind, end } = self;
        tracing::debug!(connection = connection.id(), peer = %connection.peer(), reason = end.name(), "connection closed");
        shared.admission.leave(*kind, connection.peer().origin(), connection.ordered_end());
        shared.counters.count_ended(*end);
        connection.receipts.close();
        shared.observer.closed(connection);
        shared.live.connections.lock().remove(&connection.id());
        shared.live.left.notify_waiters();
    }
}

// === impl Watched ===

impl Watched {
    /// Returns whether it has run no call for a while.
    fn is_idle(&self, now: Instant) -> bool {
        let traffic = &self.connection.traffic;
        self.connection.is_quiet()
            && traffic.calls_total() == self.quiet.0
            && now.since(self.quiet.1) >= REPLACED_AFTER
            && self.connection.ordered_end().is_none()
    }
}

// === impl Live ===

impl Live {
    fn each(&self, mut order: impl FnMut(&Connection)) {
        for watched in self.connections.lock().values() {
            order(&watched.connection);
        }
    }
}

// === impl Port ===

impl Drop for Port<'_> {
    fn drop(&mut self) {
        let connections = self.shared.live.connections.lock();
        for watched in connections.values().filter(|watched| watched.port == self.number) {
            if self.served {
                watched.connection.drain();
            } else {
                watched.connection.end(End::Cut);
            }
        }
    }
}

// === impl RateLimitedLog ===

impl RateLimitedLog {
    /// Returns the number of lines suppressed since the last one if a line is due now, and counts one more otherwise.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < REPEAT_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Returns why a connection ended, from the ordered end and the outcome of HTTP/2.
fn end_of(connection: &Connection, stage: Stage, outcome: Result<(), Broken>) -> End {
    if let Some(end) = connection.ordered_end() {
        return end;
    }
    if connection.traffic.is_flooded() {
        return End::Flooded;
    }
    match outcome {
        Ok(()) if stage == Stage::Serve => End::Left,
        Ok(()) => End::Drained,
        Err(error) => {
            let end = if error.has_left() { End::Left } else { End::Violation };
            let (id, peer) = (connection.id(), connection.peer());
            tracing::debug!(connection = id, %peer, ?error, "connection broke");
            end
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
