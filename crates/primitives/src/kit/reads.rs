// SPDX-License-Identifier: Apache-2.0
//! Reads of one keyspace that take several steps of its store: many keys, and whole ranges.

use atomix_store::{Entry, ErrorKind, Found, Keyspace, Order, Range, Read, Revision, Snapshot, Store};
use bytes::Bytes;

/// The reads of one keyspace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reads<'a> {
    store: &'a dyn Store,
    keyspace: &'a Keyspace,
}

/// A walk over a range, page by page. Each page is of its own moment.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    reads: Reads<'a>,
    /// The part of the range that was not read yet.
    rest: Option<Range>,
    keys_only: bool,
}

/// Entries that follow each other, all of one moment.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) revision: Revision,
}

/// The kinds of some reads, in order, as one number: digits of base three after a leading one. Different for different rows
/// of up to forty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kinds(u64);

/// The entries that one step of a walk over a range reads at most.
pub(crate) const PAGE: usize = 1024;

// === impl Reads ===

impl<'a> Reads<'a> {
    pub(crate) fn new(store: &'a dyn Store, keyspace: &'a Keyspace) -> Self {
        Self { store, keyspace }
    }

    /// Reads all of one moment, in one step. Every answer is of the kind that its question asks for.
    pub(crate) async fn read(self, reads: Vec<Read>) -> Result<Snapshot, atomix_store::Error> {
        let asked = Kinds::asked(&reads);
        let snapshot = self.store.read(self.keyspace, reads).await?;
        asked.check(&snapshot.reads)?;
        Ok(snapshot)
    }

    /// Reads `keys`, as many in a step as the store allows. Each step is of its own moment.
    pub(crate) async fn get_all(self, keys: &[Bytes]) -> Result<Vec<Option<Entry>>, atomix_store::Error> {
        let mut entries = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(self.store.profile().limits.reads_max.clamp(1, PAGE)) {
            let reads = chunk.iter().map(|key| Read::Get { key: key.clone() }).collect();
            let snapshot = self.read(reads).await?;
            entries.extend(snapshot.reads.iter().map(|found| found.entry().cloned()));
        }
        Ok(entries)
    }

    /// Reads `keys`, as many in a step as the store allows, and the entry at `fence` in each step. Every change of one of `keys`
    /// must change that entry too: then all answers are of one state if it stayed as it was at `seen`. `None` if it did not.
    pub(crate) async fn get_all_fenced(
        self,
        fence: &Bytes,
        seen: Option<Revision>,
        keys: &[Bytes],
    ) -> Result<Option<(Vec<Option<Entry>>, Revision)>, atomix_store::Error> {
        let max = self.store.profile().limits.reads_max.saturating_sub(1).max(1);
        let (mut entries, mut revision) = (Vec::with_capacity(keys.len()), Revision::default());
        let mut rest = keys;
        loop {
            let (part, later) = rest.split_at(rest.len().min(max));
            let get = |key: &Bytes| Read::Get { key: key.clone() };
            let snapshot = self.read(std::iter::once(fence).chain(part).map(get).collect()).await?;
            if snapshot.reads[0].entry().map(|entry| entry.modified) != seen {
                return Ok(None);
            }
            entries.extend(snapshot.reads[1..].iter().map(|found| found.entry().cloned()));
            (rest, revision) = (later, revision.max(snapshot.revision));
            if rest.is_empty() {
                return Ok(Some((entries, revision)));
            }
        }
    }

    /// Walks over the entries of `range` in the order of their keys, as many in a step as the store gives.
    pub(crate) fn scan_all(self, range: Range, keys_only: bool) -> Pages<'a> {
        Pages { reads: self, rest: Some(range), keys_only }
    }
}

// === impl Kinds ===

impl Kinds {
    pub(crate) fn asked(reads: &[Read]) -> Self {
        Self::of(reads.iter().map(|read| match read {
            Read::Get { .. } => 0,
            Read::Scan { .. } => 1,
            Read::Count { .. } => 2,
        }))
    }

