// SPDX-License-Identifier: Apache-2.0
//! The shared watches of a store: which parts are watched, and their windows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atomix_env::Instant;
use atomix_store::{Error, ErrorKind, History, HistoryBudget, Revision, WatchStream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::Core;
use crate::keys::TOGETHER_MAX;
use crate::watch::assemble::Assembler;
use crate::watch::part::Part;

/// The shared watches of a store, and the commands for the task that reads them from etcd.
pub(super) struct Registry {
    pub(super) core: Arc<Core>,
    histories: HistoryBudget,
    state: Mutex<State>,
    /// There is something for the task to do.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    shared_watches: HashMap<Part, SharedWatch>,
    /// Commands that the task has not taken yet.
    commands: VecDeque<Command>,
    last_id: i64,
    /// The task that fills the windows was started.
    running: bool,
    closed: bool,
}

/// A part that is watched.
struct SharedWatch {
    id: i64,
    history: History,
    /// The number of streams that catch up and will follow then.
    catching_up: Arc<AtomicUsize>,
    /// The time since when the watch has no followers.
    idle: Option<Instant>,
}

pub(super) enum Command {
    Begin(i64, Watching),
    End(i64),
}

/// The task's side of a standing watch.
pub(super) struct Watching {
    pub(super) part: Part,
    pub(super) history: History,
    /// Every commit up to this revision was delivered.
    pub(super) seen: Revision,
    pub(super) assembler: Assembler,
    /// The generation of the token with which etcd has refused it.
    pub(super) refused_at: Option<u64>,
}

/// A stream that catches up and will follow then: keeps its window. Counted until it is dropped.
pub(super) struct CatchUp(Arc<AtomicUsize>);

/// A keyspace whose first follower begins at most so many revisions back is watched from there; else from now on, and the
/// follower catches up.
const CATCH_UP_MAX: u64 = 1_000 * TOGETHER_MAX as u64;

// === impl Registry ===

impl Registry {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let histories = HistoryBudget::new(core.settings.histories_bytes_max);
        Self { core, histories, state: Mutex::default(), changed: Notify::new() }
    }

    /// Returns the number of watches that etcd serves.
    pub(super) fn watched(&self) -> usize {
        self.state.lock().shared_watches.len()
    }

    /// Returns whether the task that fills the windows is to be started, once.
    pub(super) fn begin_to_run(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().running, true)
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for (_, shared_watches) in state.shared_watches.drain() {
            shared_watches.history.close();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Watches a part, if it is not watched yet, and follows it from `after`. The window does not reach back as far if
    /// no stream is returned.
    pub(super) fn ensure_watch(
        &self,
        part: &Part,
        after: Revision,
        latest: Revision,
    ) -> Result<(Option<WatchStream>, CatchUp), Error> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::closed());
        }
        if !state.shared_watches.contains_key(part) {
            let seen = if after.0.saturating_add(CATCH_UP_MAX) >= latest.0 { after } else { latest };
            state.last_id += 1;
            let (id, history) = (state.last_id, History::new(seen, &self.histories));
            let watching = Watching {
                part: part.clone(),
                history: history.clone(),
                seen,
                assembler: Assembler::default(),
                refused_at: None,
            };
            state.commands.push_back(Command::Begin(id, watching));
            let shared_watches = SharedWatch { id, history, catching_up: Arc::default(), idle: None };
            state.shared_watches.insert(part.clone(), shared_watches);
            self.changed.notify_one();
        }
        let shared_watches = state.shared_watches.get_mut(part).expect("it was just put there");
        shared_watches.idle = None;
        Ok((shared_watches.follow(after)?, CatchUp::new(&shared_watches.catching_up)))
    }

    /// Follows a part from `seen` if its window reaches back as far.
    pub(super) fn join(&self, part: &Part, seen: Revision) -> Result<Option<WatchStream>, Error> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::closed());
        }
        state.shared_watches.get_mut(part).map_or(Ok(None), |shared_watches| shared_watches.follow(seen))
    }

    /// Closes all windows after a panic of the task that fills them: followers resume where they were.
    pub(super) fn close_windows(&self) {
        let mut state = self.state.lock();
        state.commands.clear();
        for (_, shared_watches) in state.shared_watches.drain() {
            shared_watches.history.close();
        }
    }

    /// Ends a watch and its followers with `error`.
    pub(super) fn end(&self, id: i64, watching: &Watching, error: &Error) {
        let mut state = self.state.lock();
        if state.shared_watches.get(&watching.part).is_some_and(|shared_watches| shared_watches.id == id) {
            state.shared_watches.remove(&watching.part);
        }
        watching.history.end(error);
    }

    /// Takes note of new and ended watches. Returns the ids of both.
    pub(super) fn take_commands(&self, watches: &mut HashMap<i64, Watching>) -> (Vec<i64>, Vec<i64>) {
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for order in std::mem::take(&mut self.state.lock().commands) {
            match order {
                Command::Begin(id, watching) => {
                    watches.insert(id, watching);
                    begun.push(id);
                }
                Command::End(id) => {
                    watches.remove(&id);
                    ended.push(id);
                }
            }
        }
        (begun, ended)
    }

    /// Ends the watches that had no followers for `watch_linger`.
    pub(super) fn sweep(&self) {
        let (now, linger) = (self.core.env.now(), self.core.settings.watch_linger);
        let mut state = self.state.lock();
        let mut ended = Vec::new();
        state.shared_watches.retain(|_, shared_watches| {
            let followed = shared_watches.history.followers() > 0
                || shared_watches.catching_up.load(Ordering::Relaxed) > 0;
            shared_watches.idle = if followed { None } else { shared_watches.idle.or(Some(now)) };
            let keep = shared_watches.idle.is_none_or(|since| now.since(since) < linger);
            if !keep {
                ended.push(Command::End(shared_watches.id));
            }
            keep
        });
        if !ended.is_empty() {
            state.commands.extend(ended);
            self.changed.notify_one();
        }
    }
}

// === impl SharedWatch ===

impl SharedWatch {
    fn follow(&self, after: Revision) -> Result<Option<WatchStream>, Error> {
        if after < self.history.floor() {
            return Ok(None);
        }
        match self.history.follow_after(after) {
            // The window has moved in the very moment.
            Err(error)
                if matches!(error.kind(), ErrorKind::Compacted { .. }) && after < self.history.floor() =>
            {
                Ok(None)
            }
            followed => followed.map(Some),
        }
    }
}

// === impl CatchUp ===

impl CatchUp {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
