// SPDX-License-Identifier: Apache-2.0
//! The judgement on a recording.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomix_linearizability::feed::{Deed, Feed};
use atomix_linearizability::{
    Call, Cell, History, Index, List, Member, Number, Object, Ruling, cell, election, index, list, lock,
    member, number,
};

use super::log::{Log, Tally, open};

/// What clients were told in one run, by object.
#[derive(Debug)]
pub struct Recording {
    seed: u64,
    objects: BTreeMap<String, Object>,
    steps: usize,
    tally: Tally,
}

/// What was judged and found right.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The seed of the run.
    pub seed: u64,
    /// Objects, streams of one primitive counted as one.
    pub objects: usize,
    /// Calls that were answered by what they asked for, or by a condition that did not hold.
    pub done: u64,
    /// Calls that were certainly not applied.
    pub refused: u64,
    /// Calls whose outcome nobody knows.
    pub lost: u64,
    /// Events that streams have shown.
    pub events: usize,
    /// Errors by name.
    pub errors: BTreeMap<String, u64>,
}

/// An object that is not what it should be.
#[derive(Debug)]
pub struct Violation {
    /// Its name.
    pub object: String,
    /// What is wrong, for people.
    pub why: String,
    /// Whether it could not be judged in so many steps, which is no better.
    pub unknown: bool,
    /// Where its record is; see [`replay`].
    pub record: Option<PathBuf>,
}

/// All that is wrong with a recording.
#[derive(Debug)]
pub struct Violations {
    /// What was judged.
    pub summary: Summary,
    /// What is wrong.
    pub all: Vec<Violation>,
}

/// Judges the record of an object once more that was written to a file.
pub fn replay(path: &Path, steps: usize) -> std::io::Result<Ruling> {
    Ok(Object::read(path)?.judge(steps))
}

// === impl Recording ===

impl Recording {
    pub(super) fn new(seed: u64, log: &Log) -> Self {
        let mut objects = BTreeMap::new();
        let mut feeds: BTreeMap<String, Feed> = BTreeMap::new();
        let mut feed = |object: &str, marked, deeds: Vec<Deed>| {
            let mut parts = object.splitn(3, '/');
            let name = format!("{}/{}", parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let feed = feeds.entry(name).or_default();
            feed.marked = marked;
            feed.deeds.extend(deeds);
        };
        for (name, history) in log.cells.all() {
            feed(&name, true, of_cell(key(&name), &history));
            objects.insert(name, Object::Cell(history));
        }
        for (name, history) in log.numbers.all() {
            feed(&name, false, of_number(key(&name), &history));
            objects.insert(name, Object::Number(history));
        }
        for (name, history) in log.counters.all() {
            objects.insert(name, Object::Number(history));
        }
        for (name, history) in log.members.all() {
            feed(&name, false, of_member(key(&name), &history));
            objects.insert(name, Object::Member(history));
        }
        for (name, history) in log.lists.all() {
            feed(&name, true, of_list(&history));
            objects.insert(name, Object::List(history));
        }
        for (name, history) in log.indices.all() {
            feed(&name, true, of_index(&history));
            objects.insert(name, Object::Index(history));
        }
        for (name, deeds) in open(&log.topics).iter() {
            feed(name, true, deeds.clone());
        }
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let ends = open(&log.ends);
        let free = log.options.free.map(nanos);
        for (name, mut history) in log.locks.all() {
            for (session, end) in ends.iter() {
                let takes = |op: &lock::Op| *op == lock::Op::Take(*session);
                if history.calls.iter().any(|call| takes(&call.op)) {
                    history.calls.push(Call::lost(*session, *end, lock::Op::End(*session)));
                }
            }
            objects.insert(name, Object::Lock(history, free));
        }
        for (name, mut history) in log.elections.all() {
            for (session, end) in ends.iter() {
                let enters =
                    |op: &election::Op| matches!(op, election::Op::Enter(_, other) if other == session);
                if history.calls.iter().any(|call| enters(&call.op)) {
                    history.calls.push(Call::lost(*session, *end, election::Op::End(*session)));
                }
            }
            objects.insert(name, Object::Election(history));
        }
        let late = log.options.late.map(nanos);
        for (name, streams) in open(&log.streams).iter() {
            let mut feed = feeds.remove(name).unwrap_or_default();
            feed.streams.extend(streams.iter().cloned());
            feed.late = late;
            objects.insert(format!("{name} (streams)"), Object::Feed(feed));
        }
        Self { seed, objects, steps: log.options.steps, tally: log.tally().clone() }
    }
}

impl Recording {
    /// Returns the objects by name.
    pub fn objects(&self) -> &BTreeMap<String, Object> {
        &self.objects
    }

