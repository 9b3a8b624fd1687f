// SPDX-License-Identifier: Apache-2.0
//! How independent requests share a round trip to etcd.
//!
//! Transactions become branches of one transaction. etcd gives all of it one revision, and a revision of a keyspace is one
//! commit: so no two transactions on one keyspace share a round trip if they may write. Between keyspaces revisions are not
//! compared, and their keys do not meet. Reads share without condition: they are of one moment, later than all calls.

use std::sync::Arc;

use atomix_kv::emulate::Carrier;
use atomix_kv::{Error, ErrorKind, Revision};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};

use crate::error::Failure;
use crate::plan;
use crate::store::Core;
use crate::wire::{RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, request_op, response_op};

/// A transaction that is ready to go.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) txn: TxnRequest,
    /// The keyspace, if the transaction may write there.
    pub(crate) writes_in: Option<Bytes>,
    pub(crate) operations: usize,
    pub(crate) bytes: usize,
}

/// Carries transactions.
pub(crate) struct Writes {
    core: Arc<Core>,
}

/// Ranges that are asked for together.
#[derive(Debug)]
pub(crate) struct Questions(pub(crate) Vec<RangeRequest>);

/// Carries reads.
pub(crate) struct Reads {
    core: Arc<Core>,
}

/// Transactions in one round trip: each is an operation of the outer one, which leaves half of etcd's limit to the inner.
const PACK_MAX: usize = 64;

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
        let branch = |request: &Request| RequestOp { request: Some(request_op::Request::Txn(request.txn.clone())) };
        let success = pack.iter().map(branch).collect();
        let (revision, response) = self.send(TxnRequest { success, ..TxnRequest::default() }).await?;
        let answers = response.responses.into_iter().map(|op| match op.response {
            Some(response_op::Response::Txn(inner)) => Ok((revision, inner)),
            _ => Err(plan::unexpected("branch")),
        });
        answers.collect()
    }
}

impl Carrier for Writes {
    type Request = Request;
    type Answer = (Revision, TxnResponse);

    fn joins(&self, pack: &[Request], request: &Request) -> bool {
        let settings = &self.core.settings;
        let (mut bytes, mut operations) = (request.bytes, request.operations);
        for member in pack {
            if member.writes_in.is_some() && member.writes_in == request.writes_in {
                return false;
            }
            bytes += member.bytes;
            operations = operations.max(member.operations);
        }
        pack.len() < PACK_MAX
            && operations + pack.len() < settings.txn_ops_max
            && bytes <= settings.request_bytes_max / 4
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
                Err(error) => {
                    pack.iter().map(|_| Err(Error::new(error.kind(), error.to_string()))).collect()
                }
            }
        })
    }
}

// === impl Reads ===

impl Reads {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Asks the member at hand, which may lag behind.
    pub(crate) async fn local(
        &self,
        mut ranges: Vec<RangeRequest>,
    ) -> Result<(Revision, Vec<RangeResponse>), Error> {
        for range in &mut ranges {
            range.serializable = true;
        }
        self.send_smaller(ranges).await
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
    async fn send_smaller(&self, mut ranges: Vec<RangeRequest>) -> Result<(Revision, Vec<RangeResponse>), Error> {
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

    fn joins(&self, pack: &[Questions], request: &Questions) -> bool {
        let operations = pack.iter().map(|questions| questions.0.len()).sum::<usize>() + request.0.len();
        operations <= self.core.settings.txn_ops_max
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
                        return join_all(pack.into_iter().map(|questions| self.send_smaller(questions.0))).await;
                    }
                    pack.iter().map(|_| Err(Error::new(error.kind(), error.to_string()))).collect()
                }
            }
        })
    }
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
