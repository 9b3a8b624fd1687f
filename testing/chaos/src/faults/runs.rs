// SPDX-License-Identifier: Apache-2.0
//! Long runs: rounds in which clients use all primitives while there is trouble, each judged by its history.
#![allow(clippy::disallowed_methods, reason = "real servers, in real time")]

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use super::stand::{Kind, Stand};
use super::trouble::Trouble;
use crate::record::{self, Options, Violations};
use atomix_conformance::Dice;

/// What all rounds of a run had, together.
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
    /// Calls whose outcome nobody knows.
    pub lost: u64,
    /// Events that watchers were shown.
    pub events: usize,
    /// How often there was trouble.
    pub troubles: u64,
    /// Rounds with a history that is wrong, or could not be judged.
    pub bad: Vec<u64>,
}

/// How long the clients of a round are at work.
const ROUND: Duration = Duration::from_secs(20);
/// When everything is mended at the latest.
const MENDED: Duration = Duration::from_secs(15);
/// The longest time that trouble lasts: some of it outlives sessions, and what stores wait for.
const TROUBLE_MAX: u64 = 5000;

/// Makes rounds for a while, and prints each.
#[allow(clippy::print_stdout, reason = "the figures of a run are its result")]
pub async fn run(stand: &mut Stand, kind: Kind, seed: u64, duration: Duration) -> Totals {
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
        let endpoints: Vec<String> =
            stand.runtimes.iter().map(|runtime| format!("http://{}", runtime.front.address())).collect();
        let recording = record::run(&endpoints, seed, ROUND, &options);
        let (recording, troubles) = tokio::join!(recording, make_trouble(stand, &mut dice));
        let judged =
            tokio::task::spawn_blocking(move || recording.judge()).await.expect("the judge does not fail");
        let summary = match &judged {
            Ok(summary) | Err(Violations { summary, .. }) => summary,
        };
        totals.objects += summary.objects;
        totals.done += summary.done;
        totals.refused += summary.refused;
        totals.lost += summary.lost;
        totals.events += summary.events;
        totals.troubles += troubles;
        println!("  {:.1?}, {summary}", began.elapsed());
        for (number, runtime) in stand.runtimes.iter().enumerate() {
            let (resident, id) = (runtime.server().resident() / 1024, runtime.server().id());
            let files = fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
            println!("  runtime {number}: resident {resident} KiB, {files} files open");
        }
        match judged {
            Ok(_) => println!("  verdict: right"),
            Err(violations) => {
                println!("  verdict: WRONG\n{violations}");
                totals.bad.push(totals.rounds);
            }
        }
    }
    totals
}

/// Makes trouble a few times, one after the other, and mends it in time. Returns how often. A run that dies in the middle
/// of it has printed it.
#[allow(clippy::print_stdout, reason = "the figures of a run are its result")]
async fn make_trouble(stand: &mut Stand, dice: &mut Dice) -> u64 {
    let (began, mut made) = (Instant::now(), 0);
    tokio::time::sleep(Duration::from_millis(1000 + dice.roll(2000))).await;
    loop {
        let trouble = Trouble::draw(dice, stand);
        let time = Duration::from_millis(200 + dice.roll(TROUBLE_MAX - 200));
        if began.elapsed() + time > MENDED {
            return made;
        }
        let at = began.elapsed();
        println!("  at {at:.1?} {trouble} for {time:.1?}");
        trouble.begin(stand).await;
        tokio::time::sleep(time).await;
        trouble.end(stand).await;
        made += 1;
        tokio::time::sleep(Duration::from_millis(dice.roll(3000))).await;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, objects, done, refused, lost, events, troubles, bad } = self;
        write!(
            f,
            "{rounds} rounds, {troubles} times trouble, {objects} histories judged, {done} calls done, {refused} \
             refused, {lost} lost, {events} events, {} rounds wrong {bad:?}",
            bad.len()
        )
    }
}
