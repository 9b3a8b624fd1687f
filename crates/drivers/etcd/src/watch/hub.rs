// SPDX-License-Identifier: Apache-2.0
//! The shared watches of a store and the task that reads them from etcd.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Instant, Policy};
use atomix_store::{Error, ErrorKind, History, HistoryBudget, Revision, WatchFrom, WatchItem, WatchStream};
use futures::{FutureExt, StreamExt, future, stream};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tonic::Streaming;

use super::assemble::Assembler;
use super::backlog::{self, cancelled, reaches_back};
use crate::connection::Connection;
use crate::error::{Failure, is_token_error};
use crate::keys::{Space, Span, TOGETHER_MAX, complete, revision};
use crate::store::Core;
use crate::wire::watch_client::WatchClient;
use crate::wire::{WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request};

/// Keeps the standing watches of a store.
pub(crate) struct Hub {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    histories: HistoryBudget,
    state: Mutex<State>,
    /// There is something for the task to do.
    changed: Notify,
}

/// A watched range: a keyspace, or some of its keys.
///
/// Without the key that separates transactions, those that shared a revision of etcd are one commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) space: Space,
    pub(crate) span: Span,
}

#[derive(Default)]
struct State {
    shared_watches: HashMap<Part, SharedWatch>,
    /// Commands that the task has not taken yet.
    commands: VecDeque<Command>,
    last_id: i64,
    running: bool,
    closed: bool,
}

/// A part that is watched.
struct SharedWatch {
    id: i64,
    history: History,
    /// Held by streams that catch up and will follow then.
    interest: Arc<()>,
    /// The time since when the watch has no followers.
    idle: Option<Instant>,
}

enum Command {
    Begin(i64, Watching),
    End(i64),
}

/// The task's side of a standing watch.
struct Watching {
    part: Part,
    history: History,
    /// Every commit up to this revision was delivered.
    seen: Revision,
    assembler: Assembler,
    /// The generation of the token with which etcd has refused it.
    refused_at: Option<u64>,
}

/// A stream to etcd and what is on it.
struct Session<'a> {
    shared: &'a Shared,
    watches: &'a mut HashMap<i64, Watching>,
    connection: Connection,
    /// Requests that wait for room.
    waiting: VecDeque<WatchRequest>,
    /// Watches that etcd has not confirmed, in the order of the requests.
    asked: VecDeque<i64>,
    /// The generation of the token of this stream.
    generation: u64,
}

/// A keyspace whose first follower begins at most so many revisions back is watched from there; else from now on, and the
/// follower catches up.
const CATCH_UP_MAX: u64 = 1_000 * TOGETHER_MAX as u64;
/// Requests on their way to etcd.
const REQUESTS: usize = 256;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

// === impl Part ===

impl Part {
    /// A whole keyspace.
    pub(crate) fn all(space: Space) -> Self {
        let span = space.watched();
        Self { space, span }
    }
}

// === impl Hub ===

