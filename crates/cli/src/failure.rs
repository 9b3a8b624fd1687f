// SPDX-License-Identifier: Apache-2.0
//! What went wrong, as a message with a remedy and an exit code.

use std::io;
use std::process::ExitCode;

use atomix_client::{Error, Kind};

use crate::text::show;

/// Done.
pub(crate) const DONE: ExitCode = ExitCode::SUCCESS;
/// Not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// There already, at another version, or held by somebody else.
pub(crate) const CONFLICT: u8 = 4;
/// Nobody to answer.
pub(crate) const UNAVAILABLE: u8 = 5;

/// Why a command did not do what it was to do.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said no, or nothing.
    Call(Error, Side),
    /// What was asked for is not there.
    Absent(String),
    /// The arguments are wrong in a way that the parser cannot see.
    Usage(String),
    /// The files of a store are not as they should be, or not where they should be.
    Files(String),
    /// The load generator could not begin.
    Load(atomix_load::Failure),
    /// Reading or writing failed.
    Io(&'static str, io::Error),
}

/// Which address was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Primitives,
    Control,
}

/// Says that a key is not there.
pub(crate) fn absent(key: &str) -> Failure {
    Failure::Absent(format!("key=`{}`", show(key.as_bytes())))
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

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Call(error, _) => match error.kind() {
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
            Self::Absent(_) => NOT_FOUND,
            Self::Usage(_) => 2,
            Self::Load(atomix_load::Failure::Broken(_)) => UNAVAILABLE,
            Self::Load(_) | Self::Files(_) | Self::Io(..) => 1,
        }
    }

    /// Returns what to do about it, if anything is known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        const SERVE: &str = "is `atomix serve` running? give its address with --server or ATOMIX_SERVER";
        if matches!(self, Self::Load(atomix_load::Failure::Broken(_))) {
            return Some(SERVE);
        }
        let Self::Call(error, side) = self else { return None };
        let unreachable = error.message().starts_with("server not reachable");
        if error.reason() == Some("DRIVER_UNKNOWN") {
            return Some("see `atomix inspect drivers`");
        }
        if error.message().starts_with("connection broke") {
            return Some("the server has gone; is `atomix serve` still running?");
        }
        match (error.kind(), side) {
            (Kind::Unavailable, Side::Primitives) if unreachable => Some(SERVE),
            (Kind::Unavailable, Side::Control) if unreachable => Some(
                "is `atomix serve` running? give its control address with --control-server or ATOMIX_CONTROL_SERVER",
            ),
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
            (Kind::DataLoss, _) => Some("read the state anew, then watch again"),
            (Kind::Unsupported, Side::Primitives) => Some(
                "another driver may know it; see `atomix inspect drivers`, and whether --server is the right address",
            ),
            // What names a reason is an `atomix serve`.
            (Kind::Unsupported, Side::Control) if error.reason().is_none() => {
                Some("is --control-server the address of an `atomix serve`?")
            }
            (Kind::Internal, _) => Some("this is a defect; the log of the server knows more"),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(error, _) => error.fmt(f),
            Self::Load(failure) => failure.fmt(f),
            Self::Absent(what) => write!(f, "not found: {what}"),
            Self::Usage(message) | Self::Files(message) => f.write_str(message),
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
}
