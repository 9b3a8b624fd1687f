// SPDX-License-Identifier: Apache-2.0
//! A sequence of bytes by position.
//!
//! Behaviour: `contract/list.md`. Items lie in chunks; the root lists the chunks, in order, and how many items
//! each has. So a read is the root and one chunk, and a change writes the root and one chunk, wherever it is. Every
//! change also writes what it did, because the chunks do not show the position of an insertion between equal neighbours.
//!
//! The keys are `Key::Root`, `Key::Chunk` and `Key::Operation`, with the values of `records`.

mod records;

use std::collections::{HashMap, VecDeque};

use atomix_store::{Commit, Entry, Guard, Read, Revision, Txn, WatchItem, Write};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Mutex;

use self::records::{Chunk, Operation, Root};
use crate::error::Error;
use crate::kind::Kind;
use crate::kit::backing::{Backing, ROUNDS_MAX};
use crate::kit::caller::Caller;
use crate::kit::follow;
use crate::kit::follow::Events;
use crate::kit::keys::{Key, KeyKind, OPERATION};
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

/// A list.
#[derive(Debug)]
pub struct List {
    backing: Backing,
    append_as_inserted: bool,
    /// Writers of one runtime take turns, so that they do not fight for the root.
    turn: Mutex<()>,
}

/// An item and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The position, from zero.
    pub index: u32,
    /// The bytes.
    pub value: Bytes,
}

/// A change of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The position.
    pub index: u32,
    /// The change at that position.
    pub change: ItemChange,
}

/// A change at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ItemChange {
    Appended { value: Bytes },
    Inserted { value: Bytes },
    Updated { value: Bytes, previous: Bytes },
    Removed { value: Bytes },
}

/// The position of an item: the index of its chunk in the root, and its index in the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    chunk: usize,
    offset: usize,
}

/// The change that a call makes to the items of one chunk.
struct Edit {
    place: Place,
    index: u32,
    change: Wanted,
}

enum Wanted {
    Append(Bytes),
    Insert(Bytes),
    Set(Bytes),
    Remove,
}

/// Items of a chunk before it is split.
const CHUNK_ITEMS_MAX: usize = 128;
/// Bytes of a chunk with more than one item before it is split.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Chunks of a list: the root stays below a megabyte.
const CHUNKS_MAX: usize = 80_000;

// === impl List ===

impl List {
    /// Opens the list. `append_as_inserted` shows appended items as inserted ones, which the Go SDK needs to see them.
    pub fn open(backing: Backing, append_as_inserted: bool) -> Self {
        Self { backing, append_as_inserted, turn: Mutex::new(()) }
    }

    /// Returns the number of items.
    pub async fn size(&self) -> Result<u32, Error> {
        Ok(Root::of(self.backing.get(root_key()).await?.as_ref())?.len())
    }

    /// Returns the item at `index`, or [`crate::Reason::Invalid`] beyond the end.
    pub async fn get(&self, index: u32) -> Result<Item, Error> {
        for _ in 0..ROUNDS_MAX {
            let found = self.backing.get(root_key()).await?;
            let root = Root::of(found.as_ref())?;
            let place = root.find(index).ok_or_else(|| beyond(index, root.len()))?;
            let (same, items) = self.chunk(found.as_ref(), root.chunks[place.chunk]).await?;
            // A root that is still the same describes the chunk that was read with it.
            if same {
                let value =
                    items.get(place.offset).cloned().ok_or_else(|| Error::damaged("chunk of a list"))?;
                return Ok(Item { index, value });
            }
        }
        Err(Error::contention())
    }

    /// Adds an item at the end.
    pub async fn append(&self, value: Bytes) -> Result<(), Error> {
        self.backing.check_value(&value)?;
        self.edit(|root| {
            let chunk = root.chunks.len().saturating_sub(1);
            let offset = root.chunks.last().map_or(0, |chunk| chunk.items as usize);
            Ok(Edit {
                place: Place { chunk, offset },
                index: root.len(),
                change: Wanted::Append(value.clone()),
            })
        })
        .await
        .map(drop)
    }

    /// Puts an item before the one at `index`; at the end if `index` is the length. [`crate::Reason::Invalid`] beyond.
    pub async fn insert(&self, index: u32, value: Bytes) -> Result<Item, Error> {
        self.backing.check_value(&value)?;
        self.edit(|root| {
            let place = root.find_gap(index).ok_or_else(|| beyond(index, root.len()))?;
            Ok(Edit { place, index, change: Wanted::Insert(value.clone()) })
        })
        .await?;
        Ok(Item { index, value })
    }

