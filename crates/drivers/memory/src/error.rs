// SPDX-License-Identifier: Apache-2.0
//! Errors of this store.

use atomix_store::Error;

/// Refuses a commit to a store that is about to be disconnected.
pub(crate) fn sealed() -> Error {
    Error::unavailable("store is being disconnected: connect it again, then repeat the call")
}
