// SPDX-License-Identifier: Apache-2.0
//! The reference in the documents.

#[test]
fn the_reference_in_the_documents_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/configuration.md");
    let written = std::fs::read_to_string(path).expect(path);
    assert!(
        written == atomix_config::reference(),
        "docs/reference/configuration.md differs from the types: write it again with \
         `cargo run -p atomix-config --example print_reference > docs/reference/configuration.md`"
    );
}
