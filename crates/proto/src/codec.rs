// SPDX-License-Identifier: Apache-2.0
//! How messages become bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec as Coding};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Protocol buffers, like tonic's own codec but for its buffers: 8 KiB for each direction of each call are more than all
/// the rest of a small call allocates, and a stream keeps them for as long as it lives.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// What a buffer has at first. Larger messages make it grow to their size.
const BUFFER_BYTES: usize = 512;
/// How much of a stream is encoded before it is handed on.
const YIELD_BYTES: usize = 32 * 1024;

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Coding for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
