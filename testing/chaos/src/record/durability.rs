// SPDX-License-Identifier: Apache-2.0
//! Checks a record around a crash that may lose the last writes: a power cut before a sync, or a return to a backup.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use atomix_linearizability::streams::WatchHistory;
use atomix_linearizability::{Call, History, Judgement, Model, Object, cell, election, lock};

use super::marks::{Marks, of_cell, of_index, of_list};

/// A crash of the only server, which may lose a suffix of the writes. Times are those of the recorder.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// Calls that were answered before this must be durable.
    pub synced: u64,
    /// The server ended before this, and was started again later.
    pub dead: u64,
}

/// Checks that a crash has lost a suffix of the writes and nothing before it.
///
/// A store commits the transactions of all its keyspaces in one order, and a crash cuts this order at one time: calls that
/// were answered before the cut are durable, and calls that began after it are lost. The checker searches for a time of the
/// cut with which the calls that are left, together with those after the crash, are linearizable.
#[derive(Debug)]
pub(super) struct DurabilityChecker<'a> {
    objects: &'a BTreeMap<String, Object>,
    crash: Crash,
    steps: usize,
}

/// A call without its operation.
#[derive(Debug, Clone, Copy)]
struct Span {
    began: u64,
    ended: Option<u64>,
    answered: bool,
    reads: bool,
}

/// The effect of a crash on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expectation {
    /// The call is as recorded.
    Kept,
    /// The call took effect before this time, or not at all.
    Unknown(Option<u64>),
    /// The call has no effect.
    Lost,
}

// === impl DurabilityChecker ===

impl<'a> DurabilityChecker<'a> {
    pub(super) fn new(objects: &'a BTreeMap<String, Object>, crash: Crash, steps: usize) -> Self {
        Self { objects, crash, steps }
    }

    /// Returns the number of answered calls that the crash has lost; or an object that is wrong, and the reason.
    pub(super) fn check(&self) -> Result<usize, (String, Judgement)> {
        // Until the crash nothing is lost. Streams do not depend on the cut.
        for (name, object) in self.objects {
            match object {
                Object::WatchHistory(watches) => {
                    for before in [true, false] {
                        self.judge(name, &Object::WatchHistory(self.streams(watches, before)))?;
                    }
                }
                _ => self.judge(name, &mapped(object, &|span| self.before_the_crash(span)))?,
            }
        }
        // The object that was wrong with the last cut is checked first: it most likely is wrong with this one as well.
        let has_calls = |(_, object): &(&String, &Object)| !matches!(object, Object::WatchHistory(_));
        let mut order: Vec<(&String, &Object)> = self.objects.iter().filter(has_calls).collect();
        let mut first_error = None;
        for cut in self.cuts() {
            let wrong = order.iter().enumerate().find_map(|(at, (name, object))| {
                let judged = self.judge(name, &mapped(object, &|span| self.after_a_cut(span, cut)));
                judged.err().map(|error| (at, error))
            });
            let Some((at, error)) = wrong else {
                let lost = |span: &Span| span.answered && self.after_a_cut(*span, cut) == Expectation::Lost;
                return Ok(self.spans().into_iter().filter(lost).count());
            };
            order[..=at].rotate_right(1);
            first_error.get_or_insert(error);
        }
        Err(first_error.expect("there is a cut"))
    }

    fn judge(&self, name: &str, object: &Object) -> Result<(), (String, Judgement)> {
        match object.judge(self.steps) {
            Judgement::Fine => Ok(()),
            wrong => Err((name.to_owned(), wrong)),
        }
    }

    /// Returns the streams before the crash, or after it. Those before it may have shown changes that are lost, and that were
    /// made again after it.
    fn streams(&self, watches: &WatchHistory, before: bool) -> WatchHistory {
        let is_before = |began: u64| began <= self.crash.dead;
        let mut part = watches.clone();
        part.streams.retain(|stream| is_before(stream.began) == before);
        // Written values may expire after the crash; removals before it show nothing after it.
        part.changes.retain(|change| is_before(change.began) == before || !before && change.wrote);
        part
    }

    fn before_the_crash(&self, span: Span) -> Expectation {
        match span.ended {
            _ if span.began > self.crash.dead => Expectation::Lost,
            Some(ended) if ended > self.crash.dead && span.reads => Expectation::Lost,
            Some(ended) if ended > self.crash.dead => Expectation::Unknown(None),
            _ => Expectation::Kept,
        }
    }

