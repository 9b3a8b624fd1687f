// SPDX-License-Identifier: Apache-2.0
//! The `config` field of Connect, Configure and routing rules: never a panic, and JSON is read the same inside an Any.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(object) = atomix_grpc::decode_config(bytes) {
        drop(atomix_runtime::parse_primitive_config(&object));
    }
    // No Any begins with a space, so this is read as JSON or not at all.
    if let Ok(object) = atomix_grpc::decode_config(&[b" ", bytes].concat()) {
        let mut any = vec![0x12];
        prost::encoding::encode_varint(bytes.len() as u64, &mut any);
        any.extend_from_slice(bytes);
        assert_eq!(atomix_grpc::decode_config(&any).expect("the same inside an Any"), object);
    }
});
