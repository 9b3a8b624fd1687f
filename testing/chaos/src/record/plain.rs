// SPDX-License-Identifier: Apache-2.0
//! Calls of what has neither versions nor owners, and of indexed maps.

use atomix_linearizability::streams::Change;
use atomix_linearizability::{index, list, member, number};

use super::log::open;
use super::replies::{Entry, Item, Reply, changed, indexed, maybe, numbered, one, parse, placed, yes};
use super::worker::{Access, Request, Worker};

impl Worker {
    pub(super) async fn counter(&mut self, name: u64) {
        let counter = self.session().counters[&name].clone();
        let object = format!("counter/{name}/");
        let request =
            |op, access| Request { histories: |log| &log.counters, ops: vec![(object.as_str(), op)], access };
        let reply = |reply: Reply<'_, i64>| one(numbered(reply));
        // Each client adds another power of a base, so that a sum shows its parts.
        let delta = 7_i64.pow(self.me % 12);
        match self.dice.roll(8) {
            0..2 => {
                self.record_call(request(number::Op::Get, Access::Reads), counter.get(), reply).await;
            }
            2..5 => {
                self.record_call(
                    request(number::Op::Add(delta), Access::Writes),
                    counter.increment(delta),
                    reply,
                )
                .await;
            }
            5 => {
                self.record_call(
                    request(number::Op::Add(-delta), Access::Writes),
                    counter.decrement(delta),
                    reply,
                )
                .await;
            }
            6 => {
                let Ok(check) = counter.get().await else { return };
                let update = self.fresh();
                let request = request(number::Op::Update(check, update), Access::Writes);
                self.record_call(request, counter.update(check, update), reply).await;
            }
            _ => {
                let value = self.fresh();
                self.record_call(request(number::Op::Set(value), Access::Writes), counter.set(value), reply)
                    .await;
            }
        }
    }

    /// Returns a number that no sum comes near.
    fn fresh(&self) -> i64 {
        i64::try_from(self.log.mark()).expect("few") << 42
    }

    pub(super) async fn set(&mut self, name: u64) {
        let set = self.session().sets[&name].clone();
        let element = format!("e{}", self.dice.roll(4));
        let object = format!("set/{name}/{element}");
        let request =
            |op, access| Request { histories: |log| &log.members, ops: vec![(object.as_str(), op)], access };
        let reply = |reply: Reply<'_, bool>| one(changed(reply));
        match self.dice.roll(4) {
            0 => {
                self.record_call(request(member::Op::Has, Access::Reads), set.contains(&element), reply).await
            }
            1 | 2 => {
                self.record_call(request(member::Op::Add, Access::Writes), set.add(&element), reply).await
            }
            _ => {
                self.record_call(request(member::Op::Remove, Access::Writes), set.remove(&element), reply)
                    .await
            }
        };
    }