    fn after_a_cut(&self, span: Span, cut: u64) -> Expectation {
        let Crash { dead, .. } = self.crash;
        match span.ended {
            _ if span.began > dead || !span.answered => Expectation::Kept,
            Some(ended) if ended < cut => Expectation::Kept,
            // The client may have noted an answer late that came before the crash.
            Some(ended) if ended > dead && !span.reads => Expectation::Unknown(None),
            _ if span.began > cut || span.reads => Expectation::Lost,
            _ => Expectation::Unknown(Some(dead)),
        }
    }

    /// Returns the times of a cut that differ in their effect. A write whose mark was shown after the crash was not lost.
    fn cuts(&self) -> BTreeSet<u64> {
        let Crash { synced, dead } = self.crash;
        let (mut shown, mut writes) = (Marks::default(), Vec::new());
        for object in self.objects.values() {
            match object {
                Object::Cell(history) => {
                    shown.add_cell(history, dead);
                    writes.extend(marked(history, of_cell));
                }
                Object::List(history) => {
                    shown.add_list(history, dead);
                    writes.extend(marked(history, of_list));
                }
                Object::Index(history) => {
                    shown.add_index(history, dead);
                    writes.extend(marked(history, of_index));
                }
                _ => {}
            }
        }
        let durable = writes.into_iter().filter(|(mark, began)| *began <= dead && shown.has(*mark));
        let least = durable.map(|(_, began)| began).max().unwrap_or(0).max(synced).min(dead);
        let ends = self.spans().into_iter().flat_map(|span| [Some(span.began), span.ended]).flatten();
        ends.filter(|time| (least..=dead).contains(time)).chain([least, dead]).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let spans = RefCell::default();
        for object in self.objects.values() {
            mapped(object, &|span| {
                RefCell::<Vec<Span>>::borrow_mut(&spans).push(span);
                Expectation::Kept
            });
        }
        spans.into_inner()
    }
}

/// Returns the marks that calls write, each with the time of the call.
fn marked<M: Model>(history: &History<M>, mark: fn(&M::Op) -> Option<u64>) -> Vec<(u64, u64)> {
    history.calls.iter().filter_map(|call| Some((mark(&call.op)?, call.began))).collect()
}

/// Returns an object with the calls that are left. Ends of sessions and of times to live are no calls, and stay.
fn mapped(object: &Object, expect: &dyn Fn(Span) -> Expectation) -> Object {
    match object {
        Object::Cell(history) => Object::Cell(left(history, |op| !matches!(op, cell::Op::Expire(_)), expect)),
        Object::Number(history) => Object::Number(left(history, |_| true, expect)),
        Object::Member(history) => Object::Member(left(history, |_| true, expect)),
        Object::List(history) => Object::List(left(history, |_| true, expect)),
        Object::Index(history) => Object::Index(left(history, |_| true, expect)),
        Object::Lock(history, _) => {
            Object::Lock(left(history, |op| !matches!(op, lock::Op::End(_)), expect), None)
        }
        Object::Election(history) => {
            Object::Election(left(history, |op| !matches!(op, election::Op::End(_)), expect))
        }
        Object::WatchHistory(watches) => Object::WatchHistory(watches.clone()),
    }
}

fn left<M: Model>(
    history: &History<M>,
    is_call: impl Fn(&M::Op) -> bool,
    expect: &dyn Fn(Span) -> Expectation,
) -> History<M> {
    let calls = history.calls.iter().filter_map(|call| {
        if !is_call(&call.op) {
            return Some(call.clone());
        }
        let (answered, reads) = (call.answer.is_some(), M::only_reads(&call.op));
        match expect(Span { began: call.began, ended: call.ended, answered, reads }) {
            Expectation::Kept => Some(call.clone()),
            Expectation::Unknown(ended) => Some(Call { ended, answer: None, ..call.clone() }),
            Expectation::Lost => None,
        }
    });
    History { begin: history.begin.clone(), calls: calls.collect() }
}

#[cfg(test)]
mod tests {
    use atomix_linearizability::{Cell, List, Number, list, number};

    use super::*;

    const STEPS: usize = 100_000;

