// SPDX-License-Identifier: Apache-2.0
//! Numbers that only grow, of which some were never reported: versions, indices, tokens.

use serde::{Deserialize, Serialize};

/// A number that grows from one use to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Version {
    /// This one.
    Is(u64),
    /// Some number greater than this, which was not reported.
    After(u64),
}

// === impl Version ===

impl Version {
    /// Returns the number after `reported` was seen, or `None` if it cannot be that.
    pub(crate) fn learn(self, reported: u64) -> Option<Self> {
        self.may_be(reported).then_some(Self::Is(reported))
    }

    /// Returns whether it can be `reported`.
    pub(crate) fn may_be(self, reported: u64) -> bool {
        match self {
            Self::Is(known) => known == reported,
            Self::After(least) => reported > least,
        }
    }

    /// Returns whether it can be something else than `reported`.
    pub(crate) fn may_differ(self, reported: u64) -> bool {
        self != Self::Is(reported)
    }

    /// Returns whether it is greater than `reported`.
    pub(crate) fn is_past(self, reported: u64) -> bool {
        let (Self::Is(least) | Self::After(least)) = self;
        match self {
            Self::Is(_) => least > reported,
            Self::After(_) => least >= reported,
        }
    }

    /// Returns the next number, which is `reported` if there was a report, or `None` if it would not have
    /// grown.
    pub(crate) fn next(self, reported: Option<u64>) -> Option<Self> {
        let (Self::Is(least) | Self::After(least)) = self;
        match reported {
            Some(reported) => (reported > least).then_some(Self::Is(reported)),
            None => Some(Self::After(least)),
        }
    }

    /// The same of a number that two writes may share, as writes that a store batches do.
    pub(crate) fn next_or_same(self, reported: Option<u64>) -> Option<Self> {
        match (self, reported) {
            (Self::Is(least), Some(reported)) => (reported >= least).then_some(Self::Is(reported)),
            (Self::Is(least), None) => Some(Self::After(least.saturating_sub(1))),
            (Self::After(_), _) => self.next(reported),
        }
    }
}
