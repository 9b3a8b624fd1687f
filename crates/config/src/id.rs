// SPDX-License-Identifier: Apache-2.0
//! Names of stores and drivers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names a store. Compared exactly; both parts may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreId {
    /// The namespace, often empty outside Kubernetes.
    #[serde(default)]
    pub namespace: String,
    /// The name within the namespace.
    pub name: String,
}

/// Names a driver. Compared exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DriverId {
    /// The name, such as `memory`.
    pub name: String,
    /// The version of the driver's interface, such as `v1`; empty: the newest.
    #[serde(default)]
    pub version: String,
}

// === impl StoreId ===

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl DriverId ===

impl fmt::Display for DriverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.as_str() {
            "" => f.write_str(&self.name),
            version => write!(f, "{}/{version}", self.name),
        }
    }
}
