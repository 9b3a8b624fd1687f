// SPDX-License-Identifier: Apache-2.0
//! Batches independent requests into one round trip to etcd.
//!
//! Transactions become branches of one transaction, which etcd gives one revision. Transactions of a batch do
//! not touch keys that another one writes, so that the result is the same as one by one. If some of them are
//! on one keyspace, a key before all others lists for watches which change belongs to which transaction.
//! Reads are batched without condition: they observe one moment, later than all calls.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use atomix_remote::BatchSender;
use atomix_store::{Error, ErrorKind, Revision};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use prost::Message;

use crate::core::Core;
use crate::error::Failure;
use crate::keys::{Space, Span, TOGETHER_MAX};
use crate::plan::{self, Footprint};
use crate::wire::stored::{Keys, Together};
use crate::wire::{RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, request_op, response_op};

/// A transaction that is ready to go.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) space: Space,
    pub(crate) txn: TxnRequest,
    pub(crate) footprint: Footprint,
    pub(crate) operations: usize,
    pub(crate) bytes: usize,
}

/// Sends transactions.
pub(crate) struct TxnSender {
    core: Arc<Core>,
}

/// The keys and sizes of the transactions of a batch.
#[derive(Debug, Default)]
pub(crate) struct BatchFootprint {
    spaces: HashMap<Bytes, KeyspaceFootprint>,
    transactions: usize,
    operations: usize,
    bytes: usize,
}

/// The keys that a batch touches in one keyspace.
#[derive(Debug, Default)]
struct KeyspaceFootprint {
    writes: HashSet<Bytes>,
    stamps: HashSet<Bytes>,
    reads: HashSet<Bytes>,
    ranges: Vec<Span>,
    anything: bool,
}

/// Ranges that are read in one request.
#[derive(Debug)]
pub(crate) struct ReadRequest(pub(crate) Vec<RangeRequest>);

/// Sends reads.
pub(crate) struct ReadSender {
    core: Arc<Core>,
}

// === impl TxnSender ===

impl TxnSender {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn send(&self, txn: TxnRequest) -> Result<(Revision, TxnResponse), Error> {
        let response = self.core.txn(txn, usize::MAX).await.map_err(Failure::of_write)?;
        Ok((plan::at(response.header.as_ref()), response))
    }

    async fn send_joined(&self, batch: &[Request]) -> Result<Vec<(Revision, TxnResponse)>, Error> {
        let branch =
            |request: &Request| RequestOp { request: Some(request_op::Request::Txn(request.txn.clone())) };
        let mut success = together(batch);
        let ours = success.len();
        success.extend(batch.iter().map(branch));
        let (revision, response) = self.send(TxnRequest { success, ..TxnRequest::default() }).await?;
        let answers = response.responses.into_iter().skip(ours).map(|op| match op.response {
            Some(response_op::Response::Txn(inner)) => Ok((revision, inner)),
            _ => Err(plan::unexpected("branch")),
        });
        answers.collect()
    }
}

impl BatchSender for TxnSender {
    type Request = Request;
    type Answer = (Revision, TxnResponse);
    type Footprint = BatchFootprint;

    fn join(&self, batch: &mut BatchFootprint, request: &Request) -> bool {
        let settings = &self.core.settings;
        let operations = batch.operations.max(request.operations);
        // Each transaction is an operation of the outer one, and so is the key that separates transactions of
        // a keyspace.
        let fits = batch.transactions < TOGETHER_MAX
            && operations + batch.transactions + 1 + batch.spaces.len() < settings.txn_ops_max
            && batch.bytes + request.bytes <= settings.request_bytes_max / 4;
        let footprint = &request.footprint;
        if batch.transactions > 0 && !fits
            || batch.spaces.get(request.space.base()).is_some_and(|touched| touched.conflicts_with(footprint))
        {
            return false;
        }
        batch.transactions += 1;
        batch.operations = operations;
        batch.bytes += request.bytes;
        batch.spaces.entry(request.space.base().clone()).or_default().add(footprint);
        true
    }

