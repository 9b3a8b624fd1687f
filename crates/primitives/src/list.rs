// SPDX-License-Identifier: Apache-2.0
//! A sequence of bytes by position.
//!
//! Behaviour: `contract/list.md`. Items lie in chunks; the root lists the chunks, in order, and how many items
//! each has. So a read is the root and one chunk, and a change writes the root and one chunk, wherever it is. Every
//! change also writes what it did, because the chunks do not show the position of an insertion between equal neighbours.
//!
//! | Key | Value | Lives |
//! |---|---|---|
//! | `r` | next chunk id (8), then per chunk in order: id (8), items (4) | once written |
//! | `c` id (8) | each item as its length (4) and its bytes | while the chunk has items |
//! | `o` | kind (1), index (4), length of the value (4), value, previous value | once written |

use std::collections::VecDeque;

use atomix_store::{Commit, Entry, Guard, Read, Revision, Txn, WatchItem, Write};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::Mutex;

use crate::error::Error;
use crate::kind::Kind;
use crate::kit::backing::{Backing, ROUNDS_MAX};
use crate::kit::caller::Caller;
use crate::kit::follow::Events;
use crate::kit::{follow, keys};
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

/// Which chunks there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Root {
    next: u64,
    chunks: Vec<Chunk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    id: u64,
    items: u32,
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

const APPENDED: u8 = 1;
const INSERTED: u8 = 2;
const UPDATED: u8 = 3;
const REMOVED: u8 = 4;
const CLEARED: u8 = 5;

// === impl List ===

impl List {
    /// Opens the list. `append_as_inserted` shows appended items as inserted ones, which the Go SDK needs to see them.
    pub fn open(backing: Backing, append_as_inserted: bool) -> Self {
        Self { backing, append_as_inserted, turn: Mutex::new(()) }
    }

    /// Returns the number of items.
    pub async fn size(&self) -> Result<u32, Error> {
        Ok(Root::decode(self.backing.get(root_key()).await?.as_ref())?.len())
    }

    /// Returns the item at `index`, or [`crate::Reason::Invalid`] beyond the end.
    pub async fn get(&self, index: u32) -> Result<Item, Error> {
        for _ in 0..ROUNDS_MAX {
            let found = self.backing.get(root_key()).await?;
            let root = Root::decode(found.as_ref())?;
            let place = root.find(index).ok_or_else(|| beyond(index, root.len()))?;
            let (same, items) = self.chunk(found.as_ref(), root.chunks[place.chunk].id).await?;
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
            let root = Root::decode(found.as_ref())?;
            if root.chunks.is_empty() {
                return Ok(());
            }
            // Chunk ids go on, so that no watch takes a new chunk for an old one. The old root has the order of what
            // the watch sees deleted.
            let cleared = Root { next: root.next, chunks: Vec::new() };
            let txn = Txn::new()
                .guard(unchanged(found.as_ref()))
                .write(Write::Put { key: root_key(), value: cleared.encode() })
                .write(Write::DeleteRange { range: keys::all(keys::CHUNK) })
                .write(Write::Put { key: operation_key(), value: operation(CLEARED, 0, &[], &[]) });
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
            let root = Root::decode(found.as_ref())?;
            let chunks: Vec<Bytes> = root.chunks.iter().map(|chunk| chunk_key(chunk.id)).collect();
            let seen = found.map(|entry| entry.modified);
            // Every change of a list writes its root.
            let read = self.backing.reads().get_all_fenced(&root_key(), seen, &chunks).await?;
            let Some((chunks, revision)) = read else { continue };
            let mut items = Vec::with_capacity(root.len() as usize);
            for chunk in &chunks {
                items.extend(decode_chunk(chunk.as_ref())?);
            }
            let items = (0..).zip(items).map(|(index, value)| Item { index, value }).collect();
            return Ok((items, revision));
        }
        Err(Error::contention())
    }

    /// Reads a chunk, and returns whether the root is still the one that was `found`.
    async fn chunk(&self, found: Option<&Entry>, id: u64) -> Result<(bool, Vec<Bytes>), Error> {
        let reads = vec![Read::Get { key: root_key() }, Read::Get { key: chunk_key(id) }];
        let snapshot = self.backing.read(reads).await?;
        let same = snapshot.reads[0].entry().map(|entry| entry.modified) == found.map(|entry| entry.modified);
        // A chunk of another root may be gone, or be anything.
        let items = if same { decode_chunk(snapshot.reads[1].entry())? } else { Vec::new() };
        Ok((same, items))
    }

