// SPDX-License-Identifier: Apache-2.0
//! How independent requests share a round trip to etcd.
//!
//! Transactions become branches of one transaction, which etcd gives one revision. Those that share it do not touch what
//! another one writes, so that they are what they would have been one by one. If some of them are on one keyspace, a key is
//! written before all others that tells watches which change is whose. Reads share without condition: they are of one
//! moment, later than all calls.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use atomix_kv::emulate::Carrier;
use atomix_kv::{Error, ErrorKind, Revision};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use prost::Message;

use crate::error::Failure;
use crate::keys::{Space, Span, TOGETHER_MAX};
use crate::plan::{self, Touches};
use crate::store::Core;
use crate::wire::stored::{Keys, Together};
use crate::wire::{RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, request_op, response_op};

/// A transaction that is ready to go.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) space: Space,
    pub(crate) txn: TxnRequest,
    pub(crate) touches: Touches,
    pub(crate) operations: usize,
    pub(crate) bytes: usize,
}

/// Carries transactions.
pub(crate) struct Writes {
    core: Arc<Core>,
}

/// What the transactions of a pack touch, and how large they are.
#[derive(Debug, Default)]
pub(crate) struct Load {
    spaces: HashMap<Bytes, Touched>,
    transactions: usize,
    operations: usize,
    bytes: usize,
}

/// What is touched in one keyspace.
#[derive(Debug, Default)]
struct Touched {
    writes: HashSet<Bytes>,
    stamps: HashSet<Bytes>,
    reads: HashSet<Bytes>,
    ranges: Vec<Span>,
    anything: bool,
}

/// Ranges that are asked for together.
#[derive(Debug)]
pub(crate) struct Questions(pub(crate) Vec<RangeRequest>);

/// Carries reads.
pub(crate) struct Reads {
    core: Arc<Core>,
}

// === impl Writes ===

impl Writes {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn send(&self, txn: TxnRequest) -> Result<(Revision, TxnResponse), Error> {
        let response = self.core.txn(txn, usize::MAX).await.map_err(Failure::of_write)?;
        Ok((plan::at(response.header.as_ref()), response))
    }

    async fn send_packed(&self, pack: &[Request]) -> Result<Vec<(Revision, TxnResponse)>, Error> {
        let branch =
            |request: &Request| RequestOp { request: Some(request_op::Request::Txn(request.txn.clone())) };
        let mut success = together(pack);
        let ours = success.len();
        success.extend(pack.iter().map(branch));
        let (revision, response) = self.send(TxnRequest { success, ..TxnRequest::default() }).await?;
        let answers = response.responses.into_iter().skip(ours).map(|op| match op.response {
            Some(response_op::Response::Txn(inner)) => Ok((revision, inner)),
            _ => Err(plan::unexpected("branch")),
        });
        answers.collect()
    }
}

impl Carrier for Writes {
    type Request = Request;
    type Answer = (Revision, TxnResponse);
    type Load = Load;

    fn join(&self, load: &mut Load, request: &Request) -> bool {
        let settings = &self.core.settings;
        let operations = load.operations.max(request.operations);
        // Each transaction is an operation of the outer one, and so is what tells those on one keyspace apart.
        let fits = load.transactions < TOGETHER_MAX
            && operations + load.transactions + 1 + load.spaces.len() < settings.txn_ops_max
            && load.bytes + request.bytes <= settings.request_bytes_max / 4;
        let touches = &request.touches;
        if load.transactions > 0 && !fits
            || load.spaces.get(request.space.base()).is_some_and(|touched| touched.meets(touches))
        {
            return false;
        }
        load.transactions += 1;
        load.operations = operations;
        load.bytes += request.bytes;
        load.spaces.entry(request.space.base().clone()).or_default().add(touches);
        true
    }

    fn carry(&self, mut pack: Vec<Request>) -> BoxFuture<'_, Vec<Result<Self::Answer, Error>>> {
        Box::pin(async move {
            if pack.len() == 1
                && let Some(request) = pack.pop()
            {
                return vec![self.send(request.txn).await];
            }
            match self.send_packed(&pack).await {
                Ok(answers) => answers.into_iter().map(Ok).collect(),
                // Refused as a whole, perhaps because of one of them. Nothing was applied: each gets its own answer.
                Err(error) if is_refusal(error.kind()) => {
                    join_all(pack.into_iter().map(|request| self.send(request.txn))).await
                }
                Err(error) => pack.iter().map(|_| Err(Error::new(error.kind(), error.to_string()))).collect(),
            }
        })
    }
}

// === impl Touched ===

impl Touched {
    /// Tells whether a transaction writes what is touched here, or touches what is written here.
    fn meets(&self, touches: &Touches) -> bool {
        let read =
            |key: &Bytes| self.reads.contains(key) || self.ranges.iter().any(|range| range.contains(key));
        self.anything
            || touches.anything
            || touches.writes.iter().any(|key| self.writes.contains(key) || read(key))
            || touches.stamps.iter().any(|prefix| self.stamps.contains(prefix))
            || touches.reads.iter().any(|key| self.writes.contains(key))
            || touches.ranges.iter().any(|range| self.writes.iter().any(|key| range.contains(key)))
    }

