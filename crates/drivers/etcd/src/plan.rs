// SPDX-License-Identifier: Apache-2.0
//! Transactions as etcd has them.
//!
//! One transaction of the store is one transaction of etcd, whose branches nest: was the request answered
//! before (`once`); are the numbers and values read before still the same (`cached`); do the guards hold;
//! then the writes and reads, otherwise only the reads. etcd decides all comparisons on the state before the
//! transaction, as guards require.

use std::collections::{BTreeMap, HashSet};

use atomix_store::{
    Entry, Error, ErrorKind, Found, Guard, Limits, Order, Outcome, Read, Revision, Txn, Write, Written,
    number, number_bytes,
};
use bytes::Bytes;

use crate::keys::{Space, Span, containing, revision};
use crate::wire::compare::{Result as Is, Target, TargetUnion};
use crate::wire::range_request::{SortOrder, SortTarget};
use crate::wire::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseOp,
    TxnRequest, TxnResponse, request_op, response_op,
};

/// A transaction for etcd and how to understand the answer.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) request: TxnRequest,
    shape: Shape,
}

/// Inputs of a plan beside the transaction.
#[derive(Debug, Default)]
pub(crate) struct Preread {
    /// The keys that stamps get, in the order of the writes.
    pub(crate) stamps: Vec<Bytes>,
    /// The values of the keys that the transaction depends on, as read before.
    pub(crate) cached: BTreeMap<Bytes, CachedValue>,
    /// The records of a named request, for the case that it is applied and that it is refused.
    pub(crate) once: Option<Memory>,
}

/// The value of a key; zero for a key that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CachedValue {
    pub(crate) modified: i64,
    pub(crate) value: Option<Bytes>,
}

/// The key that remembers a named request, and its content.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    pub(crate) key: Bytes,
    /// With which it goes.
    pub(crate) lease: i64,
    pub(crate) applied: Bytes,
    pub(crate) refused: Bytes,
}

/// The branch in which a transaction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The guards held, everything was written.
    Applied,
    /// A guard did not hold.
    Refused,
    /// The guards held, but an addition is to something that is no number: nothing was written.
    NotANumber,
    /// A pin does not hold any more. The answers are what the pinned keys hold now.
    Stale,
    /// The request of this name was answered before. The answer is what is remembered of it.
    Remembered,
}

#[derive(Debug)]
enum Step {
    Branch { compares: Vec<Compare>, held: Box<Step>, otherwise: Box<Step> },
    End(End, Vec<RequestOp>),
}

/// A step without its contents.
#[derive(Debug)]
enum Shape {
    Branch { held: Box<Shape>, otherwise: Box<Shape> },
    End(End),
}

/// Entries of one scan. etcd limits the number but not the bytes of an answer; a caller asks for the rest.
pub(crate) const PAGE: usize = 1024;
/// Entries of a scan inside a transaction that writes: its answer must not be too large, because it comes once.
const PAGE_WRITING: usize = 64;

// === impl Plan ===

impl Plan {
    pub(crate) fn new(space: &Space, txn: &Txn, preread: &Preread) -> Self {
        let page = page(&txn.writes);
        let reads = |applied| -> Vec<RequestOp> {
            txn.asked(applied)
                .iter()
                .filter_map(|read| range_of(space, read, page))
                .map(RequestOp::from)
                .collect()
        };
        let remembered = |text: fn(&Memory) -> &Bytes| {
            preread
                .once
                .iter()
                .map(move |memory| put_leased(memory.key.clone(), text(memory).clone(), memory.lease))
        };
        let refuse = || {
            let mut ops: Vec<RequestOp> = remembered(|memory| &memory.refused).collect();
            ops.extend(reads(false));
            Step::End(End::Refused, ops)
        };
        let broken = txn.writes.iter().any(|write| {
            matches!(write, Write::Add { key, .. } if preread.cached.get(key).is_some_and(|pin| pin.number().is_none()))
        });
        let mut step = if broken {
            Step::End(End::NotANumber, Vec::new())
        } else {
            let mut ops: Vec<RequestOp> = remembered(|memory| &memory.applied).collect();
            ops.extend(writes(space, txn, preread));
            ops.extend(reads(true));
            Step::End(End::Applied, ops)
        };
        let guards = Guards::new(space, txn, &preread.cached);
        if guards.fails {
            step = refuse();
        } else {
            // A guard that holds when a comparison does not: the transaction goes on in the other branch.
            for compare in guards.inverted {
                step = Step::branch(vec![compare], refuse(), step);
            }
            if !guards.compares.is_empty() {
                step = Step::branch(guards.compares, step, refuse());
            }
        }
        if !preread.cached.is_empty() {
            let same = preread
                .cached
                .iter()
                .map(|(key, pin)| modified(space.entry_key(key), pin.modified))
                .collect();
            let now = preread.cached.keys().map(|key| get(space.entry_key(key)).into()).collect();
            step = Step::branch(same, step, Step::End(End::Stale, now));
        }
        if let Some(memory) = &preread.once {
            let new = created(memory.key.clone(), 0, Is::Equal);
            let told = vec![get(memory.key.clone()).into()];
            step = Step::branch(vec![new], step, Step::End(End::Remembered, told));
        }
        let (request, shape) = step.into_request();
        Self { request, shape }
    }

