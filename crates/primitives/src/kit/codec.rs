// SPDX-License-Identifier: Apache-2.0
//! The bytes of keys and records: numbers of fixed length, big endian, and parts of any length.
//!
//! A part that others follow has its length (4) before it. Bytes that cannot be read are
//! [`Reason::StoreCorrupt`](crate::Reason::StoreCorrupt), never a panic, and never less than they were.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;

/// Bytes of the length before a part.
pub(crate) const LENGTH: usize = 4;

/// Writes a key or a record, part by part.
#[derive(Debug)]
pub(crate) struct Encoder(BytesMut);

/// Reads a key or a record, part by part.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    /// The name of the record in errors.
    record: &'static str,
    rest: &'a [u8],
}

// === impl Encoder ===

impl Encoder {
    /// Begins a record of `bytes` bytes: with the right number it is the only allocation.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(BytesMut::with_capacity(bytes))
    }

    pub(crate) fn u8(mut self, number: u8) -> Self {
        self.0.put_u8(number);
        self
    }

    pub(crate) fn u32(mut self, number: u32) -> Self {
        self.0.put_u32(number);
        self
    }

    pub(crate) fn u64(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    /// Adds a part that others follow.
    pub(crate) fn part(self, bytes: &[u8]) -> Self {
        self.u32(u32::try_from(bytes.len()).expect("keys and values are bounded")).rest(bytes)
    }

    /// Adds the last part of a record, or one of a fixed length.
    pub(crate) fn rest(mut self, bytes: &[u8]) -> Self {
        self.0.put_slice(bytes);
        self
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

// === impl Decoder ===

impl<'a> Decoder<'a> {
    /// Begins to read the bytes of a `record`.
    pub(crate) fn new(record: &'static str, bytes: &'a [u8]) -> Self {
        Self { record, rest: bytes }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a part that others follow.
    pub(crate) fn part(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u32()?;
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let (part, rest) = split.ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(part)
    }

    /// Takes such a part that is text.
    pub(crate) fn text(&mut self) -> Result<&'a str, Error> {
        let part = self.part()?;
        std::str::from_utf8(part).map_err(|_| self.damaged())
    }

    /// Takes the last part.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Takes the last part, which is text.
    pub(crate) fn rest_text(self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.rest).map_err(|_| self.damaged())
    }

    /// Returns whether everything has been read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Makes sure that everything has been read, and returns the record.
    pub(crate) fn end<T>(self, record: T) -> Result<T, Error> {
        if self.is_empty() { Ok(record) } else { Err(self.damaged()) }
    }

    /// Returns the error of a record that cannot be read.
    pub(crate) fn damaged(&self) -> Error {
        Error::damaged(self.record)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*array)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any texts, the empty one often.
    pub(crate) fn texts() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(".{0,4}", 0..8)
    }

    /// Bytes of which some are records with parts: lengths are small numbers.
    pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(0u8), 2 => 1u8..4, 1 => b'a'..=b'c', 1 => any::<u8>()];
        prop::collection::vec(byte, 0..40)
    }

    proptest! {
        #[test]
        fn parts_are_read_as_they_were_written(
            numbers in any::<(u8, u32, u64)>(), parts in prop::collection::vec(any::<Vec<u8>>(), 0..8), text in ".{0,4}",
        ) {
            let mut record = Encoder::with_capacity(0).u8(numbers.0).u32(numbers.1).u64(numbers.2);
            for part in &parts {
                record = record.part(part);
            }
            let record = record.part(text.as_bytes()).rest(text.as_bytes()).finish();
            let mut read = Decoder::new("it", &record);
            prop_assert_eq!((read.u8()?, read.u32()?, read.u64()?), numbers);
            for part in &parts {
                prop_assert_eq!(read.part()?, part.as_slice());
            }
            prop_assert_eq!(read.text()?, text.as_str());
            prop_assert_eq!(read.is_empty(), text.is_empty());
            prop_assert_eq!(read.rest_text()?, text.as_str());
        }

        #[test]
        fn a_part_that_is_longer_than_its_record_is_damage(part in any::<Vec<u8>>(), more in 1u32..) {
            let len = u32::try_from(part.len()).unwrap().saturating_add(more);
            let record = Encoder::with_capacity(0).u32(len).rest(&part).finish();
            prop_assert_eq!(Decoder::new("it", &record).part(), Err(Error::damaged("it")));
        }
    }

    #[test]
    fn bytes_behind_a_record_are_damage() {
        let mut read = Decoder::new("it", &[1, 2]);
        assert_eq!(read.u8(), Ok(1));
        assert_eq!(read.end(()), Err(Error::damaged("it")));
    }
}
