// SPDX-License-Identifier: Apache-2.0
//! The task that reads the shared watches from etcd, all over one stream.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::Backoff;
use atomix_store::{Error, ErrorKind};
use futures::{FutureExt, future, stream};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::connection::Connection;
use crate::error::{Failure, is_token_error};
use crate::keys::revision;
use crate::watch::assemble::Assembler;
use crate::watch::compaction::reaches_back;
use crate::watch::part::{cancelled, create};
use crate::watch::registry::{Registry, Watching};
use crate::wire::watch_client::WatchClient;
use crate::wire::{WatchCancelRequest, WatchRequest, WatchResponse, watch_request};

/// Fills the windows of a store's watches.
pub(super) struct Feed {
    registry: Arc<Registry>,
}

/// A stream to etcd and what is on it.
struct Session<'a> {
    registry: &'a Registry,
    watches: &'a mut HashMap<i64, Watching>,
    connection: Connection,
    /// Requests that wait for room.
    waiting: VecDeque<WatchRequest>,
    /// Watches that etcd has not confirmed, in the order of the requests.
    asked: VecDeque<i64>,
    /// The generation of the token of this stream.
    generation: u64,
}

/// Requests on their way to etcd.
const REQUESTS: usize = 256;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

// === impl Feed ===

impl Feed {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// Fills the windows until the store is closed.
    pub(super) async fn run(&self) {
        let closed = pin!(self.registry.core.link.closed());
        let feed = pin!(self.feed());
        future::select(closed, feed).await;
    }

    async fn feed(&self) {
        let mut watches = HashMap::new();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            self.registry.take_commands(&mut watches);
            if watches.is_empty() {
                self.registry.changed.notified().await;
                continue;
            }
            match self.session(&mut watches).await {
                Ok(()) => {
                    backoff.reset();
                    if !watches.is_empty() {
                        // Wait before requesting a stream again, in case it is lost as soon as it is open.
                        self.registry.core.env.sleep(self.registry.core.env.jitter(RETRY_MIN)).await;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Denied | ErrorKind::Config | ErrorKind::Unsupported
                    ) =>
                {
                    for (id, watching) in watches.drain() {
                        self.registry.end(id, &watching, &error);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the watches of etcd are interrupted");
                    backoff.pause(&self.registry.core.env).await;
                }
            }
        }
    }

    /// Watches over one stream, until nothing is left to watch, or the stream has delivered something and is
    /// lost. Returns an error if it is lost before.
    async fn session(&self, watches: &mut HashMap<i64, Watching>) -> Result<(), Error> {
        let connection = self.registry.core.link.connection().await?;
        self.drop_compacted(watches).await?;
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let outgoing = stream::unfold(outgoing, |mut outgoing| async move {
            let request = outgoing.recv().await?;
            Some((request, outgoing))
        });
        let (request, generation) = self.registry.core.link.request(outgoing);
        let mut session = Session {
            registry: self.registry.as_ref(),
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
            self.registry.core.link.leave(&connection);
            failure.of_read()
        };
        let opened = self
            .registry
            .core
            .env
            .timeout(self.registry.core.settings.request_timeout, client.watch(request))
            .await;
        let stream = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                let failure = Failure::new(status);
                if failure.wants_token() {
                    self.registry.core.link.renew(&connection, generation).await?;
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
        let Err(error) = reaches_back(&self.registry.core, &oldest.part.space, oldest.seen).await else {
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
                self.registry.end(id, &watching, &error);
            }
        }
        Ok(())
    }
}

// === impl Session ===

impl Session<'_> {
    async fn run(
        &mut self,
        mut stream: Streaming<WatchResponse>,
        requests: mpsc::Sender<WatchRequest>,
    ) -> Result<(), Error> {
        let registry = self.registry;
        let sweep_every = registry.core.settings.watch_linger / 4 + Duration::from_millis(100);
        let mut sweep = registry.core.env.sleep(sweep_every).boxed();
        loop {
            self.send(&requests);
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => self.take(response).await?,
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        tracing::debug!(%status, "the stream of watches is lost");
                        registry.core.link.leave(&self.connection);
                        return Ok(());
                    }
                },
                () = registry.changed.notified() => {
                    let (begun, ended) = registry.take_commands(self.watches);
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
                    registry.sweep();
                    sweep = registry.core.env.sleep(sweep_every).boxed();
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
                        watching.history.push(commit, self.registry.core.settings.retention());
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
        let link = &self.registry.core.link;
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
            self.registry.end(id, &watching, error);
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
