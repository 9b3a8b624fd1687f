// SPDX-License-Identifier: Apache-2.0
//! Values that several services take or give.

use std::time::Duration;

use atomix_config::StoreId;
use atomix_env::WallTime;
use atomix_primitives::Error;
use atomix_proto::runtime;

/// Reads a duration. What lies in the past is zero; absent stays absent.
pub(crate) fn duration(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration.map(|duration| Duration::try_from(duration).unwrap_or(Duration::ZERO))
}

pub(crate) fn timestamp(time: WallTime) -> prost_types::Timestamp {
    let since = time.since_unix();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// Reads the id of a store; absent is like empty, and both parts may be empty.
pub(crate) fn store_id(id: Option<runtime::StoreId>) -> StoreId {
    let id = id.unwrap_or_default();
    StoreId { namespace: id.namespace, name: id.name }
}

pub(crate) fn store_id_message(id: &StoreId) -> runtime::StoreId {
    runtime::StoreId { namespace: id.namespace.clone(), name: id.name.clone() }
}

/// Takes a message that must be there.
pub(crate) fn required<T>(message: Option<T>, field: &'static str) -> Result<T, Error> {
    message.ok_or_else(|| Error::invalid(format!("a field is missing: field=`{field}`")))
}
