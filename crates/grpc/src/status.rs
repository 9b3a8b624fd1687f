// SPDX-License-Identifier: Apache-2.0
//! The one place where an error becomes a gRPC status: `contract/README.md` section 5.
//!
//! `RESOURCE_EXHAUSTED`, `FAILED_PRECONDITION` and `OUT_OF_RANGE` are never sent: the Go SDK has no mapping for them.

use std::collections::HashMap;
use std::time::Duration;

use atomix_primitives::{Error, ErrorKind, Reason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of our reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "atomix";

/// When a client should try again what certainly was not applied.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Makes the status of a unary call.
#[allow(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
pub(crate) fn status(error: Error) -> Status {
    with_details(code(error.kind()), &error)
}

/// Makes the status of a stream.
///
/// The Go SDK opens a stream that ended with UNAVAILABLE again at once, without a pause: a condition that lasts must
/// have another code. Only a runtime that is about to end answers UNAVAILABLE.
#[allow(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
pub(crate) fn stream_status(error: Error) -> Status {
    let code = if error.reason() == Reason::NotOpen {
        Code::NotFound
    } else if error.kind() == ErrorKind::Unavailable && error.reason() != Reason::Draining {
        Code::Aborted
    } else {
        code(error.kind())
    };
    with_details(code, &error)
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Timeout => Code::DeadlineExceeded,
        ErrorKind::OutcomeUnknown => Code::Unknown,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    }
}

fn with_details(code: Code, error: &Error) -> Status {
    let mut details =
        ErrorDetails::with_error_info(error.reason().code(), DOMAIN, HashMap::<String, String>::new());
    if code == Code::Unavailable {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(code, error.message(), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_the_go_sdk_cannot_map_are_never_sent() {
        for reason in Reason::ALL {
            for status in [status(Error::new(*reason, "x")), stream_status(Error::new(*reason, "x"))] {
                let unmapped =
                    [Code::Ok, Code::ResourceExhausted, Code::FailedPrecondition, Code::OutOfRange];
                assert!(!unmapped.contains(&status.code()), "{reason:?}");
            }
        }
    }

    #[test]
    fn a_stream_is_unavailable_only_while_the_runtime_ends() {
        for reason in Reason::ALL {
            let unavailable = stream_status(Error::new(*reason, "x")).code() == Code::Unavailable;
            assert_eq!(unavailable, *reason == Reason::Draining, "{reason:?}");
        }
    }

    #[test]
    fn the_reason_travels_in_the_details() {
        let status = status(Error::new(Reason::LockTimeout, "late"));
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "LOCK_TIMEOUT");
        assert_eq!(status.message(), "late");
    }
}
