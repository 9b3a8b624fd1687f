// SPDX-License-Identifier: Apache-2.0
//! The window of recent commits of one keyspace, and its followers.
//!
//! Followers hold a position, not a queue: a thousand of them share the same commits, a slow one costs nothing, and
//! one that falls out of the window ends with [`ErrorKind::Compacted`](crate::ErrorKind::Compacted).

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use atomix_env::{JsonObject, Machine};
use futures::Stream;
use parking_lot::Mutex;
use slab::Slab;

use crate::error::Error;
use crate::model::{Commit, Revision};
use crate::settings::set_default;
use crate::store::{WatchFrom, WatchItem, WatchStream};

/// Keeps the last commits of a keyspace and delivers them to watches. Cheap to clone.
#[derive(Clone)]
pub struct History {
    window: Arc<Mutex<Window>>,
}

/// The byte budget of all histories of a store. Beyond it, each history keeps only the commits that its
/// followers have not read yet and its last few: a store with many keyspaces must not fill the memory with
/// commits that no watch will request. Cheap to clone; all histories of a store share one.
#[derive(Debug, Clone)]
pub struct HistoryBudget(Arc<BudgetInner>);

#[derive(Debug)]
struct BudgetInner {
    bytes: AtomicUsize,
    bytes_max: AtomicUsize,
}

/// The amount of history for watches that fall behind. Commits that an active follower has not read yet are
/// always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The number of commits.
    pub commits_max: usize,
    /// The bytes of keys and values in those commits, previous values included.
    pub bytes_max: usize,
}

struct Window {
    /// In commit order without gaps; all of them are newer than `floor`.
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    /// Every commit after this revision is in the window.
    floor: Revision,
    tip: Revision,
    followers: Slab<Position>,
    /// The reason why no more commits come.
    end: Option<Error>,
    budget: HistoryBudget,
}

/// The progress of a follower.
struct Position {
    seen: Revision,
    /// It has seen everything and waits for more.
    waker: Option<Waker>,
}

struct Follower {
    window: Arc<Mutex<Window>>,
    slot: usize,
    seen: Revision,
    /// Commits taken out of the window but not yet given away, so that the lock is taken once per batch.
    taken: VecDeque<Arc<Commit>>,
    greet: bool,
    ended: bool,
}

/// Commits that a follower takes per batch. Bounds the memory that a follower holds after it stops reading.
const TAKE_MAX: usize = 64;
/// Commits, and their bytes, that a history keeps for reconnecting watches when the budget is exceeded.
const MIN_RETAINED: usize = 8;
const MIN_RETAINED_BYTES: usize = 8 << 10;

// === impl History ===

impl History {
    /// Makes an empty window that begins at `tip`, one of those that share `budget`.
    pub fn new(tip: Revision, budget: &HistoryBudget) -> Self {
        let window = Window {
            commits: VecDeque::new(),
            bytes: 0,
            floor: tip,
            tip,
            followers: Slab::new(),
            end: None,
            budget: budget.clone(),
        };
        Self { window: Arc::new(Mutex::new(window)) }
    }

    /// Adds a commit, forgets what `retention` does not allow, and wakes the followers.
    ///
    /// Callers add commits in the order of their revisions, under the lock that ordered them.
    pub fn push(&self, commit: Commit, retention: Retention) {
        let mut window = self.window.lock();
        debug_assert!(commit.revision > window.tip, "commits come in order");
        window.tip = commit.revision;
        window.change(|window| {
            window.bytes += bytes(&commit);
            window.commits.push_back(Arc::new(commit));
            // Twice the limit of `trim`: stores that trim on another thread than they push on shall free memory there.
            window.trim(retention, 2 * MIN_RETAINED);
        });
        window.wake();
    }

    /// Forgets what `retention` does not allow.
    pub fn trim(&self, retention: Retention) {
        self.window.lock().change(|window| window.trim(retention, MIN_RETAINED));
    }

    /// Forgets all commits up to and including `revision`.
    pub fn compact(&self, revision: Revision) {
        self.window.lock().change(|window| {
            while window.commits.front().is_some_and(|commit| commit.revision <= revision) {
                window.drop_oldest();
            }
        });
    }