impl Hub {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let histories = HistoryBudget::new(core.settings.histories_bytes_max);
        Self { shared: Arc::new(Shared { core, histories, state: Mutex::default(), changed: Notify::new() }) }
    }

    /// Follows a part of a keyspace, in a cluster whose latest revision is `latest` or, by now, a later one.
    pub(crate) fn watch(&self, part: &Part, from: WatchFrom, latest: Revision) -> Result<WatchStream, Error> {
        let after = match from {
            WatchFrom::Now => latest,
            WatchFrom::After(revision) if revision > latest => return Err(Error::compacted(latest)),
            WatchFrom::After(revision) => revision,
        };
        let (window, interest) = self.shared.ensure_watch(part, after, latest)?;
        let stream = match window {
            Some(window) => window,
            None => backlog::follow(Arc::clone(&self.shared), part.clone(), after, interest),
        };
        Ok(match from {
            WatchFrom::Now => {
                stream::once(future::ready(Ok(WatchItem::Progress(latest)))).chain(stream).boxed()
            }
            WatchFrom::After(_) => stream,
        })
    }

    /// Returns the number of watches that etcd serves.
    pub(crate) fn watched(&self) -> usize {
        self.shared.state.lock().shared_watches.len()
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        for (_, shared_watches) in state.shared_watches.drain() {
            shared_watches.history.close();
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("watched", &self.watched()).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Watches a part, if it is not watched yet, and follows it from `after`. The window does not reach back as far if
    /// no stream is returned.
    fn ensure_watch(
        self: &Arc<Self>,
        part: &Part,
        after: Revision,
        latest: Revision,
    ) -> Result<(Option<WatchStream>, Arc<()>), Error> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::closed());
        }
        if !state.shared_watches.contains_key(part) {
            let seen = if after.0.saturating_add(CATCH_UP_MAX) >= latest.0 { after } else { latest };
            state.last_id += 1;
            let (id, history) = (state.last_id, History::new(seen, &self.histories));
            let watching = Watching {
                part: part.clone(),
                history: history.clone(),
                seen,
                assembler: Assembler::default(),
                refused_at: None,
            };
            state.commands.push_back(Command::Begin(id, watching));
            let shared_watches = SharedWatch { id, history, interest: Arc::default(), idle: None };
            state.shared_watches.insert(part.clone(), shared_watches);
            if !std::mem::replace(&mut state.running, true) {
                let (shared, mut again) = (Arc::clone(self), false);
                self.core.env.supervise("etcd-watches", Policy::Restart, move || {
                    let (shared, again) = (Arc::clone(&shared), std::mem::replace(&mut again, true));
                    async move {
                        if again {
                            shared.close_windows();
                        }
                        shared.run().await;
                    }
                });
            }
            self.changed.notify_one();
        }
        let shared_watches = state.shared_watches.get_mut(part).expect("it was just put there");
        shared_watches.idle = None;
        Ok((shared_watches.follow(after)?, Arc::clone(&shared_watches.interest)))
    }

    /// Follows a part from `seen` if its window reaches back as far.
    pub(super) fn join(&self, part: &Part, seen: Revision) -> Result<Option<WatchStream>, Error> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::closed());
        }
        state.shared_watches.get_mut(part).map_or(Ok(None), |shared_watches| shared_watches.follow(seen))
    }

    /// Closes all windows after a panic of the task that fills them: followers resume where they were.
    fn close_windows(&self) {
        let mut state = self.state.lock();
        state.commands.clear();
        for (_, shared_watches) in state.shared_watches.drain() {
            shared_watches.history.close();
        }
    }

    /// Fills the windows until the store is closed.
    async fn run(&self) {
        let closed = pin!(self.core.link.closed());
        let feed = pin!(self.feed());
        future::select(closed, feed).await;
    }

    async fn feed(&self) {
        let mut watches = HashMap::new();
        let mut retry = RETRY_MIN;
        loop {
            self.take_commands(&mut watches);
            if watches.is_empty() {
                self.changed.notified().await;
                continue;
            }
            match self.session(&mut watches).await {
                Ok(()) => {
                    retry = RETRY_MIN;
                    if !watches.is_empty() {
                        // Wait before requesting a stream again, in case it is lost as soon as it is open.
                        self.core.env.sleep(self.core.env.jitter(RETRY_MIN)).await;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Denied | ErrorKind::Config | ErrorKind::Unsupported
                    ) =>
                {
                    for (id, watching) in watches.drain() {
                        self.end(id, &watching, &error);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the watches of etcd are interrupted");
                    self.core.env.sleep(self.core.env.jitter(retry)).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Watches over one stream, until nothing is left to watch, or the stream has delivered something and is
    /// lost. Returns an error if it is lost before.
    async fn session(&self, watches: &mut HashMap<i64, Watching>) -> Result<(), Error> {
        let connection = self.core.link.connection().await?;
        self.drop_compacted(watches).await?;
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let outgoing = stream::unfold(outgoing, |mut outgoing| async move {
            let request = outgoing.recv().await?;
            Some((request, outgoing))
        });
        let (request, generation) = self.core.link.request(outgoing);
        let mut session = Session {
            shared: self,
            connection: connection.clone(),
            waiting: VecDeque::new(),
            asked: VecDeque::new(),
            generation,
            watches,
        };
        session.ask_for_all();
        // etcd sends nothing before the first request.
        session.send(&requests);
        let mut client = WatchClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(usize::MAX);
        let lost = |failure: Failure| {
            self.core.link.leave(&connection);
            failure.of_read()
        };
        let opened = self.core.env.timeout(self.core.settings.request_timeout, client.watch(request)).await;
        let stream = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                let failure = Failure::new(status);
                if failure.wants_token() {
                    self.core.link.renew(&connection, generation).await?;
                }
                return Err(lost(failure));
            }
            Err(_) => return Err(lost(Failure::Lost("watches do not begin in time".to_owned()))),
        };
        session.run(stream, requests).await
    }

    /// Ends the watches whose history etcd has not any more.
    async fn drop_compacted(&self, watches: &mut HashMap<i64, Watching>) -> Result<(), Error> {
        let Some(oldest) = watches.values().min_by_key(|watching| watching.seen) else { return Ok(()) };
        // A compaction that affects any watch affects the oldest.
        let Err(error) = reaches_back(&self.core, &oldest.part.space, oldest.seen).await else {
            return Ok(());
        };
        let oldest = match error.kind() {
            ErrorKind::Compacted { oldest } => oldest,
            // Reading this keyspace is not permitted any more; etcd refuses its watch, and no other.
            ErrorKind::Denied => return Ok(()),
            ErrorKind::Unavailable
            | ErrorKind::OutcomeUnknown
            | ErrorKind::Invalid
            | ErrorKind::Config
            | ErrorKind::Full
            | ErrorKind::Closed
            | ErrorKind::Unsupported
            | ErrorKind::Corrupt
            | ErrorKind::Internal => return Err(error),
        };
        let gone: Vec<i64> =
            watches.iter().filter(|(_, watching)| watching.seen < oldest).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(watching) = watches.remove(&id) {
                self.end(id, &watching, &error);
            }
        }
        Ok(())
    }

    fn end(&self, id: i64, watching: &Watching, error: &Error) {
        let mut state = self.state.lock();
        if state.shared_watches.get(&watching.part).is_some_and(|shared_watches| shared_watches.id == id) {
            state.shared_watches.remove(&watching.part);
        }
        watching.history.end(error);
    }

    /// Takes note of new and ended watches. Returns the ids of both.
    fn take_commands(&self, watches: &mut HashMap<i64, Watching>) -> (Vec<i64>, Vec<i64>) {
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for order in std::mem::take(&mut self.state.lock().commands) {
            match order {
                Command::Begin(id, watching) => {
                    watches.insert(id, watching);
                    begun.push(id);
                }
                Command::End(id) => {
                    watches.remove(&id);
                    ended.push(id);
                }
            }
        }
        (begun, ended)
    }

    /// Ends the watches that had no followers for `watch_linger`.
    fn sweep(&self) {
        let (now, linger) = (self.core.env.now(), self.core.settings.watch_linger);
        let mut state = self.state.lock();
        let mut ended = Vec::new();
        state.shared_watches.retain(|_, shared_watches| {
            let followed =
                shared_watches.history.followers() > 0 || Arc::strong_count(&shared_watches.interest) > 1;
            shared_watches.idle = if followed { None } else { shared_watches.idle.or(Some(now)) };
            let keep = shared_watches.idle.is_none_or(|since| now.since(since) < linger);
            if !keep {
                ended.push(Command::End(shared_watches.id));
            }
            keep
        });
        if !ended.is_empty() {
            state.commands.extend(ended);
            self.changed.notify_one();
        }
    }
}

// === impl SharedWatch ===

impl SharedWatch {
    fn follow(&self, after: Revision) -> Result<Option<WatchStream>, Error> {
        if after < self.history.floor() {
            return Ok(None);
        }
        match self.history.follow_after(after) {
            // The window has moved in the very moment.
            Err(error)
                if matches!(error.kind(), ErrorKind::Compacted { .. }) && after < self.history.floor() =>
            {
                Ok(None)
            }
            followed => followed.map(Some),
        }
    }
}

// === impl Session ===

impl Session<'_> {
    async fn run(
        &mut self,
        mut stream: Streaming<WatchResponse>,
        requests: mpsc::Sender<WatchRequest>,
    ) -> Result<(), Error> {
        let shared = self.shared;
        let sweep_every = shared.core.settings.watch_linger / 4 + Duration::from_millis(100);
        let mut sweep = shared.core.env.sleep(sweep_every).boxed();
        loop {
            self.send(&requests);
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => self.take(response).await?,
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        tracing::debug!(%status, "the stream of watches is lost");
                        shared.core.link.leave(&self.connection);
                        return Ok(());
                    }
                },
                () = shared.changed.notified() => {
                    let (begun, ended) = shared.take_commands(self.watches);
                    for id in begun {
                        self.ask_for(id);
                    }
                    for id in ended {
                        self.cancel(id);
                    }
                    if self.watches.is_empty() {
                        return Ok(());
                    }
                }
                // Requests that do not fit are sent when there is room again.
                room = requests.reserve(), if !self.waiting.is_empty() => drop(room),
                () = self.connection.gone() => return Ok(()),
                () = &mut sweep => {
                    shared.sweep();
                    sweep = shared.core.env.sleep(sweep_every).boxed();
                }
            }
        }
    }

    /// Handles one message of the stream.
    async fn take(&mut self, response: WatchResponse) -> Result<(), Error> {
        let id = response.watch_id;
        if response.created {
            // A watch that is refused is not named, but etcd answers in order.
            let asked = self.asked.pop_front().unwrap_or(id);
            if response.canceled {
                return self.refused(asked, &response).await;
            }
            if let Some(watching) = self.watches.get_mut(&id) {
                watching.refused_at = None;
            }
            return Ok(());
        }
        if response.canceled {
            self.end(id, &cancelled(&response));
            return Ok(());
        }
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(()) };
        if response.events.is_empty() && !response.fragment {
            // Nothing has happened up to here: a watch that begins again need not look further back.
            let at = revision(response.header.unwrap_or_default().revision);
            watching.seen = watching.seen.max(at);
            return Ok(());
        }
        match watching.assembler.take(&watching.part.space, response) {
            Ok(commits) => {
                for commit in commits {
                    if commit.revision > watching.seen {
                        watching.seen = commit.revision;
                        watching.history.push(commit, self.shared.core.settings.retention());
                    }
                }
            }
            Err(error) => {
                self.cancel(id);
                self.end(id, &error);
            }
        }
        Ok(())
    }

    /// etcd does not begin a watch: perhaps because the token is old.
    async fn refused(&mut self, id: i64, response: &WatchResponse) -> Result<(), Error> {
        let error = cancelled(response);
        let link = &self.shared.core.link;
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(()) };
        let token = is_token_error(&response.cancel_reason) || error.kind() == ErrorKind::Denied;
        if token && watching.refused_at.is_none_or(|at| at == self.generation) {
            watching.refused_at = Some(self.generation);
            link.renew(&self.connection, self.generation).await?;
            if link.generation() != self.generation {
                return Err(Error::unavailable("watches begin again with a new token"));
            }
        }
        self.end(id, &error);
        Ok(())
    }

    fn end(&mut self, id: i64, error: &Error) {
        if let Some(watching) = self.watches.remove(&id) {
            self.shared.end(id, &watching, error);
        }
    }

    fn ask_for_all(&mut self) {
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for id in ids {
            self.ask_for(id);
        }
    }

    fn ask_for(&mut self, id: i64) {
        if let Some(watching) = self.watches.get_mut(&id) {
            // A revision that another stream delivered in part is delivered again from its beginning.
            watching.assembler = Assembler::default();
            let create = create(&watching.part.span, id, watching.seen);
            self.waiting.push_back(WatchRequest { request: Some(watch_request::Request::Create(create)) });
        }
    }

    fn cancel(&mut self, id: i64) {
        let cancel = WatchCancelRequest { watch_id: id };
        self.waiting.push_back(WatchRequest { request: Some(watch_request::Request::Cancel(cancel)) });
    }

    /// Sends as much as there is room for.
    fn send(&mut self, requests: &mpsc::Sender<WatchRequest>) {
        while !self.waiting.is_empty()
            && let Ok(room) = requests.try_reserve()
            && let Some(request) = self.waiting.pop_front()
        {
            if let Some(watch_request::Request::Create(create)) = &request.request {
                self.asked.push_back(create.watch_id);
            }
            room.send(request);
        }
    }
}

/// Asks etcd for what happens to keys after `seen`.
pub(super) fn create(span: &Span, id: i64, seen: Revision) -> WatchCreateRequest {
    WatchCreateRequest {
        key: span.start.clone(),
        range_end: span.end.clone(),
        // etcd sends a revision again that was seen in part; the receiver drops the duplicates.
        start_revision: complete(seen) + 1,
        progress_notify: true,
        prev_kv: true,
        watch_id: id,
        fragment: true,
    }
}
