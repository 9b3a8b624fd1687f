// SPDX-License-Identifier: Apache-2.0
//! Fencing tokens: clients update data that a lock guards, while holders are paused for too long and runtimes are killed.
//!
//! The lock alone cannot guard it: a holder that was paused does not know that it lost the lock. So the guarded data
//! refuses a token that is older than the newest one that it has seen. Beside it the same updates are made to something
//! that does not look at tokens, to show that the faults had an effect.
#![allow(clippy::disallowed_methods, reason = "clients of real servers, in real time")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atomix_client::Lock;
use tokio::sync::watch;

use super::deployment::{Deployment, SESSIONS};
use super::fault::Fault;
use atomix_conformance::Dice;

/// The outcomes of the updates.
#[derive(Debug, Default)]
pub struct Counts {
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
    /// The number of pauses of holders, and of kills of runtimes.
    pub pauses: u64,
    /// See above.
    pub kills: u64,
    /// The longest time without an update.
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
struct Scenario {
    stop: AtomicBool,
    /// The machine of the holder.
    holder: AtomicUsize,
    guarded: Mutex<Guarded>,
    unguarded: Mutex<Guarded>,
    /// The newest token that was granted, and those that were not newer than one that was known.
    tokens: Mutex<(u64, Vec<(u64, u64)>)>,
    next: Mutex<u64>,
    /// When the last update was, and the longest time without one.
    last: Mutex<(Instant, Duration)>,
    /// For each runtime, whether the machine of its clients is paused.
    machines: Vec<watch::Sender<bool>>,
}

const CLIENTS: usize = 5;
/// The longest time between reading and writing.
const WORK_MAX: Duration = Duration::from_millis(20);
const CALL: Duration = Duration::from_secs(5);
/// How much longer a slow machine is given.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// Lets clients update for a while, and on a slow machine until both have happened: a holder is paused until others have
/// the lock, and a runtime is killed.
pub async fn run(deployment: &mut Deployment, dice: &mut Dice, duration: Duration) -> Counts {
    let scenario = Arc::new(Scenario::new(deployment.runtimes.len()));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let machine = number % deployment.runtimes.len();
        let client = deployment.runtimes[machine].direct_client(CALL);
        let (scenario, dice) = (Arc::clone(&scenario), Dice::new(dice.roll(u64::MAX)));
        clients.push(tokio::spawn(async move {
            let lock = loop {
                match client.lock("fence").open().await {
                    Ok(lock) => break lock,
                    Err(_) => tokio::time::sleep(WORK_MAX).await,
                }
            };
            scenario.update(&lock, machine, dice).await;
        }));
    }
    let (until, mut counts) = (Instant::now() + duration, Counts::default());
    while Instant::now() < until || counts.kills == 0 && Instant::now() < until + WAIT_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(500 + dice.roll(1500))).await;
        if counts.pauses < 3 * (counts.kills + 1) {
            counts.pauses += u64::from(scenario.pause_holder(deployment).await);
        } else {
            let killed = Fault::RuntimeKilled(dice.index(deployment.runtimes.len()));
            killed.inject(deployment).await;
            tokio::time::sleep(Duration::from_millis(dice.roll(2000))).await;
            killed.repair(deployment).await;
            counts.kills += 1;
        }
    }
    scenario.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("clients do not fail");
    }
    let guarded = held(&scenario.guarded);
    counts.updates = guarded.taken.len();
    counts.fenced = guarded.refused;
    (counts.lost, counts.doubled) = guarded.lost_and_doubled();
    (counts.unguarded_lost, _) = held(&scenario.unguarded).lost_and_doubled();
    counts.tokens_back.clone_from(&held(&scenario.tokens).1);
    counts.longest_gap = held(&scenario.last).1;
    counts
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

// === impl Scenario ===

impl Scenario {
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
        let mut stopped = self.machines[machine].subscribe();
        while !self.stop.load(Ordering::Relaxed) {
            let known = held(&self.tokens).0;
            let Ok(guard) = lock.acquire().timeout(CALL).await else {
                tokio::time::sleep(WORK_MAX).await;
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
            // The machine may be paused at any time, most often here.
            drop(stopped.wait_for(|stopped| !*stopped).await);
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
            // A holder that was paused has lost it.
            drop(guard.release().await);
        }
    }

    /// Pauses the machine of the holder, with the runtime on it, until others have had the lock. Returns false if there was
    /// no holder.
    async fn pause_holder(&self, deployment: &mut Deployment) -> bool {
        let holder = self.holder.load(Ordering::SeqCst);
        let Some(machine) = self.machines.get(holder) else { return false };
        machine.send_replace(true);
        // A holder on that machine that has not written yet does not write before the machine resumes.
        tokio::time::sleep(2 * WORK_MAX).await;
        let stopped = self.holder.load(Ordering::SeqCst) == holder;
        if stopped {
            let paused = Fault::RuntimePaused(holder);
            paused.inject(deployment).await;
            tokio::time::sleep(SESSIONS * 5 / 2).await;
            paused.repair(deployment).await;
        }
        machine.send_replace(false);
        stopped
    }
}
