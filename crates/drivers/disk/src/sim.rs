// SPDX-License-Identifier: Apache-2.0
//! A disk in memory with injected failures and power cuts.
//!
//! Unsynced writes survive a power cut sector by sector, at random; changed names survive since the last sync
//! of the folder up to some point in their order.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use atomix_conformance::Dice;
use parking_lot::Mutex;

use crate::files::{File, Files};

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
}

/// Injected failures, counted in operations that change something.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// From this operation on, for so many, everything fails like this.
    pub(crate) fail: Option<(u64, u64, io::ErrorKind)>,
    /// Nothing works from this operation on: the machine is off, or the process is dead.
    pub(crate) dead_at: Option<u64>,
    /// Syncs from this one on do nothing and return success.
    pub(crate) lies_from: Option<u64>,
    /// Bytes that the disk has room for.
    pub(crate) capacity: Option<u64>,
    /// From this operation on the disk has room for as much as it has then.
    pub(crate) full_from: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Arc<Mutex<Content>>>,
    /// Names as of the last sync of the folder, and what was done to them since.
    synced_names: BTreeMap<String, Arc<Mutex<Content>>>,
    renamed: Vec<BTreeMap<String, Arc<Mutex<Content>>>>,
    operations: u64,
    syncs: u64,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug)]
struct SimFile {
    disk: Disk,
    content: Arc<Mutex<Content>>,
}

const SECTOR: usize = 512;

// === impl Disk ===

impl Disk {
    pub(crate) fn set(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// The number of operations that have changed something, or tried to.
    pub(crate) fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Returns the disk after a power cut.
    pub(crate) fn after_power_cut(&self, dice: &mut Dice) -> Self {
        let state = self.state.lock();
        let kept = dice.index(state.renamed.len() + 1);
        let names = if kept == 0 { &state.synced_names } else { &state.renamed[kept - 1] };
        let survive = |content: &Arc<Mutex<Content>>, dice: &mut Dice| {
            let content = content.lock();
            let grown = content.bytes.len() != content.synced.len() && dice.roll(2) == 0;
            let mut bytes = content.synced.clone();
            if grown {
                bytes.resize(content.bytes.len(), 0);
            }
            let written = content.bytes.chunks(SECTOR);
            for (old, new) in bytes.chunks_mut(SECTOR).zip(written) {
                if dice.roll(2) == 0 {
                    let len = old.len().min(new.len());
                    old[..len].copy_from_slice(&new[..len]);
                }
            }
            Arc::new(Mutex::new(Content { synced: bytes.clone(), bytes }))
        };
        Self::of(names.iter().map(|(name, content)| (name.clone(), survive(content, dice))).collect())
    }

    /// Returns the disk after a kill of the process: all writes are there. A power cut may still lose
    /// unsynced ones.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.state.lock();
        let copy = |content: &Arc<Mutex<Content>>| {
            let Content { bytes, synced } = &*content.lock();
            Arc::new(Mutex::new(Content { bytes: bytes.clone(), synced: synced.clone() }))
        };
        Self::of(state.names.iter().map(|(name, content)| (name.clone(), copy(content))).collect())
    }

    /// Changes the bytes of a file without an operation of the store.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let state = self.state.lock();
        change(&mut state.names[name].lock().bytes);
    }

    fn of(names: BTreeMap<String, Arc<Mutex<Content>>>) -> Self {
        let state = State { synced_names: names.clone(), names, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Counts an operation, and lets it fail if it is its turn.
    fn operate(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operations += 1;
        if state.faults.full_from.is_some_and(|from| state.operations >= from) {
            state.faults.full_from = None;
            state.faults.capacity = Some(state.used());
        }
        let (now, faults) = (state.operations, state.faults);
        if faults.dead_at.is_some_and(|dead| now >= dead) {
            return Err(io::Error::other("the power is off"));
        }
        match faults.fail {
            Some((from, count, kind)) if (from..from + count).contains(&now) => Err(kind.into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses a file to grow by `more` bytes when the disk is full.
    fn grow(&self, more: usize) -> io::Result<()> {
        let state = self.state.lock();
        let room = state.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()));
        if more as u64 > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Returns whether a sync only pretends to succeed.
    fn lies(&self) -> bool {
        let mut state = self.state.lock();
        state.syncs += 1;
        state.faults.lies_from.is_some_and(|from| state.syncs >= from)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|content| content.lock().bytes.len() as u64).sum()
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.operate()?;
        let content = Arc::<Mutex<Content>>::default();
        let mut state = self.state.lock();
        state.names.insert(name.to_owned(), Arc::clone(&content));
        let names = state.names.clone();
        state.renamed.push(names);
        Ok(Arc::new(SimFile { disk: self.clone(), content }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let content = self.state.lock().names.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), content }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.operate()?;
        let mut state = self.state.lock();
        let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), content);
        let names = state.names.clone();
        state.renamed.push(names);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.operate()?;
        let mut state = self.state.lock();
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let names = state.names.clone();
        state.renamed.push(names);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.operate()?;
        if !self.lies() {
            let mut state = self.state.lock();
            state.synced_names = state.names.clone();
            state.renamed.clear();
        }
        Ok(())
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.content.lock();
        let offset = usize::try_from(offset).expect("files here are small");
        let bytes = content.bytes.get(offset..offset + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let allowed = self.disk.operate();
        // A write that fails may have got half of its way.
        let len = if allowed.is_ok() { bytes.len() } else { bytes.len() / 2 / SECTOR * SECTOR };
        let offset = usize::try_from(offset).expect("files here are small");
        let held = self.content.lock().bytes.len();
        self.disk.grow((offset + len).saturating_sub(held))?;
        let mut content = self.content.lock();
        let end = (offset + len).max(content.bytes.len());
        content.bytes.resize(end, 0);
        content.bytes[offset..offset + len].copy_from_slice(&bytes[..len]);
        allowed
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.operate()?;
        let end = usize::try_from(offset + len).expect("files here are small");
        let held = self.content.lock().bytes.len();
        self.disk.grow(end.saturating_sub(held))?;
        let mut content = self.content.lock();
        let end = end.max(content.bytes.len());
        content.bytes.resize(end, 0);
        Ok(())
    }

    fn shrink(&self, len: u64) -> io::Result<()> {
        self.disk.operate()?;
        self.content.lock().bytes.truncate(usize::try_from(len).expect("files here are small"));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operate()?;
        if !self.disk.lies() {
            let mut content = self.content.lock();
            content.synced = content.bytes.clone();
        }
        Ok(())
    }
}