    fn send_batch(&self, mut batch: Vec<Request>) -> BoxFuture<'_, Vec<Result<Self::Answer, Error>>> {
        Box::pin(async move {
            if batch.len() == 1
                && let Some(request) = batch.pop()
            {
                return vec![self.send(request.txn).await];
            }
            match self.send_joined(&batch).await {
                Ok(answers) => answers.into_iter().map(Ok).collect(),
                // Refused as a whole, perhaps because of one of them. Nothing was applied: each gets its own answer.
                Err(error) if is_refusal(error.kind()) => {
                    join_all(batch.into_iter().map(|request| self.send(request.txn))).await
                }
                Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
            }
        })
    }
}

// === impl KeyspaceFootprint ===

impl KeyspaceFootprint {
    /// Returns whether a transaction writes what is touched here, or touches what is written here.
    fn conflicts_with(&self, footprint: &Footprint) -> bool {
        let read =
            |key: &Bytes| self.reads.contains(key) || self.ranges.iter().any(|range| range.contains(key));
        self.anything
            || footprint.anything
            || footprint.writes.iter().any(|key| self.writes.contains(key) || read(key))
            || footprint.stamps.iter().any(|prefix| self.stamps.contains(prefix))
            || footprint.reads.iter().any(|key| self.writes.contains(key))
            || footprint.ranges.iter().any(|range| self.writes.iter().any(|key| range.contains(key)))
    }

    fn add(&mut self, footprint: &Footprint) {
        self.writes.extend(footprint.writes.iter().cloned());
        self.stamps.extend(footprint.stamps.iter().cloned());
        self.reads.extend(footprint.reads.iter().cloned());
        self.ranges.extend(footprint.ranges.iter().cloned());
        self.anything |= footprint.anything;
    }
}

// === impl ReadSender ===

impl ReadSender {
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

impl BatchSender for ReadSender {
    type Request = ReadRequest;
    type Answer = (Revision, Vec<RangeResponse>);
    type Footprint = usize;

    fn join(&self, operations: &mut usize, request: &ReadRequest) -> bool {
        let joined = *operations + request.0.len();
        if *operations > 0 && joined > self.core.settings.txn_ops_max {
            return false;
        }
        *operations = joined;
        true
    }

    fn send_batch(&self, mut batch: Vec<ReadRequest>) -> BoxFuture<'_, Vec<Result<Self::Answer, Error>>> {
        Box::pin(async move {
            if batch.len() == 1
                && let Some(request) = batch.pop()
            {
                return vec![self.send_smaller(request.0).await];
            }
            let ranges = batch.iter().flat_map(|request| request.0.iter().cloned()).collect();
            match self.send(ranges).await {
                Ok((revision, answers)) => {
                    let mut answers = answers.into_iter();
                    let share = |request: &ReadRequest| {
                        Ok((revision, answers.by_ref().take(request.0.len()).collect()))
                    };
                    batch.iter().map(share).collect()
                }
                Err(failure) if failure.is_large_answer() => {
                    join_all(batch.into_iter().map(|request| self.send_smaller(request.0))).await
                }
                Err(failure) => {
                    let error = failure.of_read();
                    if is_refusal(error.kind()) {
                        return join_all(batch.into_iter().map(|request| self.send_smaller(request.0))).await;
                    }
                    batch.iter().map(|_| Err(error.clone())).collect()
                }
            }
        })
    }
}

/// Returns the operations that precede the transactions of a batch: for every keyspace that several of them
/// write in, the keys of each transaction.
fn together(batch: &[Request]) -> Vec<RequestOp> {
    let mut by_space: Vec<(&Space, Vec<Keys>)> = Vec::new();
    for request in batch.iter().filter(|request| !request.footprint.writes.is_empty()) {
        // Names of requests are not watched, and one may look like a key.
        let watched = request.space.watched();
        let written = request.footprint.writes.iter().filter(|key| watched.contains(key));
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

/// Returns whether etcd refuses a batch because of its content, not because of the state of etcd.
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
