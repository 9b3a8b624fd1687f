// SPDX-License-Identifier: Apache-2.0
//! The drivers that exist and the stores that are connected.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use atomix_config::{DriverId, JsonObject, StoreId};
use atomix_env::{Env, Shutdown, WallTime};
use atomix_primitives::{Error, MemberDetails, Reason};
use atomix_store::{Driver, Profile, fold, printable};
use parking_lot::RwLock;
use tokio_util::sync::DropGuard;

use crate::error::not_connected;
use crate::slot::{Slot, StoreState, Terms};

#[derive(Debug)]
pub(crate) struct StoreRegistry {
    env: Env,
    drivers: Vec<Arc<dyn Driver>>,
    stores_max: usize,
    terms: Terms,
    /// Ends what works for the stores in the background when the runtime is dropped.
    stop: DropGuard,
    slots: RwLock<BTreeMap<StoreId, Arc<Slot>>>,
    /// Held while a store is added, so that two calls for one id do not both connect it. The slot connects in the
    /// background: nothing waits for a backend here.
    adding: tokio::sync::Mutex<()>,
}

/// A driver, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverDetails {
    /// The name and version.
    pub id: DriverId,
    /// Other names and versions that are accepted.
    pub aliases: Vec<DriverId>,
    /// A description of what its stores keep and where.
    pub description: String,
}

/// A store, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDetails {
    /// The id.
    pub id: StoreId,
    /// The driver that made it.
    pub driver: DriverId,
    /// Its state.
    pub state: StoreState,
    /// Why it is not ready.
    pub error: String,
    /// Since when it is so.
    pub since: WallTime,
    /// The number of configurations that have been in force.
    pub generation: u64,
    /// Its profile, if it was ever reached.
    pub profile: Option<Profile>,
    /// The members that work on it, if it is shared.
    pub members: Vec<MemberDetails>,
    /// Whether the wall clock of this runtime decides that entries in it have expired.
    pub clock_trusted: bool,
    /// The facts of its last successful check.
    pub facts: Vec<(&'static str, String)>,
    /// The number of primitives of this runtime that it keeps.
    pub primitives: usize,
}

// === impl StoreRegistry ===

