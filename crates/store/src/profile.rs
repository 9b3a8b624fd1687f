// SPDX-License-Identifier: Apache-2.0
//! The guarantees of a store.

use std::fmt;
use std::time::Duration;

/// The guarantees of a store. Declared by the driver, checked by the conformance kit, shown to operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The freshness of reads.
    pub consistency: Consistency,
    /// The survival of acknowledged commits.
    pub durability: Durability,
    /// Whether other runtimes can work on the same keyspaces through their own stores.
    pub shared: bool,
    /// The sizes that the store accepts.
    pub limits: Limits,
}

/// The freshness of reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Every read shows every commit that was answered before it began.
    Linearizable,
    /// As [`Consistency::Linearizable`] until another server of the backend takes over: that may take back commits that
    /// were answered, and with them locks that were given. Watches of such a keyspace end.
    UntilFailover,
}

/// The survival of acknowledged commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing survives the end of the process.
    Process,
    /// Nothing survives the end of the backend's process. The end of the runtime's process loses nothing.
    Backend,
    /// The backend writes snapshots now and then, or leaves it to its machine when to write: a crash of it
    /// loses the commits acknowledged since.
    Snapshots,
    /// The backend does not report it.
    Unknown,
    /// Acknowledged commits are synced to the disk of this machine: they survive a killed process and a power
    /// cut.
    Disk,
    /// Commits are synced to the disk of this machine within this time: a killed process or a power cut loses
    /// at most the commits acknowledged in it.
    Interval(Duration),
    /// Acknowledged commits are synced to the disks of a majority of the backend's servers.
    Quorum,
}

/// The sizes that a store accepts. Larger requests are refused before they reach the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key or of a keyspace's name.
    pub key_bytes_max: usize,
    /// Bytes of a value.
    pub value_bytes_max: usize,
    /// Guards of a transaction.
    pub guards_max: usize,
    /// Writes of a transaction.
    pub writes_max: usize,
    /// Reads of a transaction.
    pub reads_max: usize,
    /// Bytes of values after which a scan ends early; a scan brings at least one entry all the same.
    pub scan_bytes_max: usize,
    /// Request names ([`crate::Txn::once`]) that a keyspace remembers at most; each for 5 minutes at least. New named requests
    /// beyond are refused with [`crate::ErrorKind::Full`]. Stores in this process bound the bytes of all instead.
    pub once_max: usize,
}

// === impl Limits ===

impl Limits {
    /// Bytes of a request name ([`crate::Txn::once`]).
    pub const ONCE_BYTES_MAX: usize = 64;
}

impl Default for Limits {
    /// The limits of the embedded stores: far above the needs of the primitives.
    fn default() -> Self {
        Self {
            key_bytes_max: 128 * 1024,
            value_bytes_max: 128 * 1024 * 1024,
            guards_max: 4_000_000,
            writes_max: 4_000_000,
            reads_max: 4_000_000,
            scan_bytes_max: 1024 * 1024,
            once_max: usize::MAX,
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linearizable => "linearizable",
            Self::UntilFailover => "linearizable until a failover, which may take back what was answered",
        })
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("none: lost when the process ends"),
            Self::Backend => f.write_str("none: lost when the backend ends"),
            Self::Snapshots => {
                f.write_str("snapshots: a crash of the backend takes what was answered since the last one")
            }
            Self::Unknown => f.write_str("unknown: the backend does not tell"),
            Self::Disk => f.write_str("disk: what was answered survives a power cut"),
            Self::Interval(time) => {
                write!(f, "interval: a crash takes at most what was answered in the last {time:?}")
            }
            Self::Quorum => f.write_str("quorum: what was answered is on the disks of a majority of servers"),
        }
    }
}