    /// Puts older commits back in front: those after `floor` up to and including [`History::floor`], in
    /// order. For stores that keep more history elsewhere than in this window. Does nothing if the window
    /// reaches back as far already.
    pub fn extend_back(&self, floor: Revision, commits: Vec<Arc<Commit>>) {
        let mut window = self.window.lock();
        if floor >= window.floor {
            return;
        }
        window.change(|window| {
            for commit in commits.into_iter().rev() {
                // Another caller may have extended the window meanwhile.
                if commit.revision <= window.floor {
                    window.bytes += bytes(&commit);
                    window.commits.push_front(commit);
                }
            }
        });
        window.floor = floor;
    }

    /// Returns [`History::floor`] and the commits after it.
    pub fn kept(&self) -> (Revision, Vec<Arc<Commit>>) {
        let window = self.window.lock();
        (window.floor, window.commits.iter().cloned().collect())
    }

    /// Returns the revision after which every commit is in the window.
    pub fn floor(&self) -> Revision {
        self.window.lock().floor
    }

    /// Returns the revision of the newest commit.
    pub fn tip(&self) -> Revision {
        self.window.lock().tip
    }

    /// Returns how many watches follow.
    pub fn followers(&self) -> usize {
        self.window.lock().followers.len()
    }

    /// Follows the keyspace, see [`crate::Store::watch`]. For windows that have every commit that was answered.
    pub fn follow(&self, from: WatchFrom) -> Result<WatchStream, Error> {
        self.begin(from, false)
    }

    /// Follows the keyspace after a revision that the store has, and of which this window may not have heard yet.
    pub fn follow_after(&self, revision: Revision) -> Result<WatchStream, Error> {
        self.begin(WatchFrom::After(revision), true)
    }

    fn begin(&self, from: WatchFrom, ahead: bool) -> Result<WatchStream, Error> {
        let mut window = self.window.lock();
        if let Some(error) = window.end() {
            return Err(error);
        }
        let (seen, greet) = match from {
            WatchFrom::Now => (window.tip, true),
            WatchFrom::After(revision) if revision < window.floor => {
                return Err(Error::compacted(window.floor));
            }
            WatchFrom::After(revision) if revision > window.tip && !ahead => {
                return Err(Error::compacted(window.tip));
            }
            WatchFrom::After(revision) => (revision, false),
        };
        let slot = window.followers.insert(Position { seen, waker: None });
        drop(window);
        let taken = VecDeque::new();
        let window = Arc::clone(&self.window);
        Ok(Box::pin(Follower { window, slot, seen, taken, greet, ended: false }))
    }

    /// Ends all followers with [`crate::ErrorKind::Closed`] once they have seen everything, and refuses new ones.
    pub fn close(&self) {
        self.end(&Error::closed());
    }

    /// Ends all followers with a copy of `error` once they have read everything, and refuses new ones with
    /// it. The first end counts.
    pub fn end(&self, error: &Error) {
        let mut window = self.window.lock();
        window.end.get_or_insert_with(|| error.clone());
        window.wake();
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = self.window.lock();
        f.debug_struct("History")
            .field("floor", &window.floor)
            .field("tip", &window.tip)
            .field("followers", &window.followers.len())
            .finish_non_exhaustive()
    }
}

impl Default for Retention {
    /// 4,096 commits of at most 4 MiB.
    fn default() -> Self {
        Self { commits_max: 4096, bytes_max: 4 * 1024 * 1024 }
    }
}

// === impl Retention ===

impl Retention {
    const ALL: Self = Self { commits_max: usize::MAX, bytes_max: usize::MAX };
}

// === impl Window ===

