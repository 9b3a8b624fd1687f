// SPDX-License-Identifier: Apache-2.0
//! Codecs between values and bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Turns values into bytes and back.
///
/// Behaviour: `decode` of what `encode` returned gives an equal value. Bytes of another program may be anything, so
/// `decode` refuses what it does not understand with [`Error::codec`] and never panics.
pub trait Codec<V>: Send + Sync + 'static {
    /// Returns the bytes of `value`.
    fn encode(&self, value: &V) -> Result<Bytes>;

    /// Returns the value of `bytes`.
    fn decode(&self, bytes: Bytes) -> Result<V>;
}

/// Leaves bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

/// Writes text as UTF-8.
#[derive(Debug, Clone, Copy, Default)]
pub struct Text;

/// Writes anything that serde knows as JSON.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

/// A type-erased codec, so that the type of a handle names only the type of its values.
pub(crate) struct AnyCodec<V> {
    codec: Arc<dyn Codec<V>>,
}

impl Codec<Bytes> for Raw {
    fn encode(&self, value: &Bytes) -> Result<Bytes> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: Bytes) -> Result<Bytes> {
        Ok(bytes)
    }
}

impl Codec<String> for Text {
    fn encode(&self, value: &String) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(value.as_bytes()))
    }

    fn decode(&self, bytes: Bytes) -> Result<String> {
        String::from_utf8(bytes.into()).map_err(Error::codec)
    }
}

impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    fn encode(&self, value: &V) -> Result<Bytes> {
        serde_json::to_vec(value).map(Bytes::from).map_err(Error::codec)
    }

    fn decode(&self, bytes: Bytes) -> Result<V> {
        serde_json::from_slice(&bytes).map_err(Error::codec)
    }
}

// === impl AnyCodec ===

impl<V: 'static> AnyCodec<V> {
    pub(crate) fn new(codec: impl Codec<V>) -> Self {
        Self { codec: Arc::new(codec) }
    }

    pub(crate) fn encode(&self, value: &V) -> Result<Bytes> {
        self.codec.encode(value)
    }

    pub(crate) fn decode(&self, bytes: Bytes) -> Result<V> {
        self.codec.decode(bytes)
    }
}

impl<V> Clone for AnyCodec<V> {
    fn clone(&self) -> Self {
        Self { codec: Arc::clone(&self.codec) }
    }
}

impl<V> fmt::Debug for AnyCodec<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyCodec<{}>", std::any::type_name::<V>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let error = Text.decode(Bytes::from_static(b"\xff")).unwrap_err();
        assert_eq!((error.kind(), error.reason()), (Kind::Invalid, Some("VALUE_CODEC")));
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let codec = AnyCodec::<Vec<(String, Option<u8>)>>::new(Json);
        let value = vec![("a".to_owned(), None), ("b".to_owned(), Some(7))];
        assert_eq!(codec.decode(codec.encode(&value).unwrap()).unwrap(), value);
        assert!(codec.decode(Bytes::from_static(b"{")).is_err());
    }
}
