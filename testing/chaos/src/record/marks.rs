// SPDX-License-Identifier: Apache-2.0
//! Marks that replies and streams have shown: each is proof that the write of the mark took effect.

use std::collections::HashMap;

use atomix_linearizability::streams::Stream;
use atomix_linearizability::{Cell, History, Index, List, Model, cell, index, list};

/// The first time at which each mark was shown.
#[derive(Debug, Default)]
pub(super) struct Marks(HashMap<u64, u64>);

// === impl Marks ===

impl Marks {
    /// Returns whether a mark was shown.
    pub(super) fn has(&self, mark: u64) -> bool {
        self.0.contains_key(&mark)
    }

    /// Adds the marks in answers to calls that began at `since` or later.
    pub(super) fn add_cell(&mut self, history: &History<Cell>, since: u64) {
        self.add(history, since, |answer| match answer {
            cell::Answer::Is(mark, _) | cell::Answer::Written(_, Some((mark, _))) => vec![*mark],
            _ => Vec::new(),
        });
    }

    /// As [`Marks::add_cell`].
    pub(super) fn add_list(&mut self, history: &History<List>, since: u64) {
        self.add(history, since, |answer| match answer {
            list::Answer::Item(mark) => vec![*mark],
            list::Answer::Items(marks) => marks.clone(),
            _ => Vec::new(),
        });
    }

    /// As [`Marks::add_cell`].
    pub(super) fn add_index(&mut self, history: &History<Index>, since: u64) {
        self.add(history, since, |answer| match answer {
            index::Answer::Entry(entry) => vec![entry.1],
            _ => Vec::new(),
        });
    }

    /// Adds the marks in events of streams that began at `since` or later.
    pub(super) fn add_streams(&mut self, streams: &[Stream], since: u64) {
        for event in streams.iter().filter(|stream| stream.began >= since).flat_map(|stream| &stream.events) {
            self.note(event.value, event.at);
        }
    }

    /// Adds the other mark of each transaction of which one mark was shown.
    pub(super) fn add_pairs(&mut self, pairs: &[[u64; 2]]) {
        for pair in pairs {
            if let Some(at) = pair.iter().filter_map(|mark| self.0.get(mark)).min().copied() {
                for mark in pair {
                    self.note(*mark, at);
                }
            }
        }
    }

    /// Gives each write of unknown outcome the answer `done` if its mark was shown.
    pub(super) fn confirm<M: Model>(
        &self,
        history: &mut History<M>,
        mark: impl Fn(&M::Op) -> Option<u64>,
        done: &M::Answer,
    ) {
        for call in history.calls.iter_mut().filter(|call| call.answer.is_none()) {
            if let Some(at) = mark(&call.op).and_then(|mark| self.0.get(&mark)) {
                (call.ended, call.answer) = (Some(*at), Some(done.clone()));
            }
        }
    }

    fn add<M: Model>(&mut self, history: &History<M>, since: u64, marks: impl Fn(&M::Answer) -> Vec<u64>) {
        for call in history.calls.iter().filter(|call| call.began >= since) {
            if let (Some(answer), Some(ended)) = (&call.answer, call.ended) {
                for mark in marks(answer) {
                    self.note(mark, ended);
                }
            }
        }
    }

    fn note(&mut self, mark: u64, at: u64) {
        let first = self.0.entry(mark).or_insert(at);
        *first = at.min(*first);
    }
}

/// Returns the mark that a call writes.
pub(super) fn of_cell(op: &cell::Op) -> Option<u64> {
    match op {
        cell::Op::Put(mark, _) | cell::Op::Insert(mark) | cell::Op::Update(mark, _) => Some(*mark),
        _ => None,
    }
}

/// As [`of_cell`].
pub(super) fn of_list(op: &list::Op) -> Option<u64> {
    match op {
        list::Op::Append(mark) | list::Op::Insert(_, mark) | list::Op::Set(_, mark) => Some(*mark),
        _ => None,
    }
}

/// As [`of_cell`].
pub(super) fn of_index(op: &index::Op) -> Option<u64> {
    match op {
        index::Op::Append(_, mark) | index::Op::Update(_, mark) => Some(*mark),
        _ => None,
    }
}