    /// Returns where the transaction ended, with the answers to the operations there.
    pub(crate) fn end(&self, response: TxnResponse) -> Result<(End, Vec<ResponseOp>), Error> {
        let (mut shape, mut response) = (&self.shape, response);
        loop {
            let (held, otherwise) = match shape {
                Shape::End(end) => return Ok((*end, response.responses)),
                Shape::Branch { held, otherwise } => (held, otherwise),
            };
            shape = if response.succeeded { held } else { otherwise };
            if let Shape::Branch { .. } = shape {
                let inner = response.responses.into_iter().next().and_then(|op| op.response);
                let Some(response_op::Response::Txn(inner)) = inner else { return Err(unexpected("branch")) };
                response = inner;
            }
        }
    }
}

/// Understands the answers at [`End::Applied`] and [`End::Refused`].
pub(crate) fn outcome(
    space: &Space,
    txn: &Txn,
    preread: &Preread,
    limits: &Limits,
    at: Revision,
    (applied, answers): (bool, Vec<ResponseOp>),
) -> Result<Outcome, Error> {
    let mut answers = answers.into_iter();
    if preread.once.is_some() {
        answers.next();
    }
    let mut stamps = preread.stamps.iter();
    let mut writes = Vec::with_capacity(txn.writes.len());
    if applied {
        for write in &txn.writes {
            writes.push(written(space, write, preread, &mut stamps, &mut answers)?);
        }
    }
    let asked = txn.asked(applied);
    let mut reads = Vec::with_capacity(asked.len());
    for read in asked {
        reads.push(match range_of(space, read, 1) {
            Some(_) => found(space, read, limits, range_answer(answers.next())?),
            None => nothing(read),
        });
    }
    Ok(Outcome { revision: at, applied, writes, reads })
}

/// Returns what the pinned keys hold now, from the answers at [`End::Stale`].
pub(crate) fn moved(preread: &mut Preread, answers: Vec<ResponseOp>) -> Result<(), Error> {
    for (pin, answer) in preread.cached.values_mut().zip(answers) {
        *pin = CachedValue::of(range_answer(Some(answer))?);
    }
    Ok(())
}

/// Returns the range requests for `reads`, `None` for those whose range is empty.
pub(crate) fn questions(space: &Space, reads: &[Read], page: usize) -> Vec<Option<RangeRequest>> {
    reads.iter().map(|read| range_of(space, read, page)).collect()
}

/// Decodes the answer to one read; `None` for one that was not sent.
pub(crate) fn found_or_nothing(
    space: &Space,
    read: &Read,
    limits: &Limits,
    answer: Option<RangeResponse>,
) -> Found {
    answer.map_or_else(|| nothing(read), |answer| found(space, read, limits, answer))
}

/// Returns the answer to a range operation.
pub(crate) fn range_answer(answer: Option<ResponseOp>) -> Result<RangeResponse, Error> {
    match answer.and_then(|op| op.response) {
        Some(response_op::Response::Range(range)) => Ok(range),
        _ => Err(unexpected("range")),
    }
}

/// Counts the operations of a transaction as etcd does against its limit: along the longest path.
pub(crate) fn operations(request: &TxnRequest) -> usize {
    let here = request.compare.len().max(request.success.len()).max(request.failure.len());
    let nested = request.success.iter().chain(&request.failure).map(|op| match &op.request {
        Some(request_op::Request::Txn(inner)) => operations(inner),
        _ => 0,
    });
    here + nested.max().unwrap_or(0)
}

// === impl Step ===

impl Step {
    fn branch(compares: Vec<Compare>, held: Self, otherwise: Self) -> Self {
        Self::Branch { compares, held: Box::new(held), otherwise: Box::new(otherwise) }
    }

