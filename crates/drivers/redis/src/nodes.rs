// SPDX-License-Identifier: Apache-2.0
//! Finds the server of a keyspace and keeps the connections: one Redis, the master that sentinels name, the
//! nodes of a cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Backoff, Instant};
use atomix_store::{Error, ErrorKind};
use parking_lot::{Mutex, RwLock};
use redis::{Cmd, Value};

use crate::dial::{Dialer, Failure};
use crate::error::{Asked, Redirect, redirect, translate};
use crate::library::Library;
use crate::link::Link;
use crate::names::SLOTS;

/// Finds servers and keeps connections to them.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) dialer: Dialer,
    pub(crate) library: Library,
    topology: Topology,
    /// The known owner of each slot. Without a cluster there is one entry for all slots.
    owners: RwLock<Vec<Option<Arc<str>>>>,
    links: RwLock<HashMap<Arc<str>, Arc<Link>>>,
    /// Serialises the search for servers, and keeps its last result.
    search: tokio::sync::Mutex<()>,
    failures: Mutex<HashMap<Arc<str>, Attempt>>,
}

/// The way to find servers.
#[derive(Debug)]
enum Topology {
    One,
    Sentinels { addresses: Vec<String>, master: String },
    Cluster { seeds: Vec<String> },
}

/// A connection attempt that failed. Other callers do not repeat it immediately: they get the same error.
#[derive(Debug)]
struct Attempt {
    error: Error,
    at: Instant,
    backoff: Backoff,
    until: Instant,
}

/// Maximum of redirects of a call.
const HOPS_MAX: usize = 5;

