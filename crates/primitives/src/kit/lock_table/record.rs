// SPDX-License-Identifier: Apache-2.0
//! The record of a stamp.

use atomix_store::Entry;
use bytes::Bytes;

use crate::error::Error;
use crate::kit::caller::Owner;
use crate::kit::codec::{Decoder, Encoder};

/// The value of a stamp: owner (16), nonce (8), since (8, wall milliseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StampRecord {
    pub(super) owner: Owner,
    /// The number that only the stamps of one call have.
    pub(super) nonce: u64,
    /// The wall time of the runtime that wrote it, in milliseconds.
    pub(super) since: u64,
}

// === impl StampRecord ===

impl StampRecord {
    pub(super) fn encode(self) -> Bytes {
        let record = self.owner.encode(Encoder::with_capacity(Owner::BYTES + 16));
        record.u64(self.nonce).u64(self.since).finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut record = Decoder::new("lock", value);
        let owner = Owner::decode(&mut record)?;
        let stamp = Self { owner, nonce: record.u64()?, since: record.u64()? };
        record.end(stamp)
    }
}

/// Returns the records of `entries`, without those that cannot be read. Of these the first is left in `damaged`, so that a
/// walk releases all that it can and fails at its end.
pub(super) fn readable<'a>(
    entries: &'a [Entry],
    damaged: &mut Result<(), Error>,
) -> Vec<(&'a Entry, StampRecord)> {
    let mut readable = Vec::with_capacity(entries.len());
    for entry in entries {
        match StampRecord::decode(&entry.value) {
            Ok(record) => readable.push((entry, record)),
            Err(error) => *damaged = std::mem::replace(damaged, Ok(())).and(Err(error)),
        }
    }
    readable
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stamp_is_read_as_it_was_written((member, session, nonce, since) in any::<(u64, u64, u64, u64)>()) {
            let stamp = StampRecord { owner: Owner { member, session }, nonce, since };
            prop_assert_eq!(StampRecord::decode(&stamp.encode()), Ok(stamp));
        }

        #[test]
        fn any_bytes_are_a_stamp_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            match StampRecord::decode(&bytes) {
                Ok(stamp) => prop_assert_eq!(stamp.encode(), bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("lock")),
            }
        }
    }
}
