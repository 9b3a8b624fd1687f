// SPDX-License-Identifier: Apache-2.0
//! What can go wrong, named by what the caller can do about it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Says why a call did not succeed. One pointer in size.
pub struct Error {
    facts: Box<Facts>,
}

struct Facts {
    kind: Kind,
    code: Code,
    message: String,
    reason: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of errors. Each stands for another remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// What the call named does not exist. Create it, or go without.
    NotFound,
    /// What the call was to create exists. Use it.
    AlreadyExists,
    /// A condition did not hold: another version, a lock that somebody else has. Read and decide again.
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
    /// The time was over. A write may still have been applied: read before you repeat it.
    Timeout,
    /// A stream lost messages because its reader was too slow, or stored bytes are damaged. Open the stream again
    /// and read the state anew.
    DataLoss,
    /// The answer was lost: a write may or may not have been applied. Read before you repeat it.
    OutcomeUnknown,
    /// The store or the server cannot do this. Use another driver.
    Unsupported,
    /// A defect. Tell an operator.
    Internal,
}

/// What a call leaves behind, which decides what a broken connection means for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing, so it can be repeated.
    Read,
    /// A change, which may have been applied although the answer was lost.
    Write,
    /// Something that the session owns. It ends with the connection, so the call can be repeated on a new one.
    Session,
}

// === impl Error ===

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::build(kind, kind.code(), message.into(), None)
    }

    /// Makes the error for a value that its codec refused.
    ///
    /// Codecs of applications use it in [`Codec`](crate::Codec).
    pub fn codec(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        let message = format!("value does not fit its codec: cause=`{source}`");
        let mut error = Self::build(Kind::Invalid, Code::InvalidArgument, message, Some(source));
        error.facts.reason = Some("VALUE_CODEC".to_owned());
        error
    }

    /// Says that the server left out a field that it must set.
    pub(crate) fn missing(field: &str) -> Self {
        Self::new(Kind::Internal, format!("answer without a required field: field=`{field}`"))
    }

    pub(crate) fn from_status(status: Status, access: Access) -> Self {
        let (kind, message) = match status.source() {
            // The transport failed here: no server has said anything.
            Some(source) => {
                let cause = innermost(source);
                if find::<ConnectError>(source) {
                    (Kind::Unavailable, cause.to_string())
                } else if find::<TimeoutExpired>(source) {
                    (Kind::Timeout, "no answer in time".to_owned())
                } else {
                    let kind = if access == Access::Write { Kind::OutcomeUnknown } else { Kind::Unavailable };
                    let cause = cause.to_string();
                    let what =
                        if is_no_http2(&cause) { NOT_HTTP2 } else { "connection broke during the call" };
                    (kind, format!("{what}: cause=`{cause}`"))
                }
            }
            None => (Kind::of(status.code()), status.message().to_owned()),
        };
        let reason =
            status.get_details_error_info().map(|details| details.reason).filter(|reason| !reason.is_empty());
        let retry_after = status.get_details_retry_info().and_then(|details| details.retry_delay);
        let mut error = Self::build(kind, status.code(), message, Some(Box::new(status)));
        error.facts.reason = reason;
        error.facts.retry_after = retry_after;
        error
    }

    /// Makes the error of a call that the server certainly did not receive, because it refused the connection.
    pub(crate) fn refused(reason: &str, status: Status) -> Self {
        let message = format!("the server refused the connection: {reason}");
        Self::build(Kind::Unavailable, Code::Unavailable, message, Some(Box::new(status)))
    }

    fn build(
        kind: Kind,
        code: Code,
        message: String,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { facts: Box::new(Facts { kind, code, message, reason: None, retry_after: None, source }) }
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.facts.kind
    }

    /// Returns the gRPC status code. An error that arose in the client has the code that fits its kind best.
    pub fn code(&self) -> Code {
        self.facts.code
    }

    /// Returns the message of the server, or what the client has to say.
    pub fn message(&self) -> &str {
        &self.facts.message
    }

    /// Returns the stable name of the exact cause, such as `LOCK_TOKEN_STALE`, if there is one.
    pub fn reason(&self) -> Option<&str> {
        self.facts.reason.as_deref()
    }

    /// Returns after which time the server proposes to try again, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        self.facts.retry_after
    }

    /// Returns whether the same call may be repeated without doing anything twice.
    pub fn is_retryable(&self) -> bool {
        self.facts.kind == Kind::Unavailable
    }

    /// Returns whether a repetition may have another outcome within seconds. A full store stays full until content is
    /// removed, and another protocol stays what it is.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self.reason(), Some("STORE_FULL" | "PRIMITIVES_FULL"))
            && !self.message().starts_with(NOT_HTTP2)
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

/// The message of a call to something that is no gRPC server, such as another program on the same port.
const NOT_HTTP2: &str = "server does not speak HTTP/2";

/// Returns whether the HTTP/2 library found that what it received is none. It has no better name for that.
fn is_no_http2(cause: &str) -> bool {
    cause.strip_prefix("connection error detected: ").is_some_and(|reason| {
        matches!(reason, "frame with invalid size" | "unspecific protocol error detected")
    })
}

fn find<T: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<T>() {
            return true;
        }
        cause = error.source();
    }
    false
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
    /// Returns the kind that stands for a status that a server sent.
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
