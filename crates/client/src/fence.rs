// SPDX-License-Identifier: Apache-2.0
//! Fencing tokens that writes present.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use atomix_proto::guard::{Guard, METADATA, Source};
use tokio::task_local;
use tonic::metadata::MetadataMap;

use crate::error::{Error, Kind, Result};

/// The token of a lock, or the term of an election, that writes present to the server: see [`fenced`].
///
/// Displayed, and parsed, as the metadata `atomix-guard` has it: `lock=NAME,token=N` or `election=NAME,token=N`, NAME
/// percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence(Guard);

task_local! {
    static PRESENTED: Arc<[Fence]>;
}

/// Runs `call` so that each write of this client in it presents `fences`, at most 4.
///
/// A primitive remembers the greatest token that it has accepted from each lock and election, and refuses a smaller one: the
/// write then fails with [`Kind::Conflict`] and the reason `FENCED`, and changes nothing. A holder that lost its lock without
/// noticing can so never overwrite what a later holder has written. Tasks that `call` spawns are not part of it. Locks and
/// candidacies that are taken in it present nothing.
///
/// Cancel safe as `call` is.
///
/// ```
/// # let served = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/served.rs"));
/// # served(|endpoint, _control| Box::pin(async move {
/// use atomix_client::{Client, fenced};
///
/// let client = Client::builder().endpoint(endpoint).connect().await?;
/// let (lock, counter) = (client.lock("door").open().await?, client.counter("visits").open().await?);
/// let first = lock.acquire().await?;
/// let old = first.fence();
/// fenced([first.fence()], async { counter.increment(1).await }).await?;
/// first.release().await?;
///
/// let second = lock.acquire().await?;
/// fenced([second.fence()], async { counter.increment(1).await }).await?;
/// // The first holder did not notice that it lost the lock.
/// let late = fenced([old], async { counter.increment(1).await }).await;
/// assert_eq!(late.unwrap_err().reason(), Some("FENCED"));
/// assert_eq!(counter.get().await?, 2);
/// # Ok(())
/// # }));
/// ```
pub async fn fenced<T>(fences: impl Into<Arc<[Fence]>>, call: impl Future<Output = T>) -> T {
    PRESENTED.scope(fences.into(), call).await
}

/// Adds the fences of the call that runs to the metadata of its request.
pub(crate) fn present(metadata: &mut MetadataMap) {
    // Outside of `fenced` there is nothing to add.
    let _none = PRESENTED.try_with(|fences| {
        for fence in fences.iter() {
            let value = fence.to_string().parse().expect("a percent-encoded name is ASCII");
            metadata.append(METADATA, value);
        }
    });
}

// === impl Fence ===

impl Fence {
    /// Makes the fence of a holder of the lock `name`.
    pub fn lock(name: impl Into<String>, token: u64) -> Self {
        Self(Guard { source: Source::Lock, name: name.into(), token })
    }

    /// Makes the fence of the leader of the election `name`.
    pub fn election(name: impl Into<String>, term: u64) -> Self {
        Self(Guard { source: Source::Election, name: name.into(), token: term })
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Fence {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|_| {
            let message = format!("a guard is lock=NAME,token=N or election=NAME,token=N: guard=`{text}`");
            Error::new(Kind::Invalid, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_are_read_as_they_are_written() {
        for (fence, text) in [
            (Fence::lock("a", 1), "lock=a,token=1"),
            (Fence::lock("a,b;c=é", u64::MAX), "lock=a%2Cb%3Bc%3D%C3%A9,token=18446744073709551615"),
            (Fence::election("", 0), "election=,token=0"),
        ] {
            assert_eq!(fence.to_string(), text);
            assert_eq!(text.parse::<Fence>().unwrap(), fence);
        }
        for wrong in ["", "lock=a", "map=a,token=1", "lock=a,token=x", "lock=%ff,token=1"] {
            assert_eq!(wrong.parse::<Fence>().unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
    }
}
