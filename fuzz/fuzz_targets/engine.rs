// SPDX-License-Identifier: Apache-2.0
//! Random transactions on the engine: what it says about itself stays true.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use atomix_engine::Engine;
use atomix_store::{Guard, Limits, Order, Range, Read, Revision, Txn, Write};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Put { guard: Option<(u8, u8, u8)>, key: u8, value: u8 },
    Add { key: u8, delta: i64 },
    Stamp { prefix: u8, value: u8 },
    Delete { key: u8 },
    DeleteRange { from: u8, to: u8 },
    Together { one: (u8, u8), other: (u8, u8), once: Option<u8> },
}

fn key(key: u8) -> Bytes {
    vec![b'a' + key % 4, key / 64].into()
}

fn txn(step: &Step) -> Txn {
    match step {
        Step::Put { guard, key: at, value } => {
            let mut txn = Txn::new().write(Write::Put { key: key(*at), value: vec![*value].into() });
            if let Some((kind, at, of)) = guard {
                let (key, revision, value) = (key(*at), Revision(u64::from(*of)), Bytes::from(vec![*of]));
                txn.guards.push(match kind % 5 {
                    0 => Guard::Absent { key },
                    1 => Guard::Present { key },
                    2 => Guard::ModifiedAt { key, revision },
                    3 => Guard::ValueIs { key, value },
                    _ => Guard::ValueIsNot { key, value },
                });
            }
            txn
        }
        Step::Add { key: at, delta } => Txn::new().write(Write::Add { key: key(*at), delta: *delta }),
        Step::Stamp { prefix, value } => {
            Txn::new().write(Write::Stamp { prefix: vec![b's', *prefix].into(), value: vec![*value].into() })
        }
        Step::Delete { key: at } => Txn::new().write(Write::Delete { key: key(*at) }),
        Step::DeleteRange { from, to } => {
            Txn::new().write(Write::DeleteRange { range: Range { start: key(*from), end: Some(key(*to)) } })
        }
        Step::Together { one, other, once } => {
            let mut txn = Txn::new()
                .write(Write::Put { key: key(one.0), value: vec![one.1].into() })
                .write(Write::Put { key: key(other.0), value: vec![other.1].into() });
            txn.once = once.map(|once| vec![once].into());
            txn
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let limits = Limits::default();
    let mut engine = Engine::new();
    let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for step in &steps {
        let before = engine.revision();
        let Ok((outcome, changes)) = engine.apply(&txn(step), &limits) else {
            assert_eq!(engine.revision(), before);
            continue;
        };
        assert_eq!(engine.revision().0, before.0 + u64::from(!changes.is_empty()));
        assert!(outcome.applied || changes.is_empty());
        for change in &changes {
            assert_eq!(change.previous.as_ref().map(|entry| &entry.value), model.get(&change.key));
            match &change.current {
                Some(entry) => {
                    assert_eq!(entry.modified, outcome.revision);
                    model.insert(entry.key.clone(), entry.value.clone());
                }
                None => drop(model.remove(&change.key)),
            }
        }
    }
    let all = Range { start: Bytes::new(), end: None };
    let scan = Read::Scan { range: all.clone(), order: Order::Key, limit: usize::MAX, keys_only: false };
    let snapshot =
        engine.read(&[scan, Read::Count { range: all }, Read::Count { range: Range::prefix("a") }], &limits);
    let snapshot = snapshot.expect("within limits");
    let entries: Vec<_> =
        snapshot.reads[0].entries().iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    assert_eq!(entries, model.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(snapshot.reads[1].count(), model.len() as u64);
    assert_eq!(snapshot.reads[2].count(), model.keys().filter(|key| key.starts_with(b"a")).count() as u64);
    assert_eq!(engine.bytes(), model.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>());
});