impl StoreRegistry {
    pub(crate) fn new(env: Env, drivers: Vec<Arc<dyn Driver>>, stores_max: usize, terms: Terms) -> Self {
        Self {
            env,
            drivers,
            stores_max,
            terms,
            stop: Shutdown::new().drop_guard(),
            slots: RwLock::default(),
            adding: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().values().cloned().collect()
    }

    pub(crate) fn find(&self, id: &StoreId) -> Option<Arc<Slot>> {
        self.slots.read().get(id).cloned()
    }

    pub(crate) async fn connect(
        &self,
        id: StoreId,
        driver: DriverId,
        config: JsonObject,
    ) -> Result<Arc<Slot>, Error> {
        let _adding = self.adding.lock().await;
        if self.slots.read().contains_key(&id) {
            let message = format!("store is connected already: disconnect or configure it: store=`{id}`");
            return Err(Error::new(Reason::StoreExists, message));
        }
        let (stores, max) = (self.slots.read().len(), self.stores_max);
        if stores >= max {
            let message = format!(
                "too many stores: disconnect one or raise `limits.stores-max`: stores=`{stores}` stores-max=`{max}`"
            );
            return Err(Error::invalid(message));
        }
        let driver = self.check(&driver, &config)?;
        let closed = self.stop.token().child_token();
        let env = self.env.clone();
        let slot = Slot::open(id.clone(), driver, config, env, self.terms.clone(), closed).await;
        self.slots.write().insert(id, Arc::clone(&slot));
        Ok(slot)
    }

    pub(crate) async fn configure(&self, id: &StoreId, config: JsonObject) -> Result<(), Error> {
        let slot = self.find(id).ok_or_else(|| not_connected(id))?;
        if config.is_empty() {
            // "No change": contract/runtime.md section 4.2.
            return Ok(());
        }
        Ok(slot.configure(config).await?)
    }

    pub(crate) fn remove(&self, id: &StoreId) -> Result<Arc<Slot>, Error> {
        self.slots.write().remove(id).ok_or_else(|| not_connected(id))
    }

    /// Removes this very slot, and not one that was connected under its id meanwhile.
    pub(crate) fn remove_exactly(&self, slot: &Arc<Slot>) -> Result<Arc<Slot>, Error> {
        let mut slots = self.slots.write();
        if !slots.get(slot.id()).is_some_and(|known| Arc::ptr_eq(known, slot)) {
            return Err(not_connected(slot.id()));
        }
        slots.remove(slot.id()).ok_or_else(|| not_connected(slot.id()))
    }

    pub(crate) async fn tried(&self) {
        let slots: Vec<Arc<Slot>> = self.slots.read().values().cloned().collect();
        futures::future::join_all(slots.iter().map(|slot| slot.tried())).await;
    }

    pub(crate) async fn close(&self) {
        let slots = std::mem::take(&mut *self.slots.write());
        futures::future::join_all(slots.values().map(|slot| slot.close())).await;
    }

    pub(crate) fn drivers(&self) -> Vec<DriverDetails> {
        let id = |name: &str, version: &str| DriverId { name: name.to_owned(), version: version.to_owned() };
        self.drivers
            .iter()
            .map(|driver| DriverDetails {
                id: id(driver.name(), driver.version()),
                aliases: driver.aliases().iter().map(|(name, version)| id(name, version)).collect(),
                description: driver.description().to_owned(),
            })
            .collect()
    }

    pub(crate) fn stores(&self) -> Vec<StoreDetails> {
        self.slots()
            .into_iter()
            .map(|slot| {
                let (state, error, since) = slot.status();
                StoreDetails {
                    id: slot.id().clone(),
                    driver: slot.driver_id(),
                    state,
                    error,
                    since,
                    generation: slot.generation(),
                    profile: slot.known_profile().cloned(),
                    members: slot.membership().map(|membership| membership.list()).unwrap_or_default(),
                    clock_trusted: slot.membership().is_ok_and(|membership| membership.trusts_clock()),
                    facts: slot.facts(),
                    primitives: 0,
                }
            })
            .collect()
    }

    /// Checks that a store could be connected, without connecting it.
    pub(crate) fn check(&self, driver: &DriverId, config: &JsonObject) -> Result<Arc<dyn Driver>, Error> {
        let driver = self.driver(driver)?;
        driver.validate(config)?;
        Ok(driver)
    }

    /// Returns a configuration as it may be shown. Without a driver nothing is known of its fields, and none is shown.
    pub(crate) fn shown(&self, driver: &DriverId, config: &JsonObject) -> JsonObject {
        let driver = self.driver(driver).ok();
        atomix_store::redact(config, &|field| driver.as_ref().is_some_and(|driver| driver.shows(field)))
    }

    /// Finds the driver of a name and version; without a version the newest one that goes by the name.
    fn driver(&self, id: &DriverId) -> Result<Arc<dyn Driver>, Error> {
        let named = |(name, version): &(&str, &str)| {
            *name == id.name && (id.version.is_empty() || *version == id.version)
        };
        let candidates = self.drivers.iter().flat_map(|driver| {
            let own = std::iter::once((driver.name(), driver.version()));
            let all = own.chain(driver.aliases().iter().copied());
            all.filter(named).map(move |(_, version)| (driver, version))
        });
        let newest = candidates.max_by_key(|(_, version)| age(version));
        newest.map(|(driver, _)| Arc::clone(driver)).ok_or_else(|| self.unknown(id))
    }

    /// Returns the error that lists the drivers, and those that take the place of one of the original.
    fn unknown(&self, id: &DriverId) -> Error {
        let wanted = fold(id.name.rsplit('/').next().unwrap_or_default());
        let replacing = |driver: &&Arc<dyn Driver>| driver.replaces().contains(&wanted.as_str());
        let instead: Vec<String> = self
            .drivers
            .iter()
            .filter(replacing)
            .map(|driver| format!("{}/{}", driver.name(), driver.version()))
            .collect();
        let instead = match instead.as_slice() {
            [] => String::new(),
            instead => format!(", use one that takes its place: instead=`{}`", instead.join(", ")),
        };
        let known: Vec<String> = self.drivers().iter().map(ToString::to_string).collect();
        let (id, known) = (printable(&id.to_string()), known.join("; "));
        let separator = if instead.is_empty() { ":" } else { "" };
        Error::new(
            Reason::DriverUnknown,
            format!("no such driver{instead}{separator} driver=`{id}` drivers=`{known}`"),
        )
    }
}

impl fmt::Display for DriverDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        for (at, alias) in self.aliases.iter().enumerate() {
            write!(f, "{} {alias}", if at == 0 { ", also" } else { "," })?;
        }
        Ok(())
    }
}

