// SPDX-License-Identifier: Apache-2.0
//! Entries that are numbers, as [`atomix_store::Write::Add`] keeps them.

use atomix_store::{Entry, Outcome, Written};

use crate::error::Error;

/// Returns the number that an entry holds.
pub(crate) fn number(entry: &Entry) -> Result<i64, Error> {
    atomix_store::number(&entry.value).ok_or_else(|| Error::damaged("number"))
}

/// Returns the number after the addition that a transaction consists of.
pub(crate) fn added(outcome: &Outcome) -> Result<i64, Error> {
    match outcome.writes.first() {
        Some(Written::Added { value }) => Ok(*value),
        // The outcome of a named request is that of the first of its name, which was another call.
        _ => Err(Error::invalid("the name of the request was used for another call: draw a new one")),
    }
}
