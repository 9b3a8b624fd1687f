// SPDX-License-Identifier: Apache-2.0
//! The bounds that the machine sets for this process: memory and open files.
//!
//! This is the only place that determines them. Everything that has a default which follows the machine asks
//! [`crate::Env::machine`].

use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The bounds of this process. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The memory that the process may use.
    pub memory: MemoryLimit,
    /// The files that the process may have open at once: the soft limit.
    pub open_files: u64,
    stored: Arc<AtomicUsize>,
}

/// The memory that this process may use before the kernel kills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// The bound that is the lowest.
    pub source: MemorySource,
}

/// The source of a [`MemoryLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySource {
    /// The control group of the process, or one above it: a container, a pod, a service.
    Cgroup,
    /// All memory of the machine.
    Machine,
    /// The system does not report it; the value is an assumption.
    Assumed,
}

/// The bytes that embedded stores keep in memory, counted for one store and for all stores of the process.
#[derive(Debug, Default)]
pub struct Stored {
    own: AtomicUsize,
    all: Arc<AtomicUsize>,
}

/// The limits of open files before and after [`raise_open_files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The soft limit before.
    pub before: u64,
    /// The soft limit now.
    pub now: u64,
}

/// Assumed memory of a system that does not report it.
const ASSUMED_BYTES: u64 = 4 << 30;
/// The files of a machine that a test simulates.
const SIMULATED_FILES: u64 = 65_536;
/// Files are unlimited from here on: no table of ours is larger.
const FILES_MAX: u64 = 1 << 24;

// === impl Machine ===

impl Machine {
    /// Reads the bounds of this process.
    pub fn read() -> Self {
        Self::new(MemoryLimit::read(Path::new("/")), open_files())
    }

    /// A machine of this size, for tests and simulations.
    pub fn simulated(memory_bytes: u64) -> Self {
        Self::new(MemoryLimit { bytes: memory_bytes, source: MemorySource::Machine }, SIMULATED_FILES)
    }

    fn new(memory: MemoryLimit, open_files: u64) -> Self {
        Self { memory, open_files, stored: Arc::default() }
    }

    /// Returns one `part`-th of the memory, as a size of something in memory.
    pub fn memory_share(&self, part: u64) -> usize {
        usize::try_from(self.memory.bytes / part.max(1)).unwrap_or(usize::MAX)
    }

    /// Returns a new count of a store's bytes, which adds to those of all stores.
    pub fn stored(&self) -> Stored {
        Stored { own: AtomicUsize::new(0), all: Arc::clone(&self.stored) }
    }
}

impl Default for Machine {
    /// A simulated machine of 4 GiB.
    fn default() -> Self {
        Self::simulated(ASSUMED_BYTES)
    }
}

// === impl Stored ===

impl Stored {
    /// Returns the bytes of this store.
    pub fn bytes(&self) -> usize {
        self.own.load(Ordering::Relaxed)
    }

    /// Returns the bytes of all embedded stores of the process.
    pub fn bytes_of_all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Replaces `before` bytes by `after`.
    pub fn replace(&self, before: usize, after: usize) {
        // Wrapping, because the difference may be negative.
        let change = after.wrapping_sub(before);
        self.own.fetch_add(change, Ordering::Relaxed);
        self.all.fetch_add(change, Ordering::Relaxed);
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.all.fetch_sub(*self.own.get_mut(), Ordering::Relaxed);
    }
}

// === impl MemoryLimit ===

impl MemoryLimit {
    /// Reads the limit from the files below `root`, which is `/` but in tests.
    ///
    /// The lowest limit counts of all control groups from that of the process up to the top of what is mounted, of both
    /// versions. A container sees its own group at the mount point, a service of the machine sees the whole tree.
    pub fn read(root: &Path) -> Self {
        let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| memory_total(&text));
        let groups = group_folders(root);
        let cgroup = groups.iter().flat_map(|(folder, top)| limits_up_to(folder, top)).min();
        match (machine, cgroup) {
            // A group without a limit has one beyond all memory.
            (Some(machine), Some(bytes)) if bytes >= machine => {
                Self { bytes: machine, source: MemorySource::Machine }
            }
            (_, Some(bytes)) if bytes < u64::MAX >> 2 => Self { bytes, source: MemorySource::Cgroup },
            (Some(bytes), _) => Self { bytes, source: MemorySource::Machine },
            (None, _) => Self { bytes: ASSUMED_BYTES, source: MemorySource::Assumed },
        }
    }
}

impl fmt::Display for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "cgroup",
            Self::Machine => "machine",
            Self::Assumed => "assumed",
        })
    }
}

/// Returns `MemTotal` of `/proc/meminfo` in bytes.
fn memory_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the folder of each control group of this process that can limit memory, and the mount point above it.
fn group_folders(root: &Path) -> Vec<(PathBuf, PathBuf)> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut folders = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        for line in groups.lines() {
            // `4:memory:/a/b` of version 1, `0::/a/b` of version 2.
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
            let fits = if mount.is_v2 {
                controllers.is_empty()
            } else {
                mount.is_memory && controllers.split(',').any(|controller| controller == "memory")
            };
            if fits {
                let top = root.join(mount.point.trim_start_matches('/'));
                folders.push((top.join(within(group, mount.root)), top));
            }
        }
    }
    folders
}

