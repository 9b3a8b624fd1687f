// SPDX-License-Identifier: Apache-2.0
//! Calls of what has neither versions nor owners, and of indexed maps.

use atomix_linearizability::feed::Deed;
use atomix_linearizability::{index, list, member, number};

use super::log::open;
use super::told::{Entry, Item, Told, changed, indexed, maybe, numbered, one, parse, placed, yes};
use super::worker::{Access, Ask, Worker};

impl Worker {
    pub(super) async fn counter(&mut self, name: u64) {
        let counter = self.session().counters[&name].clone();
        let object = format!("counter/{name}/");
        let ask = |op, access| Ask { book: |log| &log.counters, ops: vec![(object.as_str(), op)], access };
        let told = |told: Told<'_, i64>| one(numbered(told));
        // Each client adds another power of a base, so that a sum tells its parts.
        let delta = 7_i64.pow(self.me % 12);
        match self.dice.roll(8) {
            0..2 => {
                self.ask(ask(number::Op::Get, Access::Reads), counter.get(), told).await;
            }
            2..5 => {
                self.ask(ask(number::Op::Add(delta), Access::Writes), counter.increment(delta), told).await;
            }
            5 => {
                self.ask(ask(number::Op::Add(-delta), Access::Writes), counter.decrement(delta), told).await;
            }
            6 => {
                let Ok(check) = counter.get().await else { return };
                let update = self.fresh();
                let ask = ask(number::Op::Update(check, update), Access::Writes);
                self.ask(ask, counter.update(check, update), told).await;
            }
            _ => {
                let value = self.fresh();
                self.ask(ask(number::Op::Set(value), Access::Writes), counter.set(value), told).await;
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
        let ask = |op, access| Ask { book: |log| &log.members, ops: vec![(object.as_str(), op)], access };
        let told = |told: Told<'_, bool>| one(changed(told));
        match self.dice.roll(4) {
            0 => self.ask(ask(member::Op::Has, Access::Reads), set.contains(&element), told).await,
            1 | 2 => self.ask(ask(member::Op::Add, Access::Writes), set.add(&element), told).await,
            _ => self.ask(ask(member::Op::Remove, Access::Writes), set.remove(&element), told).await,
        };
    }

    pub(super) async fn multimap(&mut self, name: u64) {
        let map = self.session().multimaps[&name].clone();
        let (key, value) = (format!("k{}", self.dice.roll(2)), format!("v{}", self.dice.roll(3)));
        let object = format!("multimap/{name}/{key}/{value}");
        let ask = |op, access| Ask { book: |log| &log.members, ops: vec![(object.as_str(), op)], access };
        let told = |told: Told<'_, bool>| one(changed(told));
        match self.dice.roll(5) {
            0 => {
                self.ask(ask(member::Op::Has, Access::Reads), map.contains(key, value), told).await;
            }
            1 | 2 => {
                self.ask(ask(member::Op::Add, Access::Writes), map.put(key, value), told).await;
            }
            3 => {
                self.ask(ask(member::Op::Remove, Access::Writes), map.remove(key, value), told).await;
            }
            _ => {
                let values = ["v0", "v1", "v2"];
                let objects = values.map(|value| format!("multimap/{name}/{key}/{value}"));
                let ops = objects.iter().map(|object| (object.as_str(), member::Op::Has)).collect();
                let ask = Ask { book: |log| &log.members, ops, access: Access::Reads };
                let all = |told: Told<'_, Vec<String>>| {
                    let found = told.ok()?;
                    Some(values.map(|value| yes(found.iter().any(|found| found == value))).to_vec())
                };
                self.ask(ask, map.get(key), all).await;
            }
        }
    }

    pub(super) async fn counter_map(&mut self, name: u64) {
        let map = self.session().counter_maps[&name].clone();
        let key = format!("k{}", self.dice.roll(3));
        let object = format!("countermap/{name}/{key}");
        let ask = |op, access| Ask { book: |log| &log.numbers, ops: vec![(object.as_str(), op)], access };
        let delta = 7_i64.pow(self.me % 12);
        let told = |told: Told<'_, i64>| one(numbered(told));
        let done = |told: Told<'_, ()>| match told {
            Ok(()) => one(Some(number::Answer::Done)),
            Err(reason) => one(numbered(Err(reason))),
        };
        match self.dice.roll(9) {
            0..2 => {
                let got = |told: Told<'_, Option<i64>>| one(maybe(told));
                self.ask(ask(number::Op::Get, Access::Reads), map.get(key), got).await;
            }
            2..5 => {
                self.ask(ask(number::Op::Add(delta), Access::Writes), map.increment(key, delta), told).await;
            }
            5 => {
                let value = self.fresh();
                self.ask(ask(number::Op::Insert(value), Access::Writes), map.insert(key, value), done).await;
            }
            6 => {
                let Ok(Some(check)) = map.get(&key).await else { return };
                let update = self.fresh();
                let ask = ask(number::Op::Update(check, update), Access::Writes);
                self.ask(ask, map.update(key, check, update), done).await;
            }
            7 => {
                let value = self.fresh();
                let was = |told: Told<'_, i64>| one(told.ok().map(number::Answer::Was));
                self.ask(ask(number::Op::Set(value), Access::Writes), map.set(key, value), was).await;
            }
            _ => {
                let got = |told: Told<'_, Option<i64>>| one(maybe(told));
                self.ask(ask(number::Op::Remove, Access::Writes), map.remove(key), got).await;
            }
        }
    }

