// SPDX-License-Identifier: Apache-2.0
//! Errors that several parts of a runtime make.

use atomix_config::StoreId;
use atomix_primitives::{Error, ErrorKind, Reason};

/// Makes the error of calls to a runtime that drains or has ended.
pub fn shutting_down() -> Error {
    Error::new(Reason::Draining, "the runtime is shutting down: try another one or later")
}

pub(crate) fn not_connected(id: &StoreId) -> Error {
    Error::new(Reason::NotKnown, format!("store is not connected: store=`{id}`"))
}

/// Makes the error of a step that may be repeated independent of its outcome.
pub(crate) fn repeatable(error: Error) -> Error {
    if error.kind() == ErrorKind::OutcomeUnknown {
        return Error::new(Reason::StoreUnavailable, error.message().to_owned());
    }
    error
}
