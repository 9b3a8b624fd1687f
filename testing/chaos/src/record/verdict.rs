// SPDX-License-Identifier: Apache-2.0
//! The judgement on a recording.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomix_linearizability::streams::{Change, WatchHistory};
use atomix_linearizability::{
    Call, Cell, History, Index, Judgement, List, Member, Number, Object, cell, election, index, list, lock,
    member, number,
};

use super::durability::{Crash, DurabilityChecker};
use super::log::{Counts, Log, open};
use super::marks::{Marks, of_cell, of_index, of_list};

/// The record of one run, by object.
#[derive(Debug)]
pub struct Recording {
    seed: u64,
    objects: BTreeMap<String, Object>,
    /// Locks that were not free at the end.
    stuck: Vec<String>,
    steps: usize,
    counts: Counts,
}

/// The figures of a record.
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
    /// Calls with an unknown outcome.
    pub lost: u64,
    /// Events that streams have shown.
    pub events: usize,
    /// Answered calls that a crash has lost and may have lost.
    pub cut: usize,
    /// Errors by name.
    pub errors: BTreeMap<String, u64>,
}

/// An object that is not what it should be.
#[derive(Debug)]
pub struct Violation {
    /// Its name.
    pub object: String,
    /// The reason, for readers.
    pub why: String,
    /// Whether it could not be judged in so many steps, which is no better.
    pub unknown: bool,
    /// The file with its record; see [`replay`].
    pub record: Option<PathBuf>,
}

/// All that is wrong with a recording.
#[derive(Debug)]
pub struct Violations {
    /// The figures of the record.
    pub summary: Summary,
    /// The violations.
    pub all: Vec<Violation>,
}

/// Judges the record of an object once more that was written to a file.
pub fn replay(path: &Path, steps: usize) -> std::io::Result<Judgement> {
    Ok(Object::read(path)?.judge(steps))
}

// === impl Recording ===