    /// Replaces the item at `index`; also by the same bytes. [`crate::Reason::Invalid`] beyond the end.
    pub async fn set(&self, index: u32, value: Bytes) -> Result<Item, Error> {
        self.backing.check_value(&value)?;
        self.edit(|root| {
            let place = root.find(index).ok_or_else(|| beyond(index, root.len()))?;
            Ok(Edit { place, index, change: Wanted::Set(value.clone()) })
        })
        .await?;
        Ok(Item { index, value })
    }

    /// Removes the item at `index` and returns it. [`crate::Reason::Invalid`] beyond the end.
    pub async fn remove(&self, index: u32) -> Result<Item, Error> {
        let removed = self.edit(|root| {
            let place = root.find(index).ok_or_else(|| beyond(index, root.len()))?;
            Ok(Edit { place, index, change: Wanted::Remove })
        });
        Ok(Item { index, value: removed.await?.unwrap_or_default() })
    }

    /// Removes all items, in one step.
    pub async fn clear(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        for _ in 0..ROUNDS_MAX {
            let found = self.backing.get(root_key()).await?;
            let root = Root::of(found.as_ref())?;
            if root.chunks.is_empty() {
                return Ok(());
            }
            // Chunk ids go on, so that no watch takes a new chunk for an old one. The old root has the order of what
            // the watch sees deleted.
            let cleared = Root { next: root.next, chunks: Vec::new() };
            let txn = Txn::new()
                .guard(unchanged(found.as_ref()))
                .write(Write::Put { key: root_key(), value: cleared.encode() })
                .write(Write::DeleteRange { range: KeyKind::Chunk.range() })
                .write(Write::Put { key: operation_key(), value: Operation::Cleared.encode() });
            if self.backing.commit(txn).await?.applied {
                return Ok(());
            }
        }
        Err(Error::contention())
    }

    /// Follows the changes. With `replay` every item that is there comes first, as appended. The watch is registered
    /// when this returns, and nothing is missed or repeated between the items and the changes.
    pub async fn events(&self, caller: &Caller, replay: bool) -> Result<Events<Event>, Error> {
        let as_inserted = self.append_as_inserted;
        let appended = move |item: Item| Event { index: item.index, change: shown(item.value, as_inserted) };
        self.follow(caller, replay, true, appended, move |commit| events(commit, as_inserted)).await
    }

    /// Lists all items by position; with `watch` goes on with the item of every change, a removed one as it was.
    pub async fn items(&self, caller: &Caller, watch: bool) -> Result<Events<Item>, Error> {
        let item = |event: Event| {
            let value = match event.change {
                ItemChange::Appended { value }
                | ItemChange::Inserted { value }
                | ItemChange::Updated { value, .. }
                | ItemChange::Removed { value } => value,
            };
            Item { index: event.index, value }
        };
        self.follow(
            caller,
            true,
            watch,
            |item| item,
            move |commit| Ok(events(commit, false)?.into_iter().map(item).collect()),
        )
        .await
    }

