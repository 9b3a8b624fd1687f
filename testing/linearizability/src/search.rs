// SPDX-License-Identifier: Apache-2.0
//! The search for an order of the calls that explains all answers.
//!
//! The idea is Wing's and Gong's (a call can be next only if no other call was over before it began), with
//! Lowe's memory of visited states. Two things are added, because a fault leaves many calls without an answer
//! behind, and each of them may have taken effect at any later time: such a call is tried only when nothing
//! else leads on, fewest first; and a state that was reached with more of them than before is not visited
//! again, since the earlier visit had more choices left.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt::{self, Debug};
use std::rc::Rc;

use super::{Call, Model};

/// The result of a check.
#[derive(Debug)]
pub enum Verdict {
    /// The calls can be explained; this is their order, as indices into the history.
    Fine(Vec<usize>),
    /// No order explains the answers.
    Broken(Box<Broken>),
    /// The search was given up; this is as far as it came.
    Unknown(Box<Broken>),
}

/// The reason why a history cannot be explained, for readers.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The maximum of answered calls that can be explained, and their number.
    pub explained: (usize, usize),
    /// The last calls of the longest explanation, each with the state after it.
    pub before: Vec<String>,
    /// The calls of which one would have to be next, and none can.
    pub stuck: Vec<String>,
}

/// The maximum length of a shown explanation.
const SHOWN_MAX: usize = 12;
/// "None" for indices of nodes.
const NONE: u32 = u32::MAX;

/// Some calls were put into an order.
struct Node<M> {
    /// The node before, and the call that leads from it to here.
    parent: u32,
    by: u32,
    /// All answered calls before `base` are in the order, and those in `ahead`.
    base: u32,
    ahead: Rc<[u32]>,
    /// The unanswered calls that took effect.
    used: Rc<[u64]>,
    /// No call is next that was over before this.
    latest: u64,
    state: M,
}

/// The order of the search: the longest first, then the one with the fewest unanswered calls, then the
/// newest. The last field is whether unanswered calls are next.
type Turn = (u32, Reverse<u32>, u32, bool);

/// The answered calls that are in the order, and the state that they lead to.
type Reached<M> = (u32, Rc<[u32]>, M);

/// A call and its place in the history.
type Placed<'a, M> = (usize, &'a Call<<M as Model>::Op, <M as Model>::Answer>);

struct Search<'a, M: Model> {
    /// Answered calls in the order in which they began.
    answered: Vec<Placed<'a, M>>,
    /// The others, in the same order.
    lost: Vec<Placed<'a, M>>,
    /// For each lost call the one before it that is its equal: as good as it, and tried instead of it.
    twins: Vec<Option<u32>>,
    nodes: Vec<Node<M>>,
    turns: BinaryHeap<Turn>,
    /// With which unanswered calls each state was reached: none of these sets contains another.
    reached: HashMap<Reached<M>, Vec<Rc<[u64]>>>,
}

/// Judges the `calls` of an object.
pub(super) fn check<M: Model>(begin: &M, calls: &[Call<M::Op, M::Answer>], steps: usize) -> Verdict {
    let mut search = Search::<M>::new(calls);
    search.push(NONE, NONE, 0, Rc::default(), search.nothing_used(), 0, begin.clone(), 0, 0);
    let all = u32::try_from(search.answered.len()).unwrap_or(NONE);
    let mut furthest = (0, 0);
    for _ in 0..steps {
        let Some((depth, Reverse(used), node, lost)) = search.turns.pop() else {
            return Verdict::Broken(Box::new(search.explain(furthest)));
        };
        if depth == all {
            return Verdict::Fine(search.order(node));
        }
        if depth > furthest.0 {
            furthest = (depth, node);
        }
        if lost {
            search.try_lost(node, depth, used);
        } else if !search.read_on(node, depth, used) {
            search.try_answered(node, depth, used);
            if !search.lost.is_empty() {
                search.turns.push((depth, Reverse(used + 1), node, true));
            }
        }
    }
    Verdict::Unknown(Box::new(search.explain(furthest)))
}

// === impl Search ===