    pub(super) async fn list(&mut self, name: u64) {
        let list = self.session().lists[&name].clone();
        let object = format!("list/{name}/");
        let ask = |op, access| Ask { book: |log| &log.lists, ops: vec![(object.as_str(), op)], access };
        let (mark, at) = (self.log.mark(), u32::try_from(self.dice.roll(6)).expect("small"));
        let text = mark.to_string();
        let done = |told: Told<'_, ()>| one(placed(told.map(|()| list::Answer::Done)));
        let item = |told: Told<'_, String>| one(placed(told.map(|text| list::Answer::Item(parse(&text)))));
        match self.dice.roll(12) {
            0..2 => {
                self.ask(ask(list::Op::Append(mark), Access::Writes), list.append(&text), done).await;
            }
            2 => {
                let ask = ask(list::Op::Insert(at, mark), Access::Writes);
                self.ask(ask, list.insert(at, &text), done).await;
            }
            3 => {
                self.ask(ask(list::Op::Set(at, mark), Access::Writes), list.set(at, &text), done).await;
            }
            4..7 => {
                self.ask(ask(list::Op::Get(at), Access::Reads), list.get(at), item).await;
            }
            7..9 => {
                self.ask(ask(list::Op::Remove(at), Access::Writes), list.remove(at), item).await;
            }
            9 => {
                let size = |told: Told<'_, u32>| one(placed(told.map(list::Answer::Size)));
                self.ask(ask(list::Op::Size, Access::Reads), list.size(), size).await;
            }
            10 => {
                let all = |told: Told<'_, Vec<Item>>| {
                    let items = told.ok()?.iter().map(|item| parse(&item.value)).collect();
                    one(Some(list::Answer::Items(items)))
                };
                let items = async { list.items().await?.collect().await };
                self.ask(ask(list::Op::Items, Access::Reads), items, all).await;
            }
            _ if self.dice.roll(5) == 0 => {
                self.ask(ask(list::Op::Clear, Access::Writes), list.clear(), done).await;
            }
            _ => {}
        }
    }

    pub(super) async fn indexed_map(&mut self, name: u64) {
        let map = self.session().indexed_maps[&name].clone();
        let object = format!("indexedmap/{name}/");
        let ask = |op, access| Ask { book: |log| &log.indices, ops: vec![(object.as_str(), op)], access };
        let (mark, number) = (self.log.mark(), self.dice.roll(4));
        let (key, text) = (format!("k{number}"), mark.to_string());
        let entry = |told: Told<'_, Entry>| one(indexed(told.map(Some)));
        let maybe = |told: Told<'_, Option<Entry>>| one(indexed(told));
        match self.dice.roll(8) {
            0..2 => {
                let ask = ask(index::Op::Append(number, mark), Access::Writes);
                self.ask(ask, map.append(key, &text), entry).await;
            }
            2 => {
                let ask = ask(index::Op::Update(number, mark), Access::Writes);
                self.ask(ask, map.update(key, &text), entry).await;
            }
            3 => {
                self.ask(ask(index::Op::Get(number), Access::Reads), map.get(key), maybe).await;
            }
            4 => {
                self.ask(ask(index::Op::First, Access::Reads), map.first(), maybe).await;
            }
            5 => {
                self.ask(ask(index::Op::Last, Access::Reads), map.last(), maybe).await;
            }
            _ => {
                self.ask(ask(index::Op::Remove(number), Access::Writes), map.remove(key), maybe).await;
            }
        }
    }

    pub(super) async fn publish(&mut self, name: u64, mark: u64) -> bool {
        let topic = self.session().topics[&name].clone();
        let payload = mark.to_string();
        let publish = topic.publish(&payload);
        let heard = self.hear(Access::Writes, publish, |told| told.ok().map(|()| vec![()])).await;
        if !heard.refused {
            let ended = heard.answers.is_some().then_some(heard.ended);
            let deed = Deed { key: payload, wrote: true, value: mark, began: heard.began, ended, ttl: None };
            open(&self.log.topics).entry(format!("topic/{name}")).or_default().push(deed);
        }
        heard.answers.is_some()
    }
}
