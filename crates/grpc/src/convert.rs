// SPDX-License-Identifier: Apache-2.0
//! Values that several services take or give.

use std::time::Duration;

use atomix_config::StoreId;
use atomix_env::WallTime;
use atomix_primitives::Error;
use atomix_proto::runtime;
use bytes::Bytes;
use tonic::metadata::MetadataMap;

/// Metadata by which a client names a request.
const REQUEST_ID: &str = "atomix-request-id";
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Reads a duration. What lies in the past is zero; absent stays absent.
pub(crate) fn duration(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration.map(|duration| Duration::try_from(duration).unwrap_or(Duration::ZERO))
}

/// Reads a time to live. Zero is none: the Java SDK sends it with every put that has none. What lies in the past expires
/// at once.
pub(crate) fn ttl(ttl: Option<prost_types::Duration>) -> Option<Duration> {
    let none = |ttl: &prost_types::Duration| ttl.seconds == 0 && ttl.nanos == 0;
    duration(ttl.filter(|ttl| !none(ttl)))
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

/// Reads the name that a client gave to its request, so that it may send the same request again.
pub(crate) fn request_name(metadata: &MetadataMap) -> Result<Option<Bytes>, Error> {
    let Some(name) = metadata.get(REQUEST_ID) else { return Ok(None) };
    if !(1..=REQUEST_ID_BYTES_MAX).contains(&name.len()) {
        return Err(Error::invalid(format!(
            "`{REQUEST_ID}` out of bounds: bounds=`1 to {REQUEST_ID_BYTES_MAX}` bytes"
        )));
    }
    Ok(Some(Bytes::copy_from_slice(name.as_encoded_bytes())))
}
