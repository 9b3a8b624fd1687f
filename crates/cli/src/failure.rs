// SPDX-License-Identifier: Apache-2.0
//! Failures: message, hint and exit code.

use std::io;
use std::process::ExitCode;

use atomix_client::{Error, Kind, TransportFailure};

use crate::text::show;

/// Done.
pub(crate) const DONE: ExitCode = ExitCode::SUCCESS;
/// Not found.
pub(crate) const NOT_FOUND: u8 = 3;
/// Exists already, has another version, or is held by another session.
pub(crate) const CONFLICT: u8 = 4;
/// The server or the store is not available.
pub(crate) const UNAVAILABLE: u8 = 5;

/// The kind of a failure of the arguments.
pub(crate) const USAGE: &str = "usage";

/// The failure of a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server answered with an error, or not at all.
    Call(Error, Side),
    /// The server refused a command that `--force` would have made it accept.
    Unforced(Error),
    /// The requested object does not exist, with the reason that the server gives for the same.
    Absent(String, &'static str),
    /// The command would lose content and did nothing: the reason, and how to force it.
    Refused(String, &'static str),
    /// The server did not answer within `--timeout`.
    Late(&'static str),
    /// Another failure, with the exit code of the options.
    Coded(Box<Self>, u8),
    /// The arguments are wrong in a way that the parser cannot see.
    Usage(String),
    /// The files of a store are damaged or missing.
    Files(String),
    /// The load generator could not begin.
    Load(atomix_load::Failure),
    /// Reading or writing failed.
    Io(&'static str, io::Error),
}

/// The called address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Primitives,
    Control,
}

/// Makes the failure for a key that does not exist.
pub(crate) fn absent(key: &str) -> Failure {
    Failure::Absent(format!("key=`{}`", show(key.as_bytes())), "KEY_NOT_FOUND")
}

/// Returns `DONE` if `found`, the code of an absence if not.
pub(crate) fn found(found: bool) -> ExitCode {
    if found { DONE } else { ExitCode::from(NOT_FOUND) }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error, Side::Primitives)
    }
}

impl From<atomix_load::Failure> for Failure {
    fn from(failure: atomix_load::Failure) -> Self {
        Self::Load(failure)
    }
}

impl Failure {
    pub(crate) fn control(error: Error) -> Self {
        Self::Call(error, Side::Control)
    }

