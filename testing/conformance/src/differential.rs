// SPDX-License-Identifier: Apache-2.0
//! A store against the engine: the same random programs, the same answers, the same watches.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_engine::Engine;
use atomix_env::Env;
use atomix_store::{
    Ask, Change, Commit, Error, ErrorKind, Keyspace, Limits, Outcome, Read, Revision, Snapshot, Store, Txn,
    WatchFrom, WatchItem, WatchStream, Write,
};
use futures::StreamExt;

use crate::program::{Act, KEYSPACES, Step, generate};
use crate::translation::Translation;
use crate::{Dice, Subject};

/// Steps of one program; each program runs on a fresh store.
const STEPS: usize = 200;
/// Generous limit for an event that must come.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Commits at the end of a program.
const LAST: u64 = 8;

/// A program on which a store and the engine differ, as small as it could be made.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// The seed of the run, to be replayed with `ATOMIX_DIFF_SEED`.
    pub seed: u64,
    /// The steps of the program.
    pub steps: Vec<String>,
    /// The difference.
    pub difference: String,
}

/// Runs random programs of together at least `transactions` steps against `subject` and the engine.
pub async fn differential(
    subject: &dyn Subject,
    seed: u64,
    transactions: usize,
) -> Result<(), Box<Mismatch>> {
    let mut dice = Dice::new(seed);
    for _ in 0..transactions.div_ceil(STEPS) {
        let program = generate(&mut dice, STEPS);
        if let Err(difference) = play(subject, &program).await {
            return Err(Box::new(shrink(subject, seed, program, difference).await));
        }
    }
    Ok(())
}

/// Reads the seed and the number of transactions from `ATOMIX_DIFF_SEED` and `ATOMIX_DIFF_TXNS`; without them a seed of
/// chance and 100,000. Prints both, so that a run can be repeated.
pub fn from_environment() -> (u64, usize) {
    from_environment_or(100_000)
}

/// As [`from_environment`], with another number of transactions for stores that are slower than a function call.
#[allow(clippy::print_stdout, reason = "a test prints how to repeat it")]
pub fn from_environment_or(transactions: u64) -> (u64, usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("ATOMIX_DIFF_SEED").unwrap_or_else(|| Env::real().random());
    let transactions = number("ATOMIX_DIFF_TXNS").unwrap_or(transactions);
    println!("ATOMIX_DIFF_SEED={seed} ATOMIX_DIFF_TXNS={transactions}");
    (seed, usize::try_from(transactions).unwrap_or(usize::MAX))
}

/// The engine's side of one keyspace, with all its commits.
#[derive(Default)]
struct Model {
    engine: Engine,
    commits: Vec<Commit>,
    /// The names of the store for the engine's revisions and stamps, if it has its own.
    foreign: Option<Translation>,
}

struct Watching {
    keyspace: usize,
    from: Revision,
    watch: WatchStream,
}

