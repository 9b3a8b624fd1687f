// SPDX-License-Identifier: Apache-2.0
//! Bugs in watches.

use std::sync::Arc;

use atomix_store::{Change, Commit, WatchItem, WatchStream};
use futures::StreamExt;

use super::Bug;

/// Plants `bug` in a watch.
pub(super) fn spoil(bug: Bug, watch: WatchStream) -> WatchStream {
    let mut spoiler = Spoiler { bug, commits: 0, kept: None };
    watch
        .flat_map(move |item| {
            let items = match item {
                Ok(WatchItem::Commit(commit)) => spoiler.spoil(commit),
                other => return futures::stream::iter(vec![other]),
            };
            futures::stream::iter(
                items.into_iter().map(|commit| Ok(WatchItem::Commit(commit))).collect::<Vec<_>>(),
            )
        })
        .boxed()
}

struct Spoiler {
    bug: Bug,
    commits: u64,
    /// Items to show after the next commit.
    kept: Option<Arc<Commit>>,
}

// === impl Spoiler ===

impl Spoiler {
    /// Returns the items to show instead of a commit.
    fn spoil(&mut self, commit: Arc<Commit>) -> Vec<Arc<Commit>> {
        self.commits += 1;
        let turn = |every| self.commits.is_multiple_of(every);
        let mut spoiled = commit.as_ref().clone();
        match self.bug {
            Bug::WatchGap if turn(3) => return Vec::new(),
            Bug::LateWatch if self.commits == 1 => return Vec::new(),
            Bug::DuplicateEvent if turn(3) => return vec![Arc::clone(&commit), commit],
            Bug::LostWakeup if turn(2) => {
                spoiled.changes.retain(|change| change.current.is_some());
                return if spoiled.changes.is_empty() { Vec::new() } else { vec![Arc::new(spoiled)] };
            }
            Bug::SwappedEvents if turn(3) && self.kept.is_none() => {
                self.kept = Some(commit);
                return Vec::new();
            }
            Bug::WatchWithoutPrevious => {
                spoiled.changes.iter_mut().for_each(|change| change.previous = None);
            }
            Bug::WrongKey if turn(3) => {
                let other = |change: &&mut Change| change.key.first() == Some(&b'k');
                for change in spoiled.changes.iter_mut().filter(other) {
                    let key = if change.key == "kk0" { "kk1" } else { "kk0" };
                    change.key = key.into();
                }
            }
            Bug::WrongValue if turn(3) => {
                let written = spoiled.changes.iter_mut().filter_map(|change| change.current.as_mut());
                written.for_each(|entry| entry.value = "4711".into());
            }
            Bug::TornEvent if self.kept.is_none() => {
                let entry = |change: &Change| change.key.first() == Some(&b'k');
                let several = spoiled.changes.iter().filter(|change| entry(change)).count() > 1;
                if several && let Some(at) = spoiled.changes.iter().rposition(entry) {
                    let changes = vec![spoiled.changes.remove(at)];
                    self.kept = Some(Arc::new(Commit { revision: spoiled.revision, changes }));
                    return vec![Arc::new(spoiled)];
                }
            }
            _ => {}
        }
        std::iter::once(Arc::new(spoiled)).chain(self.kept.take()).collect()
    }
}
