// SPDX-License-Identifier: Apache-2.0
//! The owner and the session on whose behalf a call runs.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use atomix_env::{Instant, Shutdown};

use crate::error::Error;
use crate::kit::codec::{Decoder, Encoder};

/// The owner of a lock or a candidacy, as it is written into the store: a session of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The runtime instance, drawn by chance when it starts.
    pub member: u64,
    /// The session, counted by its member.
    pub session: u64,
}

/// The session that makes a call, and the signal that it wants nothing any more.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The owner of what the call acquires.
    pub owner: Owner,
    /// Fires when the session ended or closed the primitive: waiting calls end, streams end, and what a call takes
    /// after that is released at once.
    pub closed: Shutdown,
    /// After this moment nothing is granted to the call, because the answer may come too late for its client. `None` if the
    /// client waits however long it takes. Only calls that take a lock or enter an election look at it.
    pub deadline: Option<Instant>,
}

// === impl Owner ===

impl Owner {
    /// Bytes of an owner in a record.
    pub(crate) const BYTES: usize = 16;

    /// Adds the owner to a record: member (8), session (8).
    pub(crate) fn encode(self, record: Encoder) -> Encoder {
        record.u64(self.member).u64(self.session)
    }

    /// Takes an owner from a record.
    pub(crate) fn decode(record: &mut Decoder<'_>) -> Result<Self, Error> {
        Ok(Self { member: record.u64()?, session: record.u64()? })
    }
}

impl FromStr for Owner {
    type Err = ParseIntError;

    /// Reads what [`Owner`] is displayed as.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (member, session) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { member: u64::from_str_radix(member, 16)?, session: session.parse()? })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.member, self.session)
    }
}