    /// Two appends to a list and two additions to a counter, one after the other; then a crash at 100, and reads.
    fn record(items: &[u64], count: i64) -> BTreeMap<String, Object> {
        let append =
            |began: u64, item| Call::done(1, began..began + 5, list::Op::Append(item), list::Answer::Done);
        let add =
            |began: u64, sum| Call::done(2, began..began + 5, number::Op::Add(1), number::Answer::Is(sum));
        let items = Call::done(3, 110..120, list::Op::Items, list::Answer::Items(items.to_vec()));
        let count = Call::done(3, 120..130, number::Op::Get, number::Answer::Is(count));
        let list = History { begin: List::default(), calls: vec![append(10, 1), append(50, 2), items] };
        let number = History { begin: Number(Some(0)), calls: vec![add(30, 1), add(70, 2), count] };
        BTreeMap::from([
            ("list/0/".to_owned(), Object::List(list)),
            ("counter/0/".to_owned(), Object::Number(number)),
        ])
    }

    fn check(items: &[u64], count: i64, synced: u64) -> Option<usize> {
        DurabilityChecker::new(&record(items, count), Crash { synced, dead: 100 }, STEPS).check().ok()
    }

    #[test]
    fn a_suffix_may_be_lost_across_objects() {
        assert_eq!(check(&[1, 2], 2, 0), Some(0));
        assert_eq!(check(&[1, 2], 1, 0), Some(1));
        assert_eq!(check(&[1], 1, 0), Some(2));
        assert_eq!(check(&[1], 0, 0), Some(3));
        assert_eq!(check(&[], 0, 0), Some(4));
    }

    #[test]
    fn a_write_before_one_that_is_there_may_not_be_lost() {
        assert_eq!(check(&[1], 2, 0), None);
        assert_eq!(check(&[2], 1, 0), None);
        assert_eq!(check(&[], 1, 0), None);
        assert_eq!(check(&[1, 2], 0, 0), None);
    }

    #[test]
    fn a_write_that_was_synced_may_not_be_lost() {
        assert_eq!(check(&[1], 1, 40), Some(2));
        assert_eq!(check(&[1], 0, 40), None);
        assert_eq!(check(&[1, 2], 1, 90), None);
    }

    #[test]
    fn a_write_that_was_answered_wrongly_before_the_crash_is_found() {
        let mut objects = record(&[1], 1);
        let read = Call::done(3, 80..90, number::Op::Get, number::Answer::Is(1));
        if let Some(Object::Number(history)) = objects.get_mut("counter/0/") {
            history.calls.push(read);
        }
        let crash = Crash { synced: 0, dead: 100 };
        assert!(DurabilityChecker::new(&objects, crash, STEPS).check().is_err());
    }

    #[test]
    fn a_write_of_unknown_outcome_that_was_shown_may_not_be_lost() {
        let put = Call::lost(1, 10, cell::Op::Put(7, 0));
        let shown = Call::done(2, 20..30, cell::Op::Get, cell::Answer::Is(7, 1));
        let gone = Call::done(2, 40..50, cell::Op::Get, cell::Answer::Missing);
        let mut history = History { begin: Cell::default(), calls: vec![put, shown, gone] };
        let mut marks = Marks::default();
        marks.add_cell(&history, 0);
        history.calls.remove(1);
        // Without the read the write may never have taken effect; its mark is the proof.
        assert!(matches!(Object::Cell(history.clone()).judge(STEPS), Judgement::Fine));
        marks.confirm(&mut history, of_cell, &cell::Answer::Done);
        assert!(matches!(Object::Cell(history).judge(STEPS), Judgement::Wrong(_)));
    }

    #[test]
    fn a_transaction_of_unknown_outcome_is_there_as_a_whole() {
        let mut marks = Marks::default();
        let read = Call::done(2, 20..30, cell::Op::Get, cell::Answer::Is(7, 1));
        marks.add_cell(&History { begin: Cell::default(), calls: vec![read] }, 0);
        marks.add_pairs(&[[7, 8]]);
        let put = Call::lost(1, 10, cell::Op::Put(8, 0));
        let missing = Call::done(2, 40..50, cell::Op::Get, cell::Answer::Missing);
        let mut other = History { begin: Cell::default(), calls: vec![put, missing] };
        marks.confirm(&mut other, of_cell, &cell::Answer::Done);
        assert!(matches!(Object::Cell(other).judge(STEPS), Judgement::Wrong(_)));
    }
}
