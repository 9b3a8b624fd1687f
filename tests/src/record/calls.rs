// SPDX-License-Identifier: Apache-2.0
//! A client that calls, and what it remembers of each call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atomix_client::map::{Committed, Operation};
use atomix_client::{Error, Result, Versioned, Written};
use atomix_kv_testkit::Dice;
use atomix_kv_testkit::history::feed::Deed;
use atomix_kv_testkit::history::{Call, Model, cell, index, list, member, number};

use super::Kind;
use super::log::{Book, LAST, Log, open};
use super::session::Session;

/// A client.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) log: Arc<Log>,
    pub(super) dice: Dice,
    pub(super) me: u32,
    pub(super) session: Option<Session>,
    /// Whether the session is to end before the next call.
    pub(super) spent: bool,
}

/// What a call leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Reads,
    /// A change.
    Writes,
    /// Something that the session owns: a connection that breaks is no refusal.
    Owns,
}

/// A call that is about to be made.
#[derive(Debug)]
pub(super) struct Ask<'a, M: Model> {
    pub(super) book: fn(&Log) -> &Book<M>,
    /// The objects that the call is about, each with what it asks of them.
    pub(super) ops: Vec<(&'a str, M::Op)>,
    pub(super) access: Access,
}

/// What a call brought: its value, or the reason why not.
pub(super) type Told<'a, T> = std::result::Result<T, &'a str>;

/// When a call began and ended, and its answers if it was answered.
pub(super) struct Heard<A> {
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) answers: Option<Vec<A>>,
    /// Whether it was certainly not applied.
    pub(super) refused: bool,
    /// Why there is no answer.
    pub(super) reason: String,
}

/// Keys of a map without times to live, and with.
const KEYS: [&str; 5] = ["k0", "k1", "k2", "t0", "t1"];
/// A key that is written when all clients have ended.
pub(super) const END: &str = "end";
/// How long a client waits when nothing can be reached.
const PAUSE: Duration = Duration::from_millis(30);
/// How much earlier than its time an entry may go: times are kept in milliseconds.
const EARLY: u64 = 2_000_000;

// === impl Worker ===

impl Worker {
    pub(super) fn new(log: Arc<Log>, dice: Dice, me: u32) -> Self {
        Self { log, dice, me, session: None, spent: false }
    }

