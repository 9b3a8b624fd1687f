// SPDX-License-Identifier: Apache-2.0
//! Disks that fail: one whose power can be cut, one that is small, and a library that lets syncs fail.
//!
//! The first two are mounted, which needs root and a kernel that allows it: [`mount_missing`] returns what is missing.
#![allow(clippy::disallowed_methods, reason = "disks are real, and waited for in real time")]

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A file system in memory. Unmounted when dropped.
#[derive(Debug)]
pub struct Ram {
    path: PathBuf,
    _folder: TempDir,
}

/// An ext4 file system on a loop device whose file lies in memory. Unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    /// The mount point, and whether it is mounted.
    path: PathBuf,
    mounted: bool,
    image: PathBuf,
    cuts: u64,
    /// Dropped last: the image lies in it.
    ram: Ram,
    _folder: TempDir,
}

/// A library that stands between a program and `fdatasync` and `fsync`, and does what a file orders.
#[derive(Debug)]
pub struct Shim {
    folder: TempDir,
}

// === impl Ram ===

impl Ram {
    /// Mounts a file system of so many MiB.
    pub fn mount(mib: u64) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        let size = format!("size={mib}m");
        run(
            "mount",
            [
                "-t".as_ref(),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                size.as_ref(),
                "atomix".as_ref(),
                path.as_os_str(),
            ],
        )?;
        Ok(Self { path, _folder: folder })
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

// === impl Disk ===

impl Disk {
    /// Makes and mounts an empty disk of so many MiB.
    pub fn mount(mib: u64) -> io::Result<Self> {
        // A copy of the image is made before the old one is removed.
        let ram = Ram::mount(2 * mib + 16)?;
        let folder = tempfile::tempdir()?;
        let image = ram.path().join("disk-0");
        fs::File::create(&image)?.set_len(mib << 20)?;
        run("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), image.as_os_str()])?;
        let mut disk =
            Self { path: folder.path().to_owned(), mounted: false, image, cuts: 0, ram, _folder: folder };
        disk.attach()?;
        Ok(disk)
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the disk to the last block, until [`Disk::make_room`].
    pub fn fill(&self) -> io::Result<()> {
        let mut ballast = fs::File::create(self.ballast())?;
        for block in [1 << 20, 1 << 12] {
            while ballast.write_all(&vec![0; block]).is_ok() {}
        }
        Ok(())
    }

    /// Gives back what was taken to fill the disk.
    pub fn make_room(&self) -> io::Result<()> {
        fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Cuts the power of a disk whose users are dead: only what had reached the disk is left.
    ///
    /// The loop device writes its file when the file system sends a block to the disk, so a copy of the file lacks what
    /// was only in the cache. The file system repairs itself when the copy is mounted.
    pub fn cut_power(&mut self) -> io::Result<()> {
        self.cuts += 1;
        let copy = self.ram.path().join(format!("disk-{}", self.cuts));
        run("cp", ["--sparse=always".as_ref(), self.image.as_os_str(), copy.as_os_str()])?;
        self.detach();
        fs::remove_file(&self.image)?;
        self.image = copy;
        self.attach()
    }

    fn attach(&mut self) -> io::Result<()> {
        // The file system must not write on its own what the program has not synced: the test would miss lost writes.
        let options = "loop,commit=300".as_ref();
        run("mount", ["-o".as_ref(), options, self.image.as_os_str(), self.path.as_os_str()])?;
        self.mounted = true;
        Ok(())
    }

    fn detach(&mut self) {
        if std::mem::take(&mut self.mounted) {
            unmount(&self.path);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Returns why disks cannot be mounted here; `None` if they can.
pub fn mount_missing() -> Option<String> {
    Disk::mount(8).err().map(|error| error.to_string())
}

// === impl Shim ===

impl Shim {
    /// Compiles the library with the C compiler that the Rust toolchain links with.
    pub fn build() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shim.c");
        let library = folder.path().join("shim.so");
        let flags = ["-shared", "-fPIC", "-O1", "-o"].map(OsStr::new);
        run("cc", flags.into_iter().chain([library.as_os_str(), source.as_os_str(), "-ldl".as_ref()]))?;
        Ok(Self { folder })
    }

    /// Puts the library before a program.
    pub fn preload(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.folder.path().join("shim.so"));
        command.env("SHIM_ORDER", self.order());
    }

    /// Lets every sync fail until [`Shim::work`].
    pub fn fail(&self) {
        self.order_sync("fail");
    }

    /// Lets the next sync fail.
    pub fn fail_once(&self) {
        self.order_sync("once");
    }

    /// Lets every sync report success and do nothing, until [`Shim::work`]: a planted fault.
    pub fn skip(&self) {
        self.order_sync("skip");
    }

    /// Lets every sync take so many milliseconds longer.
    pub fn delay(&self, millis: u64) {
        self.order_sync(&format!("sleep {millis}"));
    }

    /// Lets syncs work.
    pub fn work(&self) {
        // It may have ended by itself.
        drop(fs::remove_file(self.order()));
    }

    /// Returns whether a failure that was asked for once has not come yet.
    pub fn is_set(&self) -> bool {
        self.order().exists()
    }

    fn order_sync(&self, order: &str) {
        let new = self.folder.path().join("order.new");
        fs::write(&new, order).and_then(|()| fs::rename(&new, self.order())).expect("the folder is ours");
    }

    fn order(&self) -> PathBuf {
        self.folder.path().join("order")
    }
}

fn unmount(path: &Path) {
    // A device that is busy is let go when its last user ends.
    if run("umount", [path.as_os_str()]).is_err() {
        drop(run("umount", ["-l".as_ref(), path.as_os_str()]));
    }
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> io::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
