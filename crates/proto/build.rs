// SPDX-License-Identifier: Apache-2.0
//! Compiles `proto/` of the repository. `protox` is a compiler in Rust, so no `protoc` needs to be on the path.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

/// Messages with configurations of stores.
const SECRET: [&str; 4] = [
    "atomix.runtime.v1.ConnectRequest",
    "atomix.runtime.v1.ConfigureRequest",
    "atomix.proxy.v1.ConnectRequest",
    "atomix.proxy.v1.ConfigureRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    find(&root.join("atomix"), &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [&root])?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::Codec")
        // A `connect` of the transport would collide with `Runtime.Connect`.
        .build_transport(false)
        .include_file("atomix.rs")
        // Their configurations have passwords; `redacted.rs` writes the rest of them.
        .skip_debug(SECRET)
        .compile_fds(descriptors)?;
    Ok(())
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