    /// Calls until then.
    pub(super) async fn work(mut self, until: Instant) {
        while Instant::now() < until {
            if !self.ready().await {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let kinds = &self.log.options.kinds;
            let kind = kinds[self.dice.index(kinds.len())];
            let name = self.dice.roll(self.log.options.names);
            self.call(kind, name).await;
            let pause = self.log.options.pause.as_micros();
            let pause = self.dice.roll(u64::try_from(pause).unwrap_or(u64::MAX).max(1));
            tokio::time::sleep(Duration::from_micros(pause)).await;
            self.spent |= self.log.options.deaths && self.dice.roll(1000) == 0;
        }
    }

    /// Makes sure that there is a session.
    async fn ready(&mut self) -> bool {
        if self.spent || self.session.as_ref().is_some_and(Session::is_gone) {
            self.session = None;
            self.spent = false;
        }
        if self.session.is_none() {
            let endpoint = self.dice.index(self.log.endpoints.len());
            match Session::begin(&self.log, &self.log.endpoints[endpoint]).await {
                Ok(session) => self.session = Some(session),
                Err(error) => self.count_error("session", &error),
            }
        }
        self.session.is_some()
    }

    pub(super) fn session(&self) -> &Session {
        self.session.as_ref().expect("it was made ready")
    }

    fn count_error(&self, what: &str, error: &Error) {
        let reason = error.reason().unwrap_or("-");
        *self.log.tally().errors.entry(format!("{what}: {} {reason}", error.kind())).or_default() += 1;
    }

    async fn call(&mut self, kind: Kind, name: u64) {
        match kind {
            Kind::Map => self.map(name).await,
            Kind::Value => self.value(name).await,
            Kind::Counter => self.counter(name).await,
            Kind::Lock => self.lock(name).await,
            Kind::KeyLock => self.key_lock(name).await,
            Kind::Set => self.set(name).await,
            Kind::List => self.list(name).await,
            Kind::IndexedMap => self.indexed_map(name).await,
            Kind::CounterMap => self.counter_map(name).await,
            Kind::MultiMap => self.multimap(name).await,
            Kind::Election => self.election(name).await,
            Kind::Topic => {
                let mark = self.log.mark();
                self.publish(name, mark).await;
            }
        }
    }

    /// Makes a call and remembers it. `answer` says what the call has told of each object, or `None` if it told nothing.
    pub(super) async fn ask<M: Model, T>(
        &mut self,
        ask: Ask<'_, M>,
        call: impl IntoFuture<Output = Result<T>>,
        answer: impl FnOnce(Told<'_, T>) -> Option<Vec<M::Answer>>,
    ) -> Heard<M::Answer> {
        let Ask { book, ops, access } = ask;
        let heard = self.hear(access, call, answer).await;
        let client = self.session().id;
        for (at, (object, op)) in ops.into_iter().enumerate() {
            let during = heard.began..heard.ended;
            match &heard.answers {
                Some(answers) => {
                    book(&self.log).note(object, Call::done(client, during, op, answers[at].clone()));
                }
                None if heard.refused || access == Access::Reads => {}
                None => book(&self.log).note(object, Call::lost(client, heard.began, op)),
            }
        }
        heard
    }

    /// Makes a call.
    async fn hear<A, T>(
        &mut self,
        access: Access,
        call: impl IntoFuture<Output = Result<T>>,
        answer: impl FnOnce(Told<'_, T>) -> Option<Vec<A>>,
    ) -> Heard<A> {
        let began = self.log.now();
        let told = call.await;
        let ended = self.log.now();
        if let Some(session) = &mut self.session
            && (told.is_ok() || told.as_ref().is_err_and(|error| error.reason().is_some()))
        {
            session.answered(began);
        }
        let (answers, refused, reason) = match told {
            Ok(value) => (answer(Ok(value)), false, String::new()),
            Err(error) => {
                let reason = error.reason().unwrap_or_default().to_owned();
                let answers = answer(Err(&reason));
                if answers.is_none() {
                    self.count_error(if access == Access::Reads { "read" } else { "write" }, &error);
                    self.doubt(&error);
                }
                (answers, is_refusal(&error, access), reason)
            }
        };
        let mut tally = self.log.tally();
        match &answers {
            Some(_) => tally.done += 1,
            None if refused => tally.refused += 1,
            None => tally.lost += 1,
        }
        drop(tally);
        Heard { began, ended, answers, refused, reason }
    }

    /// Goes elsewhere now and then if nothing is to be had here.
    fn doubt(&mut self, error: &Error) {
        use atomix_client::Kind::{Cancelled, Timeout, Unavailable};
        // A runtime that was taken for dead begins again under another name, and with it its sessions.
        self.spent |= error.reason() == Some("HOST_LOST");
        self.spent |= matches!(error.kind(), Timeout | Unavailable | Cancelled) && self.dice.roll(4) == 0;
    }

    async fn map(&mut self, name: u64) {
        let map = self.session().maps[&name].clone();
        let key = KEYS[self.dice.index(KEYS.len())];
        let object = format!("map/{name}/{key}");
        let (object, seen) = (object.as_str(), self.seen(&object));
        let mark = self.log.mark();
        let text = mark.to_string();
        let ask = |op, access| Ask { book: |log| &log.cells, ops: vec![(object, op)], access };
        let lives = key.starts_with('t');
        let ttl = lives.then(|| Duration::from_millis(200 + self.dice.roll(300)));
        // What has a time to live is mostly left alone, so that its time comes.
        let verb = if lives && self.dice.roll(10) > 0 { self.dice.roll(2) * 8 } else { self.dice.roll(16) };
        match verb {
            0..4 => {
                self.ask(ask(cell::Op::Get, Access::Reads), map.get(key), |told| one(read(told))).await;
            }
            4..8 => {
                let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
                let mut put = map.put(key, &text);
                if let Some(ttl) = ttl {
                    put = put.ttl(ttl);
                }
                let put = put.if_version(condition);
                let ask = ask(cell::Op::Put(mark, condition), Access::Writes);
                let heard = self.ask(ask, put, |told| one(written(told))).await;
                self.will_expire(object, mark, ttl, &heard);
            }
            8..10 => {
                let mut insert = map.insert(key, &text);
                if let Some(ttl) = ttl {
                    insert = insert.ttl(ttl);
                }
                let ask = ask(cell::Op::Insert(mark), Access::Writes);
                let heard = self.ask(ask, insert, |told| one(inserted(told))).await;
                self.will_expire(object, mark, ttl, &heard);
            }
            10 => {
                let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
                let update = map.update(key, &text).if_version(condition);
                let ask = ask(cell::Op::Update(mark, condition), Access::Writes);
                self.ask(ask, update, |told| one(written(told))).await;
            }
            11..13 => {
                let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
                let ask = ask(cell::Op::Remove(condition), Access::Writes);
                self.ask(ask, map.remove(key).if_version(condition), |told| one(read(told))).await;
            }
            13 => self.commit(name).await,
            14 => {
                let objects = KEYS.map(|key| format!("map/{name}/{key}"));
                let ops = objects.iter().map(|object| (object.as_str(), cell::Op::Get)).collect();
                let ask = Ask { book: |log| &log.cells, ops, access: Access::Reads };
                let all = async { map.entries().await?.collect().await };
                let listed = |told: Told<'_, Vec<atomix_client::map::Entry<String>>>| {
                    let entries = told.ok()?;
                    let found = |key: &str| entries.iter().find(|entry| entry.key == key);
                    Some(KEYS.map(|key| is(found(key).map(|entry| &entry.value))).to_vec())
                };
                self.ask(ask, all, listed).await;
            }
            _ if self.dice.roll(10) == 0 => {
                let objects = KEYS.map(|key| format!("map/{name}/{key}"));
                let ops = objects.iter().map(|object| (object.as_str(), cell::Op::Clear)).collect();
                let ask = Ask { book: |log| &log.cells, ops, access: Access::Writes };
                self.ask(ask, map.clear(), |told| {
                    Some(vec![cell::Answer::Done; told.ok().map(|()| KEYS.len())?])
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
        let objects = [format!("map/{name}/k0"), format!("map/{name}/k1")];
        let ops = objects.iter().zip(marks).map(|(object, mark)| (object.as_str(), cell::Op::Put(mark, 0)));
        let ask = Ask { book: |log| &log.cells, ops: ops.collect(), access: Access::Writes };
        let operations = ["k0", "k1"].into_iter().zip(marks);
        let operations: Vec<_> =
            operations.map(|(key, mark)| Operation::put(key, mark.to_string())).collect();
        let each = |told: Told<'_, Vec<Committed<String>>>| {
            let put = |committed| match committed {
                Committed::Put(put) => written(Ok(put)),
                _ => None,
            };
            told.ok()?.into_iter().map(put).collect()
        };
        self.ask(ask, map.commit(operations), each).await;
    }

    /// Remembers when an entry goes that a call has written, or may have.
    fn will_expire(&self, object: &str, mark: u64, ttl: Option<Duration>, put: &Heard<cell::Answer>) {
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

    async fn value(&mut self, name: u64) {
        let value = self.session().values[&name].clone();
        let object = format!("value/{name}/");
        let (object, seen) = (object.as_str(), self.seen(&object));
        let mark = self.log.mark();
        let text = mark.to_string();
        let condition = if self.dice.roll(2) == 0 { seen } else { 0 };
        let ask = |op, access| Ask { book: |log| &log.cells, ops: vec![(object, op)], access };
        match self.dice.roll(8) {
            0..2 => {
                self.ask(ask(cell::Op::Get, Access::Reads), value.get(), |told| one(read(told))).await;
            }
            2..4 => {
                let ask = ask(cell::Op::Put(mark, 0), Access::Writes);
                self.ask(ask, value.set(&text), |told| one(written(told))).await;
            }
            4 => {
                let ask = ask(cell::Op::Insert(mark), Access::Writes);
                self.ask(ask, value.insert(&text), |told| one(inserted(told))).await;
            }
            5..7 => {
                let ask = ask(cell::Op::Update(mark, condition), Access::Writes);
                self.ask(ask, value.update(&text).if_version(condition), |told| one(written(told))).await;
            }
            _ => {
                let ask = ask(cell::Op::Remove(condition), Access::Writes);
                self.ask(ask, value.delete().if_version(condition), |told| one(read(told))).await;
            }
        }
    }

    async fn counter(&mut self, name: u64) {
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

    async fn set(&mut self, name: u64) {
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

    async fn multimap(&mut self, name: u64) {
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

    async fn counter_map(&mut self, name: u64) {
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

    async fn list(&mut self, name: u64) {
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

    async fn indexed_map(&mut self, name: u64) {
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

    async fn publish(&mut self, name: u64, mark: u64) -> bool {
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

    /// Writes something last to whatever is followed. Gives up where nothing can be written.
    pub(super) async fn finish(mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut left: Vec<(Kind, u64)> = Vec::new();
        for kind in &self.log.options.kinds {
            left.extend((0..self.log.options.names).map(|name| (*kind, name)));
        }
        while !left.is_empty() && Instant::now() < deadline {
            if self.ready().await {
                let mut undone = Vec::new();
                for (kind, name) in left {
                    if !self.last(kind, name).await {
                        undone.push((kind, name));
                    }
                }
                left = undone;
            }
            if !left.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn last(&mut self, kind: Kind, name: u64) -> bool {
        let mark = LAST + self.log.mark();
        let text = mark.to_string();
        match kind {
            Kind::Map => {
                let map = self.session().maps[&name].clone();
                let object = format!("map/{name}/{END}");
                let ops = vec![(object.as_str(), cell::Op::Put(mark, 0))];
                let ask = Ask { book: |log| &log.cells, ops, access: Access::Writes };
                self.ask(ask, map.put(END, &text), |told| one(written(told))).await.answers.is_some()
            }
            Kind::Value => {
                let value = self.session().values[&name].clone();
                let object = format!("value/{name}/");
                let ops = vec![(object.as_str(), cell::Op::Put(mark, 0))];
                let ask = Ask { book: |log| &log.cells, ops, access: Access::Writes };
                self.ask(ask, value.set(&text), |told| one(written(told))).await.answers.is_some()
            }
            Kind::Set => {
                let set = self.session().sets[&name].clone();
                let object = format!("set/{name}/{END}");
                let ops = vec![(object.as_str(), member::Op::Add)];
                let ask = Ask { book: |log| &log.members, ops, access: Access::Writes };
                self.ask(ask, set.add(END), |told| one(changed(told))).await.answers.is_some()
            }
            Kind::MultiMap => {
                let map = self.session().multimaps[&name].clone();
                let object = format!("multimap/{name}/{END}/{END}");
                let ops = vec![(object.as_str(), member::Op::Add)];
                let ask = Ask { book: |log| &log.members, ops, access: Access::Writes };
                self.ask(ask, map.put(END, END), |told| one(changed(told))).await.answers.is_some()
            }
            Kind::CounterMap => {
                let map = self.session().counter_maps[&name].clone();
                let object = format!("countermap/{name}/{END}");
                let ops = vec![(object.as_str(), number::Op::Add(1))];
                let ask = Ask { book: |log| &log.numbers, ops, access: Access::Writes };
                self.ask(ask, map.increment(END, 1), |told| one(numbered(told))).await.answers.is_some()
            }
            Kind::List => {
                let list = self.session().lists[&name].clone();
                let object = format!("list/{name}/");
                let ops = vec![(object.as_str(), list::Op::Append(mark))];
                let ask = Ask { book: |log| &log.lists, ops, access: Access::Writes };
                let done = |told: Told<'_, ()>| one(placed(told.map(|()| list::Answer::Done)));
                self.ask(ask, list.append(&text), done).await.answers.is_some()
            }
            Kind::IndexedMap => {
                let map = self.session().indexed_maps[&name].clone();
                let object = format!("indexedmap/{name}/");
                let ops = vec![(object.as_str(), index::Op::Append(mark, mark))];
                let ask = Ask { book: |log| &log.indices, ops, access: Access::Writes };
                let entry = |told: Told<'_, Entry>| one(indexed(told.map(Some)));
                self.ask(ask, map.append(format!("k{mark}"), &text), entry).await.answers.is_some()
            }
            Kind::Topic => self.publish(name, mark).await,
            Kind::Counter | Kind::Lock | Kind::KeyLock | Kind::Election => true,
        }
    }
}

/// An entry of an indexed map.
type Entry = atomix_client::indexedmap::Entry<String>;
/// An item of a list.
type Item = atomix_client::list::Item<String>;

/// Tells whether a call was certainly not applied.
fn is_refusal(error: &Error, access: Access) -> bool {
    use atomix_client::Kind as Error;
    match error.kind() {
        Error::Unavailable => access != Access::Owns,
        Error::NotFound
        | Error::AlreadyExists
        | Error::Conflict
        | Error::Invalid
        | Error::Denied
        | Error::Unsupported => true,
        _ => false,
    }
}

/// The answer of the only object that a call was about.
pub(super) fn one<A>(answer: Option<A>) -> Option<Vec<A>> {
    answer.map(|answer| vec![answer])
}

/// Returns the mark that was written as this text. Nobody has got the last number as a mark.
pub(super) fn parse(text: &str) -> u64 {
    text.parse().unwrap_or(u64::MAX)
}

fn is(value: Option<&Versioned<String>>) -> cell::Answer {
    match value {
        Some(value) => cell::Answer::Is(parse(&value.value), value.version),
        None => cell::Answer::Missing,
    }
}

fn conflict(reason: &str) -> Option<cell::Answer> {
    match reason {
        "VERSION_MISMATCH" => Some(cell::Answer::Conflict),
        "KEY_EXISTS" => Some(cell::Answer::Exists),
        "KEY_NOT_FOUND" | "VALUE_NOT_SET" => Some(cell::Answer::Missing),
        _ => None,
    }
}

fn read(told: Told<'_, Option<Versioned<String>>>) -> Option<cell::Answer> {
    told.map_or_else(conflict, |value| Some(is(value.as_ref())))
}

fn written(told: Told<'_, Written<String>>) -> Option<cell::Answer> {
    told.map_or_else(conflict, |written| {
        let previous = written.previous.map(|value| (parse(&value.value), value.version));
        Some(cell::Answer::Written(written.version, previous))
    })
}

fn inserted(told: Told<'_, u64>) -> Option<cell::Answer> {
    told.map_or_else(conflict, |version| Some(cell::Answer::Inserted(version)))
}

fn numbered(told: Told<'_, i64>) -> Option<number::Answer> {
    maybe(told.map(Some))
}

fn maybe(told: Told<'_, Option<i64>>) -> Option<number::Answer> {
    match told {
        Ok(Some(number)) => Some(number::Answer::Is(number)),
        Ok(None) | Err("KEY_NOT_FOUND") => Some(number::Answer::Missing),
        Err("VALUE_MISMATCH") => Some(number::Answer::Conflict),
        Err("KEY_EXISTS") => Some(number::Answer::Exists),
        Err(_) => None,
    }
}

fn yes(yes: bool) -> member::Answer {
    if yes { member::Answer::Yes } else { member::Answer::No }
}

fn changed(told: Told<'_, bool>) -> Option<member::Answer> {
    told.ok().map(yes)
}

fn placed(told: Told<'_, list::Answer>) -> Option<list::Answer> {
    match told {
        Ok(answer) => Some(answer),
        Err("INVALID_ARGUMENT") => Some(list::Answer::Beyond),
        Err(_) => None,
    }
}

fn indexed(told: Told<'_, Option<Entry>>) -> Option<index::Answer> {
    match told {
        Ok(Some(entry)) => {
            let key = parse(entry.key.trim_start_matches('k'));
            let value = parse(&entry.value.value);
            Some(index::Answer::Entry((key, value, entry.index, entry.value.version)))
        }
        Ok(None) | Err("KEY_NOT_FOUND") => Some(index::Answer::Missing),
        Err("KEY_EXISTS") => Some(index::Answer::Exists),
        Err(_) => None,
    }
}