    fn into_request(self) -> (TxnRequest, Shape) {
        match self {
            Self::End(end, success) => (TxnRequest { success, ..TxnRequest::default() }, Shape::End(end)),
            Self::Branch { compares, held, otherwise } => {
                let (success, held) = held.into_operations();
                let (failure, otherwise) = otherwise.into_operations();
                let shape = Shape::Branch { held: Box::new(held), otherwise: Box::new(otherwise) };
                (TxnRequest { compare: compares, success, failure }, shape)
            }
        }
    }

    fn into_operations(self) -> (Vec<RequestOp>, Shape) {
        match self {
            Self::End(end, ops) => (ops, Shape::End(end)),
            branch @ Self::Branch { .. } => {
                let (request, shape) = branch.into_request();
                (vec![RequestOp { request: Some(request_op::Request::Txn(request)) }], shape)
            }
        }
    }
}

/// The guards of a transaction as comparisons.
#[derive(Debug, Default)]
struct Guards {
    /// All of these must hold.
    compares: Vec<Compare>,
    /// None of these may hold.
    inverted: Vec<Compare>,
    /// A guard does not hold on what was pinned.
    fails: bool,
}

// === impl Guards ===

impl Guards {
    fn new(space: &Space, txn: &Txn, cached: &BTreeMap<Bytes, CachedValue>) -> Self {
        // etcd compares no value of an absent key, so that "not this value" must be inverted, unless the key
        // must be present anyway.
        let present: HashSet<&Bytes> = txn
            .guards
            .iter()
            .filter_map(|guard| match guard {
                Guard::Present { key } | Guard::ModifiedAt { key, .. } | Guard::ValueIs { key, .. } => {
                    Some(key)
                }
                Guard::Absent { .. } | Guard::ValueIsNot { .. } => None,
            })
            .collect();
        let mut guards = Self::default();
        for guard in &txn.guards {
            let at = |key: &Bytes| space.entry_key(key);
            let compare = match guard {
                Guard::Absent { key } => created(at(key), 0, Is::Equal),
                Guard::Present { key } => created(at(key), 0, Is::NotEqual),
                Guard::ModifiedAt { key, revision } => modified(at(key), existing(*revision)),
                Guard::ValueIs { key, value } | Guard::ValueIsNot { key, value }
                    if is_large(value) && cached.contains_key(key) =>
                {
                    let same = cached[key].value.as_ref() == Some(value);
                    guards.fails |= same != matches!(guard, Guard::ValueIs { .. });
                    continue;
                }
                Guard::ValueIs { key, value } => compare_value(at(key), value, Is::Equal),
                Guard::ValueIsNot { key, value } if present.contains(key) => {
                    compare_value(at(key), value, Is::NotEqual)
                }
                Guard::ValueIsNot { key, value } => {
                    guards.inverted.push(compare_value(at(key), value, Is::Equal));
                    continue;
                }
            };
            guards.compares.push(compare);
        }
        guards
    }
}

// === impl CachedValue ===

impl CachedValue {
    /// Reads what a key holds from the answer to a get.
    pub(crate) fn of(answer: RangeResponse) -> Self {
        answer
            .kvs
            .into_iter()
            .next()
            .map_or_else(Self::default, |kv| Self { modified: kv.mod_revision, value: Some(kv.value) })
    }

    /// Returns this if it is a number, which is small enough to be kept; else what an absent key holds.
    pub(crate) fn if_number(&self) -> Self {
        if self.number().is_some() { self.clone() } else { Self::default() }
    }

    /// Returns the number that is there, zero for an absent one. `None` if there is something else.
    fn number(&self) -> Option<i64> {
        self.value.as_ref().map_or(Some(0), |value| number(value))
    }
}

/// The keys of etcd that a transaction touches: transactions that share a revision with it must not conflict
/// with them.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    pub(crate) writes: Vec<Bytes>,
    /// The prefixes of stamps: their order is that of their revisions, so two of a prefix need two.
    pub(crate) stamps: Vec<Bytes>,
    pub(crate) reads: Vec<Bytes>,
    pub(crate) ranges: Vec<Span>,
    /// It writes keys that are not known in advance.
    pub(crate) anything: bool,
}

// === impl Footprint ===

