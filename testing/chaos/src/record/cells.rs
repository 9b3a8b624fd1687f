// SPDX-License-Identifier: Apache-2.0
//! Calls of maps and values: versions, conditions, times to live, transactions.

use std::time::Duration;

use atomix_client::map::{Committed, Entry, Operation};
use atomix_linearizability::{Call, cell};

use super::log::open;
use super::replies::{Reply, inserted, is, one, read, written};
use super::worker::{Access, Observed, Request, Worker};

/// Keys of a map without times to live, and with.
const KEYS: [&str; 5] = ["k0", "k1", "k2", "t0", "t1"];
/// How much earlier than its time an entry may go: times are kept in milliseconds.
const EARLY: u64 = 2_000_000;

impl Worker {
    pub(super) async fn map(&mut self, name: u64) {
        let map = self.session().maps[&name].clone();
        let key = KEYS[self.dice.index(KEYS.len())];
        let object = format!("map/{name}/{key}");
        let (object, seen) = (object.as_str(), self.seen(&object));
        let mark = self.log.mark();
        let text = self.text(mark);
        let request = |op, access| Request { histories: |log| &log.cells, ops: vec![(object, op)], access };
        let lives = key.starts_with('t');
        let ttl = lives.then(|| Duration::from_millis(200 + self.dice.roll(300)));
        // A value with a time to live is mostly not overwritten, so that it expires.
        let verb = if lives && self.dice.roll(10) > 0 { self.dice.roll(2) * 8 } else { self.dice.roll(16) };
        match verb {
            0..4 => {
                self.record_call(request(cell::Op::Get, Access::Reads), map.get(key), |reply| {
                    one(read(reply))
                })
                .await;
            }
            4..8 => {
                let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
                let mut put = map.put(key, &text);
                if let Some(ttl) = ttl {
                    put = put.ttl(ttl);
                }
                let put = put.if_version(condition);
                let request = request(cell::Op::Put(mark, condition), Access::Writes);
                let observed = self.record_call(request, put, |reply| one(written(reply))).await;
                self.will_expire(object, mark, ttl, &observed);
            }
            8..10 => {
                let mut insert = map.insert(key, &text);
                if let Some(ttl) = ttl {
                    insert = insert.ttl(ttl);
                }
                let request = request(cell::Op::Insert(mark), Access::Writes);
                let observed = self.record_call(request, insert, |reply| one(inserted(reply))).await;
                self.will_expire(object, mark, ttl, &observed);
            }
            10 => {
                let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
                let update = map.update(key, &text).if_version(condition);
                let request = request(cell::Op::Update(mark, condition), Access::Writes);
                self.record_call(request, update, |reply| one(written(reply))).await;
            }
            11..13 => {
                let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
                let request = request(cell::Op::Remove(condition), Access::Writes);
                self.record_call(request, map.remove(key).if_version(condition), |reply| one(read(reply)))
                    .await;
            }
            13 => self.commit(name).await,
            14 => {
                let objects = KEYS.map(|key| format!("map/{name}/{key}"));
                let ops = objects.iter().map(|object| (object.as_str(), cell::Op::Get)).collect();
                let request = Request { histories: |log| &log.cells, ops, access: Access::Reads };
                let all = async { map.entries().await?.collect().await };
                let listed = |reply: Reply<'_, Vec<Entry<String>>>| {
                    let entries = reply.ok()?;
                    let found = |key: &str| entries.iter().find(|entry| entry.key == key);
                    Some(KEYS.map(|key| is(found(key).map(|entry| &entry.value))).to_vec())
                };
                self.record_call(request, all, listed).await;
            }
            _ if self.dice.roll(10) == 0 => {
                let objects = KEYS.map(|key| format!("map/{name}/{key}"));
                let ops = objects.iter().map(|object| (object.as_str(), cell::Op::Clear)).collect();
                let request = Request { histories: |log| &log.cells, ops, access: Access::Writes };
                self.record_call(request, map.clear(), |reply| {
                    Some(vec![cell::Answer::Done; reply.ok().map(|()| KEYS.len())?])
                })
                .await;
            }
            _ => {}
        }
    }

    /// Writes two keys in one transaction.
    async fn commit(&mut self, name: u64) {
        let map = self.session().maps[&name].clone();
        let marks = [self.log.mark(), self.log.mark()];
        open(&self.log.pairs).push(marks);
        let texts = marks.map(|mark| self.text(mark));
        let objects = [format!("map/{name}/k0"), format!("map/{name}/k1")];
        let ops = objects.iter().zip(marks).map(|(object, mark)| (object.as_str(), cell::Op::Put(mark, 0)));
        let request = Request { histories: |log| &log.cells, ops: ops.collect(), access: Access::Writes };
        let operations = ["k0", "k1"].into_iter().zip(texts);
        let operations: Vec<_> = operations.map(|(key, text)| Operation::put(key, text)).collect();
        let each = |reply: Reply<'_, Vec<Committed<String>>>| {
            let put = |committed| match committed {
                Committed::Put(put) => written(Ok(put)),
                _ => None,
            };
            reply.ok()?.into_iter().map(put).collect()
        };
        self.record_call(request, map.commit(operations), each).await;
    }

    /// Remembers when an entry goes that a call has written, or may have.
    fn will_expire(&self, object: &str, mark: u64, ttl: Option<Duration>, put: &Observed<cell::Answer>) {
        use cell::Answer::{Inserted, Written};
        let Some(ttl) = ttl.map(|ttl| u64::try_from(ttl.as_nanos()).expect("short")) else { return };
        let began = (put.began + ttl).saturating_sub(EARLY);
        let late = self.log.options.late.map(|late| u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
        let op = cell::Op::Expire(mark);
        let call = match (put.answers.as_deref(), late) {
            (Some([Written(..) | Inserted(_)]), Some(late)) => {
                Call::done(self.session().id, began..put.ended + ttl + late, op, cell::Answer::Done)
            }
            (Some([Written(..) | Inserted(_)]), None) => Call::lost(self.session().id, began, op),
            (None, _) if !put.refused => Call::lost(self.session().id, began, op),
            _ => return,
        };
        self.log.cells.note(object, call);
    }

    /// Returns a version that the object has had lately, perhaps the one that it has.
    fn seen(&self, object: &str) -> u64 {
        self.log.cells.last(object, |answer| match answer {
            cell::Answer::Is(_, version)
            | cell::Answer::Written(version, _)
            | cell::Answer::Inserted(version) => Some(*version),
            _ => None,
        })
    }

    pub(super) async fn value(&mut self, name: u64) {
        let value = self.session().values[&name].clone();
        let object = format!("value/{name}/");
        let (object, seen) = (object.as_str(), self.seen(&object));
        let mark = self.log.mark();
        let text = self.text(mark);
        let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
        let request = |op, access| Request { histories: |log| &log.cells, ops: vec![(object, op)], access };
        // Every second one has times to live, and is mostly left alone, so that its time comes.
        let ttl = (name % 2 == 1).then(|| Duration::from_millis(200 + self.dice.roll(300)));
        let rests = ttl.is_some() && self.dice.roll(10) > 0;
        match if rests { self.dice.roll(2) * 4 } else { self.dice.roll(8) } {
            0..2 => {
                self.record_call(request(cell::Op::Get, Access::Reads), value.get(), |reply| {
                    one(read(reply))
                })
                .await;
            }
            2..4 => {
                let mut set = value.set(&text);
                if let Some(ttl) = ttl {
                    set = set.ttl(ttl);
                }
                let request = request(cell::Op::Put(mark, 0), Access::Writes);
                let observed = self.record_call(request, set, |reply| one(written(reply))).await;
                self.will_expire(object, mark, ttl, &observed);
            }
            4 => {
                let mut insert = value.insert(&text);
                if let Some(ttl) = ttl {
                    insert = insert.ttl(ttl);
                }
                let request = request(cell::Op::Insert(mark), Access::Writes);
                let observed = self.record_call(request, insert, |reply| one(inserted(reply))).await;
                self.will_expire(object, mark, ttl, &observed);
            }
            5..7 => {
                let request = request(cell::Op::Update(mark, condition), Access::Writes);
                self.record_call(request, value.update(&text).if_version(condition), |reply| {
                    one(written(reply))
                })
                .await;
            }
            _ => {
                let request = request(cell::Op::Remove(condition), Access::Writes);
                self.record_call(request, value.delete().if_version(condition), |reply| one(read(reply)))
                    .await;
            }
        }
    }
}