    fn add(&mut self, touches: &Touches) {
        self.writes.extend(touches.writes.iter().cloned());
        self.stamps.extend(touches.stamps.iter().cloned());
        self.reads.extend(touches.reads.iter().cloned());
        self.ranges.extend(touches.ranges.iter().cloned());
        self.anything |= touches.anything;
    }
}

// === impl Reads ===

impl Reads {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn send(&self, ranges: Vec<RangeRequest>) -> Result<(Revision, Vec<RangeResponse>), Failure> {
        let success = ranges.into_iter().map(RequestOp::from).collect();
        let request = TxnRequest { success, ..TxnRequest::default() };
        let response = self.core.txn(request, self.core.settings.answer_bytes_max).await?;
        let answers = response.responses.into_iter().map(|op| plan::range_answer(Some(op)));
        let answers = answers.collect::<Result<Vec<_>, _>>().map_err(Failure::NotSent)?;
        Ok((plan::at(response.header.as_ref()), answers))
    }

    /// Asks for fewer entries as long as the answer is too large.
    async fn send_smaller(
        &self,
        mut ranges: Vec<RangeRequest>,
    ) -> Result<(Revision, Vec<RangeResponse>), Error> {
        loop {
            match self.send(ranges.clone()).await {
                Err(failure) if failure.is_large_answer() => {
                    if ranges.iter().all(|range| range.limit <= 1) {
                        let max = self.core.settings.answer_bytes_max;
                        return Err(Error::invalid(format!(
                            "what was asked for is too large: raise `answer-bytes-max`: answer-bytes-max=`{max}`"
                        )));
                    }
                    for range in ranges.iter_mut().filter(|range| range.limit > 1) {
                        range.limit = (range.limit / 8).max(1);
                    }
                }
                answered => return answered.map_err(Failure::of_read),
            }
        }
    }
}

impl Carrier for Reads {
    type Request = Questions;
    type Answer = (Revision, Vec<RangeResponse>);
    type Load = usize;

    fn join(&self, operations: &mut usize, request: &Questions) -> bool {
        let joined = *operations + request.0.len();
        if *operations > 0 && joined > self.core.settings.txn_ops_max {
            return false;
        }
        *operations = joined;
        true
    }

    fn carry(&self, mut pack: Vec<Questions>) -> BoxFuture<'_, Vec<Result<Self::Answer, Error>>> {
        Box::pin(async move {
            if pack.len() == 1
                && let Some(questions) = pack.pop()
            {
                return vec![self.send_smaller(questions.0).await];
            }
            let ranges = pack.iter().flat_map(|questions| questions.0.iter().cloned()).collect();
            match self.send(ranges).await {
                Ok((revision, answers)) => {
                    let mut answers = answers.into_iter();
                    let share = |questions: &Questions| {
                        Ok((revision, answers.by_ref().take(questions.0.len()).collect()))
                    };
                    pack.iter().map(share).collect()
                }
                Err(failure) if failure.is_large_answer() => {
                    join_all(pack.into_iter().map(|questions| self.send_smaller(questions.0))).await
                }
                Err(failure) => {
                    let error = failure.of_read();
                    if is_refusal(error.kind()) {
                        return join_all(pack.into_iter().map(|questions| self.send_smaller(questions.0)))
                            .await;
                    }
                    pack.iter().map(|_| Err(Error::new(error.kind(), error.to_string()))).collect()
                }
            }
        })
    }
}

/// Returns what is written before the transactions of a pack: for every keyspace that several of them write in, who writes
/// which keys.
fn together(pack: &[Request]) -> Vec<RequestOp> {
    let mut by_space: Vec<(&Space, Vec<Keys>)> = Vec::new();
    for request in pack.iter().filter(|request| !request.touches.writes.is_empty()) {
        // Names of requests are not watched, and one may look like a key.
        let watched = request.space.watched();
        let written = request.touches.writes.iter().filter(|key| watched.contains(key));
        let keys = written.map(|key| request.space.strip(key)).collect();
        match by_space.iter_mut().find(|(space, _)| *space == &request.space) {
            Some((_, transactions)) => transactions.push(Keys { keys }),
            None => by_space.push((&request.space, vec![Keys { keys }])),
        }
    }
    let shared = by_space.into_iter().filter(|(_, transactions)| transactions.len() > 1);
    shared
        .map(|(space, transactions)| {
            let value = Together { transactions }.encode_to_vec();
            plan::put(space.together_key(), value.into(), false)
        })
        .collect()
}

/// Tells whether etcd refuses a pack for what is in it, and not for how it is itself.
fn is_refusal(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Invalid | ErrorKind::Denied | ErrorKind::Full | ErrorKind::Internal => true,
        ErrorKind::Unavailable
        | ErrorKind::OutcomeUnknown
        | ErrorKind::Config
        | ErrorKind::Compacted { .. }
        | ErrorKind::Closed
        | ErrorKind::Unsupported
        | ErrorKind::Corrupt => false,
    }
}
