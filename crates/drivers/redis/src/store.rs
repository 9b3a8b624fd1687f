// SPDX-License-Identifier: Apache-2.0
//! A store whose keyspaces are in Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Policy, Shutdown};
use atomix_store::{
    Error, Health, JsonObject, Keyspace, Outcome, Profile, Read, Reconfigured, Snapshot, Store, Txn,
    WatchFrom, WatchStream,
};
use futures::future::BoxFuture;

use crate::config::Settings;
use crate::core::Core;
use crate::dial::Dialer;
use crate::error::Asked;
use crate::follow::KeyspaceWatches;
use crate::frame::Nonces;
use crate::names::Names;
use crate::nodes::Nodes;
use crate::position::position;
use crate::program;
use crate::server::Server;

/// Keeps all keyspaces in Redis.
pub struct RedisStore {
    core: Arc<Core>,
    watches: Arc<KeyspaceWatches>,
    profile: Profile,
    /// Stops the keeper of the watches.
    stop: Shutdown,
}

// === impl RedisStore ===

impl RedisStore {
    /// Connects, and checks that Redis is what we need and lets us do what we do.
    pub(crate) async fn connect(settings: Settings, env: atomix_env::Env) -> Result<Self, Error> {
        let settings = Arc::new(settings);
        let nonces = Arc::new(Nonces::new(env.random()));
        let nodes = Arc::new(Nodes::new(Dialer::new(env, Arc::clone(&settings)).await?));
        let probe = Names::probe(&settings.key_prefix);
        let link = nodes.route(probe.slot).await?;
        let server = Server::ask(&link).await?;
        server.check(&settings)?;
        let profile = server.profile(&settings, nodes.may_fail_over());
        let core = Arc::new(Core::new(Arc::clone(&nodes), Arc::clone(&nonces)));
        core.try_out(&probe, &profile).await?;
        let stop = Shutdown::new();
        let watches = Arc::new(KeyspaceWatches::new(Arc::clone(&nodes), nonces));
        let (keeper, stopped) = (Arc::clone(&watches), stop.clone());
        nodes.dialer.env.supervise("redis-watches", Policy::Restart, move || {
            let (watches, stop) = (Arc::clone(&keeper), stopped.clone());
            async move { watches.keep(&stop).await }
        });
        Ok(Self { core, watches, profile, stop })
    }

    fn check_keyspace(&self, keyspace: &Keyspace) -> Result<(), Error> {
        let (bytes, max) = (keyspace.as_bytes().len(), self.profile.limits.key_bytes_max);
        if !(1..=max).contains(&bytes) {
            return Err(Error::invalid(format!(
                "keyspace out of bounds: bytes=`{bytes}` bounds=`1 to {max}`"
            )));
        }
        Ok(())
    }
}

impl Store for RedisStore {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn read<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        reads: Vec<Read>,
    ) -> BoxFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            self.profile.limits.check_reads(&reads)?;
            self.core.read(&self.core.names(keyspace), &reads).await
        })
    }

    fn commit<'a>(&'a self, keyspace: &'a Keyspace, txn: Txn) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            txn.check(&self.profile.limits)?;
            self.core.commit(keyspace, txn).await
        })
    }

    fn watch<'a>(
        &'a self,
        keyspace: &'a Keyspace,
        from: WatchFrom,
    ) -> BoxFuture<'a, Result<WatchStream, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            self.watches.watch(keyspace, from).await
        })
    }

    fn reclaim<'a>(&'a self, keyspace: &'a Keyspace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            self.check_keyspace(keyspace)?;
            let core = &self.core;
            if !self.watches.drop_unwatched(keyspace).await {
                return Ok(());
            }
            let (names, library) = (core.names(keyspace), &core.nodes.library);
            let channel = names.channel(&library.channel);
            let cmd = program::reclaim(&library.reclaim, &names, &channel);
            core.nodes.call(names.slot, &cmd, Asked::Write).await.map(drop)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Health, Error>> {
        Box::pin(async move {
            let _running = self.core.enter()?;
            let nodes = &self.core.nodes;
            let probe = Names::probe(&nodes.dialer.settings.key_prefix);
            position(nodes, &probe).await?;
            let link = nodes.route(probe.slot).await?;
            Ok(Server::ask(&link).await?.health(&nodes.dialer.settings, &link.address))
        })
    }

    fn reconfigure<'a>(&'a self, config: &'a JsonObject) -> BoxFuture<'a, Result<Reconfigured, Error>> {
        let reconfigured =
            self.core.enter().and_then(|_running| Settings::read(config)).and_then(|settings| {
                let now = &self.core.nodes.dialer.settings;
                if (settings.database, &settings.key_prefix) != (now.database, &now.key_prefix) {
                    return Err(Error::location_change("`database` or `key-prefix`"));
                }
                Ok(if settings == **now { Reconfigured::InPlace } else { Reconfigured::Connect })
            });
        Box::pin(std::future::ready(reconfigured))
    }

    fn close(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.core.refuse_calls();
            self.stop.cancel();
            self.watches.close();
            self.core.close(grace).await;
        })
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.stop.cancel();
        self.watches.close();
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("profile", &self.profile).finish_non_exhaustive()
    }
}
