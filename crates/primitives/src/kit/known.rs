// SPDX-License-Identifier: Apache-2.0
//! Which primitives exist in a store, so that a runtime that was started again still knows them.
//!
//! Each member has an entry of its own for each primitive that it knows: what one runtime closes, another still uses. An
//! entry of a dead member counts as much as any other, because it is there for the clients of that member, which look for
//! the primitive at its successor. It goes when a living member takes the primitive up, which writes an entry of its own,
//! or when the last living member that knows the primitive forgets it.
//!
//! The keyspace is `known`: key `p` length (4) keyspace of the primitive, member (8), value tags, each length (4), text.

use std::collections::BTreeSet;
use std::sync::Arc;

use atomix_store::{Entry, Keyspace, Order, Range, Read, Store, Txn, Write};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::Error;
use crate::kind::Kind;
use crate::kit::keys;
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
        let mut value = BytesMut::new();
        for tag in tags {
            value.put_u32(u32::try_from(tag.len()).map_err(|_| Error::invalid("a tag is too large"))?);
            value.put_slice(tag.as_bytes());
        }
        let key = key(kind, name, self.membership.id());
        self.write(kind, name, Write::Put { key, value: value.freeze() }).await
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
        snapshot.reads[0].entries().first().map(tags).transpose()
    }

    /// Counts the other members that are alive and know the primitive.
    pub async fn elsewhere(&self, kind: Kind, name: &str) -> Result<usize, Error> {
        let mut members = BTreeSet::new();
        let mut pages = self.reads().scan_all(Range::prefix(prefix(kind, name)), true);
        while let Some(page) = pages.next().await? {
            members.extend(page.entries.iter().filter_map(member));
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
        let dead = self.membership.dead(entries.iter().filter_map(member).collect::<BTreeSet<u64>>()).await?;
        let left = entries.iter().filter(|entry| member(entry).is_some_and(|member| dead.contains(&member)));
        let writes: Vec<Write> = left.map(|entry| Write::Delete { key: entry.key.clone() }).collect();
        if !writes.is_empty() {
            self.store.commit(&self.keyspace, Txn { writes, ..Txn::default() }).await?;
        }
        Ok(())
    }
}

fn prefix(kind: Kind, name: &str) -> Bytes {
    let keyspace = kind.keyspace(name);
    let keyspace = keyspace.as_bytes();
    let mut prefix = BytesMut::with_capacity(5 + keyspace.len());
    prefix.put_u8(keys::KNOWN);
    prefix.put_u32(u32::try_from(keyspace.len()).expect("names are bounded"));
    prefix.put_slice(keyspace);
    prefix.freeze()
}

fn key(kind: Kind, name: &str, member: u64) -> Bytes {
    [prefix(kind, name).as_ref(), &member.to_be_bytes()].concat().into()
}

fn member(entry: &Entry) -> Option<u64> {
    entry.key.last_chunk().map(|member| u64::from_be_bytes(*member))
}

fn tags(entry: &Entry) -> Result<Vec<String>, Error> {
    let mut value = entry.value.clone();
    let mut tags = Vec::new();
    while value.has_remaining() {
        let tag = value.try_get_u32().ok().filter(|len| *len as usize <= value.len());
        let tag = tag.map(|len| value.split_to(len as usize)).ok_or_else(|| Error::damaged("known"))?;
        tags.push(String::from_utf8(tag.to_vec()).map_err(|_| Error::damaged("known"))?);
    }
    Ok(tags)
}
