// SPDX-License-Identifier: Apache-2.0
//! The long run of `tests/crash-rounds`: many kills and power cuts, from a seed.
//!
//! `CRASH_KILLS`, `CRASH_CUTS`: how many rounds. `CRASH_SEED`: the seed.

#![allow(clippy::print_stdout, reason = "the figures of a run are its result")]

use std::time::{SystemTime, UNIX_EPOCH};

use atomix_chaos::disks::{Shim, mount_missing};
use atomix_chaos::rounds::{Durability, Report, kills, power_cuts};

#[allow(clippy::disallowed_methods, reason = "a seed that was not given is the time")]
fn seed() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()));
    number("CRASH_SEED", time)
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn assert_right(what: &str, seed: u64, report: &Report) {
    println!("{what}: {report}, seed {seed}");
    for (error, count) in &report.errors {
        println!("    answered {count} times: {error}");
    }
    assert!(report.wrong.is_empty(), "{what}, seed {seed}: {}", report.wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: run by tests/crash-rounds"]
async fn kills_lose_nothing() {
    let (rounds, seed) = (number("CRASH_KILLS", 200), seed());
    println!("kills: seed {seed}");
    for (durability, rounds) in [(Durability::Sync, rounds - rounds / 2), (Durability::Interval, rounds / 2)]
    {
        let folder = tempfile::tempdir().unwrap();
        let report = kills(&folder.path().join("store"), rounds, seed, durability).await.unwrap();
        assert_right(&format!("kills, {durability:?}"), seed, &report);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: run by tests/crash-rounds"]
async fn power_cuts_lose_nothing_but_what_an_interval_allows() {
    let (rounds, seed) = (number("CRASH_CUTS", 50), seed());
    println!("power cuts: seed {seed}");
    if let Some(missing) = mount_missing() {
        println!("power cuts: skipped, disks cannot be mounted here: {missing}");
        return;
    }
    let shim = Shim::build().unwrap();
    for (durability, rounds) in [(Durability::Sync, rounds - rounds / 3), (Durability::Interval, rounds / 3)]
    {
        let report = power_cuts(rounds, seed, durability, &shim).await.unwrap();
        assert_right(&format!("power cuts, {durability:?}"), seed, &report);
    }
}
