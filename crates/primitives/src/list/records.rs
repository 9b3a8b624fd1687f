// SPDX-License-Identifier: Apache-2.0
//! The records of a list.

use bytes::Bytes;

use crate::error::Error;
use crate::kit::codec::{Decoder, Encoder, LENGTH};

/// The chunks of a list: next chunk id (8), then per chunk in order: id (8), items (4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Root {
    pub(super) next: u64,
    pub(super) chunks: Vec<Chunk>,
}

/// A chunk as its root names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) id: u64,
    pub(super) items: u32,
}

/// The last change of a list, which the chunks do not show for equal neighbours: kind (1), index (4), length of the value (4),
/// value, previous value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Appended { index: u32, value: Bytes },
    Inserted { index: u32, value: Bytes },
    Updated { index: u32, value: Bytes, previous: Bytes },
    Removed { index: u32, value: Bytes },
    Cleared,
}

const APPENDED: u8 = 1;
const INSERTED: u8 = 2;
const UPDATED: u8 = 3;
const REMOVED: u8 = 4;
const CLEARED: u8 = 5;

// === impl Root ===

impl Root {
    pub(super) fn encode(&self) -> Bytes {
        let record = Encoder::with_capacity(8 + 12 * self.chunks.len()).u64(self.next);
        let add = |record: Encoder, chunk: &Chunk| record.u64(chunk.id).u32(chunk.items);
        self.chunks.iter().fold(record, add).finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut record = Decoder::new("root of a list", value);
        let mut root = Self { next: record.u64()?, chunks: Vec::with_capacity(value.len() / 12) };
        while !record.is_empty() {
            root.chunks.push(Chunk { id: record.u64()?, items: record.u32()? });
        }
        Ok(root)
    }
}

// === impl Chunk ===

impl Chunk {
    /// Encodes the items of a chunk, each as its length (4) and its bytes.
    pub(super) fn encode(items: &[Bytes]) -> Bytes {
        let record = Encoder::with_capacity(items.iter().map(|item| LENGTH + item.len()).sum());
        items.iter().fold(record, |record, item| record.part(item)).finish()
    }

    /// Decodes the items of this chunk: as many as its root counts.
    pub(super) fn decode(self, value: &Bytes) -> Result<Vec<Bytes>, Error> {
        let (mut record, mut items) = (Decoder::new("chunk of a list", value), Vec::new());
        while !record.is_empty() {
            items.push(value.slice_ref(record.part()?));
        }
        if items.len() == self.items as usize { Ok(items) } else { Err(record.damaged()) }
    }
}

// === impl Operation ===

impl Operation {
    pub(super) fn encode(&self) -> Bytes {
        let (kind, index, value, previous): (_, _, &[u8], &[u8]) = match self {
            Self::Appended { index, value } => (APPENDED, *index, value, &[]),
            Self::Inserted { index, value } => (INSERTED, *index, value, &[]),
            Self::Updated { index, value, previous } => (UPDATED, *index, value, previous),
            Self::Removed { index, value } => (REMOVED, *index, value, &[]),
            Self::Cleared => (CLEARED, 0, &[], &[]),
        };
        let record = Encoder::with_capacity(5 + LENGTH + value.len() + previous.len());
        record.u8(kind).u32(index).part(value).rest(previous).finish()
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<Self, Error> {
        let mut record = Decoder::new("operation of a list", bytes);
        let (kind, index, value) = (record.u8()?, record.u32()?, bytes.slice_ref(record.part()?));
        let operation = match kind {
            UPDATED => {
                return Ok(Self::Updated { index, value, previous: bytes.slice_ref(record.rest()) });
            }
            APPENDED => Self::Appended { index, value },
            INSERTED => Self::Inserted { index, value },
            REMOVED => Self::Removed { index, value },
            CLEARED if index == 0 && value.is_empty() => Self::Cleared,
            _ => return Err(record.damaged()),
        };
        record.end(operation)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kit::codec;

    fn operations() -> impl Strategy<Value = Operation> {
        let value = || any::<Vec<u8>>().prop_map(Bytes::from);
        (0..5, any::<u32>(), value(), value()).prop_map(|(kind, index, value, previous)| match kind {
            0 => Operation::Appended { index, value },
            1 => Operation::Inserted { index, value },
            2 => Operation::Updated { index, value, previous },
            3 => Operation::Removed { index, value },
            _ => Operation::Cleared,
        })
    }

    proptest! {
        #[test]
        fn a_root_is_read_as_it_was_written(next in any::<u64>(), chunks in any::<Vec<(u64, u32)>>()) {
            let chunks = chunks.into_iter().map(|(id, items)| Chunk { id, items }).collect();
            let root = Root { next, chunks };
            prop_assert_eq!(Root::decode(&root.encode()), Ok(root));
        }

        #[test]
        fn items_are_read_as_they_were_written(items in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let items: Vec<Bytes> = items.into_iter().map(Bytes::from).collect();
            let chunk = Chunk { id: 1, items: u32::try_from(items.len()).unwrap() };
            let more = Chunk { items: chunk.items + 1, ..chunk };
            let value = Chunk::encode(&items);
            prop_assert_eq!(more.decode(&value), Err(Error::damaged("chunk of a list")));
            prop_assert_eq!(chunk.decode(&value), Ok(items));
        }

        #[test]
        fn an_operation_is_read_as_it_was_written(operation in operations()) {
            prop_assert_eq!(Operation::decode(&operation.encode()), Ok(operation));
        }

        #[test]
        fn any_bytes_are_records_or_damage(bytes in codec::tests::bytes(), items in 0u32..4) {
            let bytes = Bytes::from(bytes);
            match Root::decode(&bytes) {
                Ok(root) => prop_assert_eq!(root.encode(), &bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("root of a list")),
            }
            match (Chunk { id: 1, items }).decode(&bytes) {
                Ok(items) => prop_assert_eq!(Chunk::encode(&items), &bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("chunk of a list")),
            }
            match Operation::decode(&bytes) {
                Ok(operation) => prop_assert_eq!(operation.encode(), &bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("operation of a list")),
            }
        }
    }
}