impl Window {
    /// Makes a change and takes note of what it does to the bytes of all histories.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.bytes;
        change(self);
        if self.bytes != before {
            // Wraps around where it became less.
            self.budget.0.bytes.fetch_add(self.bytes.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// Drops the commits beyond `retention`, and all but `few` of those that every follower has read if the
    /// budget is exceeded.
    fn trim(&mut self, retention: Retention, few: usize) {
        let over_budget = self.budget.is_full();
        let mut seen = None;
        while let Some(oldest) = self.commits.front() {
            let len = self.commits.len();
            let refused = len > retention.commits_max || self.bytes > retention.bytes_max;
            if !(refused && len > 1) {
                let spared = refused || over_budget && (len > few || self.bytes > MIN_RETAINED_BYTES);
                // New followers start at the tip, so commits that all followers have read can be dropped.
                let everybody = || self.followers.iter().map(|(_, position)| position.seen).min();
                if !spared || oldest.revision > *seen.get_or_insert_with(|| everybody().unwrap_or(self.tip)) {
                    break;
                }
            }
            self.drop_oldest();
        }
        if over_budget && self.commits.len() <= few {
            self.commits.shrink_to(2 * few);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(commit) = self.commits.pop_front() {
            self.bytes -= bytes(&commit);
            self.floor = commit.revision;
        }
    }

    /// Counts the commits after `revision`. Followers usually lag by a few commits: scan those linearly
    /// before falling back to binary search.
    fn after(&self, revision: Revision) -> usize {
        const LINEAR_SCAN_MAX: usize = 16;
        let newest = self.commits.iter().rev().take(LINEAR_SCAN_MAX);
        let newer = newest.take_while(|commit| commit.revision > revision).count();
        if newer < LINEAR_SCAN_MAX {
            return newer;
        }
        self.commits.len() - self.commits.partition_point(|commit| commit.revision <= revision)
    }

    fn end(&self) -> Option<Error> {
        self.end.clone()
    }

    fn wake(&mut self) {
        for (_, position) in &mut self.followers {
            if let Some(waker) = position.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.change(|window| window.bytes = 0);
    }
}

// === impl HistoryBudget ===

impl HistoryBudget {
    /// The default: 64 MiB.
    pub const BYTES_MAX: usize = 64 << 20;

    /// Fills in `histories-bytes-max` of a store's configuration: a sixteenth of the memory, [`Self::BYTES_MAX`] at
    /// most.
    pub fn complete(config: &mut JsonObject, machine: &Machine) {
        set_default(config, "histories-bytes-max", machine.memory_share(16).min(Self::BYTES_MAX));
    }

    /// Allows so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(BudgetInner { bytes: AtomicUsize::new(0), bytes_max: AtomicUsize::new(bytes_max) }))
    }

    /// Allows so many bytes from now on. A history that has too much forgets it when it changes.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.0.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Returns the bytes of all histories.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.bytes() > self.0.bytes_max.load(Ordering::Relaxed)
    }
}

impl Default for HistoryBudget {
    fn default() -> Self {
        Self::new(Self::BYTES_MAX)
    }
}

// === impl Follower ===

impl Follower {
    /// Takes the next batch out of the window. `None` when there is nothing new: the waker is registered then.
    fn take(&mut self, context: &Context<'_>) -> Option<Result<(), Error>> {
        let mut window = self.window.lock();
        if self.seen < window.floor {
            return Some(Err(Error::compacted(window.floor)));
        }
        let newer = window.after(self.seen);
        let next = window.commits.len() - newer;
        self.taken.extend(window.commits.range(next..).take(TAKE_MAX).cloned());
        if let Some(last) = self.taken.back() {
            window.followers[self.slot].seen = last.revision;
            window.change(|window| window.trim(Retention::ALL, MIN_RETAINED));
            return Some(Ok(()));
        }
        if let Some(error) = window.end() {
            return Some(Err(error));
        }
        let position = &mut window.followers[self.slot];
        match &mut position.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => position.waker = Some(context.waker().clone()),
        }
        None
    }
}

impl Stream for Follower {
    type Item = Result<WatchItem, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.greet) {
            return Poll::Ready(Some(Ok(WatchItem::Progress(self.seen))));
        }
        if self.taken.is_empty() {
            match self.take(context) {
                None => return Poll::Pending,
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(())) => {}
            }
        }
        let commit = self.taken.pop_front().expect("a batch is never empty");
        self.seen = commit.revision;
        Poll::Ready(Some(Ok(WatchItem::Commit(commit))))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut window = self.window.lock();
        window.followers.remove(self.slot);
        // Nothing may ever change here again.
        window.change(|window| window.trim(Retention::ALL, MIN_RETAINED));
    }
}