    pub(super) async fn multimap(&mut self, name: u64) {
        let map = self.session().multimaps[&name].clone();
        let (key, value) = (format!("k{}", self.dice.roll(2)), format!("v{}", self.dice.roll(3)));
        let object = format!("multimap/{name}/{key}/{value}");
        let request =
            |op, access| Request { histories: |log| &log.members, ops: vec![(object.as_str(), op)], access };
        let reply = |reply: Reply<'_, bool>| one(changed(reply));
        match self.dice.roll(5) {
            0 => {
                self.record_call(request(member::Op::Has, Access::Reads), map.contains(key, value), reply)
                    .await;
            }
            1 | 2 => {
                self.record_call(request(member::Op::Add, Access::Writes), map.put(key, value), reply).await;
            }
            3 => {
                self.record_call(request(member::Op::Remove, Access::Writes), map.remove(key, value), reply)
                    .await;
            }
            _ => {
                let values = ["v0", "v1", "v2"];
                let objects = values.map(|value| format!("multimap/{name}/{key}/{value}"));
                let ops = objects.iter().map(|object| (object.as_str(), member::Op::Has)).collect();
                let request = Request { histories: |log| &log.members, ops, access: Access::Reads };
                let all = |reply: Reply<'_, Vec<String>>| {
                    let found = reply.ok()?;
                    Some(values.map(|value| yes(found.iter().any(|found| found == value))).to_vec())
                };
                self.record_call(request, map.get(key), all).await;
            }
        }
    }

    pub(super) async fn counter_map(&mut self, name: u64) {
        let map = self.session().counter_maps[&name].clone();
        let key = format!("k{}", self.dice.roll(3));
        let object = format!("countermap/{name}/{key}");
        let request =
            |op, access| Request { histories: |log| &log.numbers, ops: vec![(object.as_str(), op)], access };
        let delta = 7_i64.pow(self.me % 12);
        let reply = |reply: Reply<'_, i64>| one(numbered(reply));
        let done = |reply: Reply<'_, ()>| match reply {
            Ok(()) => one(Some(number::Answer::Done)),
            Err(reason) => one(numbered(Err(reason))),
        };
        match self.dice.roll(9) {
            0..2 => {
                let got = |reply: Reply<'_, Option<i64>>| one(maybe(reply));
                self.record_call(request(number::Op::Get, Access::Reads), map.get(key), got).await;
            }
            2..5 => {
                self.record_call(
                    request(number::Op::Add(delta), Access::Writes),
                    map.increment(key, delta),
                    reply,
                )
                .await;
            }
            5 => {
                let value = self.fresh();
                self.record_call(
                    request(number::Op::Insert(value), Access::Writes),
                    map.insert(key, value),
                    done,
                )
                .await;
            }
            6 => {
                let Ok(Some(check)) = map.get(&key).await else { return };
                let update = self.fresh();
                let request = request(number::Op::Update(check, update), Access::Writes);
                self.record_call(request, map.update(key, check, update), done).await;
            }
            7 => {
                let value = self.fresh();
                let was = |reply: Reply<'_, i64>| one(reply.ok().map(number::Answer::Was));
                self.record_call(request(number::Op::Set(value), Access::Writes), map.set(key, value), was)
                    .await;
            }
            _ => {
                let got = |reply: Reply<'_, Option<i64>>| one(maybe(reply));
                self.record_call(request(number::Op::Remove, Access::Writes), map.remove(key), got).await;
            }
        }
    }

    pub(super) async fn list(&mut self, name: u64) {
        let list = self.session().lists[&name].clone();
        let object = format!("list/{name}/");
        let request =
            |op, access| Request { histories: |log| &log.lists, ops: vec![(object.as_str(), op)], access };
        let (mark, at) = (self.log.mark(), u32::try_from(self.dice.roll(6)).expect("small"));
        let text = self.text(mark);
        let done = |reply: Reply<'_, ()>| one(placed(reply.map(|()| list::Answer::Done)));
        let item = |reply: Reply<'_, String>| one(placed(reply.map(|text| list::Answer::Item(parse(&text)))));
        match self.dice.roll(12) {
            0..2 => {
                self.record_call(request(list::Op::Append(mark), Access::Writes), list.append(&text), done)
                    .await;
            }
            2 => {
                let request = request(list::Op::Insert(at, mark), Access::Writes);
                self.record_call(request, list.insert(at, &text), done).await;
            }
            3 => {
                self.record_call(request(list::Op::Set(at, mark), Access::Writes), list.set(at, &text), done)
                    .await;
            }
            4..7 => {
                self.record_call(request(list::Op::Get(at), Access::Reads), list.get(at), item).await;
            }
            7..9 => {
                self.record_call(request(list::Op::Remove(at), Access::Writes), list.remove(at), item).await;
            }
            9 => {
                let size = |reply: Reply<'_, u32>| one(placed(reply.map(list::Answer::Size)));
                self.record_call(request(list::Op::Size, Access::Reads), list.size(), size).await;
            }
            10 => {
                let all = |reply: Reply<'_, Vec<Item>>| {
                    let items = reply.ok()?.iter().map(|item| parse(&item.value)).collect();
                    one(Some(list::Answer::Items(items)))
                };
                let items = async { list.items().await?.collect().await };
                self.record_call(request(list::Op::Items, Access::Reads), items, all).await;
            }
            _ if self.dice.roll(5) == 0 => {
                self.record_call(request(list::Op::Clear, Access::Writes), list.clear(), done).await;
            }
            _ => {}
        }
    }

    pub(super) async fn indexed_map(&mut self, name: u64) {
        let map = self.session().indexed_maps[&name].clone();
        let object = format!("indexedmap/{name}/");
        let request =
            |op, access| Request { histories: |log| &log.indices, ops: vec![(object.as_str(), op)], access };
        let (mark, number) = (self.log.mark(), self.dice.roll(4));
        let (key, text) = (format!("k{number}"), self.text(mark));
        let entry = |reply: Reply<'_, Entry>| one(indexed(reply.map(Some)));
        let maybe = |reply: Reply<'_, Option<Entry>>| one(indexed(reply));
        match self.dice.roll(8) {
            0..2 => {
                let request = request(index::Op::Append(number, mark), Access::Writes);
                self.record_call(request, map.append(key, &text), entry).await;
            }
            2 => {
                let request = request(index::Op::Update(number, mark), Access::Writes);
                self.record_call(request, map.update(key, &text), entry).await;
            }
            3 => {
                self.record_call(request(index::Op::Get(number), Access::Reads), map.get(key), maybe).await;
            }
            4 => {
                self.record_call(request(index::Op::First, Access::Reads), map.first(), maybe).await;
            }
            5 => {
                self.record_call(request(index::Op::Last, Access::Reads), map.last(), maybe).await;
            }
            _ => {
                self.record_call(request(index::Op::Remove(number), Access::Writes), map.remove(key), maybe)
                    .await;
            }
        }
    }

    pub(super) async fn publish(&mut self, name: u64, mark: u64) -> bool {
        let topic = self.session().topics[&name].clone();
        let payload = mark.to_string();
        let publish = topic.publish(&payload);
        let observed = self.perform(Access::Writes, publish, |reply| reply.ok().map(|()| vec![()])).await;
        if !observed.refused {
            let ended = observed.answers.is_some().then_some(observed.ended);
            let change =
                Change { key: payload, wrote: true, value: mark, began: observed.began, ended, ttl: None };
            open(&self.log.topics).entry(format!("topic/{name}")).or_default().push(change);
        }
        observed.answers.is_some()
    }
}