impl<'a, M: Model> Search<'a, M> {
    fn new(calls: &'a [Call<M::Op, M::Answer>]) -> Self {
        let mut all: Vec<_> = calls.iter().enumerate().collect();
        all.sort_by_key(|(_, call)| (call.began, call.ended));
        let (answered, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, call)| call.answer.is_some());
        let twin = |at: usize| {
            let (_, call): Placed<'_, M> = lost[at];
            let equal = |(_, other): &Placed<'_, M>| other.op == call.op && other.ended == call.ended;
            lost[..at].iter().rposition(equal).and_then(|twin| u32::try_from(twin).ok())
        };
        let twins = (0..lost.len()).map(twin).collect();
        Self { answered, lost, twins, nodes: Vec::new(), turns: BinaryHeap::new(), reached: HashMap::new() }
    }

    fn nothing_used(&self) -> Rc<[u64]> {
        vec![0; self.lost.len().div_ceil(64)].into()
    }

    /// Returns the answered calls that can be next.
    fn candidates(&self, node: &Node<M>) -> Vec<u32> {
        let mut candidates = Vec::new();
        // A call that began after another one was over is not next.
        let mut over = u64::MAX;
        for at in node.base.. {
            let Some((_, call)) = self.answered.get(at as usize).filter(|(_, call)| call.began <= over)
            else {
                break;
            };
            if node.ahead.binary_search(&at).is_err() {
                over = over.min(call.ended.unwrap_or(u64::MAX));
                candidates.push(at);
            }
        }
        candidates
    }

    /// Puts a call next that only reads and learns nothing, if there is one.
    fn read_on(&mut self, at: u32, depth: u32, used: u32) -> bool {
        let node = &self.nodes[at as usize];
        // For what began before it, and may only have taken effect before it ended, it would be too late afterwards.
        let misses = |began: u64| {
            self.lost
                .iter()
                .any(|(_, lost)| lost.ended.is_some_and(|end| (node.latest..began).contains(&end)))
        };
        let reads = |next: &u32| {
            let call = self.answered[*next as usize].1;
            M::only_reads(&call.op)
                && node.state.step(&call.op, call.answer.as_ref()).as_ref() == Some(&node.state)
                && !misses(call.began)
        };
        let read = self.candidates(node).into_iter().find(reads);
        if let Some(read) = read {
            self.put_next(at, read, depth, used);
        }
        read.is_some()
    }

    fn try_answered(&mut self, at: u32, depth: u32, used: u32) {
        // The one that is over first was most likely first: it is pushed last, and popped first.
        let mut candidates = self.candidates(&self.nodes[at as usize]);
        candidates.sort_by_key(|next| Reverse(self.answered[*next as usize].1.ended));
        for next in candidates {
            self.put_next(at, next, depth, used);
        }
    }

    /// Puts an answered call next, if it can be answered so.
    fn put_next(&mut self, at: u32, next: u32, depth: u32, used: u32) {
        let node = &self.nodes[at as usize];
        let call = self.answered[next as usize].1;
        if let Some(state) = node.state.step(&call.op, call.answer.as_ref()) {
            let mut ahead: Vec<u32> = node.ahead.iter().copied().chain([next]).collect();
            ahead.sort_unstable();
            let mut base = node.base;
            let run = ahead.iter().take_while(|next| {
                let follows = **next == base;
                base += u32::from(follows);
                follows
            });
            let run = run.count();
            let (latest, effects) = (node.latest.max(call.began), Rc::clone(&node.used));
            self.push(at, next, base, ahead[run..].into(), effects, latest, state, depth + 1, used);
        }
    }

    fn try_lost(&mut self, at: u32, depth: u32, used: u32) {
        let candidates = self.candidates(&self.nodes[at as usize]);
        let over = candidates.iter().filter_map(|next| self.answered[*next as usize].1.ended).min();
        for next in (0..self.lost.len()).rev() {
            let node = &self.nodes[at as usize];
            let call = self.lost[next].1;
            let is_used = |lost: usize| node.used[lost / 64] >> (lost % 64) & 1 == 1;
            let late =
                call.began > over.unwrap_or(u64::MAX) || call.ended.is_some_and(|end| end < node.latest);
            if late || is_used(next) || self.twins[next].is_some_and(|twin| !is_used(twin as usize)) {
                continue;
            }
            let Some(state) = node.state.step(&call.op, None).filter(|state| *state != node.state) else {
                continue;
            };
            let mut effects = node.used.to_vec();
            effects[next / 64] |= 1 << (next % 64);
            let (base, ahead) = (node.base, Rc::clone(&node.ahead));
            // Also what was not answered came after it began.
            let latest = node.latest.max(call.began);
            let by = u32::try_from(self.answered.len() + next).unwrap_or(NONE);
            self.push(at, by, base, ahead, effects.into(), latest, state, depth, used);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a node")]
    fn push(
        &mut self,
        parent: u32,
        by: u32,
        base: u32,
        ahead: Rc<[u32]>,
        used: Rc<[u64]>,
        latest: u64,
        state: M,
        depth: u32,
        count: u32,
    ) {
        let before = self.reached.entry((base, Rc::clone(&ahead), state.clone())).or_default();
        let within = |less: &[u64], more: &[u64]| less.iter().zip(more).all(|(less, more)| less & !more == 0);
        if before.iter().any(|less| within(less, &used)) {
            return;
        }
        before.retain(|more| !within(&used, more));
        before.push(Rc::clone(&used));
        let node = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        self.nodes.push(Node { parent, by, base, ahead, used, latest, state });
        let reached = &self.nodes[node as usize];
        let is_over = |next: &u32| {
            let call = self.answered[*next as usize].1;
            call.answer.as_ref().is_some_and(|answer| reached.state.is_over(&call.op, answer))
        };
        if !self.candidates(reached).iter().any(is_over) {
            self.turns.push((depth, Reverse(count), node, false));
        }
    }

    fn call(&self, by: u32) -> Placed<'a, M> {
        let by = by as usize;
        self.answered.get(by).copied().unwrap_or_else(|| self.lost[by - self.answered.len()])
    }

    /// Returns the nodes that lead to this one, without the first, which no call leads to.
    fn way(&self, mut node: u32) -> Vec<&Node<M>> {
        let mut way = Vec::new();
        while self.nodes[node as usize].parent != NONE {
            way.push(&self.nodes[node as usize]);
            node = self.nodes[node as usize].parent;
        }
        way.reverse();
        way
    }

    fn order(&self, node: u32) -> Vec<usize> {
        self.way(node).into_iter().map(|node| self.call(node.by).0).collect()
    }

    fn explain(&self, (depth, node): (u32, u32)) -> Broken {
        let way = self.way(node);
        let reported = way.len().saturating_sub(SHOWN_MAX);
        let step = |node: &&Node<M>| format!("{} -> {:?}", show(self.call(node.by).1), node.state);
        let stuck = self.candidates(&self.nodes[node as usize]);
        Broken {
            explained: (depth as usize, self.answered.len()),
            before: way[reported..].iter().map(step).collect(),
            stuck: stuck.into_iter().map(|next| show(self.answered[next as usize].1)).collect(),
        }
    }
}

fn show<O: Debug, A: Debug>(call: &Call<O, A>) -> String {
    let millis = |nanos: u64| format!("{}.{:03}", nanos / 1_000_000, nanos / 1_000 % 1_000);
    let ended = call.ended.map_or_else(|| "?".to_owned(), millis);
    let answer = call.answer.as_ref().map_or_else(|| "no answer".to_owned(), |answer| format!("{answer:?}"));
    format!("[{}..{ended} ms] client {}: {:?} = {answer}", millis(call.began), call.client, call.op)
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (explained, all) = self.explained;
        writeln!(f, "{explained} of {all} answered calls can be explained, the last ones so:")?;
        for step in &self.before {
            writeln!(f, "  {step}")?;
        }
        writeln!(f, "and then none of these can be next:")?;
        for call in &self.stuck {
            writeln!(f, "  {call}")?;
        }
        Ok(())
    }
}
