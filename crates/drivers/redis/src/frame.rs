// SPDX-License-Identifier: Apache-2.0
//! The stream of changes.
//!
//! A frame is what one call of the library committed: nonce (8 bytes), then for each commit its revision (8), the number of its
//! changes (4), and for each change the lengths of key, record before and record after (4 each) and these three.
//!
//! The nonce is drawn at random for each call. It distinguishes the commit of a revision that was seen from
//! another one with the same number, which a failover that lost commits makes possible.

use std::sync::atomic::{AtomicU64, Ordering};

use atomix_store::{Change, Commit, Error, Revision};
use bytes::Bytes;

use crate::cursor::{Cursor, damaged, entry};

/// Names the call that made a commit.
pub(crate) type Nonce = [u8; 8];

/// Draws a nonce for each call of a store.
#[derive(Debug)]
pub(crate) struct Nonces(AtomicU64);

/// The commits of one call, at least one, without gaps.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) nonce: Nonce,
    pub(crate) commits: Vec<Commit>,
}

// === impl Nonces ===

impl Nonces {
    /// Begins at a number that was drawn at random.
    pub(crate) fn new(random: u64) -> Self {
        Self(AtomicU64::new(random))
    }

    pub(crate) fn next(&self) -> Nonce {
        // An odd step visits every number before it repeats one.
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_be_bytes()
    }
}

// === impl Frame ===

impl Frame {
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Error> {
        let mut cursor = Cursor::new(bytes);
        let nonce = cursor.number()?.to_be_bytes();
        let mut commits = Vec::with_capacity(1);
        while !cursor.is_empty() {
            let revision = Revision(cursor.number()?);
            let len = cursor.length()?;
            let mut changes = Vec::with_capacity(len.min(1024));
            for _ in 0..len {
                let (key, before, after) = (cursor.length()?, cursor.length()?, cursor.length()?);
                let key = cursor.take(key)?;
                let previous = entry(key.clone(), cursor.take(before)?)?;
                let current = entry(key.clone(), cursor.take(after)?)?;
                changes.push(Change { key, previous, current });
            }
            commits.push(Commit { revision, changes });
        }
        let dense = commits.windows(2).all(|pair| pair[1].revision.0 == pair[0].revision.0 + 1);
        if commits.is_empty() || !dense { Err(damaged()) } else { Ok(Self { nonce, commits }) }
    }

    pub(crate) fn first(&self) -> Revision {
        self.commits[0].revision
    }

    pub(crate) fn last(&self) -> Revision {
        self.commits[self.commits.len() - 1].revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_store::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let record = |created: u64, modified: u64, value: &[u8]| {
            [&created.to_be_bytes()[..], &modified.to_be_bytes(), value].concat()
        };
        let (before, after) = (record(1, 1, b"old"), record(1, 2, b"new"));
        let mut bytes = b"nnnnnnnn".to_vec();
        bytes.extend(2u64.to_be_bytes());
        bytes.extend(1u32.to_be_bytes());
        for len in [1, before.len(), after.len()] {
            bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
        }
        bytes.extend([b"k", before.as_slice(), after.as_slice()].concat());
        let frame = Frame::decode(bytes.clone().into()).unwrap();
        assert_eq!((frame.nonce, frame.first(), frame.last()), (*b"nnnnnnnn", Revision(2), Revision(2)));
        let change = &frame.commits[0].changes[0];
        assert_eq!(change.previous.as_ref().unwrap().value, "old");
        assert_eq!(change.current.as_ref().unwrap().modified, Revision(2));
        for len in 0..bytes.len() {
            let cut = Bytes::copy_from_slice(&bytes[..len]);
            assert_eq!(Frame::decode(cut).unwrap_err().kind(), ErrorKind::Corrupt, "{len}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_but_never_crashes(bytes: Vec<u8>) {
            drop(Frame::decode(bytes.into()));
        }
    }
}
