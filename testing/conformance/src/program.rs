// SPDX-License-Identifier: Apache-2.0
//! Random programs: transactions, reads and watches on a few keys of a few keyspaces.

use std::fmt;

use atomix_engine::Engine;
use atomix_store::{Ask, Entry, Guard, Limits, Order, Range, Read, Revision, Txn, Write, number_bytes};
use bytes::Bytes;

use crate::Dice;

/// One step of a program.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) keyspace: usize,
    pub(crate) act: Act,
}

/// The action of a step.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Commit(Txn),
    Read(Vec<Read>),
    /// A watch that begins here, after this revision, and is looked at when the program is over.
    Watch(Revision),
}

pub(crate) const KEYSPACES: usize = 3;

fn pick<T: Clone>(dice: &mut Dice, from: &[T]) -> T {
    from[dice.index(from.len())].clone()
}

/// Writes a program of so many steps. It is played on engines on the way, so that guards and watches name what is really
/// there about half of the time.
pub(crate) fn generate(dice: &mut Dice, steps: usize) -> Vec<Step> {
    let mut engines: Vec<Engine> = (0..KEYSPACES).map(|_| Engine::new()).collect();
    let limits = Limits::default();
    let mut program = Vec::with_capacity(steps);
    for _ in 0..steps {
        let keyspace = dice.index(KEYSPACES);
        let engine = &mut engines[keyspace];
        let act = match dice.index(20) {
            0 => Act::Watch(Revision(dice.bits() % (engine.revision().0 + 1))),
            1..=3 => Act::Read((0..=dice.index(3)).map(|_| read(dice)).collect()),
            _ => Act::Commit(txn(dice, engine)),
        };
        if let Act::Commit(txn) = &act {
            // An invalid transaction is a step like any other: both sides must refuse it.
            drop(engine.apply(txn, &limits));
        }
        program.push(Step { keyspace, act });
    }
    program
}

fn key(dice: &mut Dice) -> Bytes {
    pick(dice, &["a", "b", "ba", "bb", "c", "na", "nb", "s/x"]).into()
}

fn value(dice: &mut Dice) -> Bytes {
    match dice.index(4) {
        0 => number_bytes(i64::try_from(dice.index(5)).expect("it is small")),
        _ => pick(dice, &["", "x", "y", "zz"]).into(),
    }
}

fn range(dice: &mut Dice) -> Range {
    match dice.index(4) {
        0 => Range { start: key(dice), end: Some(key(dice)) },
        1 => Range { start: key(dice), end: None },
        _ => Range::prefix(pick(dice, &["", "b", "n", "s/", "a"])),
    }
}

fn read(dice: &mut Dice) -> Read {
    match dice.index(4) {
        0 => Read::Get { key: key(dice) },
        1 => Read::Count { range: range(dice) },
        2 => Read::Scan {
            // Nothing but stamps begins with this.
            range: Range::prefix("t/"),
            order: Order::Created,
            limit: 1 + dice.index(3),
            keys_only: false,
        },
        _ => {
            let order = pick(dice, &[Order::Key, Order::KeyDescending]);
            Read::Scan { range: range(dice), order, limit: 1 + dice.index(6), keys_only: dice.index(4) == 0 }
        }
    }
}

fn write(dice: &mut Dice, entries: &[Entry]) -> Write {
    match dice.index(12) {
        0..=4 => Write::Put { key: key(dice), value: value(dice) },
        5 | 6 => Write::Add { key: pick(dice, &["na", "nb", "nb", "a"]).into(), delta: number(dice) },
        7 | 8 => Write::Stamp { prefix: pick(dice, &["s/", "t/"]).into(), value: value(dice) },
        9 if !entries.is_empty() => Write::Delete { key: pick(dice, entries).key },
        9 | 10 => Write::Delete { key: key(dice) },
        _ => Write::DeleteRange { range: range(dice) },
    }
}

fn number(dice: &mut Dice) -> i64 {
    pick(dice, &[0, 1, -1, 7, i64::MAX, i64::MIN])
}

fn guard(dice: &mut Dice, engine: &Engine, entries: &[Entry]) -> Guard {
    // Half of the guards speak about an entry that is there, as it is.
    if !entries.is_empty() && dice.index(2) == 0 {
        let entry = pick(dice, entries);
        let key = entry.key;
        return match dice.index(4) {
            0 => Guard::Present { key },
            1 => Guard::ModifiedAt { key, revision: entry.modified },
            2 => Guard::ValueIs { key, value: entry.value },
            _ => Guard::ValueIsNot { key, value: value(dice) },
        };
    }
    let (key, revision) = (key(dice), Revision(dice.bits() % (engine.revision().0 + 2)));
    match dice.index(5) {
        0 => Guard::Absent { key },
        1 => Guard::Present { key },
        2 => Guard::ModifiedAt { key, revision },
        3 => Guard::ValueIs { key, value: value(dice) },
        _ => Guard::ValueIsNot { key, value: value(dice) },
    }
}

fn txn(dice: &mut Dice, engine: &Engine) -> Txn {
    let all = Read::Scan {
        range: Range { start: Bytes::new(), end: None },
        order: Order::Key,
        limit: usize::MAX,
        keys_only: false,
    };
    let snapshot = engine.read(&[all], &Limits::default()).expect("the read is valid");
    let entries = snapshot.reads[0].entries();
    let mut txn = Txn::new();
    txn.guards = (0..dice.index(3)).map(|_| guard(dice, engine, entries)).collect();
    txn.writes = (0..=dice.index(4)).map(|_| write(dice, entries)).collect();
    txn.reads = (0..dice.index(3)).map(|_| read(dice)).collect();
    if dice.index(3) == 0 {
        txn.ask = Ask::IfRefused;
    }
    if dice.index(10) == 0 {
        txn.once = Some(pick(dice, &["one", "two", "three", "four", "five", "six", "seven"]).into());
    }
    txn
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.act {
            Act::Commit(txn) => write!(f, "keyspace {}: commit {txn:?}", self.keyspace),
            Act::Read(reads) => write!(f, "keyspace {}: read {reads:?}", self.keyspace),
            Act::Watch(revision) => write!(f, "keyspace {}: watch after {revision}", self.keyspace),
        }
    }
}
