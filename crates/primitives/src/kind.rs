// SPDX-License-Identifier: Apache-2.0
//! The registration of primitives, and their kinds.

use std::fmt;

use atomix_store::{Keyspace, number_bytes};
use bytes::Bytes;

use crate::kit::keys;

/// The registration of the primitives, one row each: `module::Type = "short name", "type name of routing rules", residue;`.
/// The short name is that of the gRPC package, of keyspaces and of commands, and part of the stored format. The residue
/// is the entry that means nothing if the primitive has no others.
macro_rules! primitives {
    ($apply:ident) => {
        $apply! {
            counter::Counter = "counter", "Counter", Zero;
            countermap::CounterMap = "countermap", "CounterMap", Nothing;
            election::Election = "election", "LeaderElection", Nothing;
            indexedmap::IndexedMap = "indexedmap", "IndexedMap", Expired;
            list::List = "list", "List", Nothing;
            lock::Lock = "lock", "Lock", Nothing;
            map::Map = "map", "Map", Expired;
            multimap::MultiMap = "multimap", "MultiMap", Nothing;
            set::Set = "set", "Set", Expired;
            topic::Topic = "topic", "Topic", Nothing;
            value::Value = "value", "Value", Expired;
        }
    };
}

pub(crate) use primitives;

macro_rules! kinds {
    ($($module:ident::$primitive:ident = $name:literal, $type_name:literal, $residue:ident;)+) => {
        /// The kind of a primitive. Names of one kind are one namespace.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum Kind {
            $($primitive,)+
        }

        impl Kind {
            /// All kinds, in the order of their names.
            pub const ALL: [Self; [$(Self::$primitive),+].len()] = [$(Self::$primitive),+];

            /// Returns the short name: of the gRPC package, of keyspaces, of commands. Part of the stored format.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$primitive => $name,)+
                }
            }

            /// Returns the type name that routing rules use.
            pub fn type_name(self) -> &'static str {
                match self {
                    $(Self::$primitive => $type_name,)+
                }
            }

            fn residue_kind(self) -> Residue {
                match self {
                    $(Self::$primitive => Residue::$residue,)+
                }
            }
        }
    };
}

primitives!(kinds);

/// The entry that means nothing if a primitive has no others.
#[derive(Debug, Clone, Copy)]
enum Residue {
    Nothing,
    /// The mark that expiries write.
    Expired,
    /// A number that is zero.
    Zero,
}

// === impl Kind ===

impl Kind {
    /// Finds a kind by its short name or its type name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name || kind.type_name() == name)
    }

    /// Returns the entry of a primitive of this kind that means nothing if it has no others. With a value, only that value.
    pub(crate) fn residue(self) -> Option<(&'static [u8], Option<Bytes>)> {
        match self.residue_kind() {
            Residue::Nothing => None,
            Residue::Expired => Some((keys::EXPIRED, None)),
            Residue::Zero => Some((keys::SINGLE, Some(number_bytes(0)))),
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
