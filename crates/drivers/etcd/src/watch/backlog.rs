// SPDX-License-Identifier: Apache-2.0
//! Follows a part of a keyspace from further back than its window reaches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use atomix_store::{Commit, Error, ErrorKind, Revision, WatchItem, WatchStream};
use futures::{StreamExt, stream};
use tonic::Streaming;

use crate::core::Core;
use crate::error::Failure;
use crate::watch::assemble::Assembler;
use crate::watch::compaction::reaches_back;
use crate::watch::part::{Part, cancelled, create};
use crate::watch::registry::{CatchUp, Registry};
use crate::wire::watch_client::WatchClient;
use crate::wire::{WatchRequest, WatchResponse, watch_request};

/// A follower that is behind.
struct Backlog {
    registry: Arc<Registry>,
    part: Part,
    /// Every commit up to this revision was delivered.
    seen: Revision,
    ready: VecDeque<Arc<Commit>>,
    source: Source,
    /// Keeps the window that is to be reached.
    _catch_up: CatchUp,
}

enum Source {
    /// Not requested yet, or lost.
    None,
    /// etcd's history.
    History(Box<Streaming<WatchResponse>>, Assembler),
    /// The window: it reaches back as far as needed.
    Window(WatchStream),
    Ended,
}

const RETRY: Duration = Duration::from_millis(200);

/// Returns everything after `seen`: out of etcd's history until the window of the keyspace has it. Reads no faster than the
/// follower does.
pub(super) fn follow(registry: Arc<Registry>, part: Part, seen: Revision, catch_up: CatchUp) -> WatchStream {
    let ready = VecDeque::new();
    let backlog = Backlog { registry, part, seen, ready, source: Source::None, _catch_up: catch_up };
    stream::unfold(backlog, |mut backlog| async move {
        let item = match backlog.next().await {
            Ok(None) => return None,
            Ok(Some(item)) => Ok(item),
            Err(error) => {
                backlog.source = Source::Ended;
                Err(error)
            }
        };
        Some((item, backlog))
    })
    .boxed()
}

// === impl Backlog ===

impl Backlog {
    async fn next(&mut self) -> Result<Option<WatchItem>, Error> {
        loop {
            if let Some(commit) = self.ready.pop_front() {
                self.seen = commit.revision;
                return Ok(Some(WatchItem::Commit(commit)));
            }
            if let Source::History(..) | Source::None = self.source
                && let Some(window) = self.registry.join(&self.part, self.seen)?
            {
                self.source = Source::Window(window);
            }
            match &mut self.source {
                Source::Ended => return Ok(None),
                Source::Window(window) => return window.next().await.transpose(),
                Source::None => match open(&self.registry.core, &self.part, self.seen).await {
                    Ok(stream) => self.source = Source::History(Box::new(stream), Assembler::default()),
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        self.registry.core.env.sleep(RETRY).await;
                    }
                    Err(error) => return Err(error),
                },
                Source::History(stream, assembler) => match stream.message().await {
                    Ok(Some(response)) if response.canceled => return Err(cancelled(&response)),
                    Ok(Some(response)) => {
                        let commits = assembler.take(&self.part.space, response)?;
                        let new = commits.into_iter().filter(|commit| commit.revision > self.seen);
                        self.ready.extend(new.map(Arc::new));
                    }
                    Ok(None) | Err(_) => {
                        self.source = Source::None;
                        self.registry.core.env.sleep(RETRY).await;
                    }
                },
            }
        }
    }
}

/// Opens a separate stream with the commits of a part after `seen`.
async fn open(core: &Core, part: &Part, seen: Revision) -> Result<Streaming<WatchResponse>, Error> {
    reaches_back(core, &part.space, seen).await?;
    let connection = core.link.connection().await?;
    let begin = WatchRequest { request: Some(watch_request::Request::Create(create(&part.span, 1, seen))) };
    // The stream must stay open on this side, or etcd ends it.
    let requests = stream::iter([begin]).chain(stream::pending());
    let (request, generation) = core.link.request(requests);
    let mut client = WatchClient::with_origin(connection.clone(), connection.origin())
        .max_decoding_message_size(usize::MAX);
    let lost = |failure: Failure| {
        core.link.leave(&connection);
        failure.of_read()
    };
    let opened = core.env.timeout(core.settings.request_timeout, client.watch(request)).await;
    let Ok(opened) = opened else {
        return Err(lost(Failure::Lost("a watch does not begin in time".to_owned())));
    };
    let mut stream = opened.map_err(|status| lost(Failure::new(status)))?.into_inner();
    let first = stream.message().await.map_err(|status| lost(Failure::new(status)))?;
    match first {
        Some(first) if first.canceled => {
            let error = cancelled(&first);
            if error.kind() == ErrorKind::Denied && core.link.generation() == generation {
                core.link.renew(&connection, generation).await?;
                if core.link.generation() != generation {
                    return Err(Error::unavailable("the watch begins again with a new token"));
                }
            }
            Err(error)
        }
        Some(_) => Ok(stream),
        None => Err(Error::unavailable("etcd ended the watch")),
    }
}
