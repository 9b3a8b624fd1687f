// SPDX-License-Identifier: Apache-2.0
//! From what etcd sends to commits.

use std::collections::{BTreeMap, HashMap};

use atomix_store::{Change, Commit, Error, ErrorKind, Revision};
use bytes::Bytes;
use prost::Message;

use crate::keys::{Space, revision};
use crate::wire::event::Kind;
use crate::wire::stored::Together;
use crate::wire::{Event, WatchResponse};

/// Puts together what belongs together.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The events of an answer that goes on in the next one.
    part: Vec<Event>,
}

// === impl Assembler ===

impl Assembler {
    /// Takes an answer and returns the commits that are complete with it, in order.
    ///
    /// [`atomix_store::ErrorKind::Compacted`] if etcd has dropped the value before a change: the change is
    /// incomplete then.
    pub(super) fn take(&mut self, space: &Space, response: WatchResponse) -> Result<Vec<Commit>, Error> {
        self.part.extend(response.events);
        if response.fragment {
            return Ok(Vec::new());
        }
        let together = space.together_key();
        let mut commits: Vec<Commit> = Vec::new();
        let mut events = std::mem::take(&mut self.part).into_iter().peekable();
        while let Some(first) = events.next() {
            // All events of a revision come in one answer, in the order of the writes.
            let Some(etcd) = first.kv.as_ref().map(|kv| kv.mod_revision) else { continue };
            let mut shared = Together::default();
            let mut changes = Vec::new();
            let mut next = Some(first);
            while let Some(event) = next {
                match &event.kv {
                    Some(kv) if kv.key == together => shared = decode(&kv.value)?,
                    _ => changes.extend(change(space, event)?),
                }
                next = events.next_if(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision == etcd));
            }
            commits.extend(split(etcd, changes, &shared));
        }
        Ok(commits)
    }
}

/// Splits the changes of one revision of etcd: a commit for each transaction that has any.
fn split(etcd: i64, changes: Vec<Change>, shared: &Together) -> Vec<Commit> {
    let owners: HashMap<&Bytes, usize> = shared
        .transactions
        .iter()
        .enumerate()
        .flat_map(|(at, transaction)| transaction.keys.iter().map(move |key| (key, at)))
        .collect();
    let mut by_owner: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
    for change in changes {
        let owner = owners.get(&change.key).copied().unwrap_or_default();
        by_owner.entry(owner).or_default().push(change);
    }
    let last = by_owner.len().saturating_sub(1);
    let commit =
        |(at, changes)| Commit { revision: Revision(revision(etcd).0 - (last - at) as u64), changes };
    by_owner.into_values().enumerate().map(commit).collect()
}

fn change(space: &Space, event: Event) -> Result<Option<Change>, Error> {
    let deleted = event.r#type == i32::from(Kind::Delete);
    let Some(kv) = event.kv else { return Ok(None) };
    if event.prev_kv.is_none() && (deleted || kv.create_revision != kv.mod_revision) {
        return Err(Error::compacted(revision(kv.mod_revision)));
    }
    Ok(Some(Change {
        key: space.strip(&kv.key),
        previous: event.prev_kv.map(|kv| space.entry(kv)),
        current: (!deleted).then(|| space.entry(kv)),
    }))
}

fn decode(value: &Bytes) -> Result<Together, Error> {
    Together::decode(value.clone()).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "what tells transactions apart is damaged").caused_by(error)
    })
}

/// Returns the revision after which a watch can begin when etcd reports the compaction of `compact_revision`.
///
/// etcd would begin at that revision itself, but some versions have lost its deletions by then.
pub(super) fn oldest(compact_revision: i64) -> Revision {
    revision(compact_revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::KeyValue;
    use crate::wire::stored::Keys;
    use atomix_store::Keyspace;

    fn space() -> Space {
        Space::new("p/", &Keyspace::new("map/a"))
    }

    fn kv(key: &str, created: i64, modified: i64) -> KeyValue {
        KeyValue {
            key: space().entry_key(key.as_bytes()),
            create_revision: created,
            mod_revision: modified,
            value: "v".into(),
        }
    }

    fn event(kind: Kind, kv: KeyValue, prev_kv: Option<KeyValue>) -> Event {
        Event { r#type: kind.into(), kv: Some(kv), prev_kv }
    }

    fn response(events: Vec<Event>, fragment: bool) -> WatchResponse {
        WatchResponse { events, fragment, ..WatchResponse::default() }
    }

    #[test]
    fn events_of_one_revision_are_one_commit_also_in_fragments() {
        let mut assembler = Assembler::default();
        let first = response(
            vec![event(Kind::Put, kv("a", 5, 5), None), event(Kind::Put, kv("b", 6, 6), None)],
            true,
        );
        assert_eq!(assembler.take(&space(), first).unwrap(), []);
        let second = response(vec![event(Kind::Delete, kv("a", 0, 6), Some(kv("a", 5, 5)))], false);
        let commits = assembler.take(&space(), second).unwrap();
        let revisions: Vec<_> = commits.iter().map(|commit| commit.revision).collect();
        assert_eq!(revisions, [revision(5), revision(6)]);
        let keys: Vec<_> = commits[1].changes.iter().map(|change| change.key.clone()).collect();
        assert_eq!(keys, ["b", "a"]);
        assert_eq!(commits[1].changes[1].current, None);
        assert_eq!(commits[1].changes[1].previous.as_ref().unwrap().created, revision(5));
    }

    #[test]
    fn transactions_that_shared_a_revision_are_commits_of_their_own() {
        let keys = |keys: &[&'static str]| Keys { keys: keys.iter().map(|key| (*key).into()).collect() };
        // The second one was refused.
        let together = Together { transactions: vec![keys(&["a", "b"]), keys(&["c"]), keys(&["d"])] };
        let record = KeyValue {
            key: space().together_key(),
            create_revision: 2,
            mod_revision: 7,
            value: together.encode_to_vec().into(),
        };
        let events = vec![
            event(Kind::Put, record, None),
            event(Kind::Put, kv("a", 7, 7), None),
            event(Kind::Put, kv("b", 7, 7), None),
            event(Kind::Put, kv("d", 7, 7), None),
        ];
        let commits = Assembler::default().take(&space(), response(events, false)).unwrap();
        let told: Vec<_> = commits
            .iter()
            .map(|commit| {
                (commit.revision.0, commit.changes.iter().map(|change| change.key.clone()).collect())
            })
            .collect();
        let last = revision(7).0;
        let expected: Vec<(u64, Vec<Bytes>)> =
            vec![(last - 1, vec!["a".into(), "b".into()]), (last, vec!["d".into()])];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_change_whose_past_is_forgotten_is_not_told_by_half() {
        for lost in [event(Kind::Put, kv("a", 5, 9), None), event(Kind::Delete, kv("a", 0, 9), None)] {
            let error = Assembler::default().take(&space(), response(vec![lost], false)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Compacted { oldest: revision(9) });
        }
    }
}
