// SPDX-License-Identifier: Apache-2.0
//! The errors of primitives.

use std::borrow::Cow;
use std::fmt;

use atomix_store::printable;

/// Why a call was not done, with a stable reason that has a page in `docs/errors/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    reason: Reason,
    message: Cow<'static, str>,
}

/// The kind of an error, by which a caller decides how to react. Each kind is one gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The requested item does not exist.
    NotFound,
    /// The item to be created exists already.
    AlreadyExists,
    /// The state is not as the caller assumed: read and decide.
    Conflict,
    /// Fix the request.
    Invalid,
    /// Certainly not applied; try again later.
    Unavailable,
    /// The caller's own session or handle ended.
    Cancelled,
    /// Not done within the deadline of the call. A write may have been applied.
    Timeout,
    /// May have been applied: find out.
    OutcomeUnknown,
    /// A stream lost something: read the state and open it again.
    DataLoss,
    /// The configuration does not allow it: ask an operator.
    Denied,
    /// This runtime cannot do it.
    Unsupported,
    /// Tell an operator.
    Internal,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $kind:ident;)+) => {
        /// The stable reason of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the name that travels with the error. Never changes.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// Returns what the caller can do.
            pub fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind,)+
                }
            }
        }
    };
}

reasons! {
    /// No entry under this key, index, or no such element.
    KeyNotFound = "KEY_NOT_FOUND", NotFound;
    /// The value was never set, was deleted, or has expired.
    ValueNotSet = "VALUE_NOT_SET", NotFound;
    /// The lock has no holder.
    LockFree = "LOCK_FREE", NotFound;
    /// Something with this name is not known to the runtime (any more).
    NotKnown = "NOT_KNOWN", NotFound;
    /// There is an entry under this key already.
    KeyExists = "KEY_EXISTS", AlreadyExists;
    /// A store of this id is connected already.
    StoreExists = "STORE_EXISTS", AlreadyExists;
    /// The entry has another version than the one that was named.
    VersionMismatch = "VERSION_MISMATCH", Conflict;
    /// The number is not the one that was named.
    ValueMismatch = "VALUE_MISMATCH", Conflict;
    /// A transaction names a key twice.
    KeyRepeated = "KEY_REPEATED", Conflict;
    /// The lock was not obtained in the time that was given.
    LockTimeout = "LOCK_TIMEOUT", Conflict;
    /// The session does not hold the lock.
    LockNotHeld = "LOCK_NOT_HELD", Conflict;
    /// A greater token of a guard was accepted before: the caller is no longer the holder.
    Fenced = "FENCED", Conflict;
    /// Something would be lost or interrupted that has content or users.
    InUse = "IN_USE", Conflict;
    /// Concurrent changes conflicted with the call too often; nothing was applied.
    Contention = "CONTENTION", Conflict;
    /// An argument breaks a rule or a limit.
    Invalid = "INVALID_ARGUMENT", Invalid;
    /// The store of this primitive cannot be reached.
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable;
    /// The store of this primitive was disconnected.
    StoreClosed = "STORE_DISCONNECTED", Unavailable;
    /// The store has no room.
    StoreFull = "STORE_FULL", Unavailable;
    /// Too many calls wait for this name, or on this connection.
    WaitersFull = "WAITERS_FULL", Unavailable;
    /// The connection has as many streams and waiting calls as it may.
    StreamsFull = "STREAMS_FULL", Unavailable;
    /// The runtime holds as many primitives as it may.
    PrimitivesFull = "PRIMITIVES_FULL", Unavailable;
    /// The runtime did not renew its record in time and other members expired it: its sessions lost what they owned.
    HostLost = "HOST_LOST", Unavailable;
    /// No routes have been set yet.
    NotProgrammed = "NOT_PROGRAMMED", Unavailable;
    /// The primitive was not created, or was closed.
    NotOpen = "PRIMITIVE_NOT_OPEN", Unavailable;
    /// The runtime is shutting down.
    Draining = "DRAINING", Unavailable;
    /// The session ended, or it closed the primitive, or the last that had created it or an operator did, while the call waited.
    Closed = "PRIMITIVE_CLOSED", Cancelled;
    /// The call took longer than its deadline allows.
    DeadlineExceeded = "DEADLINE_EXCEEDED", Timeout;
    /// The answer of the store was lost after the request was sent.
    OutcomeUnknown = "OUTCOME_UNKNOWN", OutcomeUnknown;
    /// The reader was too slow for the changes, or the history it needs is gone.
    WatchOverrun = "WATCH_OVERRUN", DataLoss;
    /// A stored record is damaged.
    StoreCorrupt = "STORE_CORRUPT", DataLoss;
    /// No route leads anywhere for this primitive.
    NoRoute = "NO_ROUTE", Denied;
    /// The store refuses the runtime's credentials.
    StoreDenied = "STORE_DENIED", Denied;
    /// There is no such driver.
    DriverUnknown = "DRIVER_UNKNOWN", NotFound;
    /// The store cannot do this.
    Unsupported = "UNSUPPORTED", Unsupported;
    /// A mistake of ours.
    Internal = "INTERNAL", Internal;
}

