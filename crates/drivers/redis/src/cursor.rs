// SPDX-License-Identifier: Apache-2.0
//! Reads the encoding of `library.lua`: big endian numbers and pieces of known length.

use atomix_store::{Entry, Error, ErrorKind, Revision};
use bytes::{Buf, Bytes};

/// The rest to read.
#[derive(Debug)]
pub(crate) struct Cursor(Bytes);

// === impl Cursor ===

impl Cursor {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        self.0.try_get_u8().map_err(|_| damaged())
    }

    pub(crate) fn length(&mut self) -> Result<usize, Error> {
        Ok(self.0.try_get_u32().map_err(|_| damaged())? as usize)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Error> {
        self.0.try_get_u64().map_err(|_| damaged())
    }

    /// A piece with its length before it.
    pub(crate) fn piece(&mut self) -> Result<Bytes, Error> {
        let len = self.length()?;
        self.take(len)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<Bytes, Error> {
        if len > self.0.len() {
            return Err(damaged());
        }
        Ok(self.0.split_to(len))
    }
}

/// The entry that a record describes; an empty record is none.
pub(crate) fn entry(key: Bytes, record: Bytes) -> Result<Option<Entry>, Error> {
    if record.is_empty() {
        return Ok(None);
    }
    let mut cursor = Cursor(record);
    let (created, modified) = (Revision(cursor.number()?), Revision(cursor.number()?));
    Ok(Some(Entry { key, value: cursor.0, created, modified }))
}

pub(crate) fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "what redis answers is not what atomix has written there")
}
