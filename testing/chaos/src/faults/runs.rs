// SPDX-License-Identifier: Apache-2.0
//! Long runs: rounds in which clients use all primitives during faults, each judged by its history.
#![allow(clippy::disallowed_methods, reason = "real servers, in real time")]

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use super::deployment::{Deployment, Kind};
use super::fault::Fault;
use crate::record::{self, Options, Violations};
use atomix_conformance::Dice;

/// The sums of all rounds of a run.
#[derive(Debug, Default)]
pub struct Totals {
    /// Rounds.
    pub rounds: u64,
    /// Objects whose histories were judged.
    pub objects: usize,
    /// Calls that were answered.
    pub done: u64,
    /// Calls that were certainly not applied.
    pub refused: u64,
    /// Calls with an unknown outcome.
    pub lost: u64,
    /// Events that watchers received.
    pub events: usize,
    /// The number of faults.
    pub faults: u64,
    /// Rounds with a history that is wrong, or could not be judged.
    pub wrong: Vec<u64>,
}

/// The duration of a round.
const ROUND: Duration = Duration::from_secs(20);
/// The time after which no fault is left.
const LAST_REPAIR: Duration = Duration::from_secs(15);
/// The longest duration of a fault in milliseconds: longer than the timeouts of sessions and stores.
const FAULT_MAX: u64 = 5000;

/// Makes rounds for a while, and prints each.
#[allow(clippy::print_stdout, reason = "the figures of a run are its result")]
pub async fn run(deployment: &mut Deployment, kind: Kind, seed: u64, duration: Duration) -> Totals {
    let (mut dice, mut totals, until) = (Dice::new(seed), Totals::default(), Instant::now() + duration);
    while Instant::now() < until {
        let began = Instant::now();
        totals.rounds += 1;
        let options = Options {
            prefix: format!("r{}", totals.rounds),
            stalls: kind.shared(),
            pause: Duration::from_millis(15),
            ..Options::with_faults()
        };
        let seed = dice.roll(u64::MAX);
        println!("\nround {}", totals.rounds);
        let endpoints: Vec<String> = deployment
            .runtimes
            .iter()
            .map(|runtime| format!("http://{}", runtime.client_link.address()))
            .collect();
        let recording = record::run(&endpoints, seed, ROUND, &options);
        let (recording, faults) = tokio::join!(recording, inject_faults(deployment, &mut dice));
        let judged =
            tokio::task::spawn_blocking(move || recording.judge()).await.expect("the check does not panic");
        let summary = match &judged {
            Ok(summary) | Err(Violations { summary, .. }) => summary,
        };
        totals.objects += summary.objects;
        totals.done += summary.done;
        totals.refused += summary.refused;
        totals.lost += summary.lost;
        totals.events += summary.events;
        totals.faults += faults;
        println!("  {:.1?}, {summary}", began.elapsed());
        for (number, runtime) in deployment.runtimes.iter().enumerate() {
            let (resident, id) = (runtime.server().resident() / 1024, runtime.server().id());
            let files = fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
            println!("  runtime {number}: resident {resident} KiB, {files} files open");
        }
        match judged {
            Ok(_) => println!("  verdict: right"),
            Err(violations) => {
                println!("  verdict: WRONG\n{violations}");
                totals.wrong.push(totals.rounds);
            }
        }
    }
    totals
}

/// Injects faults one after the other, repairs each, and returns their number. A fault is printed before it is
/// injected, so that the output of a run that fails has it.
#[allow(clippy::print_stdout, reason = "the figures of a run are its result")]
async fn inject_faults(deployment: &mut Deployment, dice: &mut Dice) -> u64 {
    let (began, mut made) = (Instant::now(), 0);
    tokio::time::sleep(Duration::from_millis(1000 + dice.roll(2000))).await;
    loop {
        let fault = Fault::draw(dice, deployment);
        let time = Duration::from_millis(200 + dice.roll(FAULT_MAX - 200));
        if began.elapsed() + time > LAST_REPAIR {
            return made;
        }
        let at = began.elapsed();
        println!("  at {at:.1?} {fault} for {time:.1?}");
        fault.inject(deployment).await;
        tokio::time::sleep(time).await;
        fault.repair(deployment).await;
        made += 1;
        tokio::time::sleep(Duration::from_millis(dice.roll(3000))).await;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, objects, done, refused, lost, events, faults, wrong } = self;
        write!(
            f,
            "{rounds} rounds, {faults} faults, {objects} histories judged, {done} calls done, {refused} \
             refused, {lost} lost, {events} events, {} rounds wrong {wrong:?}",
            wrong.len()
        )
    }
}
