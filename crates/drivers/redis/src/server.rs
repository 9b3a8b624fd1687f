// SPDX-License-Identifier: Apache-2.0
//! Reads the state of a Redis server and derives its guarantees.

use std::collections::HashMap;
use std::time::Duration;

use atomix_store::{Consistency, Durability, Error, ErrorKind, Health, Profile};
use redis::Value;

use crate::config::Persistence;
use crate::config::Settings;
use crate::error::Asked;
use crate::link::Link;
use crate::program::limits;

/// The fields of INFO and CONFIG GET. Empty for a user without the permission.
#[derive(Debug, Default)]
pub(crate) struct Server {
    info: HashMap<String, String>,
    config: HashMap<String, String>,
}

/// With an append-only file that is synced every second Redis delays a sync that takes long by one more second.
const EVERYSEC: Duration = Duration::from_secs(2);

// === impl Server ===

impl Server {
    /// Asks a server. An answer that the user may not have is left out.
    pub(crate) async fn ask(link: &Link) -> Result<Self, Error> {
        let allowed = |answer: Result<Value, crate::dial::Failure>| {
            match answer.map_err(|failure| failure.translate(Asked::Read)) {
                Ok(answer) => Ok(Some(answer)),
                Err(error) if error.kind() == ErrorKind::Denied => Ok(None),
                // Some hosted Redis services have no CONFIG at all.
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
                Err(error) => Err(error),
            }
        };
        let info = allowed(link.call(&redis::cmd("INFO")).await)?;
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg("appendfsync").arg("save").arg("maxmemory-policy").arg("maxmemory");
        let config = allowed(link.call(&get).await)?;
        Ok(Self {
            info: info.as_ref().map(lines).unwrap_or_default(),
            config: config.map(pairs).unwrap_or_default(),
        })
    }

    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("unknown", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.info.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Refuses what we cannot work with.
    pub(crate) fn check(&self, settings: &Settings) -> Result<(), Error> {
        if let Some(version) = self.info.get("redis_version")
            && version
                .split('.')
                .next()
                .and_then(|major| major.parse::<u32>().ok())
                .is_some_and(|major| major < 7)
        {
            return Err(Error::config(format!("redis is too old: 7.0 is needed: version=`{version}`")));
        }
        let policy = self.info("maxmemory_policy");
        // The other policies evict only keys with a TTL, and the store sets none.
        if policy.starts_with("allkeys") && self.number("maxmemory") > 0 {
            if !settings.allow_eviction {
                return Err(Error::config(format!(
                    "redis may evict what it keeps: set its `maxmemory-policy` to `noeviction`, or `allow-eviction` here \
                     if losing locks and entries is acceptable: maxmemory-policy=`{policy}`"
                )));
            }
            tracing::warn!(policy, "redis may evict locks and entries: `allow-eviction` is set");
        }
        Ok(())
    }

    fn persistence(&self, settings: &Settings) -> Option<Persistence> {
        let told = match self.info.get("aof_enabled").map(String::as_str) {
            Some("1") => match self.config.get("appendfsync").map(String::as_str) {
                Some("always") => Some(Persistence::Always),
                Some("everysec") => Some(Persistence::Everysec),
                Some(_) => Some(Persistence::Snapshots),
                None => None,
            },
            Some(_) => self
                .config
                .get("save")
                .map(|save| if save.is_empty() { Persistence::None } else { Persistence::Snapshots }),
            None => None,
        };
        told.or(settings.persistence)
    }

    /// Returns the guarantees of the store.
    pub(crate) fn profile(&self, settings: &Settings, may_fail_over: bool) -> Profile {
        let replicated = may_fail_over || self.number("connected_slaves") > 0;
        Profile {
            consistency: if replicated { Consistency::UntilFailover } else { Consistency::Linearizable },
            durability: match self.persistence(settings) {
                Some(Persistence::Always) => Durability::Disk,
                Some(Persistence::Everysec) => Durability::Interval(EVERYSEC),
                Some(Persistence::Snapshots) => Durability::Snapshots,
                Some(Persistence::None) => Durability::Backend,
                None => Durability::Unknown,
            },
            shared: true,
            limits: limits(),
        }
    }

    /// Facts for an operator.
    pub(crate) fn health(&self, settings: &Settings, address: &str) -> Health {
        let persistence = match self.persistence(settings) {
            Some(Persistence::Always) => "append-only file, synced before every answer",
            Some(Persistence::Everysec) => "append-only file, synced every second",
            Some(Persistence::Snapshots) => "snapshots",
            Some(Persistence::None) => "none",
            None => "unknown",
        };
        let facts = [
            ("address", address),
            ("version", self.info("redis_version")),
            ("role", self.info("role")),
            ("replicas", self.info("connected_slaves")),
            ("used-memory", self.info("used_memory_human")),
            ("maxmemory", self.info("maxmemory_human")),
            ("maxmemory-policy", self.info("maxmemory_policy")),
            ("persistence", persistence),
            ("last-snapshot", self.info("rdb_last_bgsave_status")),
            ("last-append", self.info("aof_last_write_status")),
        ];
        Health { facts: facts.into_iter().map(|(name, value)| (name, value.to_owned())).collect() }
    }
}

/// The lines `name:value` of INFO.
fn lines(value: &Value) -> HashMap<String, String> {
    let text: String = redis::from_redis_value_ref(value).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(':')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn pairs(value: Value) -> HashMap<String, String> {
    redis::from_redis_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(info: &[(&str, &str)], config: &[(&str, &str)]) -> Server {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Server { info: map(info), config: map(config) }
    }

    #[test]
    fn the_profile_promises_what_redis_does_and_no_more() {
        let settings = Settings::default();
        let durability = |info: &[(&str, &str)], config: &[(&str, &str)]| {
            server(info, config).profile(&settings, false).durability
        };
        let (on, off) = ([("aof_enabled", "1")], [("aof_enabled", "0")]);
        assert_eq!(durability(&on, &[("appendfsync", "always")]), Durability::Disk);
        assert_eq!(durability(&on, &[("appendfsync", "everysec")]), Durability::Interval(EVERYSEC));
        assert_eq!(durability(&on, &[("appendfsync", "no")]), Durability::Snapshots);
        assert_eq!(durability(&on, &[]), Durability::Unknown);
        assert_eq!(durability(&off, &[("save", "3600 1")]), Durability::Snapshots);
        assert_eq!(durability(&off, &[("save", "")]), Durability::Backend);
        assert_eq!(durability(&off, &[]), Durability::Unknown);
        assert_eq!(durability(&[], &[]), Durability::Unknown);
        let known = Settings { persistence: Some(Persistence::Always), ..Settings::default() };
        assert_eq!(server(&on, &[]).profile(&known, false).durability, Durability::Disk);
        let told = server(&off, &[("save", "")]).profile(&known, false).durability;
        assert_eq!(told, Durability::Backend, "what redis says counts more than what the operator says");
    }

    #[test]
    fn replicas_make_a_failover_possible() {
        let settings = Settings::default();
        let profile = |replicas, may| server(&[("connected_slaves", replicas)], &[]).profile(&settings, may);
        assert_eq!(profile("0", false).consistency, Consistency::Linearizable);
        assert_eq!(profile("1", false).consistency, Consistency::UntilFailover);
        assert_eq!(profile("0", true).consistency, Consistency::UntilFailover);
    }

    #[test]
    fn a_redis_that_evicts_is_refused_unless_that_is_wanted() {
        let check = |policy, maxmemory, allow_eviction| {
            let settings = Settings { allow_eviction, ..Settings::default() };
            server(&[("maxmemory_policy", policy), ("maxmemory", maxmemory)], &[]).check(&settings)
        };
        assert_eq!(check("allkeys-lru", "1000", false).unwrap_err().kind(), ErrorKind::Config);
        check("allkeys-lru", "1000", true).unwrap();
        check("allkeys-lru", "0", false).unwrap();
        check("volatile-lru", "1000", false).unwrap();
        check("noeviction", "1000", false).unwrap();
        let old = server(&[("redis_version", "6.2.7")], &[]).check(&Settings::default());
        assert_eq!(old.unwrap_err().kind(), ErrorKind::Config);
    }
}
