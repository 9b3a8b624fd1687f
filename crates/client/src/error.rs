// SPDX-License-Identifier: Apache-2.0
//! Errors of calls, by the action that the caller can take.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason of a failed call. One pointer in size.
pub struct Error {
    facts: Box<Facts>,
}

struct Facts {
    kind: Kind,
    code: Code,
    message: String,
    reason: Option<String>,
    transport: Option<TransportFailure>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The failure of an attempt to connect.
#[derive(Debug)]
pub(crate) struct DialError {
    pub(crate) failure: TransportFailure,
    pub(crate) message: String,
}

/// The kinds of errors. Each calls for another action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The named object does not exist. Create it, or continue without it.
    NotFound,
    /// The object to create exists. Use it.
    AlreadyExists,
    /// A condition did not hold: another version, a lock that another session holds. Read and decide again.
    Conflict,
    /// The request is wrong, or a value does not fit its codec. Fix the caller.
    Invalid,
    /// The call was certainly not applied. The client has repeated it until its retry budget was spent, unless something
    /// is full that does not become empty by itself; try later.
    Unavailable,
    /// The server forbids it: no route leads to a store, or the caller may not. Fix the configuration.
    Denied,
    /// The call was given up, or the primitive was closed while it waited.
    Cancelled,
    /// The deadline passed. A write may still have been applied: read before you repeat it.
    Timeout,
    /// A stream lost messages because its reader was too slow, or stored bytes are damaged. Open the stream again
    /// and read the state again.
    DataLoss,
    /// The answer was lost: a write may or may not have been applied. Read before you repeat it.
    OutcomeUnknown,
    /// The store or the server cannot do this. Use another driver.
    Unsupported,
    /// A defect. Report it to an operator.
    Internal,
}

/// The effect of a call, which decides the kind of error for a broken connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// No effect, so it can be repeated.
    Read,
    /// A change, which may have been applied although the answer was lost.
    Write,
    /// Something that the session owns. It ends with the connection, so the call can be repeated on a new one.
    Session,
}

/// The failure of a connection to the server, found by the client. No answer of the server was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportFailure {
    /// The endpoint does not accept connections.
    Unreachable,
    /// The rights of a Unix socket do not let this user connect.
    SocketDenied,
    /// The server closed the connection before any call, for example because it has too many connections.
    Refused,
    /// The endpoint does not speak HTTP/2, such as another program on the same port.
    NotHttp2,
    /// The connection broke during the call.
    Broken,
}