async fn play(subject: &dyn Subject, program: &[Step]) -> Result<(), String> {
    let store = subject.open().await.map_err(|error| error.to_string())?;
    let names: Vec<Keyspace> = (0..KEYSPACES).map(|at| Keyspace::new(format!("map/{at}"))).collect();
    let mut models: Vec<Model> = (0..KEYSPACES).map(|_| Model::new(subject)).collect();
    let mut watching = Vec::new();
    for (at, step) in program.iter().enumerate() {
        let (keyspace, model) = (&names[step.keyspace], &mut models[step.keyspace]);
        let reported = |difference: String| format!("step {at}: {difference}");
        match &step.act {
            Act::Commit(txn) => commit(store.as_ref(), keyspace, model, txn).await.map_err(reported)?,
            Act::Read(reads) => read(store.as_ref(), keyspace, model, reads).await.map_err(reported)?,
            // The name of a revision in a foreign store is known only once it exists.
            Act::Watch(from) if model.foreign.is_some() && *from > model.engine.revision() => {}
            Act::Watch(from) => {
                let after = model.foreign.as_ref().map_or(*from, |foreign| foreign.revision_for_store(*from));
                match store.watch(keyspace, WatchFrom::After(after)).await {
                    Ok(watch) => watching.push(Watching { keyspace: step.keyspace, from: *from, watch }),
                    Err(error) => return Err(reported(format!("a watch cannot begin: {error}"))),
                }
            }
        }
    }
    // Commits that every watch must show, some of them after its beginning: one that was kept from a watch
    // before shows immediately, as another in its place, and not only at the timeout.
    let furthest = watching.iter().map(|watching| watching.from).max().unwrap_or_default();
    for (name, model) in names.iter().zip(&mut models) {
        for _ in 0..LAST + furthest.0.saturating_sub(model.engine.revision().0) {
            let txn = Txn::new().write(Write::Put { key: "last".into(), value: "".into() });
            let committed = commit(store.as_ref(), name, model, &txn).await;
            committed.map_err(|difference| format!("the last commits: {difference}"))?;
        }
    }
    for mut watching in watching {
        let model = &models[watching.keyspace];
        for commit in model.commits.iter().filter(|commit| commit.revision > watching.from) {
            let seen = next(&mut watching.watch).await?;
            let seen = match &model.foreign {
                Some(foreign) => Arc::new(foreign.commit(&seen)),
                None => seen,
            };
            if *seen != *commit {
                return Err(reported("a watch brings another commit", &seen, commit));
            }
        }
    }
    store.close(Duration::ZERO).await;
    Ok(())
}

/// Commits on both sides and compares the outcomes.
async fn commit(store: &dyn Store, keyspace: &Keyspace, model: &mut Model, txn: &Txn) -> Result<(), String> {
    let asked = match &model.foreign {
        Some(foreign) => foreign.txn_for_store(txn.clone()),
        None => txn.clone(),
    };
    let mut outcome = store.commit(keyspace, asked).await.map_err(kind);
    let expected = model.apply(txn, &store.profile().limits).map_err(kind);
    if let (Some(foreign), Ok(engine), Ok(answer)) = (&mut model.foreign, &expected, &outcome) {
        foreign.note(engine, answer)?;
        outcome = outcome.map(|outcome| foreign.outcome(outcome));
    }
    if outcome == expected { Ok(()) } else { Err(reported("another outcome", &outcome, &expected)) }
}

/// Reads on both sides and compares the answers.
async fn read(
    store: &dyn Store,
    keyspace: &Keyspace,
    model: &mut Model,
    reads: &[Read],
) -> Result<(), String> {
    let asked = match &model.foreign {
        Some(foreign) => foreign.reads_for_store(reads.to_vec()),
        None => reads.to_vec(),
    };
    let mut snapshot = store.read(keyspace, asked).await.map_err(kind);
    let expected: Result<Snapshot, ErrorKind> =
        model.engine.read(reads, &store.profile().limits).map_err(kind);
    if let (Some(foreign), Ok(answer)) = (&mut model.foreign, &snapshot) {
        foreign.note_read(answer)?;
        snapshot = snapshot.map(|snapshot| foreign.snapshot(snapshot));
    }
    if snapshot == expected { Ok(()) } else { Err(reported("another answer", &snapshot, &expected)) }
}

fn reported(what: &str, store: &dyn fmt::Debug, engine: &dyn fmt::Debug) -> String {
    format!("{what}\n  store:  {store:?}\n  engine: {engine:?}")
}

async fn next(watch: &mut WatchStream) -> Result<Arc<Commit>, String> {
    loop {
        match Env::real().timeout(WAIT_TIMEOUT, watch.next()).await {
            Err(_) => return Err("a watch does not bring a commit".to_owned()),
            Ok(None) => return Err("a watch ended without a reason".to_owned()),
            Ok(Some(Err(error))) => return Err(format!("a watch ended: {error}")),
            Ok(Some(Ok(WatchItem::Progress(_)))) => {}
            Ok(Some(Ok(WatchItem::Commit(commit)))) => return Ok(commit),
        }
    }
}