    /// Judges all objects. The records of those that fail are written to `ATOMIX_HISTORY_DIR`, or a temporary folder.
    pub fn judge(&self) -> Result<Summary, Violations> {
        let mut all = Vec::new();
        for (name, object) in &self.objects {
            let (why, unknown) = match object.judge(self.steps) {
                Ruling::Fine => continue,
                Ruling::Wrong(why) => (why, false),
                Ruling::Unknown(why) => (format!("not judged in {} steps; {why}", self.steps), true),
            };
            all.push(Violation { object: name.clone(), why, unknown, record: self.keep(name, object) });
        }
        let summary = self.summary();
        if all.is_empty() { Ok(summary) } else { Err(Violations { summary, all }) }
    }

    fn summary(&self) -> Summary {
        let streams = self.objects.values().filter(|object| matches!(object, Object::Feed(_)));
        Summary {
            seed: self.seed,
            objects: self.objects.len(),
            done: self.tally.done,
            refused: self.tally.refused,
            lost: self.tally.lost,
            events: streams.map(Object::len).sum(),
            errors: self.tally.errors.clone(),
        }
    }

    fn keep(&self, name: &str, object: &Object) -> Option<PathBuf> {
        let folder = std::env::var_os("ATOMIX_HISTORY_DIR")
            .map_or_else(|| std::env::temp_dir().join("atomix-histories"), PathBuf::from);
        let file = format!("{}-{}.json", self.seed, name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let path = folder.join(file);
        std::fs::create_dir_all(&folder).and_then(|()| object.write(&path)).ok().map(|()| path)
    }
}

/// Returns the part of an object's name that is its key.
fn key(object: &str) -> &str {
    object.splitn(3, '/').nth(2).unwrap_or("")
}

fn deed(key: impl Into<String>, wrote: bool, value: u64, began: u64, ended: Option<u64>) -> Deed {
    Deed { key: key.into(), wrote, value, began, ended, ttl: None }
}

fn of_cell(key: &str, history: &History<Cell>) -> Vec<Deed> {
    use cell::{Answer, Op};
    let expiries: BTreeMap<u64, u64> = history
        .calls
        .iter()
        .filter_map(|call| match call.op {
            Op::Expire(value) => Some((value, call.began)),
            _ => None,
        })
        .collect();
    let deed = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (
            Op::Put(value, _) | Op::Insert(value) | Op::Update(value, _),
            None | Some(Answer::Written(..) | Answer::Inserted(_)),
        ) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            let ttl = expiries.get(value).map(|expiry| expiry.saturating_sub(call.began));
            Some(Deed { ttl, ..deed(key, true, *value, call.began, ended) })
        }
        (Op::Remove(_), Some(Answer::Is(value, _))) => Some(deed(key, false, *value, call.began, call.ended)),
        _ => None,
    };
    history.calls.iter().filter_map(deed).collect()
}

