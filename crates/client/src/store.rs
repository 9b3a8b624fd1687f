// SPDX-License-Identifier: Apache-2.0
//! Names of stores and drivers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// Names a store. As text: `name`, or `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreId {
    /// The namespace; empty is one too.
    #[serde(default)]
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Names a driver. As text: `name/version`, or `name` for the newest version that the server has. A name may contain
/// slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverId {
    /// The name.
    pub name: String,
    /// The version; empty: the newest one.
    pub version: String,
}

// === impl StoreId ===

impl StoreId {
    /// Names a store without a namespace.
    pub fn new(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }

    pub(crate) fn wire(self) -> atomix_proto::runtime::StoreId {
        atomix_proto::runtime::StoreId { namespace: self.namespace, name: self.name }
    }
}

impl From<atomix_proto::runtime::StoreId> for StoreId {
    fn from(wire: atomix_proto::runtime::StoreId) -> Self {
        Self { namespace: wire.namespace, name: wire.name }
    }
}

impl From<&str> for StoreId {
    fn from(text: &str) -> Self {
        match text.split_once('/') {
            Some((namespace, name)) => Self { namespace: namespace.to_owned(), name: name.to_owned() },
            None => Self::new(text),
        }
    }
}

impl FromStr for StoreId {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from(text))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

// === impl DriverId ===

impl DriverId {
    /// Names version `v1` of a driver.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), version: "v1".to_owned() }
    }

    pub(crate) fn wire(self) -> atomix_proto::runtime::DriverId {
        atomix_proto::runtime::DriverId { name: self.name, version: self.version }
    }
}

impl From<atomix_proto::runtime::DriverId> for DriverId {
    fn from(wire: atomix_proto::runtime::DriverId) -> Self {
        Self { name: wire.name, version: wire.version }
    }
}

impl FromStr for DriverId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_version = |part: &str| {
            part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        };
        let driver = match text.rsplit_once('/') {
            Some((name, version)) if is_version(version) => {
                Self { name: name.to_owned(), version: version.to_owned() }
            }
            _ => Self { name: text.to_owned(), version: String::new() },
        };
        if driver.name.is_empty() {
            return Err(Error::new(Kind::Invalid, "driver without a name, write `name/version`"));
        }
        Ok(driver)
    }
}

impl fmt::Display for DriverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.as_str() {
            "" => f.write_str(&self.name),
            version => write!(f, "{}/{version}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_names_come_back_as_they_were() {
        for text in ["orders", "prod/orders", "a/b/c"] {
            assert_eq!(StoreId::from(text).to_string(), text);
        }
        assert_eq!(StoreId::from("/a").name, "a");
    }

    #[test]
    fn a_driver_has_a_version_if_it_says_so() {
        let parse = |text: &str| text.parse::<DriverId>().unwrap().to_string();
        assert_eq!(parse("memory"), "memory");
        assert_eq!(parse("etcd/v2beta1"), "etcd/v2beta1");
        assert_eq!(parse("atomix.io/raft"), "atomix.io/raft");
        assert_eq!(parse("atomix.io/raft/v2"), "atomix.io/raft/v2");
        assert!("".parse::<DriverId>().is_err());
    }
}
