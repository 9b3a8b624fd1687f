// SPDX-License-Identifier: Apache-2.0
//! Which primitives exist in a store, so that a runtime that was started again still knows them.
//!
//! Each member has an entry of its own for each primitive that it knows: what one runtime closes, another still uses. An
//! entry of a dead member counts as much as any other, because it is there for the clients of that member, which look for
//! the primitive at its successor. It goes when a living member takes the primitive up, which writes an entry of its own,
//! or when the last living member that knows the primitive forgets it.
//!
//! The keyspace is `known`: [`Key::Known`], and as the value the tags, each with its length (4).

use std::collections::BTreeSet;
use std::sync::Arc;

use atomix_store::{Entry, Keyspace, Order, Range, Read, Store, Txn, Write};
use bytes::Bytes;

use crate::error::Error;
use crate::kind::Kind;
use crate::kit::codec::{Decoder, Encoder, LENGTH};
use crate::kit::keys::{self, Key};
use crate::kit::membership::Membership;
use crate::kit::reads::{PAGE, Reads};

/// The memory of a store for its primitives. Made anew for every use.
#[derive(Debug)]
pub struct Known {
    store: Arc<dyn Store>,
    membership: Arc<Membership>,
    keyspace: Keyspace,
}

// === impl Known ===

impl Known {
    /// Makes the memory that is kept in `store`, as seen by this member.
    pub fn new(store: Arc<dyn Store>, membership: Arc<Membership>) -> Self {
        Self { store, membership, keyspace: Keyspace::new("known") }
    }

    /// Remembers the primitive for this member. Repeating it changes nothing that matters.
    pub async fn remember(&self, kind: Kind, name: &str, tags: &[String]) -> Result<(), Error> {
        let key = key(kind, name, self.membership.id());
        self.write(kind, name, Write::Put { key, value: encode(tags) }).await
    }

    /// Forgets the primitive, except for other members that are alive.
    pub async fn forget(&self, kind: Kind, name: &str) -> Result<(), Error> {
        self.write(kind, name, Write::Delete { key: key(kind, name, self.membership.id()) }).await
    }

    /// Returns the tags of the primitive, if a member made it known and none forgot it since.
    pub async fn recall(&self, kind: Kind, name: &str) -> Result<Option<Vec<String>>, Error> {
        let range = Range::prefix(prefix(kind, name));
        let scan = Read::Scan { range, order: Order::Key, limit: 1, keys_only: false };
        let snapshot = self.reads().read(vec![scan]).await?;
        snapshot.reads[0].entries().first().map(|entry| decode(&entry.value)).transpose()
    }

    /// Counts the other members that are alive and know the primitive.
    pub async fn elsewhere(&self, kind: Kind, name: &str) -> Result<usize, Error> {
        let mut members = BTreeSet::new();
        let mut pages = self.reads().scan_all(Range::prefix(prefix(kind, name)), true);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                members.insert(member(entry)?);
            }
        }
        Ok(self.membership.alive_elsewhere(members).await?.len())
    }

    fn reads(&self) -> Reads<'_> {
        Reads::new(&*self.store, &self.keyspace)
    }

    /// Writes the entry of this member, and deletes those of dead ones.
    async fn write(&self, kind: Kind, name: &str, write: Write) -> Result<(), Error> {
        let range = Range::prefix(prefix(kind, name));
        // More than a page of members is left to later writes.
        let scan = Read::Scan { range, order: Order::Key, limit: PAGE, keys_only: true };
        let outcome = self.store.commit(&self.keyspace, Txn::new().write(write).read(scan)).await?;
        let entries = outcome.reads[0].entries();
        let members = entries.iter().map(member).collect::<Result<Vec<u64>, Error>>()?;
        let dead = self.membership.dead(members.iter().copied().collect()).await?;
        let left = entries.iter().zip(members).filter(|(_, member)| dead.contains(member));
        let writes: Vec<Write> = left.map(|(entry, _)| Write::Delete { key: entry.key.clone() }).collect();
        if !writes.is_empty() {
            self.store.commit(&self.keyspace, Txn { writes, ..Txn::default() }).await?;
        }
        Ok(())
    }
}

fn prefix(kind: Kind, name: &str) -> Bytes {
    keys::known(kind.keyspace(name).as_bytes())
}

fn key(kind: Kind, name: &str, member: u64) -> Bytes {
    Key::Known { keyspace: kind.keyspace(name).as_bytes(), member }.encode()
}

fn member(entry: &Entry) -> Result<u64, Error> {
    let Key::Known { member, .. } = Key::decode(&entry.key)? else { return Err(Error::damaged("known")) };
    Ok(member)
}

fn encode(tags: &[String]) -> Bytes {
    let record = Encoder::with_capacity(tags.iter().map(|tag| LENGTH + tag.len()).sum());
    tags.iter().fold(record, |record, tag| record.part(tag.as_bytes())).finish()
}

fn decode(value: &[u8]) -> Result<Vec<String>, Error> {
    let (mut record, mut tags) = (Decoder::new("known", value), Vec::new());
    while !record.is_empty() {
        tags.push(record.text()?.to_owned());
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kit::codec;

    proptest! {
        #[test]
        fn tags_are_read_as_they_were_written(tags in codec::tests::texts()) {
            prop_assert_eq!(decode(&encode(&tags)), Ok(tags));
        }

        #[test]
        fn any_bytes_are_tags_or_damage(bytes in codec::tests::bytes()) {
            match decode(&bytes) {
                Ok(tags) => prop_assert_eq!(encode(&tags), bytes),
                Err(error) => prop_assert_eq!(error, Error::damaged("known")),
            }
        }
    }
}
