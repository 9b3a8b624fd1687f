// SPDX-License-Identifier: Apache-2.0
//! From what etcd sends to commits.

use atomix_kv::{Change, Commit, Error, Revision};

use crate::keys::{Space, revision};
use crate::wire::event::Kind;
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
    /// [`atomix_kv::ErrorKind::Compacted`] if etcd has forgotten what was before a change: the change cannot be told
    /// whole.
    pub(super) fn take(&mut self, space: &Space, response: WatchResponse) -> Result<Vec<Commit>, Error> {
        self.part.extend(response.events);
        if response.fragment {
            return Ok(Vec::new());
        }
        let mut commits: Vec<Commit> = Vec::new();
        for event in std::mem::take(&mut self.part) {
            let deleted = event.r#type == i32::from(Kind::Delete);
            let Some(kv) = event.kv else { continue };
            let (created, at) = (kv.create_revision, revision(kv.mod_revision));
            if event.prev_kv.is_none() && (deleted || created != kv.mod_revision) {
                return Err(Error::compacted(at));
            }
            let change = Change {
                key: space.strip(&kv.key),
                previous: event.prev_kv.map(|kv| space.entry(kv)),
                current: (!deleted).then(|| space.entry(kv)),
            };
            // All events of a revision come in one answer, in the order of the writes.
            match commits.last_mut() {
                Some(commit) if commit.revision == at => commit.changes.push(change),
                Some(_) | None => commits.push(Commit { revision: at, changes: vec![change] }),
            }
        }
        Ok(commits)
    }
}

/// Returns the revision after which a watch can begin when etcd says that it has compacted `compact_revision`.
///
/// etcd would begin at that revision itself, but some versions have lost its deletions by then.
pub(super) fn oldest(compact_revision: i64) -> Revision {
    revision(compact_revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::KeyValue;
    use atomix_kv::{ErrorKind, Keyspace};

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
        assert_eq!(commits.iter().map(|commit| commit.revision.0).collect::<Vec<_>>(), [5, 6]);
        let keys: Vec<_> = commits[1].changes.iter().map(|change| change.key.clone()).collect();
        assert_eq!(keys, ["b", "a"]);
        assert_eq!(commits[1].changes[1].current, None);
        assert_eq!(commits[1].changes[1].previous.as_ref().unwrap().created, Revision(5));
    }

    #[test]
    fn a_change_whose_past_is_forgotten_is_not_told_by_half() {
        for lost in [event(Kind::Put, kv("a", 5, 9), None), event(Kind::Delete, kv("a", 0, 9), None)] {
            let error = Assembler::default().take(&space(), response(vec![lost], false)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Compacted { oldest: Revision(9) });
        }
    }
}
