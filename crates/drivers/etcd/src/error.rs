// SPDX-License-Identifier: Apache-2.0
//! Maps etcd and transport errors to [`ErrorKind`].

use std::fmt;

use atomix_store::{Error, ErrorKind, Revision};
use tonic::{Code, Status};

/// The reason why a request has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It never left: no member could be reached, or the connection was gone before.
    NotSent(Error),
    /// It was sent, and nothing came back in time or at all.
    Lost(String),
    /// etcd, or what stands before it, answered with an error.
    Answered(Status),
}

/// A connection that did not carry a request.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Whether any of the request may have reached the other side.
    pub(crate) sent: bool,
    pub(crate) source: h2::Error,
}

/// The meaning of an error of etcd for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// It was certainly not applied.
    Refused(ErrorKind),
    /// It may be applied, perhaps later.
    Open,
}

use Meaning::{Open, Refused};

/// etcd's errors by their text, the only thing that distinguishes them on the wire.
const MEANINGS: &[(&str, Meaning)] = &[
    // The member knows no leader: refused before anything is proposed.
    ("etcdserver: no leader", Refused(ErrorKind::Unavailable)),
    ("raft proposal dropped", Refused(ErrorKind::Unavailable)),
    // Too far behind with applying: refused before anything is proposed.
    ("etcdserver: too many requests", Refused(ErrorKind::Unavailable)),
    ("etcdserver: rpc not supported for learner", Refused(ErrorKind::Unavailable)),
    ("etcdserver: mvcc: required revision is a future revision", Refused(ErrorKind::Unavailable)),
    // The users changed between the check and the application: retried with a new token.
    ("etcdserver: revision of auth store is old", Refused(ErrorKind::Unavailable)),
    ("etcdserver: mvcc: database space exceeded", Refused(ErrorKind::Full)),
    ("etcdserver: request is too large", Refused(ErrorKind::Invalid)),
    ("etcdserver: too many operations in txn request", Refused(ErrorKind::Invalid)),
    ("etcdserver: mvcc: required revision has been compacted", Refused(COMPACTED)),
    ("etcdserver: authentication failed, invalid user ID or password", Refused(ErrorKind::Denied)),
    ("etcdserver: permission denied", Refused(ErrorKind::Denied)),
    ("etcdserver: invalid auth token", Refused(ErrorKind::Denied)),
    ("etcdserver: user name is empty", Refused(ErrorKind::Denied)),
    ("etcdserver: user name not found", Refused(ErrorKind::Denied)),
    ("etcdserver: not capable", Refused(ErrorKind::Unsupported)),
    ("etcdserver: corrupt cluster", Refused(ErrorKind::Corrupt)),
    // We never send such requests.
    ("etcdserver: key is not provided", Refused(ErrorKind::Internal)),
    ("etcdserver: key not found", Refused(ErrorKind::Internal)),
    ("etcdserver: duplicate key given in txn request", Refused(ErrorKind::Internal)),
    ("etcdserver: invalid sort option", Refused(ErrorKind::Internal)),
    ("etcdserver: requested lease not found", Refused(ErrorKind::Internal)),
    // The proposal is on its way, and may be applied after the member has given up waiting for it.
    ("etcdserver: request timed out", Open),
    ("etcdserver: request timed out, possibly due to previous leader failure", Open),
    ("etcdserver: request timed out, possibly due to connection lost", Open),
    ("etcdserver: request timed out, waiting for the applied index took too long", Open),
    ("etcdserver: leader changed", Open),
    ("etcdserver: server stopped", Open),
    ("etcdserver: unhealthy cluster", Open),
    ("etcdserver: request canceled", Open),
    ("etcdserver: context deadline exceeded", Open),
];

/// The error does not carry the oldest revision; callers that can find it fill it in.
const COMPACTED: ErrorKind = ErrorKind::Compacted { oldest: Revision(0) };

/// The refusals of gRPC in front of etcd, before etcd sees the message.
const TOO_LARGE: &str = "grpc: received message larger than max";

// === impl Failure ===

impl Failure {
    /// Sorts what the client library calls a status.
    pub(crate) fn new(status: Status) -> Self {
        let source = std::error::Error::source(&status);
        match source.map(|source| source.downcast_ref::<Broken>()) {
            // Only a status that was made on this side has a source.
            Some(Some(broken)) if !broken.sent => {
                Self::NotSent(Error::unavailable(format!("the connection is gone: {}", broken.source)))
            }
            Some(_) => Self::Lost(status.message().to_owned()),
            None => Self::Answered(status),
        }
    }

