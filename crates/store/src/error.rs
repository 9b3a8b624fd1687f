// SPDX-License-Identifier: Apache-2.0
//! Errors of stores. Each kind defines the next step of the caller.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::model::Revision;

/// The reason why a store did not carry out a request. Clones share the cause.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The kind of an [`Error`], named by its meaning for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Certainly not applied; the same call may succeed later.
    Unavailable,
    /// May or may not have been applied. Never repeated blindly; with [`crate::Txn::once`] it can be looked up.
    OutcomeUnknown,
    /// The request breaks a rule or a limit of the store. Certainly not applied; fix the request.
    Invalid,
    /// The configuration of the store is wrong. Fix the configuration.
    Config,
    /// The history that a watch asked for is gone. Read the state and watch from there.
    Compacted {
        /// The oldest revision after which a watch can begin.
        oldest: Revision,
    },
    /// The store has no room. Certainly not applied; deletes still work.
    Full,
    /// The store was closed. Certainly not applied.
    Closed,
    /// The store cannot do this at all.
    Unsupported,
    /// The store refuses the credentials of the runtime. Tell an operator.
    Denied,
    /// Stored data is damaged. An operator has to act.
    Corrupt,
    /// A defect of this program. Report it.
    Internal,
}

// === impl Error ===

impl Error {
    /// Makes an error. `message` is lower case, without a period, facts last.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Makes an [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Makes an [`ErrorKind::Config`].
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// Makes an [`ErrorKind::Config`] for a new configuration of a connected store that would change the
    /// location of its data, because of these fields. Watches would continue with revisions of another order,
    /// and locks would be lost.
    pub fn location_change(fields: &str) -> Self {
        Self::config(format!(
            "{fields} identifies the data and cannot change on a connected store: disconnect the store, then \
             connect it with this configuration"
        ))
    }

    /// Makes an [`ErrorKind::Unavailable`].
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Makes an [`ErrorKind::Closed`].
    pub fn closed() -> Self {
        Self::new(ErrorKind::Closed, "store is closed")
    }

    /// Makes an [`ErrorKind::Compacted`].
    pub fn compacted(oldest: Revision) -> Self {
        Self::new(ErrorKind::Compacted { oldest }, format!("history is gone: oldest=`{oldest}`"))
    }

    /// Returns what this means for the caller.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns what happened, without the cause.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_clone_has_the_kind_the_text_and_the_cause() {
        let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::unavailable("disk does not work").caused_by(cause);
        let clone = error.clone();
        assert_eq!((clone.kind(), clone.message()), (ErrorKind::Unavailable, "disk does not work"));
        assert_eq!(clone.to_string(), error.to_string());
        let cause = clone.source().and_then(|source| source.downcast_ref::<std::io::Error>()).unwrap();
        assert_eq!(cause.kind(), std::io::ErrorKind::StorageFull);
    }
}
