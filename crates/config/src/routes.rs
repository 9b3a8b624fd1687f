// SPDX-License-Identifier: Apache-2.0
//! Routes: which primitive lives in which store.
//!
//! There are two styles with different rules of matching, so a list is in one of them as a whole.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::StoreId;
use atomix_env::JsonObject;

/// The routes, in the order in which they are tried.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Entry>", into = "Vec<Entry>")]
pub enum Routes {
    /// The list is not there: every primitive goes to the first store.
    #[default]
    Absent,
    /// Routes with `tags` and `services`: the first whose tags the primitive has wins.
    Seed(Vec<SeedRoute>),
    /// Routes with `rules`. An empty list (`routes: []`) means that there are no routes until they are programmed.
    Later(Vec<LaterRoute>),
}

/// A route of the seed style.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedRoute {
    /// The store; it may be connected later.
    pub store: StoreId,
    /// Tags that the primitive must have; without tags the route fits every primitive.
    pub tags: Vec<String>,
    /// Configurations of primitives. They do not filter.
    pub services: Vec<Service>,
}

/// The configuration of one kind of primitive within a [`SeedRoute`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Service {
    /// The gRPC service, such as `atomix.runtime.map.v1.Map`.
    pub name: String,
    /// The JSON form of the primitive's configuration.
    #[serde(default)]
    pub config: JsonObject,
}

/// A route of the later style.
#[derive(Debug, Clone, PartialEq)]
pub struct LaterRoute {
    /// The store; it may be connected later.
    pub store: StoreId,
    /// The rules; without rules the route is a bare one.
    pub rules: Vec<Rule>,
}

/// A rule of a [`LaterRoute`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Rule {
    /// The type of primitive that the rule is for; absent: any.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub primitive_type: Option<PrimitiveType>,
    /// Names of primitives, compared exactly, or `*`.
    pub names: Vec<String>,
    /// Tags that the primitive must have.
    pub tags: Vec<String>,
    /// The JSON form of the primitive's configuration.
    pub config: JsonObject,
}

/// A type of primitive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PrimitiveType {
    /// The name, such as `Map`.
    pub name: String,
    /// The version, such as `v1`; empty: any.
    #[serde(default)]
    pub version: String,
}

/// A route as it is written: its keys decide about the style.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    store: StoreId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    services: Option<Vec<Service>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rules: Option<Vec<Rule>>,
}

/// Two routes of one list that are in different styles; the same index twice if one route is in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mixed {
    pub(crate) seed: usize,
    pub(crate) later: usize,
}

// === impl Routes ===

impl Routes {
    /// Returns whether the list is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns the stores that the routes name, in order.
    pub fn stores(&self) -> Vec<&StoreId> {
        match self {
            Self::Absent => Vec::new(),
            Self::Seed(routes) => routes.iter().map(|route| &route.store).collect(),
            Self::Later(routes) => routes.iter().map(|route| &route.store).collect(),
        }
    }
}

/// Returns whether a list whose routes have the keys (`tags` or `services`, `rules`) is of the seed style. A list in
/// which no route has any of them is of the later style: in both, the first route then takes everything.
pub(crate) fn is_seed(keys: impl IntoIterator<Item = (bool, bool)>) -> Result<bool, Mixed> {
    let (mut seed, mut later) = (None, None);
    for (index, (has_seed, has_later)) in keys.into_iter().enumerate() {
        seed = seed.or_else(|| has_seed.then_some(index));
        later = later.or_else(|| has_later.then_some(index));
        if let (Some(seed), Some(later)) = (seed, later) {
            return Err(Mixed { seed, later });
        }
    }
    Ok(seed.is_some())
}

impl TryFrom<Vec<Entry>> for Routes {
    type Error = Mixed;

    fn try_from(entries: Vec<Entry>) -> Result<Self, Mixed> {
        let keys = |entry: &Entry| (entry.tags.is_some() || entry.services.is_some(), entry.rules.is_some());
        Ok(if is_seed(entries.iter().map(keys))? {
            let route = |entry: Entry| SeedRoute {
                store: entry.store,
                tags: entry.tags.unwrap_or_default(),
                services: entry.services.unwrap_or_default(),
            };
            Self::Seed(entries.into_iter().map(route).collect())
        } else {
            let route =
                |entry: Entry| LaterRoute { store: entry.store, rules: entry.rules.unwrap_or_default() };
            Self::Later(entries.into_iter().map(route).collect())
        })
    }
}

impl From<Routes> for Vec<Entry> {
    fn from(routes: Routes) -> Self {
        match routes {
            Routes::Absent => Self::new(),
            Routes::Seed(routes) => {
                let entry = |route: SeedRoute| Entry {
                    store: route.store,
                    tags: Some(route.tags),
                    services: Some(route.services),
                    rules: None,
                };
                routes.into_iter().map(entry).collect()
            }
            Routes::Later(routes) => {
                let entry = |route: LaterRoute| Entry {
                    store: route.store,
                    tags: None,
                    services: None,
                    rules: Some(route.rules),
                };
                routes.into_iter().map(entry).collect()
            }
        }
    }
}

// === impl Mixed ===

impl fmt::Display for Mixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, later } = self;
        write!(f, "routes of two styles: seed=`routes[{seed}]` later=`routes[{later}]`")
    }
}
