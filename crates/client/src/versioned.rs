// SPDX-License-Identifier: Apache-2.0
//! Values with versions, and the times that go with them.

use std::time::Duration;

use crate::codec::AnyCodec;
use crate::error::Result;

/// A value and its version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Versioned<V> {
    /// The value.
    pub value: V,
    /// The version: never 0, and greater after every write of the same key.
    pub version: u64,
}

/// The result of a write of a versioned value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Written<V> {
    /// The version of the value now.
    pub version: u64,
    /// The value before.
    pub previous: Option<Versioned<V>>,
}

/// The shape that the packages of map, indexed map and value give a versioned value.
pub(crate) trait WireVersioned {
    fn into_parts(self) -> (bytes::Bytes, u64);
}

macro_rules! wire_versioned {
    ($($module:ident),*) => {
        $(impl WireVersioned for atomix_proto::$module::VersionedValue {
            fn into_parts(self) -> (bytes::Bytes, u64) {
                (self.value, self.version)
            }
        })*
    };
}

wire_versioned!(map, indexedmap, value);

/// Decodes a value. An absent one is what the wire calls empty bytes at version 0.
pub(crate) fn versioned<V: 'static>(
    codec: &AnyCodec<V>,
    wire: Option<impl WireVersioned + Default>,
) -> Result<Versioned<V>> {
    let (value, version) = wire.unwrap_or_default().into_parts();
    Ok(Versioned { value: codec.decode(value)?, version })
}

/// Decodes a value that may be absent or, from some servers, of version 0.
pub(crate) fn previous<V: 'static>(
    codec: &AnyCodec<V>,
    wire: Option<impl WireVersioned>,
) -> Result<Option<Versioned<V>>> {
    match wire.map(WireVersioned::into_parts) {
        None | Some((_, 0)) => Ok(None),
        Some((value, version)) => Ok(Some(Versioned { value: codec.decode(value)?, version })),
    }
}

/// Writes a duration as the wire does. What is too long for it becomes ten thousand years.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    const MAX: prost_types::Duration = prost_types::Duration { seconds: 315_576_000_000, nanos: 0 };
    prost_types::Duration::try_from(duration).ok().filter(|wire| wire.seconds < MAX.seconds).unwrap_or(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Text;

    #[test]
    fn version_zero_means_that_there_was_nothing() {
        let codec = AnyCodec::new(Text);
        let empty = atomix_proto::map::VersionedValue::default();
        assert_eq!(previous(&codec, Some(empty)).unwrap(), None);
        assert_eq!(previous(&codec, None::<atomix_proto::map::VersionedValue>).unwrap(), None);
    }

    #[test]
    fn an_endless_duration_fits_the_wire() {
        assert_eq!(duration(Duration::MAX).seconds, 315_576_000_000);
        assert_eq!(
            duration(Duration::from_millis(1500)),
            prost_types::Duration { seconds: 1, nanos: 500_000_000 }
        );
    }
}
