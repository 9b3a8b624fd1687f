// SPDX-License-Identifier: Apache-2.0
//! Operations on the files of a store that no process has open.

use std::fmt;
use std::fs;
use std::path::Path;

use atomix_store::Error;

use crate::core::Core;
use crate::error::unreadable_backup;
use crate::files::{Files, Folder, LOCK};
use crate::layout::{snapshot_name, unfinished};
use crate::recover::{read_snapshot, recover};

/// The content of a store or a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Primitives and the runtime's own records.
    pub keyspaces: usize,
    /// Entries in all of them.
    pub entries: usize,
    /// Bytes of the keys and values.
    pub bytes: usize,
    /// Commits that share a sync are a batch; counted from the first one of the store.
    pub batches: u64,
}

/// Names that an empty folder may hold: entries of file systems in the root of a volume, and the lock of an
/// empty store.
const NOTHING: [&str; 2] = ["lost+found", LOCK];

/// Reads everything in the folder of a store, or in a backup file, and changes nothing. Damage is
/// [`atomix_store::ErrorKind::Corrupt`] with the position; a store that is open in a process is
/// [`atomix_store::ErrorKind::Unavailable`].
pub fn verify(path: &Path) -> Result<Report, Error> {
    if path.is_dir() {
        let folder = Folder::inspect(path)?;
        let recovered = recover(&folder, Core::default())?;
        return Ok(Report::new(&recovered.core, recovered.next));
    }
    read_backup(path)
}

/// Makes a store of a backup, in a folder that is empty or not there, or the root of a new volume. The backup is verified
/// first. When this fails the folder holds an empty store at most, and this can be repeated.
pub fn restore(backup: &Path, dir: &Path) -> Result<Report, Error> {
    let mut files = dir.read_dir().into_iter().flatten().filter_map(Result::ok).map(|file| file.file_name());
    if let Some(file) = files.find(|name| !NOTHING.iter().any(|nothing| name == nothing)) {
        let (dir, file) = (dir.display(), Path::new(&file).display());
        return Err(Error::config(format!("the folder must be empty: dir=`{dir}` found=`{file}`")));
    }
    let report = read_backup(backup)?;
    let name = backup.display().to_string();
    let bytes = fs::read(backup).map_err(|error| unreadable_backup(&name, error))?;
    let folder = Folder::open(dir)?;
    let name = snapshot_name(report.batches + 1);
    let temporary = unfinished(&name);
    let written = folder.create(&temporary).and_then(|file| {
        file.write_at(&bytes, 0)?;
        file.sync()?;
        folder.rename(&temporary, &name)?;
        folder.sync()
    });
    written.map(|()| report).map_err(|error| {
        // Best effort: it is removed when the store is opened, too.
        drop(folder.remove(&temporary));
        let message = format!("the backup cannot be written: dir=`{}`", dir.display());
        Error::unavailable(message).caused_by(error)
    })
}

fn read_backup(path: &Path) -> Result<Report, Error> {
    let name = path.display().to_string();
    let file = fs::File::open(path).map_err(|error| unreadable_backup(&name, error))?;
    let core = Core::default();
    let (_, end) = read_snapshot(&file, &name, &core, true)?;
    Ok(Report::new(&core, end.next))
}

// === impl Report ===

impl Report {
    fn new(core: &Core, next: u64) -> Self {
        let mut report = Self { keyspaces: 0, entries: 0, bytes: 0, batches: next - 1 };
        for space in core.spaces.all() {
            let engine = space.engine.lock();
            report.keyspaces += 1;
            report.entries += engine.len();
            report.bytes += engine.bytes();
        }
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keyspaces, entries, bytes, batches } = self;
        write!(f, "keyspaces {keyspaces}, entries {entries}, bytes {bytes}, batches {batches}")
    }
}
