// SPDX-License-Identifier: Apache-2.0
//! The interface of a primitive to the runtime, which knows no kind by name.

use std::any::Any;
use std::fmt;

use futures::future::{BoxFuture, ready};

use crate::error::Error;
use crate::kind::Kind;
use crate::kit::backing::Backing;
use crate::kit::caller::Owner;
use crate::kit::lock_table::QueueState;
use crate::kit::ownership::Ownership;

/// An open primitive of any kind.
pub trait Primitive: Any + fmt::Debug + Send + Sync {
    /// Returns what sessions own in the primitive; `None` for kinds in which they own nothing.
    fn ownership(&self) -> Option<&dyn Ownership> {
        None
    }

    /// Returns the locks with their holders and waiters, at most `max` locks and as many entries of each queue.
    fn locks(&self, max: usize) -> BoxFuture<'_, Result<Vec<QueueState>, Error>> {
        let _ = max;
        Box::pin(ready(Ok(Vec::new())))
    }

    /// Returns what `owner` holds: keys of locks, or candidates, each with its token or term; at most `max`. Empty if
    /// the store does not answer.
    fn holdings(&self, owner: Owner, max: usize) -> BoxFuture<'_, Vec<(String, u64)>> {
        Box::pin(async move {
            let locks = self.locks(max).await.unwrap_or_default();
            let held = locks.into_iter().filter_map(|lock| {
                let holder = lock.queue.first().filter(|holder| holder.owner == owner)?;
                Some((lock.key, holder.token))
            });
            held.take(max).collect()
        })
    }

    /// Deletes all content, which is that of `backing`, but not what sessions own.
    fn erase<'a>(&'a self, backing: &'a Backing) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(backing.erase())
    }
}

/// A type of primitive, registered in [`kind.rs`](crate::Kind).
pub trait TypedPrimitive: Primitive + Sized {
    /// The kind of this type.
    const KIND: Kind;

    /// Opens the primitive with the configuration of its route.
    fn open_configured(
        backing: Backing,
        config: PrimitiveConfig,
    ) -> impl Future<Output = Result<Self, Error>> + Send;

    /// Returns the primitive if it is of this type.
    fn downcast(primitive: &dyn Primitive) -> Option<&Self> {
        (primitive as &dyn Any).downcast_ref()
    }
}

/// The configuration of a primitive in its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrimitiveConfig {
    /// Clients should cache.
    pub cache_enabled: bool,
    /// Entries of that cache; zero means all.
    pub cache_size: u64,
    /// A list shows appended items as inserted ones, which the Go SDK needs to see them.
    pub append_as_inserted: bool,
}
