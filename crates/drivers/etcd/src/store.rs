// SPDX-License-Identifier: Apache-2.0
//! The store: reads, commits and watches of keyspaces that live in etcd.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::Env;
use atomix_remote::Batcher;
use atomix_store::{
    Error, Health, JsonObject, Keyspace, Outcome, Profile, Range, Read, Reconfigured, Snapshot, Store, Txn,
    WatchFrom, WatchStream,
};
use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use tokio_util::task::TaskTracker;

use crate::commit::Commits;
use crate::config::Settings;
use crate::core::Core;
use crate::error::Failure;
use crate::keys::{Space, Span};
use crate::plan;
use crate::senders::{ReadRequest, ReadSender};
use crate::watch::hub::Hub;
use crate::watch::part::Part;
use crate::wire::{RangeRequest, TxnRequest};

/// Keeps keyspaces in an etcd cluster.
pub struct EtcdStore {
    core: Arc<Core>,
    reads: Batcher<ReadSender>,
    commits: Commits,
    hub: Hub,
    /// The running calls, so that [`Store::close`] can wait for them.
    running: TaskTracker,
}

// === impl EtcdStore ===

impl EtcdStore {
    /// Connects to the cluster and makes sure that it answers.
    pub async fn connect(settings: Settings, env: Env) -> Result<Self, Error> {
        let core = Arc::new(Core::new(settings, env));
        core.link.connection().await?;
        let timeout = core.settings.request_timeout;
        Ok(Self {
            reads: Batcher::new(ReadSender::new(Arc::clone(&core)), core.env.clone(), timeout),
            commits: Commits::new(Arc::clone(&core)),
            hub: Hub::new(Arc::clone(&core)),
            running: TaskTracker::new(),
            core,
        })
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.running.is_closed() { Err(Error::closed()) } else { Ok(()) }
    }

    async fn follow(&self, part: Part, from: WatchFrom) -> Result<WatchStream, Error> {
        self.check_open()?;
        let _running = self.running.token();
        let latest = self.answer(&part.space, Vec::new()).await?.revision;
        self.hub.watch(&part, from, latest)
    }

    async fn answer(&self, space: &Space, reads: Vec<Read>) -> Result<Snapshot, Error> {
        self.core.limits().check_reads(&reads)?;
        let asked = plan::questions(space, &reads, plan::PAGE);
        let mut ops: Vec<RangeRequest> = asked.iter().flatten().cloned().collect();
        if ops.is_empty() {
            // One range at least: its answer carries the revision.
            ops.push(RangeRequest { count_only: true, ..plan::get(space.together_key()) });
        }
        let (revision, answers) = self.reads.run(ReadRequest(ops)).await?;
        let mut answers = answers.into_iter();
        let reads = reads
            .iter()
            .zip(asked)
            .map(|(read, asked)| {
                let answer = asked.and_then(|_| answers.next());
                plan::found_or_nothing(space, read, self.core.limits(), answer)
            })
            .collect();
        Ok(Snapshot { revision, reads })
    }

    async fn health(&self) -> Result<Health, Error> {
        let connection = self.core.link.connection().await?;
        let status = self.core.link.status(&connection).await?;
        let space = Space::new(&self.core.settings.prefix, &Keyspace::new("check"));
        let latest = self.answer(&space, Vec::new()).await?;
        let mut facts = vec![
            ("endpoint", connection.endpoint().to_owned()),
            ("version", status.version),
            ("leader", format!("{:x}", status.leader)),
            ("member", format!("{:x}", status.header.unwrap_or_default().member_id)),
            ("database-bytes", status.db_size.to_string()),
            ("revision", latest.revision.to_string()),
            ("keyspaces-watched", self.hub.watched().to_string()),
        ];
        if !status.errors.is_empty() {
            facts.push(("alarms", status.errors.join(", ")));
        }
        Ok(Health { facts })
    }
}

impl Store for EtcdStore {
    fn profile(&self) -> &Profile {
        self.core.profile()
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            self.answer(&self.core.space(keyspace), reads).await
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            self.commits.commit(keyspace, txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(self.follow(Part::all(self.core.space(keyspace)), from))
    }

    fn watch_range<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        range: Range,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        let space = self.core.space(keyspace);
        match space.entries(&range) {
            Some(span) => Box::pin(self.follow(Part { space, span }, from)),
            None => Box::pin(ready(Err(Error::invalid("a watch of a range without keys")))),
        }
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            let space = self.core.space(keyspace);
            // All that an empty keyspace costs here. Usually it was never written.
            let together = RangeRequest { count_only: true, ..plan::get(space.together_key()) };
            if self.core.range(together).await?.count == 0 {
                return Ok(());
            }
            let entries = space.entries(&Range::prefix("")).ok_or_else(|| plan::unexpected("range"))?;
            let request = TxnRequest {
                compare: vec![plan::compare_none(entries)],
                success: vec![plan::delete(Span { start: space.together_key(), end: Bytes::new() }, false)],
                ..TxnRequest::default()
            };
            self.core.txn(request, usize::MAX).await.map(drop).map_err(Failure::of_write)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        Box::pin(async move {
            self.check_open()?;
            let _running = self.running.token();
            self.health().await
        })
    }

    fn reconfigure<'a>(&'a self, config: &'a JsonObject) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        // Every difference affects the connection.
        let reconfigured = self.check_open().and_then(|()| Settings::read(config)).and_then(|settings| {
            if settings.prefix != self.core.settings.prefix {
                return Err(Error::location_change("`prefix`"));
            }
            let same = settings == self.core.settings;
            Ok(if same { Reconfigured::InPlace } else { Reconfigured::Connect })
        });
        Box::pin(std::future::ready(reconfigured))
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.running.close();
        Box::pin(async move {
            // Calls that are not finished then are cut off and answered as lost.
            let _done_in_time = self.core.env.timeout(grace, self.running.wait()).await;
            self.core.link.close();
            self.hub.close();
        })
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.core.link.close();
        self.hub.close();
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("link", &self.core.link)
            .field("commits", &self.commits)
            .field("reads", &self.reads)
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}
