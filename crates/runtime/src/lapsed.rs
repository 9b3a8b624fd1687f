// SPDX-License-Identifier: Apache-2.0
//! The last primitives that were closed here without a call of `Close`, so that a client whose connection was lost finds them
//! again.

use std::collections::VecDeque;

use atomix_config::StoreId;
use atomix_primitives::Kind;

use crate::primitive::PrimitiveHandle;

/// A bounded list; the oldest entries leave it.
#[derive(Debug, Default)]
pub(crate) struct Lapsed {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    name: String,
    tags: Vec<String>,
    /// The store that was disconnected with it.
    disconnected: Option<StoreId>,
}

/// The number of closed primitives that are found again, and the bytes of their names and tags.
const LAPSED_MAX: usize = 4096;
const LAPSED_BYTES_MAX: usize = 1 << 20;

// === impl Lapsed ===

impl Lapsed {
    /// Takes note of a primitive; the oldest are forgotten for it.
    pub(crate) fn push(&mut self, handle: &PrimitiveHandle, disconnected: Option<StoreId>) {
        let (kind, name, tags) = (handle.kind(), handle.name().to_owned(), handle.tags().to_vec());
        let entry = Entry { kind, name, tags, disconnected };
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > LAPSED_MAX || self.bytes > LAPSED_BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    /// Returns the tags of a primitive that can be opened again.
    pub(crate) fn tags(&self, kind: Kind, name: &str) -> Option<Vec<String>> {
        let entry = self.find(kind, name)?;
        entry.disconnected.is_none().then(|| entry.tags.clone())
    }

    /// Returns the store with which the primitive was disconnected.
    pub(crate) fn disconnected(&self, kind: Kind, name: &str) -> Option<&StoreId> {
        self.find(kind, name)?.disconnected.as_ref()
    }

    /// Forgets a primitive.
    pub(crate) fn remove(&mut self, kind: Kind, name: &str) {
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let keep = entry.kind != kind || entry.name != name;
            if !keep {
                *bytes -= entry.bytes();
            }
            keep
        });
    }

    fn find(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.kind == kind && entry.name == name)
    }
}

// === impl Entry ===

impl Entry {
    fn bytes(&self) -> usize {
        self.name.len() + self.tags.iter().map(String::len).sum::<usize>()
    }
}