// === impl Error ===

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::build(kind, kind.code(), message.into(), None)
    }

    /// Makes the error for a value that its codec rejected.
    ///
    /// Codecs of applications use it in [`Codec`](crate::Codec).
    pub fn codec(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        let message = format!("value does not fit its codec: cause=`{source}`");
        let mut error = Self::build(Kind::Invalid, Code::InvalidArgument, message, Some(source));
        error.facts.reason = Some("VALUE_CODEC".to_owned());
        error
    }

    /// Makes the error for an answer without a field that the server must set.
    pub(crate) fn missing(field: &str) -> Self {
        Self::new(Kind::Internal, format!("answer without a required field: field=`{field}`"))
    }

    pub(crate) fn from_status(status: Status, access: Access) -> Self {
        let (kind, message, transport) = match status.source() {
            // The transport failed in the client: the server has not answered.
            Some(source) => {
                let cause = innermost(source).to_string();
                if find::<ConnectError>(source).is_some() {
                    let failure = find::<DialError>(source).map(|error| error.failure);
                    (Kind::Unavailable, cause, failure.or(Some(TransportFailure::Unreachable)))
                } else if find::<TimeoutExpired>(source).is_some() {
                    (Kind::Timeout, "no answer in time".to_owned(), None)
                } else {
                    let kind = if access == Access::Write { Kind::OutcomeUnknown } else { Kind::Unavailable };
                    let (failure, what) = if is_no_http2(&cause) {
                        (TransportFailure::NotHttp2, "server does not speak HTTP/2")
                    } else {
                        (TransportFailure::Broken, "connection broke during the call")
                    };
                    (kind, format!("{what}: cause=`{cause}`"), Some(failure))
                }
            }
            None => (Kind::of(status.code()), status.message().to_owned(), None),
        };
        let reason =
            status.get_details_error_info().map(|details| details.reason).filter(|reason| !reason.is_empty());
        let retry_after = status.get_details_retry_info().and_then(|details| details.retry_delay);
        let mut error = Self::build(kind, status.code(), message, Some(Box::new(status)));
        error.facts.reason = reason;
        error.facts.transport = transport;
        error.facts.retry_after = retry_after;
        error
    }

    /// Makes the error of a call that the server certainly did not receive, because it refused the connection.
    pub(crate) fn refused(reason: &str, status: Status) -> Self {
        let message = format!("the server refused the connection: {reason}");
        let mut error = Self::build(Kind::Unavailable, Code::Unavailable, message, Some(Box::new(status)));
        error.facts.transport = Some(TransportFailure::Refused);
        error
    }

    fn build(
        kind: Kind,
        code: Code,
        message: String,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        let facts = Facts { kind, code, message, reason: None, transport: None, retry_after: None, source };
        Self { facts: Box::new(facts) }
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.facts.kind
    }

    /// Returns the gRPC status code. An error that arose in the client has the code that fits its kind best.
    pub fn code(&self) -> Code {
        self.facts.code
    }

    /// Returns the message of the server, or that of the client if the error arose there.
    pub fn message(&self) -> &str {
        &self.facts.message
    }

    /// Returns the stable name of the exact cause, such as `LOCK_TOKEN_STALE`, if there is one.
    pub fn reason(&self) -> Option<&str> {
        self.facts.reason.as_deref()
    }

    /// Returns the failure of the connection, if the error arose there.
    pub fn transport_failure(&self) -> Option<TransportFailure> {
        self.facts.transport
    }

    /// Returns the time after which the server proposes a retry, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        self.facts.retry_after
    }

    /// Returns whether the same call may be repeated without doing anything twice.
    pub fn is_retryable(&self) -> bool {
        self.facts.kind == Kind::Unavailable
    }

    /// Returns whether a retry may have another outcome within seconds. A full store stays full until content is
    /// removed, and a program that does not speak HTTP/2 will not learn it.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self.reason(), Some("STORE_FULL" | "PRIMITIVES_FULL"))
            && self.transport_failure() != Some(TransportFailure::NotHttp2)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.facts.kind)
            .field("code", &self.facts.code)
            .field("message", &self.facts.message)
            .field("reason", &self.facts.reason)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.facts.kind)?;
        if !self.facts.message.is_empty() {
            write!(f, ": {}", self.facts.message)?;
        }
        if let Some(reason) = &self.facts.reason {
            write!(f, " reason=`{reason}`")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.facts.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Returns whether the HTTP/2 library received something else than HTTP/2. It has no own error for that.
fn is_no_http2(cause: &str) -> bool {
    cause.strip_prefix("connection error detected: ").is_some_and(|reason| {
        matches!(reason, "frame with invalid size" | "unspecific protocol error detected")
    })
}

/// Finds an error of type `T` in a chain of sources.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last
}

// === impl Kind ===

