// SPDX-License-Identifier: Apache-2.0
//! The watches of a store: a follower shares the window of its part, or catches up with it first.

use std::fmt;
use std::sync::Arc;

use atomix_env::Policy;
use atomix_store::{Error, Revision, WatchFrom, WatchItem, WatchStream};
use futures::{StreamExt, future, stream};

use crate::core::Core;
use crate::watch::backlog;
use crate::watch::feed::Feed;
use crate::watch::part::Part;
use crate::watch::registry::Registry;

/// Keeps the standing watches of a store.
pub(crate) struct Hub {
    registry: Arc<Registry>,
}

// === impl Hub ===

impl Hub {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { registry: Arc::new(Registry::new(core)) }
    }

    /// Follows a part of a keyspace, in a cluster whose latest revision is `latest` or, by now, a later one.
    pub(crate) fn watch(&self, part: &Part, from: WatchFrom, latest: Revision) -> Result<WatchStream, Error> {
        let after = match from {
            WatchFrom::Now => latest,
            WatchFrom::After(revision) if revision > latest => return Err(Error::compacted(latest)),
            WatchFrom::After(revision) => revision,
        };
        let (window, catch_up) = self.registry.ensure_watch(part, after, latest)?;
        if self.registry.begin_to_run() {
            self.start();
        }
        let stream = match window {
            Some(window) => window,
            None => backlog::follow(Arc::clone(&self.registry), part.clone(), after, catch_up),
        };
        Ok(match from {
            WatchFrom::Now => {
                stream::once(future::ready(Ok(WatchItem::Progress(latest)))).chain(stream).boxed()
            }
            WatchFrom::After(_) => stream,
        })
    }

    /// Returns the number of watches that etcd serves.
    pub(crate) fn watched(&self) -> usize {
        self.registry.watched()
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.registry.close();
    }

    /// Starts the task that fills the windows.
    fn start(&self) {
        let (registry, mut again) = (Arc::clone(&self.registry), false);
        self.registry.core.env.supervise("etcd-watches", Policy::Restart, move || {
            let (registry, again) = (Arc::clone(&registry), std::mem::replace(&mut again, true));
            async move {
                if again {
                    registry.close_windows();
                }
                Feed::new(registry).run().await;
            }
        });
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("watched", &self.watched()).finish_non_exhaustive()
    }
}
