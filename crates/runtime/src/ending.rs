// SPDX-License-Identifier: Apache-2.0
//! Names whose end is under way.

use std::collections::HashSet;

use atomix_primitives::{Error, Kind, Reason};
use atomix_store::printable;
use parking_lot::Mutex;

/// Names that cannot be created at the moment, because an operator ends what they stand for.
#[derive(Debug, Default)]
pub(crate) struct Ending(Mutex<HashSet<(Kind, String)>>);

// === impl Ending ===

impl Ending {
    /// Refuses to open a name whose end is under way. To be asked under the lock of the table of its kind.
    pub(crate) fn check(&self, kind: Kind, name: &str) -> Result<(), Error> {
        let ending = self.0.lock();
        if ending.is_empty() || !ending.contains(&(kind, name.to_owned())) {
            return Ok(());
        }
        let name = printable(name);
        let message =
            format!("an operator closes or deletes the primitive at the moment, try again: '{name}'");
        Err(Error::new(Reason::NotOpen, message))
    }

    /// Keeps the name from being created until [`Ending::remove`].
    pub(crate) fn insert(&self, kind: Kind, name: &str) -> Result<(), Error> {
        if self.0.lock().insert((kind, name.to_owned())) {
            return Ok(());
        }
        let message = "another operator closes or deletes the primitive at the moment: try again";
        Err(Error::new(Reason::Contention, message))
    }

    pub(crate) fn remove(&self, kind: Kind, name: String) {
        self.0.lock().remove(&(kind, name));
    }
}
