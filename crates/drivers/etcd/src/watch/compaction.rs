// SPDX-License-Identifier: Apache-2.0
//! The reach of etcd's history.

use atomix_store::{Error, ErrorKind, Revision};
use futures::{StreamExt, stream};

use crate::core::Core;
use crate::error::Failure;
use crate::keys::{Space, complete, revision};
use crate::plan;
use crate::watch::assemble::oldest;
use crate::watch::part::create;
use crate::wire::watch_client::WatchClient;
use crate::wire::{RangeRequest, WatchRequest, watch_request};

/// Makes sure that etcd still has everything after `seen`. Any keyspace will do that may be read: what is compacted is
/// compacted for all.
pub(super) async fn reaches_back(core: &Core, space: &Space, seen: Revision) -> Result<(), Error> {
    let at @ 1.. = complete(seen) else { return Ok(()) };
    let question = RangeRequest {
        revision: at,
        count_only: true,
        serializable: true,
        ..plan::get(space.together_key())
    };
    match core.range(question).await {
        Err(error) if matches!(error.kind(), ErrorKind::Compacted { .. }) => {
            Err(Error::compacted(compacted(core, space).await?.max(revision(at + 1))))
        }
        answered => answered.map(drop),
    }
}

/// Returns the revision up to which etcd has compacted: etcd reports it on a request for its first revision.
async fn compacted(core: &Core, space: &Space) -> Result<Revision, Error> {
    let connection = core.link.connection().await?;
    let create = create(&space.watched(), 1, Revision(0));
    let begin = WatchRequest { request: Some(watch_request::Request::Create(create)) };
    let (request, _) = core.link.request(stream::iter([begin]).chain(stream::pending()));
    let mut client = WatchClient::with_origin(connection.clone(), connection.origin());
    let ask = async {
        let mut stream = client.watch(request).await?.into_inner();
        while let Some(response) = stream.message().await? {
            if response.canceled {
                return Ok(oldest(response.compact_revision));
            }
        }
        Ok(Revision(0))
    };
    match core.env.timeout(core.settings.request_timeout, ask).await {
        Ok(answered) => answered.map_err(|status| Failure::new(status).of_read()),
        Err(_) => Err(Error::unavailable("etcd does not say in time what it has compacted")),
    }
}