impl Recording {
    pub(super) fn new(seed: u64, log: &Log) -> Self {
        let mut objects = BTreeMap::new();
        let mut watches: BTreeMap<String, WatchHistory> = BTreeMap::new();
        let mut watch = |object: &str, marked, changes: Vec<Change>| {
            let mut parts = object.splitn(3, '/');
            let name = format!("{}/{}", parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let watch = watches.entry(name).or_default();
            watch.marked = marked;
            watch.changes.extend(changes);
        };
        let streams = open(&log.streams).clone();
        let (mut cells, mut lists, mut indices) = (log.cells.all(), log.lists.all(), log.indices.all());
        let mut marks = Marks::default();
        for (_, history) in &cells {
            marks.add_cell(history, 0);
        }
        for (_, history) in &lists {
            marks.add_list(history, 0);
        }
        for (_, history) in &indices {
            marks.add_index(history, 0);
        }
        let marked =
            |name: &str| ["map/", "value/", "list/", "indexedmap/"].iter().any(|of| name.starts_with(of));
        for (_, streams) in streams.iter().filter(|(name, _)| marked(name)) {
            marks.add_streams(streams, 0);
        }
        marks.add_pairs(&open(&log.pairs));
        for (_, history) in &mut cells {
            marks.confirm(history, of_cell, &cell::Answer::Done);
        }
        for (_, history) in &mut lists {
            marks.confirm(history, of_list, &list::Answer::Done);
        }
        for (_, history) in &mut indices {
            marks.confirm(history, of_index, &index::Answer::Done);
        }
        for (name, history) in cells {
            watch(&name, true, cell_changes(key(&name), &history));
            objects.insert(name, Object::Cell(history));
        }
        for (name, history) in log.numbers.all() {
            watch(&name, false, number_changes(key(&name), &history));
            objects.insert(name, Object::Number(history));
        }
        for (name, history) in log.counters.all() {
            objects.insert(name, Object::Number(history));
        }
        for (name, history) in log.members.all() {
            watch(&name, false, member_changes(key(&name), &history));
            objects.insert(name, Object::Member(history));
        }
        for (name, history) in lists {
            watch(&name, true, list_changes(&history));
            objects.insert(name, Object::List(history));
        }
        for (name, history) in indices {
            watch(&name, true, index_changes(&history));
            objects.insert(name, Object::Index(history));
        }
        for (name, changes) in open(&log.topics).iter() {
            watch(name, true, changes.clone());
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
        for (name, streams) in streams {
            let mut watch = watches.remove(&name).unwrap_or_default();
            watch.streams = streams;
            watch.late = late;
            objects.insert(format!("{name} (streams)"), Object::WatchHistory(watch));
        }
        let stuck = open(&log.stuck).clone();
        Self { seed, objects, stuck, steps: log.options.steps, counts: log.counts().clone() }
    }
}

impl Recording {
    /// Returns the objects by name.
    pub fn objects(&self) -> &BTreeMap<String, Object> {
        &self.objects
    }

    /// Judges all objects. The records of those that fail are written to `ATOMIX_HISTORY_DIR`, or a temporary folder.
    pub fn judge(&self) -> Result<Summary, Violations> {
        let wrong = self.objects.iter().filter_map(|(name, object)| {
            let judgement = object.judge(self.steps);
            (!matches!(judgement, Judgement::Fine)).then(|| (name.clone(), judgement))
        });
        self.finish(wrong.collect(), 0)
    }

    /// Judges all objects around a crash that may have lost the last writes; see [`Crash`].
    pub fn judge_crash(&self, crash: Crash) -> Result<Summary, Violations> {
        match DurabilityChecker::new(&self.objects, crash, self.steps).check() {
            Ok(cut) => self.finish(Vec::new(), cut),
            Err(wrong) => self.finish(vec![wrong], 0),
        }
    }

    fn finish(&self, wrong: Vec<(String, Judgement)>, cut: usize) -> Result<Summary, Violations> {
        let stuck = self.stuck.iter().map(|name| {
            (name.clone(), Judgement::Wrong("it was not free after all sessions had ended".to_owned()))
        });
        let violations = wrong.into_iter().chain(stuck).map(|(object, judgement)| {
            let (why, unknown) = match judgement {
                Judgement::Unknown(why) => (format!("not judged in {} steps; {why}", self.steps), true),
                Judgement::Wrong(why) => (why, false),
                Judgement::Fine => (String::new(), false),
            };
            let record = self.objects.get(&object).and_then(|found| self.keep(&object, found));
            Violation { object, why, unknown, record }
        });
        let (all, summary): (Vec<Violation>, _) = (violations.collect(), Summary { cut, ..self.summary() });
        if all.is_empty() { Ok(summary) } else { Err(Violations { summary, all }) }
    }

    fn summary(&self) -> Summary {
        let streams = self.objects.values().filter(|object| matches!(object, Object::WatchHistory(_)));
        Summary {
            seed: self.seed,
            objects: self.objects.len(),
            done: self.counts.done,
            refused: self.counts.refused,
            lost: self.counts.lost,
            events: streams.map(Object::len).sum(),
            cut: 0,
            errors: self.counts.errors.clone(),
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

fn change(key: impl Into<String>, wrote: bool, value: u64, began: u64, ended: Option<u64>) -> Change {
    Change { key: key.into(), wrote, value, began, ended, ttl: None }
}

fn cell_changes(key: &str, history: &History<Cell>) -> Vec<Change> {
    use cell::{Answer, Op};
    let expiries: BTreeMap<u64, u64> = history
        .calls
        .iter()
        .filter_map(|call| match call.op {
            Op::Expire(value) => Some((value, call.began)),
            _ => None,
        })
        .collect();
    let change = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (
            Op::Put(value, _) | Op::Insert(value) | Op::Update(value, _),
            None | Some(Answer::Written(..) | Answer::Inserted(_) | Answer::Done),
        ) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            let ttl = expiries.get(value).map(|expiry| expiry.saturating_sub(call.began));
            Some(Change { ttl, ..change(key, true, *value, call.began, ended) })
        }
        (Op::Remove(_), Some(Answer::Is(value, _))) => {
            Some(change(key, false, *value, call.began, call.ended))
        }
        _ => None,
    };
    history.calls.iter().filter_map(change).collect()
}

fn number_changes(key: &str, history: &History<Number>) -> Vec<Change> {
    use number::{Answer, Op};
    let change = |call: &Call<Op, Answer>| {
        let (wrote, number) = match (&call.op, call.answer.as_ref()?) {
            (Op::Get, _) => return None,
            (Op::Remove | Op::RemoveIf(_), Answer::Is(number)) => (false, *number),
            (Op::Set(number), Answer::Was(_))
            | (_, Answer::Is(number))
            | (Op::Set(number) | Op::Insert(number) | Op::Update(_, number), Answer::Done) => (true, *number),
            _ => return None,
        };
        Some(change(key, wrote, number.cast_unsigned(), call.began, call.ended))
    };
    let mut changes: Vec<Change> = history.calls.iter().filter_map(change).collect();
    // The result of an addition is not known without its answer: it may be the result of another one as well.
    if history.calls.iter().any(|call| call.op != Op::Get && call.answer.is_none()) {
        let unknown = |change: &Change| Change { began: 0, ended: None, ..change.clone() };
        let unknown: Vec<Change> = changes.iter().map(unknown).collect();
        changes.extend(unknown);
    }
    changes
}

fn member_changes(key: &str, history: &History<Member>) -> Vec<Change> {
    use member::{Answer, Op};
    let change = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (Op::Add | Op::Remove, Some(Answer::Yes) | None) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            Some(change(key, call.op == Op::Add, 0, call.began, ended))
        }
        _ => None,
    };
    history.calls.iter().filter_map(change).collect()
}

/// An item of a list is a key of its own.
fn list_changes(history: &History<List>) -> Vec<Change> {
    use list::{Answer, Op};
    let change = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (Op::Append(item) | Op::Insert(_, item) | Op::Set(_, item), None | Some(Answer::Done)) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            Some(change(item.to_string(), true, *item, call.began, ended))
        }
        (Op::Remove(_), Some(Answer::Item(item))) => {
            Some(change(item.to_string(), false, *item, call.began, call.ended))
        }
        _ => None,
    };
    history.calls.iter().filter_map(change).collect()
}

fn index_changes(history: &History<Index>) -> Vec<Change> {
    use index::{Answer, Op};
    let change = |call: &Call<Op, Answer>| match (&call.op, &call.answer) {
        (Op::Append(key, value) | Op::Update(key, value), None | Some(Answer::Entry(_) | Answer::Done)) => {
            let ended = call.ended.filter(|_| call.answer.is_some());
            Some(change(format!("k{key}"), true, *value, call.began, ended))
        }
        (Op::Remove(key), Some(Answer::Entry(reply))) => {
            Some(change(format!("k{key}"), false, reply.1, call.began, call.ended))
        }
        _ => None,
    };
    history.calls.iter().filter_map(change).collect()
}

// === impl Summary ===

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, objects, done, refused, lost, events, cut, errors } = self;
        write!(f, "seed {seed}: {objects} objects, {done} calls done, {refused} refused, {lost} lost, ")?;
        write!(f, "{events} events, {cut} answered calls lost by a crash")?;
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
    use atomix_linearizability::streams::{Event, Kind, Stream};

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
        let watch = WatchHistory {
            changes: number_changes("k", &history),
            streams: vec![stream],
            ..WatchHistory::default()
        };
        assert_eq!(watch.check(), []);
    }
}
