// SPDX-License-Identifier: Apache-2.0
//! What a lock is for: clients that update something which the lock guards, while its holders stand still for too long
//! and runtimes die.
//!
//! The lock alone cannot guard it: a holder that stood still does not know that it lost the lock. So what is guarded
//! refuses a token that is older than the newest one that it has seen. Beside it the same updates are made to something
//! that does not look at tokens, to show that the trouble was real.
#![allow(clippy::disallowed_methods, reason = "clients of real servers, in real time")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atomix_client::Lock;
use tokio::sync::watch;

use super::stand::{SESSIONS, Stand};
use super::trouble::Trouble;
use atomix_conformance::Dice;

/// What became of the updates.
#[derive(Debug, Default)]
pub struct Tally {
    /// Updates that were taken by what is guarded.
    pub updates: usize,
    /// Updates that were refused, because their token was old.
    pub fenced: u64,
    /// Of the updates that were taken, those that are not there in the end, and those that are there twice.
    pub lost: usize,
    /// See above.
    pub doubled: usize,
    /// The same for what nothing guards.
    pub unguarded_lost: usize,
    /// Tokens that were not greater than one that was known when they were asked for.
    pub tokens_back: Vec<(u64, u64)>,
    /// How often a holder stood still, and how often a runtime was killed.
    pub pauses: u64,
    /// See above.
    pub kills: u64,
    /// The longest time in which nobody made an update.
    pub longest_gap: Duration,
}

/// Something that is read, and written as a whole.
#[derive(Debug, Default)]
struct Guarded {
    /// Whether tokens are looked at.
    fenced: bool,
    newest: u64,
    entries: Vec<u64>,
    taken: Vec<u64>,
    refused: u64,
}

#[derive(Debug)]
struct Scene {
    stop: AtomicBool,
    /// On whose machine the holder is.
    holder: AtomicUsize,
    guarded: Mutex<Guarded>,
    unguarded: Mutex<Guarded>,
    /// The newest token that anybody was given, and those that were not newer than one that was known.
    tokens: Mutex<(u64, Vec<(u64, u64)>)>,
    next: Mutex<u64>,
    /// When the last update was, and the longest time without one.
    last: Mutex<(Instant, Duration)>,
    /// For each runtime, whether the machine of its clients stands still.
    machines: Vec<watch::Sender<bool>>,
}

const CLIENTS: usize = 5;
/// The longest time between reading and writing.
const THINK: Duration = Duration::from_millis(20);
const CALL: Duration = Duration::from_secs(5);
/// How much longer a slow machine is given.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// Lets clients update for a while, and on a slow machine until both have happened: a holder stands still until others have
/// the lock, and a runtime is killed.
pub async fn run(stand: &mut Stand, dice: &mut Dice, duration: Duration) -> Tally {
    let scene = Arc::new(Scene::new(stand.runtimes.len()));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let machine = number % stand.runtimes.len();
        let client = stand.runtimes[machine].direct_client(CALL);
        let (scene, dice) = (Arc::clone(&scene), Dice::new(dice.roll(u64::MAX)));
        clients.push(tokio::spawn(async move {
            let lock = loop {
                match client.lock("fence").open().await {
                    Ok(lock) => break lock,
                    Err(_) => tokio::time::sleep(THINK).await,
                }
            };
            scene.update(&lock, machine, dice).await;
        }));
    }
    let (until, mut tally) = (Instant::now() + duration, Tally::default());
    while Instant::now() < until || tally.kills == 0 && Instant::now() < until + WAIT_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(500 + dice.roll(1500))).await;
        if tally.pauses < 3 * (tally.kills + 1) {
            tally.pauses += u64::from(scene.pause_holder(stand).await);
        } else {
            let killed = Trouble::RuntimeKilled(dice.index(stand.runtimes.len()));
            killed.begin(stand).await;
            tokio::time::sleep(Duration::from_millis(dice.roll(2000))).await;
            killed.end(stand).await;
            tally.kills += 1;
        }
    }
    scene.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("clients do not fail");
    }
    let guarded = held(&scene.guarded);
    tally.updates = guarded.taken.len();
    tally.fenced = guarded.refused;
    (tally.lost, tally.doubled) = guarded.lost_and_doubled();
    (tally.unguarded_lost, _) = held(&scene.unguarded).lost_and_doubled();
    tally.tokens_back.clone_from(&held(&scene.tokens).1);
    tally.longest_gap = held(&scene.last).1;
    tally
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Guarded ===