/// Orders versions as they follow one another: `v1beta1`, `v1`, `v2`, `v10`.
fn age(version: &str) -> (u64, bool, &str) {
    let version = version.strip_prefix('v').unwrap_or(version);
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    let (number, rest) = version.split_at(end);
    (number.parse().unwrap_or(0), rest.is_empty(), rest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn versions_follow_one_another() {
        let versions = ["v1beta1", "v1", "v2beta1", "v2", "v10"];
        assert!(versions.is_sorted_by_key(|version| age(version)));
    }

    /// A driver of a test: it has names, and fields of which one may be shown.
    #[derive(Debug)]
    struct Named(&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

    impl Driver for Named {
        fn name(&self) -> &'static str {
            self.0
        }

        fn version(&self) -> &'static str {
            "v1"
        }

        fn aliases(&self) -> &'static [(&'static str, &'static str)] {
            self.1
        }

        fn replaces(&self) -> &'static [&'static str] {
            self.2
        }

        fn description(&self) -> &'static str {
            ""
        }

        fn shows(&self, field: &str) -> bool {
            field == "place"
        }

        fn validate(&self, _config: &JsonObject) -> Result<(), atomix_store::Error> {
            Ok(())
        }

        fn connect(
            &self,
            _config: JsonObject,
            _context: atomix_store::Context,
        ) -> futures::future::BoxFuture<'_, Result<Arc<dyn atomix_store::Store>, atomix_store::Error>>
        {
            Box::pin(std::future::ready(Err(atomix_store::Error::unavailable("never"))))
        }
    }

    fn registry() -> StoreRegistry {
        let drivers: Vec<Arc<dyn Driver>> = vec![
            Arc::new(Named("near", &[("atomix.io/near", "v1"), ("Near", "v1beta1")], &["sharedmemory"])),
            Arc::new(Named("far", &[], &["sharedmemory", "raft"])),
        ];
        let zero = Duration::ZERO;
        let terms =
            Terms { grace: zero, session_timeout: zero, clock_skew_max: zero, connecting: Arc::default() };
        StoreRegistry::new(Env::real(), drivers, 16, terms)
    }

    fn id(text: &str) -> DriverId {
        let (name, version) = text.rsplit_once('/').unwrap_or((text, ""));
        DriverId { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn an_unknown_driver_is_answered_with_those_that_there_are() {
        let registry = registry();
        let refusal = |driver: &str| {
            let error = registry.check(&id(driver), &JsonObject::new()).unwrap_err();
            assert_eq!(error.kind(), atomix_primitives::ErrorKind::NotFound);
            error.message().to_owned()
        };
        let drivers = "drivers=`near/v1, also atomix.io/near/v1, Near/v1beta1; far/v1`";
        assert_eq!(refusal("nearby/v1"), format!("no such driver: driver=`nearby/v1` {drivers}"));
        for (driver, instead) in [("atomix.io/shared-memory/v1", "near/v1, far/v1"), ("Raft", "far/v1")] {
            let expected = format!(
                "no such driver, use one that takes its place: instead=`{instead}` driver=`{driver}` {drivers}"
            );
            assert_eq!(refusal(driver), expected);
        }
    }

    #[test]
    fn of_a_configuration_only_what_the_driver_shows_is_shown() {
        let registry = registry();
        let config = serde_json::json!({"place": "a", "pass": "hunter2"});
        let config = config.as_object().unwrap();
        let shown = |driver| serde_json::Value::Object(registry.shown(&id(driver), config)).to_string();
        assert_eq!(shown("near"), r#"{"pass":"(hidden)","place":"a"}"#);
        assert_eq!(shown("nearby"), r#"{"pass":"(hidden)","place":"(hidden)"}"#);
    }
}
