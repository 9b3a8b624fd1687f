// SPDX-License-Identifier: Apache-2.0
//! The watched parts of keyspaces, and the requests and answers of etcd about them.

use atomix_store::{Error, Revision};

use crate::error::of_watch;
use crate::keys::{Space, Span, complete};
use crate::watch::assemble::oldest;
use crate::wire::{WatchCreateRequest, WatchResponse};

/// A watched range: a keyspace, or some of its keys.
///
/// Without the key that separates transactions, those that shared a revision of etcd are one commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) space: Space,
    pub(crate) span: Span,
}

// === impl Part ===

impl Part {
    /// A whole keyspace.
    pub(crate) fn all(space: Space) -> Self {
        let span = space.watched();
        Self { space, span }
    }
}

/// Asks etcd for what happens to keys after `seen`.
pub(super) fn create(span: &Span, id: i64, seen: Revision) -> WatchCreateRequest {
    WatchCreateRequest {
        key: span.start.clone(),
        range_end: span.end.clone(),
        // etcd sends a revision again that was seen in part; the receiver drops the duplicates.
        start_revision: complete(seen) + 1,
        progress_notify: true,
        prev_kv: true,
        watch_id: id,
        fragment: true,
    }
}

/// Returns why etcd has ended a watch.
pub(super) fn cancelled(response: &WatchResponse) -> Error {
    if response.compact_revision > 0 {
        return Error::compacted(oldest(response.compact_revision));
    }
    of_watch(&response.cancel_reason)
}