    fn answered(found: &[Found]) -> Self {
        Self::of(found.iter().map(|found| match found {
            Found::Entry(_) => 0,
            Found::Entries { .. } => 1,
            Found::Count(_) => 2,
        }))
    }

    fn of(kinds: impl Iterator<Item = u64>) -> Self {
        Self(kinds.fold(1, |kinds: u64, kind| kinds.wrapping_mul(3).wrapping_add(kind)))
    }

    /// An answer of another kind would be taken for an empty one.
    pub(crate) fn check(self, found: &[Found]) -> Result<(), atomix_store::Error> {
        if self == Self::answered(found) {
            return Ok(());
        }
        let message = "the store answered with results of another kind than requested: report it with the driver of the store";
        Err(atomix_store::Error::new(ErrorKind::Internal, message))
    }
}

// === impl Pages ===

impl Pages<'_> {
    /// Reads the next page, which may be empty; `None` after the last. Cancel safe: a page that was not returned is read
    /// again.
    pub(crate) async fn next(&mut self) -> Result<Option<Page>, atomix_store::Error> {
        let Some(range) = &self.rest else { return Ok(None) };
        let (order, keys_only) = (Order::Key, self.keys_only);
        let scan = Read::Scan { range: range.clone(), order, limit: PAGE, keys_only };
        let mut snapshot = self.reads.read(vec![scan]).await?;
        let Some(Found::Entries { entries, more }) = snapshot.reads.pop() else {
            return Err(atomix_store::Error::new(ErrorKind::Internal, "a scan was answered as another read"));
        };
        self.rest = entries.last().filter(|_| more).map(|last| range.after(&last.key));
        Ok(Some(Page { entries, revision: snapshot.revision }))
    }

    /// Returns the part of the range that was not read yet.
    pub(crate) fn into_rest(self) -> Option<Range> {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use atomix_driver_memory::{MemoryStore, Settings};
    use atomix_store::{Txn, Write};

    use super::*;

    fn key(number: usize) -> Bytes {
        format!("{number:06}").into()
    }

    #[tokio::test]
    async fn reads_that_take_several_steps_bring_everything_in_order() {
        let (store, keyspace) = (MemoryStore::new(Settings::default()), Keyspace::new("it"));
        let keys: Vec<Bytes> = (0..=2 * PAGE).map(key).collect();
        for chunk in keys.chunks(100) {
            let put = |key: &Bytes| Write::Put { key: key.clone(), value: key.clone() };
            let txn = Txn { writes: chunk.iter().map(put).collect(), ..Txn::default() };
            store.commit(&keyspace, txn).await.unwrap();
        }
        let reads = Reads::new(&store, &keyspace);
        let found = |entries: Vec<Option<Entry>>| -> Vec<Bytes> {
            entries.into_iter().map(|entry| entry.unwrap().value).collect()
        };
        assert_eq!(found(reads.get_all(&keys).await.unwrap()), keys);
        assert_eq!(reads.get_all(&["1".into()]).await.unwrap(), [None]);
        assert!(reads.get_all(&[]).await.unwrap().is_empty());

        let (mut pages, mut scanned) = (reads.scan_all(Range::prefix(""), false), Vec::new());
        while let Some(page) = pages.next().await.unwrap() {
            assert!(page.entries.len() <= PAGE);
            scanned.extend(page.entries.into_iter().map(Some));
        }
        assert_eq!(found(scanned), keys);

        let seen = reads.get_all(&keys[..1]).await.unwrap()[0].as_ref().map(|entry| entry.modified);
        let (fenced, _) = reads.get_all_fenced(&keys[0], seen, &keys).await.unwrap().unwrap();
        assert_eq!(found(fenced), keys);
        assert_eq!(reads.get_all_fenced(&keys[0], None, &keys).await.unwrap(), None);
    }
}