impl Footprint {
    pub(crate) fn new(space: &Space, txn: &Txn, preread: &Preread) -> Self {
        let mut footprint = Self::default();
        let mut stamps = preread.stamps.iter();
        for write in &txn.writes {
            match write {
                Write::Put { key, .. } | Write::Add { key, .. } | Write::Delete { key } => {
                    footprint.writes.push(space.entry_key(key));
                }
                Write::Stamp { prefix, .. } => {
                    footprint.stamps.push(space.entry_key(prefix));
                    footprint.writes.extend(stamps.next().map(|key| space.entry_key(key)));
                }
                Write::DeleteRange { .. } => footprint.anything = true,
            }
        }
        footprint.writes.extend(preread.once.iter().map(|memory| memory.key.clone()));
        footprint.reads.extend(preread.cached.keys().map(|key| space.entry_key(key)));
        footprint.reads.extend(txn.guards.iter().map(|guard| space.entry_key(guard.key())));
        for read in &txn.reads {
            match read {
                Read::Get { key } => footprint.reads.push(space.entry_key(key)),
                Read::Scan { range, .. } | Read::Count { range } => {
                    footprint.ranges.extend(space.entries(range));
                }
            }
        }
        footprint
    }
}

/// Returns the keys that must be read before a transaction can be written down: those of additions, because etcd has none,
/// and those of guards with values so large that they would not fit beside what is written.
pub(crate) fn keys_to_read(txn: &Txn) -> Vec<Bytes> {
    let added = txn.writes.iter().filter_map(|write| match write {
        Write::Add { key, .. } => Some(key.clone()),
        Write::Put { .. } | Write::Stamp { .. } | Write::Delete { .. } | Write::DeleteRange { .. } => None,
    });
    let compared = txn.guards.iter().filter_map(|guard| match guard {
        Guard::ValueIs { key, value } | Guard::ValueIsNot { key, value } => {
            is_large(value).then(|| key.clone())
        }
        Guard::Absent { .. } | Guard::Present { .. } | Guard::ModifiedAt { .. } => None,
    });
    added.chain(compared).collect()
}

/// Returns the maximum of entries of a scan beside `writes`.
pub(crate) fn page(writes: &[Write]) -> usize {
    if writes.is_empty() { PAGE } else { PAGE_WRITING }
}

fn is_large(value: &Bytes) -> bool {
    const LARGE: usize = 64 * 1024;
    value.len() > LARGE
}

fn writes<'a>(space: &'a Space, txn: &'a Txn, preread: &'a Preread) -> impl Iterator<Item = RequestOp> + 'a {
    let mut stamps = preread.stamps.iter();
    txn.writes.iter().filter_map(move |write| match write {
        Write::Put { key, value } => Some(put(space.entry_key(key), value.clone(), true)),
        Write::Add { key, delta } => {
            Some(put(space.entry_key(key), number_bytes(sum(preread, key, *delta)), false))
        }
        Write::Stamp { value, .. } => {
            let key = stamps.next().expect("a stamp was chosen for each");
            Some(put(space.entry_key(key), value.clone(), false))
        }
        Write::Delete { key } => Some(delete(Span { start: space.entry_key(key), end: Bytes::new() }, true)),
        Write::DeleteRange { range } => space.entries(range).map(|span| delete(span, false)),
    })
}

fn written<'a>(
    space: &Space,
    write: &Write,
    preread: &'a Preread,
    stamps: &mut impl Iterator<Item = &'a Bytes>,
    answers: &mut impl Iterator<Item = ResponseOp>,
) -> Result<Written, Error> {
    use response_op::Response;

    if matches!(write, Write::DeleteRange { range } if range.is_empty()) {
        return Ok(Written::RangeDeleted { count: 0 });
    }
    let answer = answers.next().and_then(|op| op.response);
    let entry = |kv: Option<KeyValue>| -> Option<Entry> { kv.map(|kv| space.entry(kv)) };
    Ok(match (write, answer) {
        (Write::Put { .. }, Some(Response::Put(put))) => Written::Put { previous: entry(put.prev_kv) },
        (Write::Add { key, delta }, Some(Response::Put(_))) => {
            Written::Added { value: sum(preread, key, *delta) }
        }
        (Write::Stamp { .. }, Some(Response::Put(_))) => {
            Written::Stamped { key: stamps.next().expect("a stamp was chosen for each").clone() }
        }
        (Write::Delete { .. }, Some(Response::DeleteRange(deleted))) => {
            Written::Deleted { previous: entry(deleted.prev_kvs.into_iter().next()) }
        }
        (Write::DeleteRange { .. }, Some(Response::DeleteRange(deleted))) => {
            Written::RangeDeleted { count: u64::try_from(deleted.deleted).unwrap_or_default() }
        }
        _ => return Err(unexpected("write")),
    })
}

/// Returns what an addition makes of what was pinned.
pub(crate) fn sum(preread: &Preread, key: &Bytes, delta: i64) -> i64 {
    preread.cached.get(key).and_then(CachedValue::number).unwrap_or(0).wrapping_add(delta)
}