fn of_number(key: &str, history: &History<Number>) -> Vec<Deed> {
    use number::{Answer, Op};
    let deed = |call: &Call<Op, Answer>| {
        let (wrote, number) = match (&call.op, call.answer.as_ref()?) {
            (Op::Get, _) => return None,
            (Op::Remove | Op::RemoveIf(_), Answer::Is(number)) => (false, *number),
            (Op::Set(number), Answer::Was(_))
            | (_, Answer::Is(number))
            | (Op::Set(number) | Op::Insert(number) | Op::Update(_, number), Answer::Done) => (true, *number),
            _ => return None,
        };
        Some(deed(key, wrote, number.cast_unsigned(), call.began, call.ended))
    };
    let mut deeds: Vec<Deed> = history.calls.iter().filter_map(deed).collect();
    // What an addition made of the number is not known without its answer: it may be what another one made of it as well.
    if history.calls.iter().any(|call| call.op != Op::Get && call.answer.is_none()) {
        let unknown = |deed: &Deed| Deed { began: 0, ended: None, ..deed.clone() };
        let unknown: Vec<Deed> = deeds.iter().map(unknown).collect();
        deeds.extend(unknown);
    }
    deeds
}

fn of_member(key: &str, history: &History<Member>) -> Vec<Deed> {
    use member::{Answer, Op};
    let deed = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (Op::Add | Op::Remove, Some(Answer::Yes) | None) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            Some(deed(key, call.op == Op::Add, 0, call.began, ended))
        }
        _ => None,
    };
    history.calls.iter().filter_map(deed).collect()
}

/// An item of a list is a key of its own.
fn of_list(history: &History<List>) -> Vec<Deed> {
    use list::{Answer, Op};
    let deed = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (Op::Append(item) | Op::Insert(_, item) | Op::Set(_, item), None | Some(Answer::Done)) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            Some(deed(item.to_string(), true, *item, call.began, ended))
        }
        (Op::Remove(_), Some(Answer::Item(item))) => {
            Some(deed(item.to_string(), false, *item, call.began, call.ended))
        }
        _ => None,
    };
    history.calls.iter().filter_map(deed).collect()
}

fn of_index(history: &History<Index>) -> Vec<Deed> {
    use index::{Answer, Op};
    let deed = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (Op::Append(key, value) | Op::Update(key, value), None | Some(Answer::Entry(_))) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            Some(deed(format!("k{key}"), true, *value, call.began, ended))
        }
        (Op::Remove(key), Some(Answer::Entry(told))) => {
            Some(deed(format!("k{key}"), false, told.1, call.began, call.ended))
        }
        _ => None,
    };
    history.calls.iter().filter_map(deed).collect()
}

// === impl Summary ===

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, objects, done, refused, lost, events, errors } = self;
        write!(f, "seed {seed}: {objects} objects, {done} calls done, {refused} refused, {lost} lost, ")?;
        write!(f, "{events} events")?;
        for (error, count) in errors {
            write!(f, "\n  {count} x {error}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary)?;
        for Violation { object, why, record, .. } in &self.all {
            writeln!(f, "\n{object}: {why}")?;
            if let Some(record) = record {
                writeln!(f, "its record: {}", record.display())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use atomix_linearizability::feed::{Event, Kind, Stream};

    use super::*;

    fn add(began: u64, answer: Option<i64>) -> Call<number::Op, number::Answer> {
        let (ended, answer) = (answer.map(|_| began + 1), answer.map(number::Answer::Is));
        Call { client: 1, began, ended, op: number::Op::Add(7), answer }
    }

    #[test]
    fn a_number_that_a_lost_addition_may_have_made_is_not_taken_for_a_later_one() {
        let remove = Call {
            client: 1,
            began: 20,
            ended: Some(21),
            op: number::Op::Remove,
            answer: Some(number::Answer::Is(14)),
        };
        let calls = vec![add(1, None), add(10, Some(14)), remove, add(30, Some(7))];
        let history = History { begin: Number::default(), calls };
        let event = |at, kind, value, previous| {
            let previous = Option::map(previous, |value| (value, 0));
            Event { at, key: "k".to_owned(), kind, value, version: 0, previous }
        };
        let events = vec![
            event(2, Kind::Inserted, 7, None),
            event(11, Kind::Updated, 14, Some(7)),
            event(21, Kind::Removed, 14, None),
            event(31, Kind::Inserted, 7, None),
        ];
        let stream = Stream { events, settled: 40, ..Stream::default() };
        let feed = Feed { deeds: of_number("k", &history), streams: vec![stream], ..Feed::default() };
        assert_eq!(feed.check(), []);
    }
}