    /// Makes the failure of a call to the control services that has an option `force`.
    pub(crate) fn control_forced(error: Error, force: bool) -> Self {
        let forceable = !force && error.reason() == Some("IN_USE");
        if forceable { Self::Unforced(error) } else { Self::control(error) }
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Call(error, _) | Self::Unforced(error) => match error.kind() {
                Kind::NotFound => NOT_FOUND,
                Kind::AlreadyExists | Kind::Conflict => CONFLICT,
                Kind::Unavailable => UNAVAILABLE,
                Kind::Invalid
                | Kind::Denied
                | Kind::Cancelled
                | Kind::Timeout
                | Kind::DataLoss
                | Kind::OutcomeUnknown
                | Kind::Unsupported
                | Kind::Internal
                | _ => 1,
            },
            Self::Absent(..) => NOT_FOUND,
            Self::Refused(..) => CONFLICT,
            Self::Coded(_, code) => *code,
            Self::Usage(_) => 2,
            Self::Late(_) | Self::Load(atomix_load::Failure::Broken(_)) => UNAVAILABLE,
            Self::Load(_) | Self::Files(_) | Self::Io(..) => 1,
        }
    }

    /// Returns the kind, for programs.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Call(error, _) | Self::Unforced(error) => error.kind().to_string(),
            Self::Absent(..) => Kind::NotFound.to_string(),
            Self::Late(_) => Kind::Timeout.to_string(),
            Self::Load(atomix_load::Failure::Broken(_)) => Kind::Unavailable.to_string(),
            Self::Coded(failure, _) => failure.kind(),
            Self::Refused(..) => Kind::Conflict.to_string(),
            Self::Usage(_) => USAGE.to_owned(),
            Self::Load(_) => "load".to_owned(),
            Self::Files(_) => "files".to_owned(),
            Self::Io(..) => "input or output".to_owned(),
        }
    }

    /// Returns the stable name of the exact cause, if it has one.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Call(error, _) | Self::Unforced(error) => error.reason(),
            Self::Absent(_, reason) => Some(reason),
            Self::Coded(failure, _) => failure.reason(),
            Self::Refused(..)
            | Self::Late(_)
            | Self::Usage(_)
            | Self::Load(_)
            | Self::Files(_)
            | Self::Io(..) => None,
        }
    }

    /// Returns a hint how to solve it, if there is one.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        const SERVE: &str = "is `atomix serve` running? give its address with --server or ATOMIX_SERVER";
        const SERVE_CONTROL: &str = "is `atomix serve` running? give its control address with --control-server or ATOMIX_CONTROL_SERVER";
        const UNFORCED: &str =
            "nothing was lost; --force loses what the message names, except what other processes own";
        let (error, side) = match self {
            Self::Call(error, side) => (error, side),
            Self::Load(atomix_load::Failure::Broken(_)) => return Some(SERVE),
            Self::Late(_) => return Some("see `atomix store list`, or try again with a longer --timeout"),
            Self::Coded(failure, _) => return failure.hint(),
            Self::Refused(_, hint) => return Some(hint),
            Self::Unforced(_) => return Some(UNFORCED),
            Self::Absent(..) | Self::Usage(_) | Self::Files(_) | Self::Load(_) | Self::Io(..) => return None,
        };
        if error.reason() == Some("DRIVER_UNKNOWN") {
            return Some("see `atomix inspect drivers`");
        }
        match (error.transport_failure(), side) {
            (Some(TransportFailure::Unreachable), Side::Primitives) => return Some(SERVE),
            (Some(TransportFailure::Unreachable), Side::Control) => return Some(SERVE_CONTROL),
            (Some(TransportFailure::NotHttp2), _) => {
                return Some("another program listens there: are --server and --control-server right?");
            }
            (Some(TransportFailure::Broken), _) => {
                return Some("the server closed the connection; is `atomix serve` still running?");
            }
            _ => {}
        }
        match (error.kind(), side) {
            (Kind::Unavailable, _) => {
                Some("nothing was changed; see `atomix store list` and `atomix route list`, then try again")
            }
            (Kind::Denied, Side::Primitives) => {
                Some("routes choose the store by type, name and tags; see `atomix route explain`")
            }
            (Kind::Timeout, _) => {
                Some("a write may have been applied: read first, then try again with a longer --timeout")
            }
            (Kind::OutcomeUnknown, _) => Some("a write may have been applied: read before you repeat it"),
            (Kind::DataLoss, _) => Some("read the state again, then watch again"),
            (Kind::Unsupported, Side::Primitives) => Some(
                "another driver may know it; see `atomix inspect drivers`, and whether --server is the right address",
            ),
            // A server that gives a reason is an `atomix serve`.
            (Kind::Unsupported, Side::Control) if error.reason().is_none() => {
                Some("is --control-server the address of an `atomix serve`?")
            }
            (Kind::Internal, _) => Some("this is a defect; see the log of the server"),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(error, _) | Self::Unforced(error) => error.fmt(f),
            Self::Load(failure) => failure.fmt(f),
            Self::Absent(what, _) => write!(f, "not found: {what}"),
            Self::Late(what) => f.write_str(what),
            Self::Coded(failure, _) => failure.fmt(f),
            Self::Usage(message) | Self::Files(message) | Self::Refused(message, _) => f.write_str(message),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_server_leads_to_serve() {
        let folder = std::env::temp_dir().join("atomix-no-such-socket");
        let endpoint = format!("unix:{}", folder.display());
        let error = atomix_client::Client::builder().endpoint(endpoint).connect().await.unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.code(), 5);
        assert!(failure.hint().unwrap().contains("`atomix serve` running?"));
    }

    #[test]
    fn usage_is_code_two() {
        assert_eq!(Failure::Usage("no".into()).code(), 2);
        assert_eq!(Failure::Usage("no".into()).hint(), None);
    }

    #[test]
    fn an_exit_code_that_was_asked_for_changes_nothing_else() {
        let failure = Failure::Coded(Box::new(absent("k")), 77);
        assert_eq!(failure.code(), 77);
        assert_eq!(failure.to_string(), absent("k").to_string());
        assert_eq!((failure.kind().as_str(), failure.reason()), ("not found", Some("KEY_NOT_FOUND")));
    }
}
