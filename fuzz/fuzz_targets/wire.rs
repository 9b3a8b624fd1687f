// SPDX-License-Identifier: Apache-2.0
//! Every request message: what decodes must encode to something that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;

fn round_trip<M: Message + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(message.encode_to_vec().as_slice()).expect("our own bytes decode");
        assert!(message == again);
    }
}

macro_rules! requests {
    ($choice:expr, $bytes:expr; $($message:ty)+) => {{
        let decoders: &[fn(&[u8])] = &[$(round_trip::<$message>),+];
        decoders[usize::from($choice) % decoders.len()]($bytes);
    }};
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    requests! { *choice, bytes;
        atomix_proto::runtime::ProgramRequest
        atomix_proto::runtime::ConnectRequest
        atomix_proto::runtime::ConfigureRequest
        atomix_proto::proxy::ConnectRequest
        atomix_proto::counter::UpdateRequest
        atomix_proto::countermap::LockRequest
        atomix_proto::election::EnterRequest
        atomix_proto::indexedmap::UpdateRequest
        atomix_proto::list::InsertRequest
        atomix_proto::lock::LockRequest
        atomix_proto::map::CommitRequest
        atomix_proto::map::PutRequest
        atomix_proto::multimap::PutEntriesRequest
        atomix_proto::set::AddRequest
        atomix_proto::topic::PublishRequest
        atomix_proto::value::UpdateRequest
        atomix_proto::inspect::ExplainRouteRequest
    }
});