// === impl Error ===

impl Error {
    /// Makes an error. `message` is lower case and without a period. Texts of clients in it go through
    /// [`atomix_store::printable`].
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Makes a [`Reason::Invalid`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::Invalid, message)
    }

    // The wording of these is that of the original, which applications show and compare: contract/README.md section 5.

    /// The error of a read of a key that does not exist.
    pub(crate) fn key_not_found(key: &str) -> Self {
        Self::new(Reason::KeyNotFound, format!("key {} not found", printable(key)))
    }

    /// The error of a write of a key that does not exist.
    pub(crate) fn key_to_write_not_found(key: &str) -> Self {
        Self::new(Reason::KeyNotFound, format!("key '{}' not found", printable(key)))
    }

    pub(crate) fn key_exists(key: &str) -> Self {
        Self::new(Reason::KeyExists, format!("key '{}' already exists", printable(key)))
    }

    /// `action` is `update` or `remove`; `found` is zero if there is no entry.
    pub(crate) fn version_mismatch(found: u64, action: &str, named: u64) -> Self {
        let message = format!("entry index {found} does not match {action} index {named}");
        Self::new(Reason::VersionMismatch, message)
    }

    pub(crate) fn value_mismatch() -> Self {
        Self::new(Reason::ValueMismatch, "optimistic lock failure")
    }

    pub(crate) fn closed() -> Self {
        Self::new(Reason::Closed, "the primitive was closed by this session, its last user or an operator")
    }

    pub(crate) fn host_lost() -> Self {
        Self::new(
            Reason::HostLost,
            "the runtime was silent for so long that its sessions lost what they owned in this store",
        )
    }

    pub(crate) fn contention() -> Self {
        Self::new(
            Reason::Contention,
            "concurrent changes conflicted too often, nothing was applied: try again",
        )
    }

    pub(crate) fn damaged(what: &'static str) -> Self {
        Self::new(Reason::StoreCorrupt, format!("a stored record is damaged: record=`{what}`"))
    }

    /// Returns the stable reason.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns what the caller can do.
    pub fn kind(&self) -> Kind {
        self.reason.kind()
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<atomix_store::Error> for Error {
    fn from(error: atomix_store::Error) -> Self {
        use atomix_store::ErrorKind;
        let reason = match error.kind() {
            ErrorKind::Unavailable => Reason::StoreUnavailable,
            ErrorKind::Closed => Reason::StoreClosed,
            ErrorKind::OutcomeUnknown => Reason::OutcomeUnknown,
            ErrorKind::Invalid | ErrorKind::Config => Reason::Invalid,
            ErrorKind::Compacted { .. } => Reason::WatchOverrun,
            ErrorKind::Full => Reason::StoreFull,
            ErrorKind::Unsupported => Reason::Unsupported,
            ErrorKind::Denied => Reason::StoreDenied,
            ErrorKind::Corrupt => Reason::StoreCorrupt,
            ErrorKind::Internal => Reason::Internal,
        };
        Self::new(reason, error.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason.code())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_page_and_every_page_a_reason() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors");
        let pages: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|page| page.unwrap().file_name().into_string().unwrap().trim_end_matches(".md").to_owned())
            .collect();
        let reasons: BTreeSet<String> = Reason::ALL.iter().map(|reason| reason.code().to_owned()).collect();
        assert_eq!(pages, reasons);
    }
}
