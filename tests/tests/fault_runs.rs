// SPDX-License-Identifier: Apache-2.0
//! The long run of `tests/fault-runs`: random faults of one store, from a seed.
//!
//! `FAULT_STORE`, `FAULT_MINUTES`, `FAULT_SEED`: which store, how long, where chance begins.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the figures of a run are its result")]

use std::time::Duration;

use atomix_chaos::faults::deployment::{Deployment, Kind};
use atomix_chaos::faults::network::{Firewall, Network};
use atomix_chaos::faults::{fencing, runs, seed};
use atomix_conformance::Dice;

async fn run(kind: Kind, firewall: Option<Firewall>) {
    let (seed, minutes) = (seed(), std::env::var("FAULT_MINUTES").map_or(30.0, |text| text.parse().unwrap()));
    let duration = Duration::from_secs_f64(60.0 * minutes);
    println!("{kind:?}: {minutes} minutes, seed {seed}");
    let mut deployment = Deployment::start(kind, if kind.shared() { 3 } else { 1 }, firewall).await;
    let totals = Box::pin(runs::run(&mut deployment, kind, seed, duration)).await;
    println!("\n{kind:?}, seed {seed}: {totals}");
    if kind.shared() {
        // Locks and their tokens, for a while more.
        let counts = fencing::run(&mut deployment, &mut Dice::new(seed), duration / 6).await;
        println!("{kind:?}, seed {seed}, locks: {counts:?}");
        assert_eq!((counts.lost, counts.doubled), (0, 0), "seed {seed}");
        assert_eq!(counts.tokens_back, [], "seed {seed}");
    }
    assert!(totals.wrong.is_empty(), "seed {seed}: {totals}");
}

#[test]
#[ignore = "takes half an hour: run by tests/fault-runs"]
fn random_faults_break_no_guarantee() {
    let kind = Kind::parse(&std::env::var("FAULT_STORE").unwrap()).expect("memory, disk, etcd or redis");
    if let Some(network) = Network::or_skip("partitions") {
        network.run(async |firewall| Box::pin(run(kind, Some(firewall))).await);
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.unwrap().block_on(Box::pin(run(kind, None)));
    }
}
