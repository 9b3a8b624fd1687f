// SPDX-License-Identifier: Apache-2.0
//! Failures of calls.

use std::fmt;

/// A call that did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server answered with this gRPC status.
    Status(u16, String),
    /// The connection is of no more use.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code, message) => write!(f, "status {code}: {message}"),
            Self::Broken(cause) => write!(f, "connection broke: {cause}"),
        }
    }
}

impl std::error::Error for Failure {}