/// Pauses between attempts to connect: short, so that a server that is back is used soon.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(dialer: Dialer) -> Self {
        let settings = &dialer.settings;
        let mut addresses = settings.addresses();
        let (topology, owners) = if let Some(master) = &settings.sentinel_master {
            (Topology::Sentinels { addresses, master: master.clone() }, vec![None])
        } else if settings.cluster {
            (Topology::Cluster { seeds: addresses }, vec![None; SLOTS])
        } else {
            (Topology::One, vec![Some(addresses.remove(0).into())])
        };
        Self {
            library: Library::new(settings),
            topology,
            owners: RwLock::new(owners),
            links: RwLock::default(),
            search: tokio::sync::Mutex::default(),
            failures: Mutex::default(),
            dialer,
        }
    }

    /// Whether another server may take over with less than what was answered.
    pub(crate) fn may_fail_over(&self) -> bool {
        !matches!(self.topology, Topology::One)
    }

    /// Calls the owner of `slot`, following redirects. Also returns the server that answered.
    ///
    /// A call is repeated only if a server has refused it: nothing is ever applied twice.
    pub(crate) async fn call(&self, slot: u16, cmd: &Cmd, asked: Asked) -> Result<(Value, Arc<Link>), Error> {
        let mut hops = 0;
        loop {
            let link = self.route(slot).await?;
            let error = match link.call(cmd).await {
                Ok(answer) => return Ok((answer, link)),
                Err(Failure::Said(error)) => error,
                Err(Failure::Silent) => return Err(Failure::Silent.translate(asked)),
            };
            hops += 1;
            let Some(redirect) = redirect(&error).filter(|_| hops < HOPS_MAX) else {
                return Err(translate(error, asked));
            };
            match redirect {
                Redirect::NoLibrary => link.load(&self.library).await?,
                Redirect::Moved(address) => self.moved(slot, &link, &address),
                Redirect::Ask(address) => {
                    let other = self.connected(&beside(&link, &address)).await?;
                    match other.call_asking(cmd).await {
                        Ok(answer) => return Ok((answer, other)),
                        Err(failure) if crate::link::lacks_library(&failure) => {
                            other.load(&self.library).await?;
                        }
                        Err(failure) => return Err(failure.translate(asked)),
                    }
                }
                Redirect::NoLeader if self.may_fail_over() => self.forget(slot, &link),
                Redirect::NoLeader => return Err(translate(error, asked)),
            }
        }
    }

    /// Returns a connection to the server that has `slot`.
    pub(crate) async fn route(&self, slot: u16) -> Result<Arc<Link>, Error> {
        if let Some(owner) = self.owner(slot) {
            if let Some(link) = self.usable(&owner) {
                return Ok(link);
            }
            match &self.topology {
                Topology::One => return self.connected(&owner).await,
                Topology::Cluster { .. } => match self.connected(&owner).await {
                    Ok(link) => return Ok(link),
                    // Another node may have taken over.
                    Err(_) => self.set_owner(slot, None),
                },
                // Sentinels know first whether there is another master.
                Topology::Sentinels { .. } => self.set_owner(slot, None),
            }
        }
        // The search for owners counts as a connection attempt, under no address.
        let (nobody, asked_at): (Arc<str>, _) = ("".into(), self.dialer.env.now());
        self.paused(&nobody, asked_at)?;
        let search = self.search.lock().await;
        if self.owner(slot).is_none() {
            self.paused(&nobody, asked_at)?;
            match self.find(slot).await {
                Ok(()) => drop(self.failures.lock().remove(&nobody)),
                Err(error) => {
                    self.failed(&nobody, &error);
                    return Err(error);
                }
            }
        }
        drop(search);
        let owner = self.owner(slot).ok_or_else(|| Error::unavailable("no server has this keyspace"))?;
        let link = self.connected(&owner).await;
        if link.is_err() && self.may_fail_over() {
            self.set_owner(slot, None);
        }
        link
    }

    /// All servers that keyspaces may be on, as far as it is known.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.links.read().values().filter(|link| link.usable()).cloned().collect()
    }

    /// Ends all connections.
    pub(crate) fn close(&self) {
        for (_, link) in self.links.write().drain() {
            link.broken.cancel();
        }
    }

    fn owner(&self, slot: u16) -> Option<Arc<str>> {
        let owners = self.owners.read();
        owners[usize::from(slot) % owners.len()].clone()
    }

    fn set_owner(&self, slot: u16, owner: Option<Arc<str>>) {
        let mut owners = self.owners.write();
        let at = usize::from(slot) % owners.len();
        owners[at] = owner;
    }

    fn usable(&self, address: &str) -> Option<Arc<Link>> {
        self.links.read().get(address).filter(|link| link.usable()).cloned()
    }

    pub(crate) fn moved(&self, slot: u16, from: &Link, address: &str) {
        self.set_owner(slot, Some(beside(from, address)));
    }

    fn forget(&self, slot: u16, link: &Link) {
        link.broken.cancel();
        self.set_owner(slot, None);
    }

    /// Returns a connection to this server, a new one if there is none.
    async fn connected(&self, address: &Arc<str>) -> Result<Arc<Link>, Error> {
        let asked_at = self.dialer.env.now();
        if let Some(link) = self.usable(address) {
            return Ok(link);
        }
        self.paused(address, asked_at)?;
        let _search = self.search.lock().await;
        if let Some(link) = self.usable(address) {
            return Ok(link);
        }
        self.paused(address, asked_at)?;
        match Link::open(&self.dialer, address).await {
            Ok(link) => {
                self.failures.lock().remove(address);
                let link = Arc::new(link);
                self.links.write().insert(Arc::clone(address), Arc::clone(&link));
                Ok(link)
            }
            Err(error) => {
                if matches!(self.topology, Topology::Sentinels { .. }) {
                    self.set_owner(0, None);
                }
                self.failed(address, &error);
                Err(error)
            }
        }
    }

    fn failed(&self, address: &Arc<str>, error: &Error) {
        let mut failures = self.failures.lock();
        let before = failures.remove(address).map(|last| last.backoff);
        let mut backoff = before.unwrap_or(Backoff::new(PAUSE_MIN, PAUSE_MAX));
        let at = self.dialer.env.now();
        let until = at + backoff.next(&self.dialer.env);
        failures.insert(Arc::clone(address), Attempt { error: error.clone(), at, backoff, until });
    }

    /// The error of the last attempt, if it is not yet time for another one, or if it was made while the caller waited.
    fn paused(&self, address: &str, asked_at: Instant) -> Result<(), Error> {
        let failures = self.failures.lock();
        let Some(last) = failures.get(address) else { return Ok(()) };
        if last.until > self.dialer.env.now() || last.at > asked_at {
            return Err(last.error.clone());
        }
        Ok(())
    }

    /// Finds the owner of `slot`.
    async fn find(&self, slot: u16) -> Result<(), Error> {
        match &self.topology {
            Topology::One => Ok(()),
            Topology::Sentinels { addresses, master } => {
                let mut last = None;
                for address in addresses {
                    match self.ask_sentinel(address, master).await {
                        Ok(owner) => {
                            self.set_owner(slot, Some(owner));
                            return Ok(());
                        }
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| Error::unavailable("no sentinel answers")))
            }
            Topology::Cluster { seeds } => {
                let known = self.links().into_iter().map(|link| link.address.to_string());
                let mut last = None;
                for address in known.chain(seeds.iter().cloned()) {
                    match self.ask_node(&address).await {
                        Ok(owners) => {
                            *self.owners.write() = owners;
                            return Ok(());
                        }
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(|| Error::unavailable("no node of the cluster answers")))
            }
        }
    }

    async fn ask_sentinel(&self, address: &str, master: &str) -> Result<Arc<str>, Error> {
        let wire = self.dialer.sentinel(address).await?;
        let answer = wire.call(redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master)).await;
        let answer = answer.map_err(|failure| failure.translate(Asked::Read))?;
        let parts: Option<(String, String)> = redis::from_redis_value(answer).ok().flatten();
        let (host, port) = parts.ok_or_else(|| {
            Error::config(format!("the sentinel knows no such master: sentinel-master=`{master}`"))
        })?;
        Ok(joined(&host, &port))
    }

    /// The owners of all slots, as one node sees them.
    async fn ask_node(&self, address: &str) -> Result<Vec<Option<Arc<str>>>, Error> {
        let wire = self.dialer.server(address, None, atomix_env::Shutdown::new()).await?;
        let answer = wire.call(redis::cmd("CLUSTER").arg("SLOTS")).await;
        let answer = answer.map_err(|failure| failure.translate(Asked::Read))?;
        let mut owners = vec![None; SLOTS];
        let damaged = || Error::new(ErrorKind::Internal, "redis answers CLUSTER SLOTS in another form");
        let Value::Array(ranges) = answer else { return Err(damaged()) };
        for range in ranges {
            let Value::Array(range) = range else { return Err(damaged()) };
            let (Some(Value::Int(first)), Some(Value::Int(last)), Some(Value::Array(node))) =
                (range.first(), range.get(1), range.get(2))
            else {
                return Err(damaged());
            };
            let (Some(host), Some(Value::Int(port))) = (node.first(), node.get(1)) else {
                return Err(damaged());
            };
            // A node that does not know its own host leaves it empty.
            let host: String = redis::from_redis_value_ref(host).unwrap_or_default();
            let owner = beside_address(address, &joined(&host, &port.to_string()));
            let (first, last) = (usize::try_from(*first), usize::try_from(*last));
            let (Ok(first), Ok(last)) = (first, last) else { return Err(damaged()) };
            owners.get_mut(first..=last).ok_or_else(damaged)?.fill(Some(owner));
        }
        Ok(owners)
    }
}

fn joined(host: &str, port: &str) -> Arc<str> {
    if host.contains(':') { format!("[{host}]:{port}").into() } else { format!("{host}:{port}").into() }
}

/// Resolves an address from a node: without a host, or with `?` for it, it is on the same host.
fn beside(link: &Link, address: &str) -> Arc<str> {
    beside_address(&link.address, address)
}

fn beside_address(known: &str, address: &str) -> Arc<str> {
    match address.strip_prefix('?').unwrap_or(address).strip_prefix(':') {
        Some(port) => {
            joined(known.rsplit_once(':').map_or(known, |(host, _)| host).trim_matches(['[', ']']), port)
        }
        None => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_on_the_same_host() {
        assert_eq!(&*beside_address("a:1", "b:2"), "b:2");
        assert_eq!(&*beside_address("a:1", ":2"), "a:2");
        assert_eq!(&*beside_address("a:1", "?:2"), "a:2");
        assert_eq!(&*beside_address("[::1]:1", ":2"), "[::1]:2");
        assert_eq!(&*joined("::1", "2"), "[::1]:2");
    }
}
