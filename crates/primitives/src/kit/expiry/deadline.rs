// SPDX-License-Identifier: Apache-2.0
//! The record of a deadline.

use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;
use crate::kit::codec::{Decoder, Encoder};

/// The value of a deadline key: deadline (8, wall milliseconds), TTL (8, milliseconds), member (8), deadline (8, monotonic
/// milliseconds of the member).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline {
    /// By the wall clock of the runtime that wrote it, in milliseconds.
    pub(super) wall: u64,
    /// The time to live in milliseconds.
    pub(super) ttl: u64,
    /// The runtime that wrote it; the first versions wrote none.
    pub(super) writer: Option<Writer>,
}

/// The member that wrote a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) member: u64,
    /// The deadline by the monotonic clock of the member, in milliseconds.
    pub(super) monotonic: u64,
}

// === impl Deadline ===

impl Deadline {
    pub(super) fn encode(self) -> Bytes {
        let record = Encoder::with_capacity(32).u64(self.wall).u64(self.ttl);
        match self.writer {
            Some(Writer { member, monotonic }) => record.u64(member).u64(monotonic),
            None => record,
        }
        .finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut record = Decoder::new("deadline", value);
        let (wall, ttl) = (record.u64()?, record.u64()?);
        let writer = if record.is_empty() {
            None
        } else {
            Some(Writer { member: record.u64()?, monotonic: record.u64()? })
        };
        record.end(Self { wall, ttl, writer })
    }

    pub(super) fn ttl(self) -> Duration {
        Duration::from_millis(self.ttl)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_deadline_is_read_as_it_was_written(
            wall in any::<u64>(), ttl in any::<u64>(), writer in any::<Option<(u64, u64)>>(),
        ) {
            let writer = writer.map(|(member, monotonic)| Writer { member, monotonic });
            let deadline = Deadline { wall, ttl, writer };
            prop_assert_eq!(Deadline::decode(&deadline.encode()), Ok(deadline));
        }

        #[test]
        fn any_bytes_are_a_deadline_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            match Deadline::decode(&bytes) {
                Ok(deadline) => prop_assert_eq!(deadline.encode(), bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("deadline")),
            }
        }
    }
}