// === impl Model ===

impl Model {
    fn new(subject: &dyn Subject) -> Self {
        Self { foreign: subject.is_foreign().then(Translation::default), ..Self::default() }
    }

    fn apply(&mut self, txn: &Txn, limits: &Limits) -> Result<Outcome, Error> {
        let (outcome, changes): (Outcome, Vec<Change>) = self.engine.apply(txn, limits)?;
        if !changes.is_empty() {
            self.commits.push(Commit { revision: outcome.revision, changes });
        }
        Ok(outcome)
    }
}

/// Takes away whatever can be taken away while store and engine still differ: first steps, then parts of steps, and again
/// steps, because a step whose parts are gone may not be needed any more.
async fn shrink(subject: &dyn Subject, seed: u64, program: Vec<Step>, difference: String) -> Mismatch {
    let mut smallest = (program, difference);
    loop {
        let before = smallest.0.clone();
        drop_steps(subject, &mut smallest).await;
        drop_parts(subject, &mut smallest).await;
        if smallest.0 == before {
            let (program, difference) = smallest;
            let steps = program.iter().map(|step| format!("{step:?}")).collect();
            return Mismatch { seed, steps, difference };
        }
    }
}

async fn drop_steps(subject: &dyn Subject, smallest: &mut (Vec<Step>, String)) {
    let mut chunk = smallest.0.len();
    while chunk > 0 {
        let mut at = 0;
        while at < smallest.0.len() {
            let mut program = smallest.0.clone();
            program.drain(at..(at + chunk).min(program.len()));
            match play(subject, &program).await {
                Err(difference) => *smallest = (program, difference),
                Ok(()) => at += chunk,
            }
        }
        chunk /= 2;
    }
}

async fn drop_parts(subject: &dyn Subject, smallest: &mut (Vec<Step>, String)) {
    'again: loop {
        for at in 0..smallest.0.len() {
            for simpler in simpler(&smallest.0[at]) {
                let mut program = smallest.0.clone();
                program[at] = simpler;
                if let Err(difference) = play(subject, &program).await {
                    *smallest = (program, difference);
                    continue 'again;
                }
            }
        }
        return;
    }
}

/// The same step without one of its parts.
fn simpler(step: &Step) -> Vec<Step> {
    let without = |act| Step { keyspace: step.keyspace, act };
    let mut simpler = Vec::new();
    match &step.act {
        Act::Commit(txn) => {
            let mut part = |change: &dyn Fn(&mut Txn)| {
                let mut less = txn.clone();
                change(&mut less);
                simpler.push(without(Act::Commit(less)));
            };
            (0..txn.guards.len()).for_each(|at| part(&|txn| drop(txn.guards.remove(at))));
            (0..txn.writes.len()).for_each(|at| part(&|txn| drop(txn.writes.remove(at))));
            (0..txn.reads.len()).for_each(|at| part(&|txn| drop(txn.reads.remove(at))));
            if txn.ask != Ask::Always {
                part(&|txn| txn.ask = Ask::Always);
            }
            if txn.once.is_some() {
                part(&|txn| txn.once = None);
            }
        }
        Act::Read(reads) => {
            for at in 0..reads.len() {
                let mut less = reads.clone();
                less.remove(at);
                simpler.push(without(Act::Read(less)));
            }
        }
        Act::Watch(_) => {}
    }
    simpler
}

#[allow(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn kind(error: Error) -> ErrorKind {
    error.kind()
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the store is not the engine: ATOMIX_DIFF_SEED={}", self.seed)?;
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(f, "{at}: {step}")?;
        }
        f.write_str(&self.difference)
    }
}