fn bytes(commit: &Commit) -> usize {
    // The fixed part of a change, so that many tiny changes count as well: the sizes of a change with both entries, of its
    // commit, and of what is allocated around keys and values.
    const CHANGE: usize = 320;
    commit
        .changes
        .iter()
        .map(|change| {
            let entries = [&change.previous, &change.current];
            CHANGE + entries.into_iter().flatten().map(crate::model::Entry::bytes).sum::<usize>()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::Change;
    use futures::{FutureExt, StreamExt};

    fn commit(revision: u64) -> Commit {
        Commit {
            revision: Revision(revision),
            changes: vec![Change { key: "k".into(), previous: None, current: None }],
        }
    }

    /// The revision of the next item, 1000 more for a progress, `None` while there is nothing.
    fn next(stream: &mut WatchStream) -> Option<u64> {
        match stream.next().now_or_never()?.expect("goes on") {
            Ok(WatchItem::Commit(commit)) => Some(commit.revision.0),
            Ok(WatchItem::Progress(revision)) => Some(1000 + revision.0),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_follower_sees_every_commit_once_and_in_order() {
        let history = History::new(Revision(5), &HistoryBudget::default());
        let mut now = history.follow(WatchFrom::Now).unwrap();
        assert_eq!(next(&mut now), Some(1005));
        assert_eq!(next(&mut now), None);
        for at in 6..=200 {
            history.push(commit(at), Retention::default());
        }
        let mut after = history.follow(WatchFrom::After(Revision(5))).unwrap();
        for at in 6..=200 {
            assert_eq!(next(&mut now), Some(at));
            assert_eq!(next(&mut after), Some(at));
        }
        assert_eq!(next(&mut now), None);
    }

    #[test]
    fn a_follower_that_falls_out_of_the_window_ends_with_compacted() {
        let history = History::new(Revision(0), &HistoryBudget::default());
        let mut slow = history.follow(WatchFrom::Now).unwrap();
        slow.next().now_or_never();
        let retention = Retention { commits_max: 2, ..Retention::default() };
        for at in 1..=5 {
            history.push(commit(at), retention);
        }
        let error = slow.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Compacted { oldest: Revision(3) });
        assert!(slow.next().now_or_never().unwrap().is_none());
        let error = history.follow(WatchFrom::After(Revision(2))).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Compacted { oldest: Revision(3) });
        assert_eq!(next(&mut history.follow(WatchFrom::After(Revision(3))).unwrap()), Some(4));
    }

    #[test]
    fn what_everybody_has_seen_is_forgotten_when_all_of_it_is_too_much() {
        let one = bytes(&commit(1));
        let budget = HistoryBudget::new(30 * one);
        let histories = [(); 3].map(|()| History::new(Revision(0), &budget));
        let mut follower = histories[0].follow(WatchFrom::Now).unwrap();
        assert_eq!(next(&mut follower), Some(1000));
        for at in 1..=100 {
            for history in &histories {
                history.push(commit(at), Retention::default());
            }
        }
        let kept = |at: usize| histories[at].kept().1.len();
        assert_eq!(
            [0, 1, 2].map(kept),
            [100, 2 * MIN_RETAINED, 2 * MIN_RETAINED],
            "what is not seen yet stays"
        );
        for at in 1..=100 {
            assert_eq!(next(&mut follower), Some(at));
        }
        assert_eq!(kept(0), MIN_RETAINED, "it was seen");
        let error = histories[0].follow(WatchFrom::After(Revision(90))).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Compacted { oldest: Revision(92) });
        for history in &histories {
            history.trim(Retention::default());
        }
        for at in 101..=103 {
            histories[1].push(commit(at), Retention::default());
        }
        assert_eq!(
            [0, 1, 2].map(kept),
            [MIN_RETAINED, MIN_RETAINED + 3, MIN_RETAINED],
            "there is room again"
        );
        drop((follower, histories));
        assert_eq!(budget.bytes(), 0, "every byte was counted once");
    }

    #[test]
    fn a_large_commit_is_forgotten_when_nobody_will_ask_for_it() {
        let large = |at| {
            let (created, modified) = (Revision(at), Revision(at));
            let entry =
                crate::model::Entry { key: "k".into(), value: vec![b'v'; 10_000].into(), created, modified };
            let change = Change { key: "k".into(), previous: None, current: Some(entry) };
            Commit { revision: Revision(at), changes: vec![change] }
        };
        let history = History::new(Revision(0), &HistoryBudget::new(0));
        let mut follower = history.follow(WatchFrom::Now).unwrap();
        assert_eq!(next(&mut follower), Some(1000));
        let retention = Retention { bytes_max: 9_000, ..Retention::default() };
        history.push(large(1), retention);
        assert_eq!(history.kept().1.len(), 1, "the newest stays for who has not seen it, whatever its size");
        assert_eq!(next(&mut follower), Some(1));
        assert_eq!(history.kept(), (Revision(1), Vec::new()));
        drop(follower);
        history.push(large(2), retention);
        assert_eq!(history.kept(), (Revision(2), Vec::new()));
        assert!(history.follow(WatchFrom::After(Revision(2))).is_ok());
    }

    #[test]
    fn closing_ends_followers_after_what_they_have_not_seen() {
        let history = History::new(Revision(0), &HistoryBudget::default());
        let mut follower = history.follow(WatchFrom::After(Revision(0))).unwrap();
        history.push(commit(1), Retention::default());
        history.close();
        assert_eq!(next(&mut follower), Some(1));
        let error = follower.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(history.follow(WatchFrom::Now).is_err());
    }

    #[test]
    fn followers_end_with_the_first_reason_that_was_given() {
        let history = History::new(Revision(0), &HistoryBudget::default());
        let mut follower = history.follow(WatchFrom::After(Revision(0))).unwrap();
        history.end(&Error::compacted(Revision(7)));
        history.close();
        let error = follower.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Compacted { oldest: Revision(7) });
        let error = history.follow(WatchFrom::Now).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Compacted { oldest: Revision(7) });
    }

    #[test]
    fn a_window_that_is_extended_back_serves_who_could_not_begin() {
        let history = History::new(Revision(5), &HistoryBudget::default());
        history.push(commit(6), Retention::default());
        assert!(history.follow(WatchFrom::After(Revision(2))).is_err());
        let older: Vec<Arc<Commit>> = (3..=5).map(|at| Arc::new(commit(at))).collect();
        history.extend_back(Revision(2), older.clone());
        history.extend_back(Revision(2), older);
        assert_eq!(history.floor(), Revision(2));
        let mut follower = history.follow(WatchFrom::After(Revision(2))).unwrap();
        for at in 3..=6 {
            assert_eq!(next(&mut follower), Some(at));
        }
        assert_eq!(next(&mut follower), None);
        assert_eq!((history.tip(), history.followers()), (Revision(6), 1));
    }

    #[test]
    fn only_a_window_that_lags_behind_its_store_is_followed_from_beyond_its_tip() {
        let history = History::new(Revision(1), &HistoryBudget::default());
        history.push(commit(2), Retention::default());
        let error = history.follow(WatchFrom::After(Revision(3))).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Compacted { oldest: Revision(2) });
        let mut follower = history.follow_after(Revision(3)).unwrap();
        history.push(commit(3), Retention::default());
        history.push(commit(4), Retention::default());
        assert_eq!((next(&mut follower), next(&mut follower)), (Some(4), None));
    }

    #[test]
    fn a_dropped_follower_leaves_no_trace() {
        let history = History::new(Revision(0), &HistoryBudget::default());
        drop(history.follow(WatchFrom::Now).unwrap());
        assert_eq!(history.window.lock().followers.len(), 0);
    }
}