/// A line of `/proc/self/mountinfo` about control groups.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    is_v2: bool,
    is_memory: bool,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
        let is_v2 = kind == "cgroup2";
        let is_memory = kind == "cgroup" && options.split(',').any(|option| option == "memory");
        (is_v2 || is_memory).then_some(Self { root, point, is_v2, is_memory })
    }
}

/// Returns the path of `group` below a mount whose root is `root`. A group that is not below it cannot be seen: the mount
/// point itself is the nearest that can.
fn within(group: &str, root: &str) -> PathBuf {
    let relative = Path::new(group).strip_prefix(root).unwrap_or_else(|_| Path::new(""));
    // A group outside of the namespace is shown with `..`.
    relative.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Returns the limits of the group in `folder` and of those above it.
fn limits_up_to(folder: &Path, top: &Path) -> Vec<u64> {
    let number = |folder: &Path, file: &str| -> Option<u64> {
        // `max` of version 2 is no number, and no limit.
        fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    };
    folder
        .ancestors()
        .take_while(|folder| folder.starts_with(top))
        .flat_map(|folder| {
            // Beyond `memory.high` a process is slowed down until it stands still.
            ["memory.max", "memory.high", "memory.limit_in_bytes"].map(|file| number(folder, file))
        })
        .flatten()
        .collect()
}

/// Raises the soft limit of open files to the hard limit. Returns an error if the system refuses; then the
/// limit is unchanged.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum })?;
    Ok(OpenFiles { before: before.current.unwrap_or(FILES_MAX), now: open_files() })
}

fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(FILES_MAX).min(FILES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       8388608 kB\nMemFree:  1 kB\n";
    const GIB: u64 = 1 << 30;
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 23 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";

    /// Reads the limit of a machine with these files.
    fn limit(files: &[(&str, &str)]) -> MemoryLimit {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        MemoryLimit::read(root.path())
    }

    fn cgroup(bytes: u64) -> MemoryLimit {
        MemoryLimit { bytes, source: MemorySource::Cgroup }
    }

    fn machine(bytes: u64) -> MemoryLimit {
        MemoryLimit { bytes, source: MemorySource::Machine }
    }

    #[test]
    fn without_a_limit_all_memory_of_the_machine_may_be_used() {
        assert_eq!(limit(&[("proc/meminfo", MEMINFO)]), machine(8 * GIB));
        let free = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
        ];
        assert_eq!(limit(&free), machine(8 * GIB));
        let free = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", V1),
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limit(&free), machine(8 * GIB));
        assert_eq!(limit(&[]).source, MemorySource::Assumed);
        assert_eq!(limit(&free[1..]).source, MemorySource::Assumed);
    }

    #[test]
    fn the_lowest_limit_of_the_groups_above_counts() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/pod/app\n"),
            ("sys/fs/cgroup/pod/app/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/memory.max", "268435456\n"),
            ("sys/fs/cgroup/other/memory.max", "1024\n"),
        ];
        assert_eq!(limit(&files), cgroup(GIB / 4));
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", V1),
            ("proc/self/cgroup", "5:cpu:/x\n4:memory,hugetlb:/pod/app\n0::/\n"),
            ("sys/fs/cgroup/memory/pod/app/memory.limit_in_bytes", "67108864\n"),
            ("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "268435456\n"),
            ("sys/fs/cgroup/cpu/x/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(limit(&files), cgroup(64 << 20));
    }

    #[test]
    fn a_process_is_slowed_down_beyond_memory_high() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/a/memory.high", "1073741824\n"),
        ];
        assert_eq!(limit(&files), cgroup(GIB));
    }

    #[test]
    fn a_container_finds_its_group_at_the_mount_point() {
        // With a separate namespace the path is `/`; without, mount and path begin with the same folders.
        for (mount, group) in [
            (V2.to_owned(), "0::/\n"),
            (V2.replacen(" / ", " /docker/1 ", 1), "0::/docker/1\n"),
            (V2.replacen(" / ", " /docker/1 ", 1), "0::/elsewhere\n"),
            (V2.to_owned(), "0::/../..\n"),
        ] {
            let files = [
                ("proc/meminfo", MEMINFO),
                ("proc/self/mountinfo", &mount),
                ("proc/self/cgroup", group),
                ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ];
            assert_eq!(limit(&files), cgroup(GIB), "{mount} {group}");
        }
    }

    #[test]
    fn stores_count_for_themselves_and_for_all() {
        let machine = Machine::simulated(GIB);
        let (one, other) = (machine.stored(), machine.stored());
        one.replace(0, 100);
        other.replace(0, 50);
        one.replace(60, 0);
        assert_eq!((one.bytes(), one.bytes_of_all(), other.bytes_of_all()), (40, 90, 90));
        drop(one);
        assert_eq!((other.bytes(), other.bytes_of_all()), (50, 50));
    }

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
        let raised = raise_open_files().unwrap();
        assert!(raised.now >= raised.before && raised.now == open_files());
        assert_eq!(raise_open_files().unwrap().before, raised.now);
    }
}
