// SPDX-License-Identifier: Apache-2.0
//! The layout of keyspaces in etcd.
//!
//! | Key in etcd | Value | Lives |
//! |---|---|---|
//! | prefix, keyspace, `00`, `d`, key | the value as it is | while the entry exists |
//! | prefix, keyspace, `00`, `o`, name of a request | what the request did, see `once` | until enough younger ones exist |
//! | prefix, keyspace, `00`, `c` | which transactions shared a revision, see [`revision`] | once written, until the keyspace is empty and given back |
//!
//! In the name of a keyspace a zero byte is written as `00 ff`, so that no keyspace begins with another one.

use atomix_store::{Entry, Keyspace, Range, Revision};
use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::KeyValue;

/// The place of one keyspace in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Space {
    base: Bytes,
}

/// Keys from the first up to but not including the second, as etcd has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) start: Bytes,
    pub(crate) end: Bytes,
}

/// Transactions that share a revision of etcd at most, if they are on one keyspace.
pub(crate) const TOGETHER_MAX: usize = 64;

const TOGETHER: u8 = b'c';
const ENTRIES: u8 = b'd';
const NAMES: u8 = b'o';

// === impl Span ===

impl Span {
    pub(crate) fn contains(&self, key: &Bytes) -> bool {
        self.start <= *key && *key < self.end
    }
}

// === impl Space ===

impl Space {
    pub(crate) fn new(prefix: &str, keyspace: &Keyspace) -> Self {
        let name = keyspace.as_bytes();
        let mut base = BytesMut::with_capacity(prefix.len() + name.len() + 1);
        base.put_slice(prefix.as_bytes());
        for byte in name {
            base.put_u8(*byte);
            if *byte == 0 {
                base.put_u8(0xff);
            }
        }
        base.put_u8(0);
        Self { base: base.freeze() }
    }

    /// Returns the part of the keys that identifies this keyspace.
    pub(crate) fn base(&self) -> &Bytes {
        &self.base
    }

    /// Returns the key in etcd of the entry at `key`.
    pub(crate) fn entry_key(&self, key: &[u8]) -> Bytes {
        self.key(ENTRIES, key)
    }

    /// Returns the key in etcd under which the request of this name is remembered.
    pub(crate) fn name_key(&self, name: &[u8]) -> Bytes {
        self.key(NAMES, name)
    }

    /// Returns where the entries of `range` are. `None` if there can be none.
    pub(crate) fn entries(&self, range: &Range) -> Option<Span> {
        if range.is_empty() {
            return None;
        }
        let end = match &range.end {
            Some(end) => self.entry_key(end),
            None => self.key(ENTRIES + 1, &[]),
        };
        Some(Span { start: self.entry_key(&range.start), end })
    }

    /// Returns the range of all entries, preceded by the key that separates transactions of one revision.
    pub(crate) fn watched(&self) -> Span {
        Span { start: self.together_key(), end: self.key(ENTRIES + 1, &[]) }
    }

    /// Returns the key that lists which transactions shared a revision.
    pub(crate) fn together_key(&self) -> Bytes {
        self.key(TOGETHER, &[])
    }

    /// Returns where all remembered requests are.
    pub(crate) fn all_names(&self) -> Span {
        Span { start: self.key(NAMES, &[]), end: self.key(NAMES + 1, &[]) }
    }

    /// Turns a key and value of etcd into an entry.
    pub(crate) fn entry(&self, kv: KeyValue) -> Entry {
        Entry {
            key: self.strip(&kv.key),
            value: kv.value,
            created: revision(kv.create_revision),
            modified: revision(kv.mod_revision),
        }
    }

    /// Returns the key that the keyspace knows a key in etcd by.
    pub(crate) fn strip(&self, key: &Bytes) -> Bytes {
        key.slice((self.base.len() + 1).min(key.len())..)
    }

    fn key(&self, kind: u8, rest: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(self.base.len() + 1 + rest.len());
        key.put_slice(&self.base);
        key.put_u8(kind);
        key.put_slice(rest);
        key.freeze()
    }
}

/// Returns the revision that stands for one of etcd.
///
/// Transactions that were batched into one of etcd's share its revision. Those on one keyspace are commits of their own all
/// the same, so each revision of etcd has room for some: the last commit has this revision, those before it the ones below.
/// Entries and outcomes show this one whichever commit they are from: no two of these commits touch the same key.
pub(crate) fn revision(etcd: i64) -> Revision {
    Revision(u64::try_from(etcd).unwrap_or_default() * TOGETHER_MAX as u64)
}

/// Returns the revision of etcd that is complete at a revision of the store.
pub(crate) fn complete(revision: Revision) -> i64 {
    i64::try_from(revision.0 / TOGETHER_MAX as u64).unwrap_or(i64::MAX)
}

/// Returns the revision of etcd that a revision of the store belongs to.
pub(crate) fn containing(revision: Revision) -> i64 {
    i64::try_from(revision.0.div_ceil(TOGETHER_MAX as u64)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(name: &'static [u8]) -> Space {
        Space::new("atomix/", &Keyspace::new(name))
    }

    #[test]
    fn keyspaces_do_not_contain_each_other() {
        let names: [&[u8]; 7] = [b"a", b"a\0", b"a\0d", b"a\0\xff", b"a\0dx", b"ab", b"\0"];
        for one in names {
            for other in names.iter().filter(|other| **other != one) {
                let (whole, key) = (space(one).watched(), space(other).entry_key(b"k"));
                assert!(!(whole.start <= key && key < whole.end), "{one:?} contains {other:?}");
                let key = space(other).name_key(b"k");
                assert!(!(whole.start <= key && key < whole.end), "{one:?} contains a name of {other:?}");
            }
        }
    }

    #[test]
    fn entries_and_names_are_apart_and_in_order() {
        let space = space(b"map/one");
        assert!(space.entry_key(b"a") < space.entry_key(b"b"));
        let (watched, names) = (space.watched(), space.all_names());
        assert!(watched.end <= names.start);
        assert_eq!(space.strip(&space.entry_key(b"key")), "key");
        let range = space.entries(&Range::prefix("")).unwrap();
        assert_eq!(range.end, watched.end);
        assert!(space.together_key() == watched.start && watched.start < range.start);
        assert_eq!(space.entries(&Range { start: "b".into(), end: Some("a".into()) }), None);
    }

    #[test]
    fn every_revision_of_ours_belongs_to_one_of_etcd() {
        for etcd in [1, 2, 1_000_000] {
            let last = revision(etcd);
            assert_eq!((complete(last), containing(last)), (etcd, etcd));
            for before in 1..TOGETHER_MAX as u64 {
                let earlier = Revision(last.0 - before);
                assert_eq!((complete(earlier), containing(earlier)), (etcd - 1, etcd));
            }
        }
    }
}
