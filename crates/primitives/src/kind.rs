// SPDX-License-Identifier: Apache-2.0
//! The kinds of primitives.

use std::fmt;

use atomix_store::{Keyspace, number_bytes};
use bytes::Bytes;

use crate::kit::keys;

/// The kind of a primitive. Names of one kind are one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Counter,
    CounterMap,
    Election,
    IndexedMap,
    List,
    Lock,
    Map,
    MultiMap,
    Set,
    Topic,
    Value,
}

// === impl Kind ===

impl Kind {
    /// All kinds, in the order of their names.
    pub const ALL: [Self; 11] = [
        Self::Counter,
        Self::CounterMap,
        Self::Election,
        Self::IndexedMap,
        Self::List,
        Self::Lock,
        Self::Map,
        Self::MultiMap,
        Self::Set,
        Self::Topic,
        Self::Value,
    ];

    /// Returns the short name: of the gRPC package, of keyspaces, of commands. Part of the stored format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::CounterMap => "countermap",
            Self::Election => "election",
            Self::IndexedMap => "indexedmap",
            Self::List => "list",
            Self::Lock => "lock",
            Self::Map => "map",
            Self::MultiMap => "multimap",
            Self::Set => "set",
            Self::Topic => "topic",
            Self::Value => "value",
        }
    }

    /// Returns the type name that routing rules use.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Counter => "Counter",
            Self::CounterMap => "CounterMap",
            Self::Election => "LeaderElection",
            Self::IndexedMap => "IndexedMap",
            Self::List => "List",
            Self::Lock => "Lock",
            Self::Map => "Map",
            Self::MultiMap => "MultiMap",
            Self::Set => "Set",
            Self::Topic => "Topic",
            Self::Value => "Value",
        }
    }

    /// Finds a kind by its short name or its type name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name || kind.type_name() == name)
    }

    /// Returns the entries of a primitive of this kind that mean nothing if it has no others: a counter that is zero, the mark
    /// that expiries write. With a value, only that value.
    pub(crate) fn residue(self) -> Vec<(&'static [u8], Option<Bytes>)> {
        match self {
            Self::Counter => vec![(keys::SINGLE, Some(number_bytes(0)))],
            Self::IndexedMap | Self::Map | Self::Set | Self::Value => vec![(keys::EXPIRED, None)],
            Self::CounterMap | Self::Election | Self::List | Self::Lock | Self::MultiMap | Self::Topic => {
                Vec::new()
            }
        }
    }

    /// Finds the kind of the primitive that has this keyspace; none for those in which runtimes keep what they need themselves.
    pub fn of_keyspace(keyspace: &Keyspace) -> Option<Self> {
        let bytes = keyspace.as_bytes();
        Self::ALL.into_iter().find(|kind| {
            bytes.strip_prefix(kind.name().as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
        })
    }

    /// Returns the keyspace of the primitive of this kind and `name`.
    pub fn keyspace(self, name: &str) -> Keyspace {
        Keyspace::new([self.name().as_bytes(), b"/", name.as_bytes()].concat())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_both_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::find(kind.name()), Some(kind));
            assert_eq!(Kind::find(kind.type_name()), Some(kind));
        }
        assert_eq!(Kind::find("Nothing"), None);
    }

    #[test]
    fn the_keyspaces_of_primitives_tell_their_kind() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_keyspace(&kind.keyspace("a/b")), Some(kind));
        }
        for other in ["known", "host", "map", "mapper/a"] {
            assert_eq!(Kind::of_keyspace(&Keyspace::new(other)), None);
        }
    }
}
