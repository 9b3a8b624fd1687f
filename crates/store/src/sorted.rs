// SPDX-License-Identifier: Apache-2.0
//! A map in the order of its keys that is small while it holds little.

use std::borrow::Borrow;
use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

/// A map in the order of its keys, for maps that exist in great number and mostly hold an entry or two. A few
/// entries are a list of exactly their size; a node of a tree has space for eleven.
#[derive(Debug, Clone)]
pub struct Sorted<K, V>(Kept<K, V>);

#[derive(Debug, Clone)]
enum Kept<K, V> {
    Few(Vec<(K, V)>),
    Many(BTreeMap<K, V>),
}

/// Entries in the order of their keys.
enum Entries<'a, K, V> {
    Few(std::slice::Iter<'a, (K, V)>),
    Many(btree_map::Range<'a, K, V>),
}

/// Beyond this many a tree is faster.
const LIST_MAX: usize = 8;

// === impl Sorted ===

impl<K: Ord, V> Sorted<K, V> {
    /// Makes an empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Few(list) => list.len(),
            Kept::Many(tree) => tree.len(),
        }
    }

    /// Returns whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entry of `key`.
    pub fn get_key_value<Q>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match &self.0 {
            Kept::Few(list) => find(list, key).ok().map(|at| (&list[at].0, &list[at].1)),
            Kept::Many(tree) => tree.get_key_value(key),
        }
    }

    /// Returns the value of `key`.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// Returns the value of `key`, to change it.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match &mut self.0 {
            Kept::Few(list) => find(list, key).ok().map(|at| &mut list[at].1),
            Kept::Many(tree) => tree.get_mut(key),
        }
    }

    /// Puts an entry in and returns the value that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match &mut self.0 {
            Kept::Few(list) => match find(list, &key) {
                Ok(at) => return Some(std::mem::replace(&mut list[at].1, value)),
                Err(at) if list.len() < LIST_MAX => {
                    list.reserve_exact(1);
                    list.insert(at, (key, value));
                }
                Err(_) => {
                    let entries = list.drain(..).chain(std::iter::once((key, value)));
                    self.0 = Kept::Many(entries.collect());
                }
            },
            Kept::Many(tree) => return tree.insert(key, value),
        }
        None
    }

    /// Takes the entry of `key` out.
    pub fn remove_entry<Q>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        match &mut self.0 {
            Kept::Few(list) => {
                let entry = list.remove(find(list, key).ok()?);
                if list.is_empty() {
                    // Most that are empty stay so.
                    *list = Vec::new();
                }
                Some(entry)
            }
            Kept::Many(tree) => {
                let entry = tree.remove_entry(key)?;
                if tree.is_empty() {
                    self.0 = Kept::Few(Vec::new());
                }
                Some(entry)
            }
        }
    }

    /// Returns the entries from `start` up to but not including `end`; all from `start` on without one.
    pub fn range<Q>(
        &self,
        start: &Q,
        end: Option<&Q>,
    ) -> impl DoubleEndedIterator<Item = (&K, &V)> + use<'_, K, V, Q>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        if end.is_some_and(|end| end <= start) {
            return Entries::Few([].iter());
        }
        match &self.0 {
            Kept::Few(list) => {
                let at = |key: &Q| find(list, key).unwrap_or_else(|at| at);
                Entries::Few(list[at(start)..end.map_or(list.len(), at)].iter())
            }
            Kept::Many(tree) => {
                let end = end.map_or(Bound::Unbounded, Bound::Excluded);
                Entries::Many(tree.range((Bound::Included(start), end)))
            }
        }
    }
}

fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(list: &[(K, V)], key: &Q) -> Result<usize, usize> {
    list.binary_search_by(|(kept, _)| kept.borrow().cmp(key))
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Kept::Few(Vec::new()))
    }
}

// === impl Entries ===

impl<'a, K, V> Iterator for Entries<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(list) => list.next().map(|(key, value)| (key, value)),
            Self::Many(tree) => tree.next(),
        }
    }
}

impl<K, V> DoubleEndedIterator for Entries<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(list) => list.next_back().map(|(key, value)| (key, value)),
            Self::Many(tree) => tree.next_back(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_a_tree_is(steps in prop::collection::vec((0u8..4, 0u8..24, 0u8..24), 0..200)) {
            let (mut sorted, mut tree) = (Sorted::new(), BTreeMap::new());
            for (step, (what, key, other)) in steps.into_iter().enumerate() {
                match what {
                    0 | 1 => prop_assert_eq!(sorted.insert(key, step), tree.insert(key, step)),
                    2 => prop_assert_eq!(sorted.remove_entry(&key), tree.remove_entry(&key)),
                    _ => {
                        if let Some(value) = sorted.get_mut(&key) {
                            *value += 1000;
                        }
                        tree.entry(key).and_modify(|value| *value += 1000);
                    }
                }
                prop_assert_eq!(sorted.get(&key), tree.get(&key));
                prop_assert_eq!(sorted.len(), tree.len());
                let (start, end) = (key.min(other), key.max(other));
                let forth: Vec<_> = sorted.range(&start, Some(&end)).collect();
                prop_assert_eq!(forth, tree.range(start..end).collect::<Vec<_>>());
                let back: Vec<_> = sorted.range(&start, None).rev().collect();
                prop_assert_eq!(back, tree.range(start..).rev().collect::<Vec<_>>());
                prop_assert_eq!(sorted.range(&end, Some(&start)).count(), 0);
            }
        }
    }
}