    /// Returns the error for a request that may have changed something.
    pub(crate) fn of_write(self) -> Error {
        match self {
            Self::NotSent(error) => error,
            Self::Lost(message) => {
                Error::new(ErrorKind::OutcomeUnknown, format!("the answer of etcd was lost: {message}"))
            }
            Self::Answered(status) => match meaning(&status) {
                Refused(kind) => refused(kind, &status),
                Open => Error::new(
                    ErrorKind::OutcomeUnknown,
                    format!("etcd does not know whether it was applied: {}", status.message()),
                ),
            },
        }
    }

    /// Returns the error for a request that only reads.
    pub(crate) fn of_read(self) -> Error {
        match self {
            Self::NotSent(error) => error,
            Self::Lost(message) => Error::unavailable(format!("the answer of etcd was lost: {message}")),
            Self::Answered(status) => match meaning(&status) {
                Refused(kind) => refused(kind, &status),
                Open => Error::unavailable(format!("etcd cannot answer: {}", status.message())),
            },
        }
    }

    /// Returns whether a new token may help: refused before anything is applied.
    pub(crate) fn wants_token(&self) -> bool {
        matches!(self, Self::Answered(status) if is_token_error(status.message()))
    }

    /// Returns whether another member may do better.
    pub(crate) fn wants_another_member(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Lost(_) => true,
            Self::Answered(status) => match meaning(status) {
                Open => true,
                Refused(kind) => kind == ErrorKind::Unavailable && status.code() != Code::ResourceExhausted,
            },
        }
    }

    /// Returns whether an answer was refused on this side because it is too large.
    pub(crate) fn is_large_answer(&self) -> bool {
        matches!(self, Self::Answered(status)
            if status.code() == Code::OutOfRange && status.message().contains("message length too large"))
    }
}

/// Returns whether etcd refuses the token, by `message`.
pub(crate) fn is_token_error(message: &str) -> bool {
    ["invalid auth token", "revision of auth store is old", "user name is empty"]
        .iter()
        .any(|reason| message.ends_with(reason))
}

/// Returns what etcd means by the reason with which it ends a watch.
pub(crate) fn of_watch(reason: &str) -> Error {
    let known = MEANINGS.iter().find(|(text, _)| reason.ends_with(text)).map(|(_, meaning)| *meaning);
    let kind = match known {
        Some(Refused(kind)) => kind,
        Some(Open) | None => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("etcd ended the watch: {reason}"))
}

fn meaning(status: &Status) -> Meaning {
    if let Some((_, meaning)) = MEANINGS.iter().find(|(text, _)| *text == status.message()) {
        return *meaning;
    }
    if status.message().starts_with(TOO_LARGE) {
        return Refused(ErrorKind::Invalid);
    }
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Refused(ErrorKind::Denied),
        Code::Unimplemented => Refused(ErrorKind::Unsupported),
        // An unknown error may mean that the request was applied.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Open,
    }
}

fn refused(kind: ErrorKind, status: &Status) -> Error {
    let hint = match kind {
        ErrorKind::Full => ": compact and defragment etcd, then disarm its alarm, or raise its quota",
        ErrorKind::Denied => ": check `username`, `password` and the role of the user on `prefix`",
        ErrorKind::Invalid => ": check `request-bytes-max` and `txn-ops-max` against etcd's own settings",
        ErrorKind::Unavailable
        | ErrorKind::OutcomeUnknown
        | ErrorKind::Config
        | ErrorKind::Compacted { .. }
        | ErrorKind::Closed
        | ErrorKind::Unsupported
        | ErrorKind::Corrupt
        | ErrorKind::Internal => "",
    };
    Error::new(kind, format!("etcd refuses: {}{hint}", status.message()))
}

