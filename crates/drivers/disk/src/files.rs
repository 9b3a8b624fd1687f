// SPDX-License-Identifier: Apache-2.0
//! The few operations on a file system that the store needs, so that a test can make them fail.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atomix_store::Error;
use rustix::fs::{Access, FallocateFlags, access};
use rustix::io::Errno;

/// The folder of a store.
pub(crate) trait Files: Send + Sync + fmt::Debug {
    /// Lists the names of the files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new file. An old one of that name is gone.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// A file of a store.
pub(crate) trait File: Send + Sync + fmt::Debug {
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads exactly as much as `buffer` holds.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Takes room on the disk, beyond the end of the file, that reads as zeros. Afterwards writing there does not run
    /// out of room and changes no length, which makes a sync a third cheaper.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Gives back the room beyond `len`.
    fn shrink(&self, len: u64) -> io::Result<()>;

    /// Makes what was written survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// A real folder, locked for this process while the value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: fs::File,
}

/// The modes of what is made: what a store holds is for its owner only.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The file whose lock marks the folder as in use. Holds the process id, for operators.
pub(crate) const LOCK: &str = "lock";

/// Returns whether a store of this process has locked the folder.
pub(crate) fn is_held_by_this_process(path: &Path) -> bool {
    let Ok(mut lock) = fs::File::open(path.join(LOCK)) else { return false };
    let mut holder = String::new();
    let held = matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock));
    held && (&mut lock).take(20).read_to_string(&mut holder).is_ok()
        && holder.trim() == std::process::id().to_string()
}

// === impl Folder ===

impl Folder {
    /// Makes the folder if it is not there, readable only by the user of this process, and locks it. One that is there
    /// keeps its mode; if users beside its owner and group may read it, that is logged.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(path);
        made.map_err(|error| failure(path, "make", error))?;
        let found = fs::metadata(path).map_err(|error| failure(path, "read", error))?.permissions().mode();
        if found & 0o007 != 0 {
            tracing::warn!(
                dir = %path.display(),
                mode = %format!("{:03o}", found & 0o777),
                "other users may read the folder of the store: `chmod 700` it"
            );
        }
        let mut options = OpenOptions::new();
        Self::lock(path, options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE))
    }

    /// Locks a folder that is there, and changes nothing in it.
    pub(crate) fn inspect(path: &Path) -> Result<Self, Error> {
        if !path.join(LOCK).is_file() {
            return Err(Error::config(format!("no store in this folder: dir=`{}`", path.display())));
        }
        Self::lock(path, OpenOptions::new().read(true).write(true))
    }

    fn lock(path: &Path, options: &OpenOptions) -> Result<Self, Error> {
        let file = path.join(LOCK);
        let mut lock = options.open(&file).map_err(|error| failure(&file, "open", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The number is for people; without it the message is still right.
                drop(lock.take(20).read_to_string(&mut holder));
                return Err(Error::unavailable(format!(
                    "store is in use by another process: stop it, or give this one a folder of its own: dir=`{}` pid=`{}`",
                    path.display(),
                    holder.trim()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failure(&file, "lock", error)),
        }
        // Best effort: on a full disk the store still opens.
        drop(lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())));
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|file| Ok(file?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(FILE_MODE);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }
}

impl File for fs::File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            // A file system that cannot take room takes zeros.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
                let mut left = len;
                while left > 0 {
                    let chunk = left.min(ZEROS.len() as u64);
                    let bytes = usize::try_from(chunk).expect("a chunk is small");
                    self.write_all_at(&ZEROS[..bytes], offset + len - left)?;
                    left -= chunk;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn shrink(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes sure that the folder can be used, or can be made, as far as that can be seen without changing anything.
pub(crate) fn usable(path: &Path) -> Result<(), Error> {
    let wrong = |at: &Path, advice: &str| {
        let at = if at == path { String::new() } else { format!(" at=`{}`", at.display()) };
        Error::config(format!("this cannot be the folder of a store: {advice}: dir=`{}`{at}", path.display()))
    };
    let mut at = if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) };
    loop {
        match fs::metadata(&at) {
            Ok(found) if !found.is_dir() => {
                return Err(wrong(&at, "there is a file in the way, name a folder"));
            }
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound && at.pop() => {}
            Err(error) => return Err(wrong(&at, "it cannot be looked at").caused_by(error)),
        }
    }
    let rights = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    access(&at, rights).map_err(|error| {
        wrong(&at, "give this user the right to write there").caused_by(io::Error::from(error))
    })
}

fn failure(path: &Path, what: &str, error: io::Error) -> Error {
    let message = format!("cannot {what} the folder of the store: path=`{}`", path.display());
    // A missing right, a file in the way or a file system that takes no folder is for an operator to mend. A store that was connected by
    // hand is tried again until then.
    let permanent = [
        Errno::ACCESS,
        Errno::EXIST,
        Errno::INVAL,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::NAMETOOLONG,
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::OPNOTSUPP,
        Errno::PERM,
        Errno::ROFS,
    ];
    if Errno::from_io_error(&error).is_some_and(|errno| permanent.contains(&errno)) {
        return Error::config(format!(
            "{message}: give it another path, or this user the right to write there"
        ))
        .caused_by(error);
    }
    Error::unavailable(message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_for_its_owner_only_and_what_is_there_keeps_its_mode() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("stores/one");
        let folder = Folder::open(&dir).unwrap();
        drop(folder.create("log").unwrap());
        assert_eq!((mode(&dir), mode(&dir.join("log")), mode(&dir.join(LOCK))), (0o700, 0o600, 0o600));
        drop(folder);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        drop(Folder::open(&dir).unwrap());
        assert_eq!(mode(&dir), 0o750);
    }
}