    /// Changes one item in one commit, and returns the item that was there, for a removal or a replacement.
    async fn edit(&self, wanted: impl Fn(&Root) -> Result<Edit, Error>) -> Result<Option<Bytes>, Error> {
        let _turn = self.turn.lock().await;
        for _ in 0..ROUNDS_MAX {
            let found = self.backing.get(root_key()).await?;
            let mut root = Root::decode(found.as_ref())?;
            let edit = wanted(&root)?;
            let mut items = match root.chunks.get(edit.place.chunk) {
                Some(chunk) => match self.chunk(found.as_ref(), chunk.id).await? {
                    (true, items) => items,
                    (false, _) => continue,
                },
                None => Vec::new(),
            };
            let (offset, index) = (edit.place.offset, edit.index);
            if offset > items.len() {
                return Err(Error::damaged("chunk of a list"));
            }
            let (operation, previous) = match edit.change {
                Wanted::Append(value) => {
                    let operation = operation(APPENDED, index, &value, &[]);
                    items.push(value);
                    (operation, None)
                }
                Wanted::Insert(value) => {
                    let operation = operation(INSERTED, index, &value, &[]);
                    items.insert(offset, value);
                    (operation, None)
                }
                Wanted::Set(value) => {
                    let previous = std::mem::replace(&mut items[offset], value.clone());
                    (operation(UPDATED, index, &value, &previous), Some(previous))
                }
                Wanted::Remove => {
                    let previous = items.remove(offset);
                    (operation(REMOVED, index, &previous, &[]), Some(previous))
                }
            };
            let mut txn = Txn::new().guard(unchanged(found.as_ref()));
            txn.writes = root.store(edit.place.chunk, &items)?;
            txn.writes.push(Write::Put { key: root_key(), value: root.encode() });
            txn.writes.push(Write::Put { key: operation_key(), value: operation });
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
                    self.next += 1;
                    self.next
                }
            };
            writes.push(Write::Put { key: chunk_key(id), value: encode_chunk(items) });
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

    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(8 + 12 * self.chunks.len());
        bytes.put_u64(self.next);
        for chunk in &self.chunks {
            bytes.put_u64(chunk.id);
            bytes.put_u32(chunk.items);
        }
        bytes.freeze()
    }

    fn decode(entry: Option<&Entry>) -> Result<Self, Error> {
        let Some(entry) = entry else { return Ok(Self::default()) };
        Self::parse(entry.value.clone()).ok_or_else(|| Error::damaged("root of a list"))
    }

    fn parse(mut bytes: Bytes) -> Option<Self> {
        let next = bytes.try_get_u64().ok()?;
        let mut chunks = Vec::with_capacity(bytes.remaining() / 12);
        while bytes.has_remaining() {
            chunks.push(Chunk { id: bytes.try_get_u64().ok()?, items: bytes.try_get_u32().ok()? });
        }
        Some(Self { next, chunks })
    }
}

fn root_key() -> Bytes {
    Bytes::from_static(keys::ROOT)
}

fn operation_key() -> Bytes {
    Bytes::from_static(keys::OPERATION)
}

fn chunk_key(id: u64) -> Bytes {
    keys::key(keys::CHUNK, &id.to_be_bytes())
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

fn encode_chunk(items: &[Bytes]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(items.iter().map(|item| 4 + item.len()).sum());
    for item in items {
        bytes.put_u32(u32::try_from(item.len()).expect("items are bounded"));
        bytes.put_slice(item);
    }
    bytes.freeze()
}

fn decode_chunk(entry: Option<&Entry>) -> Result<Vec<Bytes>, Error> {
    entry.and_then(|entry| parse_chunk(entry.value.clone())).ok_or_else(|| Error::damaged("chunk of a list"))
}

fn parse_chunk(mut bytes: Bytes) -> Option<Vec<Bytes>> {
    let mut items = Vec::new();
    while bytes.has_remaining() {
        let len = bytes.try_get_u32().ok()? as usize;
        (len <= bytes.remaining()).then_some(())?;
        items.push(bytes.split_to(len));
    }
    Some(items)
}

fn operation(kind: u8, index: u32, value: &[u8], previous: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(9 + value.len() + previous.len());
    bytes.put_u8(kind);
    bytes.put_u32(index);
    bytes.put_u32(u32::try_from(value.len()).expect("items are bounded"));
    bytes.put_slice(value);
    bytes.put_slice(previous);
    bytes.freeze()
}

fn shown(value: Bytes, as_inserted: bool) -> ItemChange {
    if as_inserted { ItemChange::Inserted { value } } else { ItemChange::Appended { value } }
}

fn events(commit: &Commit, as_inserted: bool) -> Result<Vec<Event>, Error> {
    let operation = commit.changes.iter().find(|change| change.key == keys::OPERATION);
    let Some(entry) = operation.and_then(|change| change.current.as_ref()) else { return Ok(Vec::new()) };
    let events = parse_operation(commit, entry.value.clone(), as_inserted);
    events.ok_or_else(|| Error::damaged("operation of a list"))
}

fn parse_operation(commit: &Commit, mut bytes: Bytes, as_inserted: bool) -> Option<Vec<Event>> {
    let kind = bytes.try_get_u8().ok()?;
    let index = bytes.try_get_u32().ok()?;
    let len = bytes.try_get_u32().ok()? as usize;
    (len <= bytes.remaining()).then_some(())?;
    let value = bytes.split_to(len);
    let change = match kind {
        APPENDED => shown(value, as_inserted),
        INSERTED => ItemChange::Inserted { value },
        UPDATED => ItemChange::Updated { value, previous: bytes },
        REMOVED => ItemChange::Removed { value },
        CLEARED => return cleared(commit),
        _ => return None,
    };
    Some(vec![Event { index, change }])
}

/// Returns the events of a clear: the removed items, from the last item to the first, so that every index is right when events are applied in order.
fn cleared(commit: &Commit) -> Option<Vec<Event>> {
    let before = |key: &Bytes| commit.changes.iter().find(|change| change.key == *key)?.previous.as_ref();
    let root = Root::parse(before(&root_key())?.value.clone())?;
    let deleted: std::collections::HashMap<&Bytes, &Entry> =
        commit.changes.iter().filter_map(|change| Some((&change.key, change.previous.as_ref()?))).collect();
    let mut events = VecDeque::with_capacity(root.len() as usize);
    let mut index = 0;
    for chunk in &root.chunks {
        for value in parse_chunk(deleted.get(&chunk_key(chunk.id))?.value.clone())? {
            events.push_front(Event { index, change: ItemChange::Removed { value } });
            index += 1;
        }
    }
    Some(events.into())
}