impl Guarded {
    /// Lets a token in that is not older than the newest one. A reader shows it as well: what a later writer
    /// will have not seen must not be written any more.
    fn admit(&mut self, token: u64) -> bool {
        let admitted = !self.fenced || token >= self.newest;
        self.newest = self.newest.max(token);
        self.refused += u64::from(!admitted);
        admitted
    }

    fn read(&mut self, token: u64) -> Option<Vec<u64>> {
        self.admit(token).then(|| self.entries.clone())
    }

    fn write(&mut self, token: u64, entries: Vec<u64>) -> bool {
        let admitted = self.admit(token);
        if admitted {
            self.taken.extend(entries.last());
            self.entries = entries;
        }
        admitted
    }

    fn lost_and_doubled(&self) -> (usize, usize) {
        let there: HashSet<u64> = self.entries.iter().copied().collect();
        let lost = self.taken.iter().filter(|entry| !there.contains(entry)).count();
        (lost, self.entries.len() - there.len())
    }
}

// === impl Scene ===

impl Scene {
    fn new(machines: usize) -> Self {
        Self {
            stop: AtomicBool::new(false),
            holder: AtomicUsize::new(usize::MAX),
            guarded: Mutex::new(Guarded { fenced: true, ..Guarded::default() }),
            unguarded: Mutex::default(),
            tokens: Mutex::default(),
            next: Mutex::default(),
            last: Mutex::new((Instant::now(), Duration::ZERO)),
            machines: (0..machines).map(|_| watch::Sender::new(false)).collect(),
        }
    }

    /// Takes the lock, reads, thinks, writes, and gives the lock back, again and again.
    async fn update(&self, lock: &Lock, machine: usize, mut dice: Dice) {
        let mut still = self.machines[machine].subscribe();
        while !self.stop.load(Ordering::Relaxed) {
            let known = held(&self.tokens).0;
            let Ok(guard) = lock.acquire().timeout(CALL).await else {
                tokio::time::sleep(THINK).await;
                continue;
            };
            let token = guard.token();
            {
                let mut tokens = held(&self.tokens);
                tokens.0 = tokens.0.max(token);
                if token <= known {
                    tokens.1.push((known, token));
                }
            }
            self.holder.store(machine, Ordering::SeqCst);
            let (guarded, unguarded) = (held(&self.guarded).read(token), held(&self.unguarded).read(token));
            tokio::time::sleep(Duration::from_millis(dice.roll(20))).await;
            // The machine may stand still at any time, most often here.
            drop(still.wait_for(|still| !*still).await);
            let update = {
                let mut next = held(&self.next);
                *next += 1;
                *next
            };
            let write = |on: &Mutex<Guarded>, read: Option<Vec<u64>>| {
                let Some(mut entries) = read else { return false };
                entries.push(update);
                held(on).write(token, entries)
            };
            write(&self.unguarded, unguarded);
            if write(&self.guarded, guarded) {
                let mut last = held(&self.last);
                *last = (Instant::now(), last.1.max(last.0.elapsed()));
            }
            // Who stood still has lost it.
            drop(guard.release().await);
        }
    }

    /// Stops the machine of whoever holds the lock, with the runtime on it, until others have had it. False if there was
    /// nobody to stop.
    async fn pause_holder(&self, stand: &mut Stand) -> bool {
        let holder = self.holder.load(Ordering::SeqCst);
        let Some(machine) = self.machines.get(holder) else { return false };
        machine.send_replace(true);
        // Who holds it there now, and has not written yet, will not before the machine goes on.
        tokio::time::sleep(2 * THINK).await;
        let stopped = self.holder.load(Ordering::SeqCst) == holder;
        if stopped {
            let paused = Trouble::RuntimePaused(holder);
            paused.begin(stand).await;
            tokio::time::sleep(SESSIONS * 5 / 2).await;
            paused.end(stand).await;
        }
        machine.send_replace(false);
        stopped
    }
}