fn range_of(space: &Space, read: &Read, page: usize) -> Option<RangeRequest> {
    match read {
        Read::Get { key } => Some(get(space.entry_key(key))),
        Read::Scan { range, order, limit, keys_only } => {
            let Span { start, end } = space.entries(range)?;
            // Ascending keys are etcd's own order; to name it would only cost.
            let (target, sort) = match order {
                Order::Key => (SortTarget::Key, SortOrder::None),
                Order::KeyDescending => (SortTarget::Key, SortOrder::Descend),
                Order::Created => (SortTarget::Create, SortOrder::Ascend),
            };
            Some(RangeRequest {
                key: start,
                range_end: end,
                limit: i64::try_from(*limit.min(&page)).expect("a page is small"),
                sort_order: sort.into(),
                sort_target: target.into(),
                keys_only: *keys_only,
                ..RangeRequest::default()
            })
        }
        Read::Count { range } => {
            let Span { start, end } = space.entries(range)?;
            Some(RangeRequest { key: start, range_end: end, count_only: true, ..RangeRequest::default() })
        }
    }
}

fn found(space: &Space, read: &Read, limits: &Limits, answer: RangeResponse) -> Found {
    match read {
        Read::Get { .. } => Found::Entry(answer.kvs.into_iter().next().map(|kv| space.entry(kv))),
        Read::Scan { .. } => {
            let (mut entries, mut bytes) = (Vec::with_capacity(answer.kvs.len()), 0);
            for kv in answer.kvs {
                if bytes >= limits.scan_bytes_max && !entries.is_empty() {
                    return Found::Entries { entries, more: true };
                }
                let entry = space.entry(kv);
                bytes += entry.bytes();
                entries.push(entry);
            }
            Found::Entries { entries, more: answer.more }
        }
        Read::Count { .. } => Found::Count(u64::try_from(answer.count).unwrap_or_default()),
    }
}

fn nothing(read: &Read) -> Found {
    match read {
        Read::Get { .. } => Found::Entry(None),
        Read::Scan { .. } => Found::Entries { entries: Vec::new(), more: false },
        Read::Count { .. } => Found::Count(0),
    }
}

/// The revision of etcd that a guard names: etcd takes zero for "absent", which no guard means by a revision.
fn existing(revision: Revision) -> i64 {
    if revision.0 == 0 { -1 } else { containing(revision) }
}

fn created(key: Bytes, revision: i64, is: Is) -> Compare {
    let target_union = Some(TargetUnion::CreateRevision(revision));
    Compare { result: is.into(), target: Target::Create.into(), key, target_union, ..Compare::default() }
}

fn modified(key: Bytes, revision: i64) -> Compare {
    let target_union = Some(TargetUnion::ModRevision(revision));
    Compare { result: Is::Equal.into(), target: Target::Mod.into(), key, target_union, ..Compare::default() }
}

fn compare_value(key: Bytes, value: &Bytes, is: Is) -> Compare {
    let target_union = Some(TargetUnion::Value(value.clone()));
    Compare { result: is.into(), target: Target::Value.into(), key, target_union, ..Compare::default() }
}

/// The condition that there is no key in `span`.
pub(crate) fn compare_none(Span { start, end }: Span) -> Compare {
    Compare {
        result: Is::Equal.into(),
        target: Target::Create.into(),
        key: start,
        range_end: end,
        target_union: Some(TargetUnion::CreateRevision(0)),
    }
}

/// Asks for one key.
pub(crate) fn get(key: Bytes) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

pub(crate) fn put(key: Bytes, value: Bytes, prev_kv: bool) -> RequestOp {
    RequestOp { request: Some(request_op::Request::Put(PutRequest { key, value, prev_kv, lease: 0 })) }
}

/// Puts a key that goes when the lease ends.
fn put_leased(key: Bytes, value: Bytes, lease: i64) -> RequestOp {
    RequestOp { request: Some(request_op::Request::Put(PutRequest { key, value, prev_kv: false, lease })) }
}

pub(crate) fn delete(Span { start, end }: Span, prev_kv: bool) -> RequestOp {
    let delete = DeleteRangeRequest { key: start, range_end: end, prev_kv };
    RequestOp { request: Some(request_op::Request::DeleteRange(delete)) }
}

impl From<RangeRequest> for RequestOp {
    fn from(range: RangeRequest) -> Self {
        Self { request: Some(request_op::Request::Range(range)) }
    }
}

/// Reads the revision that an answer of etcd was given at.
pub(crate) fn at(header: Option<&crate::wire::ResponseHeader>) -> Revision {
    revision(header.map_or(0, |header| header.revision))
}

pub(crate) fn unexpected(what: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("etcd answered something else than it was asked: expected=`{what}`"),
    )
}