    /// Shows the items that are there, if wanted, and then changes, if wanted.
    async fn follow<T: Send + 'static>(
        &self,
        caller: &Caller,
        list: bool,
        watch: bool,
        item: impl Fn(Item) -> T + Send + 'static,
        change: impl Fn(&Commit) -> Result<Vec<T>, Error> + Send + 'static,
    ) -> Result<Events<T>, Error> {
        // First the watch, then the items: what is committed in between is in both, and its revision shows that.
        let (watch, now) =
            if watch { Some(follow::begin(&self.backing).await?).unzip() } else { (None, None) };
        let (items, seen) = if list { self.snapshot().await? } else { (Vec::new(), now.unwrap_or_default()) };
        let listed = futures::stream::iter([Ok(items.into_iter().map(item).collect())]);
        let changes = futures::stream::iter(watch).flatten().map(move |step| match step {
            Ok(WatchItem::Commit(commit)) if commit.revision > seen => change(&commit),
            Ok(WatchItem::Commit(_) | WatchItem::Progress(_)) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        });
        Ok(follow::until_closed(listed.chain(changes).boxed(), caller))
    }

    /// Reads all items as of one revision.
    async fn snapshot(&self) -> Result<(Vec<Item>, Revision), Error> {
        for _ in 0..ROUNDS_MAX {
            let found = self.backing.get(root_key()).await?;
            let root = Root::of(found.as_ref())?;
            let keys: Vec<Bytes> = root.chunks.iter().map(|chunk| chunk_key(chunk.id)).collect();
            let seen = found.map(|entry| entry.modified);
            // Every change of a list writes its root.
            let read = self.backing.reads().get_all_fenced(&root_key(), seen, &keys).await?;
            let Some((entries, revision)) = read else { continue };
            let mut items = Vec::new();
            for (chunk, entry) in root.chunks.iter().zip(&entries) {
                items.extend(chunk.items_of(entry.as_ref())?);
            }
            let items = (0..).zip(items).map(|(index, value)| Item { index, value }).collect();
            return Ok((items, revision));
        }
        Err(Error::contention())
    }

    /// Reads a chunk, and returns whether the root is still the one that was `found`.
    async fn chunk(&self, found: Option<&Entry>, chunk: Chunk) -> Result<(bool, Vec<Bytes>), Error> {
        let reads = vec![Read::Get { key: root_key() }, Read::Get { key: chunk_key(chunk.id) }];
        let snapshot = self.backing.read(reads).await?;
        let same = snapshot.reads[0].entry().map(|entry| entry.modified) == found.map(|entry| entry.modified);
        // A chunk of another root may be gone, or be anything.
        let items = if same { chunk.items_of(snapshot.reads[1].entry())? } else { Vec::new() };
        Ok((same, items))
    }

    /// Changes one item in one commit, and returns the item that was there, for a removal or a replacement.
    async fn edit(&self, wanted: impl Fn(&Root) -> Result<Edit, Error>) -> Result<Option<Bytes>, Error> {
        let _turn = self.turn.lock().await;
        for _ in 0..ROUNDS_MAX {
            let found = self.backing.get(root_key()).await?;
            let mut root = Root::of(found.as_ref())?;
            let edit = wanted(&root)?;
            let mut items = match root.chunks.get(edit.place.chunk) {
                Some(chunk) => match self.chunk(found.as_ref(), *chunk).await? {
                    (true, items) => items,
                    (false, _) => continue,
                },
                None => Vec::new(),
            };
            let (offset, index) = (edit.place.offset, edit.index);
            let (operation, previous) = match edit.change {
                Wanted::Append(value) => {
                    items.push(value.clone());
                    (Operation::Appended { index, value }, None)
                }
                Wanted::Insert(value) => {
                    items.insert(offset, value.clone());
                    (Operation::Inserted { index, value }, None)
                }
                Wanted::Set(value) => {
                    let previous = std::mem::replace(&mut items[offset], value.clone());
                    (Operation::Updated { index, value, previous: previous.clone() }, Some(previous))
                }
                Wanted::Remove => {
                    let previous = items.remove(offset);
                    (Operation::Removed { index, value: previous.clone() }, Some(previous))
                }
            };
            let mut txn = Txn::new().guard(unchanged(found.as_ref()));
            txn.writes = root.store(edit.place.chunk, &items)?;
            txn.writes.push(Write::Put { key: root_key(), value: root.encode() });
            txn.writes.push(Write::Put { key: operation_key(), value: operation.encode() });
            if self.backing.commit(txn).await?.applied {
                return Ok(previous);
            }
        }
        Err(Error::contention())
    }
}

impl Primitive for List {}

impl TypedPrimitive for List {
    const KIND: Kind = Kind::List;

    async fn open_configured(backing: Backing, config: PrimitiveConfig) -> Result<Self, Error> {
        Ok(Self::open(backing, config.append_as_inserted))
    }
}

// === impl Root ===

impl Root {
    fn of(entry: Option<&Entry>) -> Result<Self, Error> {
        entry.map_or_else(|| Ok(Self::default()), |entry| Self::decode(&entry.value))
    }

