// SPDX-License-Identifier: Apache-2.0
//! Numbers that only grow, of which some were never told: versions, indices, tokens.

use serde::{Deserialize, Serialize};

/// A number that grows from one use to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Version {
    /// This one.
    Is(u64),
    /// Some number greater than this, which nobody was told.
    After(u64),
}

// === impl Version ===

impl Version {
    /// Returns what it is if `told` tells it, or `None` if it cannot be that.
    pub(crate) fn learn(self, told: u64) -> Option<Self> {
        self.may_be(told).then_some(Self::Is(told))
    }

    /// Tells whether it can be `told`.
    pub(crate) fn may_be(self, told: u64) -> bool {
        match self {
            Self::Is(known) => known == told,
            Self::After(least) => told > least,
        }
    }

    /// Tells whether it can be something else than `told`.
    pub(crate) fn may_differ(self, told: u64) -> bool {
        self != Self::Is(told)
    }

    /// Tells whether it is greater than `told`.
    pub(crate) fn is_past(self, told: u64) -> bool {
        let (Self::Is(least) | Self::After(least)) = self;
        match self {
            Self::Is(_) => least > told,
            Self::After(_) => least >= told,
        }
    }

    /// Returns the next number, which is `told` if anybody was told, or `None` if it would not have grown.
    pub(crate) fn next(self, told: Option<u64>) -> Option<Self> {
        let (Self::Is(least) | Self::After(least)) = self;
        match told {
            Some(told) => (told > least).then_some(Self::Is(told)),
            None => Some(Self::After(least)),
        }
    }

    /// The same of a number that two writes may share, as those do that a store packs together.
    pub(crate) fn next_or_same(self, told: Option<u64>) -> Option<Self> {
        match (self, told) {
            (Self::Is(least), Some(told)) => (told >= least).then_some(Self::Is(told)),
            (Self::Is(least), None) => Some(Self::After(least.saturating_sub(1))),
            (Self::After(_), _) => self.next(told),
        }
    }
}