impl Kind {
    /// Returns the kind of a status that a server sent.
    fn of(code: Code) -> Self {
        match code {
            Code::Ok | Code::Internal => Self::Internal,
            Code::Cancelled => Self::Cancelled,
            Code::Unknown => Self::OutcomeUnknown,
            // The last three come from no Atomix service, but gRPC libraries use them for messages that are too large.
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::ResourceExhausted => {
                Self::Invalid
            }
            Code::DeadlineExceeded => Self::Timeout,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied,
            Code::Aborted => Self::Conflict,
            Code::Unimplemented => Self::Unsupported,
            Code::Unavailable => Self::Unavailable,
            Code::DataLoss => Self::DataLoss,
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::Conflict => Code::Aborted,
            Self::Invalid => Code::InvalidArgument,
            Self::Unavailable => Code::Unavailable,
            Self::Denied => Code::PermissionDenied,
            Self::Cancelled => Code::Cancelled,
            Self::Timeout => Code::DeadlineExceeded,
            Self::DataLoss => Code::DataLoss,
            Self::OutcomeUnknown => Code::Unknown,
            Self::Unsupported => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::DataLoss => "data loss",
            Self::OutcomeUnknown => "outcome unknown",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        })
    }
}

// === impl DialError ===

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for DialError {}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn broken() -> Status {
        Status::from_error(Box::new(std::io::Error::other("reset")))
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_of_a_write_unknown() {
        assert_eq!(Error::from_status(broken(), Access::Write).kind(), Kind::OutcomeUnknown);
        assert_eq!(Error::from_status(broken(), Access::Read).kind(), Kind::Unavailable);
        assert_eq!(Error::from_status(broken(), Access::Session).kind(), Kind::Unavailable);
    }

    #[test]
    fn a_refused_connection_is_certainly_not_applied() {
        let status = Status::from_error(Box::new(ConnectError("refused".into())));
        let error = Error::from_status(status, Access::Write);
        assert_eq!((error.kind(), error.message()), (Kind::Unavailable, "refused"));
    }

    #[test]
    fn a_failure_of_the_transport_has_a_code_and_a_message_of_the_server_has_none() {
        let failure = |status| Error::from_status(status, Access::Read).transport_failure();
        assert_eq!(failure(broken()), Some(TransportFailure::Broken));
        let denied = DialError { failure: TransportFailure::SocketDenied, message: "denied".to_owned() };
        let denied = Status::from_error(Box::new(ConnectError(Box::new(denied))));
        assert_eq!(failure(denied), Some(TransportFailure::SocketDenied));
        let no_http2 = "connection error detected: frame with invalid size";
        let no_http2 = Status::from_error(Box::new(std::io::Error::other(no_http2)));
        let error = Error::from_status(no_http2, Access::Read);
        assert_eq!(error.transport_failure(), Some(TransportFailure::NotHttp2));
        assert!(error.is_retryable() && !error.may_pass());
        let error = Error::from_status(Status::unavailable(error.message()), Access::Read);
        assert_eq!(error.transport_failure(), None);
        assert!(error.may_pass(), "the text of a message decides nothing");
    }

    #[test]
    fn an_expired_deadline_is_a_timeout() {
        let status = Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(Error::from_status(status, Access::Read).kind(), Kind::Timeout);
    }

    #[test]
    fn reason_and_delay_come_from_the_details() {
        let mut details = ErrorDetails::with_error_info("LOCK_TOKEN_STALE", "atomix", []);
        details.set_retry_info(Some(Duration::from_millis(30)));
        let status = Status::with_error_details(Code::Aborted, "stale", details);
        let error = Error::from_status(status, Access::Write);
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(error.reason(), Some("LOCK_TOKEN_STALE"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(30)));
        assert_eq!(error.to_string(), "conflict: stale reason=`LOCK_TOKEN_STALE`");
    }

    #[test]
    fn every_kind_leads_back_to_itself_through_its_code() {
        let kinds = [
            Kind::NotFound,
            Kind::AlreadyExists,
            Kind::Conflict,
            Kind::Invalid,
            Kind::Unavailable,
            Kind::Denied,
            Kind::Cancelled,
            Kind::Timeout,
            Kind::DataLoss,
            Kind::OutcomeUnknown,
            Kind::Unsupported,
            Kind::Internal,
        ];
        for kind in kinds {
            assert_eq!(Kind::of(kind.code()), kind);
        }
    }
}
