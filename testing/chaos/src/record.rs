// SPDX-License-Identifier: Apache-2.0
//! Records the calls of clients and their outcomes while they use all primitives, and checks the record.
//!
//! [`Recorder`] lets clients, each with a session of its own, call whatever is served at some endpoints, which may be killed, paused
//! and restarted meanwhile. Watchers follow, and are cut off now and then. [`Recording::judge`] asks of every
//! object that one order of calls explains all answers, and of every stream that it kept its promises
//! (`atomix_conformance::history`). What fails is written to a file, and judged again with [`replay`].
#![allow(clippy::disallowed_methods, reason = "clients of real servers, in real time")]
#![allow(clippy::wildcard_enum_match_arm, reason = "only some of the answers matter")]

mod cells;
mod durability;
mod last;
mod log;
mod marks;
mod owned;
mod plain;
mod replies;
mod session;
mod streams;
mod verdict;
mod worker;

pub use durability::Crash;
pub use log::Counts;
pub use verdict::{Recording, Summary, Violation, Violations, replay};
pub use worker::Outcome;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use atomix_conformance::Dice;

use log::Log;
use streams::Watcher;
use worker::Worker;

/// A kind of primitive that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Keys of maps, with times to live and transactions.
    Map,
    /// Values.
    Value,
    /// Counters.
    Counter,
    /// Locks.
    Lock,
    /// Locks of the keys of maps.
    KeyLock,
    /// Sets.
    Set,
    /// Lists.
    List,
    /// Indexed maps.
    IndexedMap,
    /// Counter maps.
    CounterMap,
    /// Multimaps.
    MultiMap,
    /// Elections.
    Election,
    /// Topics.
    Topic,
}

/// How the clients work.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many clients call.
    pub clients: u32,
    /// How many follow.
    pub watchers: u32,
    /// How many primitives of each kind there are.
    pub names: u64,
    /// The prefix of names, so that several recordings can share a store.
    pub prefix: String,
    /// The recorded kinds.
    pub kinds: Vec<Kind>,
    /// The tag by which routes find the store, if there are routes.
    pub tag: Option<String>,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// The longest pause between two calls of a client.
    pub pause: Duration,
    /// How much later than its time an entry may go. `None`: it may stay.
    pub late: Option<Duration>,
    /// How long a lock may be free while a session waits for it. `None`: not checked.
    pub free: Option<Duration>,
    /// Whether others may take a runtime for dead whose connections go on: because it is stopped, or cut off from its
    /// store. Its clients may lose what they own then.
    pub stalls: bool,
    /// Whether clients end their sessions now and then, as if they had died.
    pub deaths: bool,
    /// The longest padding of a value, in bytes. Large values fill logs and snapshots of stores.
    pub padding: usize,
    /// Whether each lock must be free when all sessions have ended.
    pub free_at_end: bool,
    /// How many steps the judgement of one object may take.
    pub steps: usize,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Map,
        Self::Value,
        Self::Counter,
        Self::Lock,
        Self::KeyLock,
        Self::Set,
        Self::List,
        Self::IndexedMap,
        Self::CounterMap,
        Self::MultiMap,
        Self::Election,
        Self::Topic,
    ];
}

impl Default for Options {
    /// A run without faults.
    fn default() -> Self {
        Self {
            clients: 8,
            watchers: 10,
            names: 2,
            prefix: "h".to_owned(),
            kinds: Kind::ALL.to_vec(),
            tag: None,
            call_timeout: Duration::from_secs(1),
            pause: Duration::from_millis(3),
            late: Some(Duration::from_secs(3)),
            free: Some(Duration::from_millis(1500)),
            stalls: false,
            deaths: true,
            padding: 0,
            free_at_end: false,
            steps: 500_000,
        }
    }
}

impl Options {
    /// A run in which servers are killed, paused, or cannot be reached.
    pub fn with_faults() -> Self {
        Self { late: None, free: None, stalls: true, ..Self::default() }
    }
}

/// How far a recording is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Runs,
    /// Clients make no more calls.
    Stops,
    /// The last marks are written: no stream begins any more.
    Ends,
    /// The last marks have been written.
    Ended,
}

/// A recording in progress.
#[derive(Debug)]
pub struct Recorder {
    seed: u64,
    dice: Dice,
    log: Arc<Log>,
    phase: watch::Sender<Phase>,
    workers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
}

/// Timeout of the progress of a recording.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// Records the `endpoints` for `duration`; see [`Recorder::start`].
pub async fn run(endpoints: &[String], seed: u64, duration: Duration, options: &Options) -> Recording {
    let recorder = Recorder::start(endpoints, seed, options);
    tokio::time::sleep(duration).await;
    recorder.finish().await
}

// === impl Recorder ===

impl Recorder {
    /// Starts clients of the `endpoints` (`http://host:port` or `unix:/path`): each may be reachable or not at any time.
    /// The calls depend on the `seed`, their replies do not.
    pub fn start(endpoints: &[String], seed: u64, options: &Options) -> Self {
        let log = Arc::new(Log::new(options.clone(), endpoints.to_vec()));
        let (mut dice, phase) = (Dice::new(seed), watch::Sender::new(Phase::Runs));
        let watchers = (0..options.watchers).map(|_| {
            let watcher = Watcher::new(Arc::clone(&log), Dice::new(dice.bits()), phase.subscribe());
            tokio::spawn(watcher.follow())
        });
        let watchers = watchers.collect();
        let workers = (0..options.clients).map(|me| {
            let worker = Worker::new(Arc::clone(&log), Dice::new(dice.bits()), me);
            tokio::spawn(worker.work(phase.subscribe()))
        });
        let workers = workers.collect();
        Self { seed, dice, log, phase, workers, watchers }
    }

    /// Returns the time of the record: nanoseconds since its beginning.
    pub fn now(&self) -> u64 {
        self.log.now()
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> Counts {
        self.log.counts().clone()
    }

    /// Waits until so many `more` calls are answered.
    pub async fn answered(&self, more: u64) {
        let target = self.log.counts().done + more;
        self.reached("calls are answered", |counts| counts.done >= target).await;
    }

    /// Waits until the counts are as wanted.
    ///
    /// # Panics
    /// If that takes longer than two minutes.
    pub async fn reached(&self, what: &str, is_reached: impl Fn(&Counts) -> bool) {
        let began = Instant::now();
        while !is_reached(&self.log.counts()) {
            assert!(
                began.elapsed() < WAIT_TIMEOUT,
                "{what}: not within {WAIT_TIMEOUT:?}: {:?}",
                self.log.counts()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends the calls, waits until streams have shown them, and returns the record.
    pub async fn finish(mut self) -> Recording {
        self.phase.send_replace(Phase::Stops);
        for worker in self.workers {
            worker.await.expect("a worker does not panic");
        }
        self.phase.send_replace(Phase::Ends);
        // Marks that every stream shows that goes on, and with them everything before.
        let last = Worker::new(Arc::clone(&self.log), Dice::new(self.dice.bits()), self.log.options.clients);
        last.finish().await;
        self.phase.send_replace(Phase::Ended);
        for watcher in self.watchers {
            watcher.await.expect("a watcher does not panic");
        }
        Recording::new(self.seed, &self.log)
    }
}