// === impl Broken ===

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = if self.sent { "broke" } else { "was gone" };
        write!(f, "the connection {sent}: {}", self.source)
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers to a write, by code and text.
    fn write(code: Code, message: &str) -> ErrorKind {
        Failure::new(Status::new(code, message)).of_write().kind()
    }

    fn read(code: Code, message: &str) -> ErrorKind {
        Failure::new(Status::new(code, message)).of_read().kind()
    }

    /// The answers to a write, by the text after `etcdserver: ` and the code of etcd.
    const TABLE: &[(ErrorKind, Code, &str)] = &[
        (ErrorKind::Unavailable, Code::Unavailable, "no leader"),
        (ErrorKind::Unavailable, Code::ResourceExhausted, "too many requests"),
        (ErrorKind::Unavailable, Code::Unavailable, "rpc not supported for learner"),
        (ErrorKind::Unavailable, Code::OutOfRange, "mvcc: required revision is a future revision"),
        (ErrorKind::Unavailable, Code::InvalidArgument, "revision of auth store is old"),
        (ErrorKind::Full, Code::ResourceExhausted, "mvcc: database space exceeded"),
        (ErrorKind::Invalid, Code::InvalidArgument, "request is too large"),
        (ErrorKind::Invalid, Code::InvalidArgument, "too many operations in txn request"),
        (COMPACTED, Code::OutOfRange, "mvcc: required revision has been compacted"),
        (ErrorKind::Denied, Code::InvalidArgument, "authentication failed, invalid user ID or password"),
        (ErrorKind::Denied, Code::PermissionDenied, "permission denied"),
        (ErrorKind::Denied, Code::Unauthenticated, "invalid auth token"),
        (ErrorKind::Denied, Code::InvalidArgument, "user name is empty"),
        (ErrorKind::Denied, Code::FailedPrecondition, "user name not found"),
        (ErrorKind::Unsupported, Code::Unavailable, "not capable"),
        (ErrorKind::Corrupt, Code::DataLoss, "corrupt cluster"),
        (ErrorKind::Internal, Code::InvalidArgument, "key is not provided"),
        (ErrorKind::Internal, Code::InvalidArgument, "key not found"),
        (ErrorKind::Internal, Code::InvalidArgument, "duplicate key given in txn request"),
        (ErrorKind::Internal, Code::InvalidArgument, "invalid sort option"),
        (ErrorKind::Internal, Code::NotFound, "requested lease not found"),
        (UNKNOWN, Code::Unavailable, "request timed out"),
        (UNKNOWN, Code::Unavailable, "request timed out, possibly due to previous leader failure"),
        (UNKNOWN, Code::Unavailable, "request timed out, possibly due to connection lost"),
        (UNKNOWN, Code::Unavailable, "request timed out, waiting for the applied index took too long"),
        (UNKNOWN, Code::Unavailable, "leader changed"),
        (UNKNOWN, Code::Unavailable, "server stopped"),
        (UNKNOWN, Code::Unavailable, "unhealthy cluster"),
        (UNKNOWN, Code::Cancelled, "request canceled"),
        (UNKNOWN, Code::DeadlineExceeded, "context deadline exceeded"),
    ];
    const UNKNOWN: ErrorKind = ErrorKind::OutcomeUnknown;
    const DROPPED: &str = "raft proposal dropped";

    #[test]
    fn every_error_of_etcd_has_a_meaning() {
        for (kind, code, text) in TABLE {
            let message = format!("etcdserver: {text}");
            assert_eq!(write(*code, &message), *kind, "{message}");
            let read_kind = if *kind == UNKNOWN { ErrorKind::Unavailable } else { *kind };
            assert_eq!(read(*code, &message), read_kind, "{message}");
        }
        assert_eq!(write(Code::Unknown, DROPPED), ErrorKind::Unavailable);
        assert_eq!(MEANINGS.len(), TABLE.len() + 1, "everything that is known is in this table");
    }

    #[test]
    fn what_is_not_known_may_have_been_applied() {
        for code in [
            Code::Cancelled,
            Code::Unknown,
            Code::InvalidArgument,
            Code::DeadlineExceeded,
            Code::NotFound,
            Code::AlreadyExists,
            Code::ResourceExhausted,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::OutOfRange,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
        ] {
            assert_eq!(write(code, "never heard of"), ErrorKind::OutcomeUnknown, "{code:?}");
            assert_eq!(read(code, "never heard of"), ErrorKind::Unavailable, "{code:?}");
        }
    }

    #[test]
    fn what_stands_before_etcd_refuses_without_applying() {
        assert_eq!(write(Code::Unauthenticated, "who are you"), ErrorKind::Denied);
        assert_eq!(write(Code::PermissionDenied, "not you"), ErrorKind::Denied);
        assert_eq!(write(Code::Unimplemented, "unknown service"), ErrorKind::Unsupported);
        let large = "grpc: received message larger than max (3 vs. 2)";
        assert_eq!(write(Code::ResourceExhausted, large), ErrorKind::Invalid);
    }

    #[test]
    fn tokens_and_members_are_changed_when_that_may_help() {
        let failure = |code, message: &str| Failure::new(Status::new(code, message));
        assert!(failure(Code::Unauthenticated, "etcdserver: invalid auth token").wants_token());
        assert!(!failure(Code::PermissionDenied, "etcdserver: permission denied").wants_token());
        assert!(failure(Code::Unavailable, "etcdserver: no leader").wants_another_member());
        assert!(failure(Code::Unavailable, "etcdserver: request timed out").wants_another_member());
        assert!(!failure(Code::ResourceExhausted, "etcdserver: too many requests").wants_another_member());
        assert!(!failure(Code::InvalidArgument, "etcdserver: request is too large").wants_another_member());
    }

    #[test]
    fn a_watch_ends_with_what_etcd_says() {
        let kind = |reason: &str| of_watch(reason).kind();
        assert_eq!(
            kind("rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
            ErrorKind::Denied
        );
        assert_eq!(kind("etcdserver: mvcc: required revision has been compacted"), COMPACTED);
        assert_eq!(kind(""), ErrorKind::Unavailable);
    }
}