    fn len(&self) -> u32 {
        let items: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.items)).sum();
        u32::try_from(items).unwrap_or(u32::MAX)
    }

    /// Finds the item at `index`.
    fn find(&self, index: u32) -> Option<Place> {
        let mut offset = index;
        for (chunk, Chunk { items, .. }) in self.chunks.iter().enumerate() {
            if offset < *items {
                return Some(Place { chunk, offset: offset as usize });
            }
            offset -= items;
        }
        None
    }

    /// Finds where an item goes that is to be at `index`.
    fn find_gap(&self, index: u32) -> Option<Place> {
        let mut offset = index;
        for (chunk, Chunk { items, .. }) in self.chunks.iter().enumerate() {
            if offset <= *items {
                return Some(Place { chunk, offset: offset as usize });
            }
            offset -= items;
        }
        (offset == 0).then_some(Place { chunk: 0, offset: 0 })
    }

    /// Gives the chunk at `at` these items; splits or drops it if it must be. Returns the writes of chunks.
    fn store(&mut self, at: usize, items: &[Bytes]) -> Result<Vec<Write>, Error> {
        let bytes: usize = items.iter().map(Bytes::len).sum();
        let parts: Vec<&[Bytes]> = if items.is_empty() {
            Vec::new()
        } else if items.len() > CHUNK_ITEMS_MAX || (items.len() > 1 && bytes > CHUNK_BYTES_MAX) {
            let (one, other) = items.split_at(self.split(at, items, bytes));
            vec![one, other]
        } else {
            vec![items]
        };
        if self.chunks.len() + parts.len() > CHUNKS_MAX || self.len() == u32::MAX {
            return Err(Error::invalid(format!("the list is too long: chunks-max=`{CHUNKS_MAX}`")));
        }
        let old = self.chunks.get(at).copied();
        let mut writes = Vec::with_capacity(parts.len() + 1);
        let mut chunks = Vec::with_capacity(parts.len());
        for (part, items) in parts.into_iter().enumerate() {
            // The first part keeps the id, so that an unsplit chunk is one write.
            let id = match old {
                Some(old) if part == 0 => old.id,
                _ => {
                    self.next = self.next.checked_add(1).ok_or_else(|| Error::damaged("root of a list"))?;
                    self.next
                }
            };
            writes.push(Write::Put { key: chunk_key(id), value: Chunk::encode(items) });
            chunks.push(Chunk { id, items: u32::try_from(items.len()).expect("chunks are small") });
        }
        if let (Some(old), true) = (old, chunks.is_empty()) {
            writes.push(Write::Delete { key: chunk_key(old.id) });
        }
        let end = (at + 1).min(self.chunks.len());
        self.chunks.splice(at.min(end)..end, chunks);
        Ok(writes)
    }

    /// Returns the index at which to split: behind all but the last item at the end of the list, so that a list that is only appended to has
    /// full chunks; else in the middle of the bytes.
    fn split(&self, at: usize, items: &[Bytes], bytes: usize) -> usize {
        if at + 1 >= self.chunks.len() {
            return items.len() - 1;
        }
        let mut before = 0;
        let middle = items.iter().position(|item| {
            before += item.len();
            before * 2 >= bytes
        });
        if bytes == 0 { items.len() / 2 } else { middle.unwrap_or(0).clamp(1, items.len() - 1) }
    }
}

// === impl Chunk ===

impl Chunk {
    /// Returns the items of the chunk, whose entry must be there.
    fn items_of(self, entry: Option<&Entry>) -> Result<Vec<Bytes>, Error> {
        self.decode(&entry.ok_or_else(|| Error::damaged("chunk of a list"))?.value)
    }
}

fn root_key() -> Bytes {
    Key::Root.encode()
}

fn operation_key() -> Bytes {
    Key::Operation.encode()
}

fn chunk_key(id: u64) -> Bytes {
    Key::Chunk(id).encode()
}

fn unchanged(root: Option<&Entry>) -> Guard {
    match root {
        Some(entry) => Guard::ModifiedAt { key: root_key(), revision: entry.modified },
        None => Guard::Absent { key: root_key() },
    }
}

fn beyond(index: u32, len: u32) -> Error {
    Error::invalid(format!("no such index: index=`{index}` length=`{len}`"))
}

fn shown(value: Bytes, as_inserted: bool) -> ItemChange {
    if as_inserted { ItemChange::Inserted { value } } else { ItemChange::Appended { value } }
}

fn events(commit: &Commit, as_inserted: bool) -> Result<Vec<Event>, Error> {
    let operation = commit.changes.iter().find(|change| change.key == OPERATION);
    let Some(entry) = operation.and_then(|change| change.current.as_ref()) else { return Ok(Vec::new()) };
    let (index, change) = match Operation::decode(&entry.value)? {
        Operation::Appended { index, value } => (index, shown(value, as_inserted)),
        Operation::Inserted { index, value } => (index, ItemChange::Inserted { value }),
        Operation::Updated { index, value, previous } => (index, ItemChange::Updated { value, previous }),
        Operation::Removed { index, value } => (index, ItemChange::Removed { value }),
        Operation::Cleared => return cleared(commit),
    };
    Ok(vec![Event { index, change }])
}

/// Returns the events of a clear: the removed items, from the last item to the first, so that every index is right when events are applied in order.
fn cleared(commit: &Commit) -> Result<Vec<Event>, Error> {
    let deleted: HashMap<&Bytes, &Entry> =
        commit.changes.iter().filter_map(|change| Some((&change.key, change.previous.as_ref()?))).collect();
    let root = deleted.get(&root_key()).ok_or_else(|| Error::damaged("root of a list"))?;
    let mut events = VecDeque::new();
    let mut index = 0;
    for chunk in &Root::decode(&root.value)?.chunks {
        for value in chunk.items_of(deleted.get(&chunk_key(chunk.id)).copied())? {
            events.push_front(Event { index, change: ItemChange::Removed { value } });
            index += 1;
        }
    }
    Ok(events.into())
}
