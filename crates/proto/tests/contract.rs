// SPDX-License-Identifier: Apache-2.0
//! The wire is fixed by clients that exist. `contract.txt` lists every fact of it; nothing may differ.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Reads `contract.txt` into one absolute sentence for each fact.
fn expected() -> BTreeSet<String> {
    let (mut package, mut block) = ("", "");
    let mut facts = BTreeSet::new();
    for line in include_str!("contract.txt").lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("package ") {
            package = name;
        } else if let Some(fact) = line.strip_prefix("  ") {
            let words: Vec<_> = fact.split(' ').map(|word| absolute(package, word)).collect();
            if let Some(message) = block.strip_prefix("message ") {
                facts.insert(format!("{package}.{message}: {}", words.join(" ")));
            } else {
                let service = block.strip_prefix("service ").unwrap();
                let [method, request, response, kind] = words.as_slice() else { panic!("odd line: {line}") };
                facts.insert(format!(
                    "/{package}.{service}/{method}: {package}.{request} {package}.{response} {kind}"
                ));
            }
        } else {
            block = line;
            facts.insert(format!("{package}: {line}"));
        }
    }
    facts
}

fn absolute(package: &str, word: &str) -> String {
    if word.starts_with('.') { format!("{package}{word}") } else { word.to_owned() }
}

/// Prints the same sentences about the descriptor set, for the packages of the contract.
fn actual() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(atomix_proto::DESCRIPTOR_SET).unwrap();
    let mut facts = BTreeSet::new();
    for file in &set.file {
        let package = file.package();
        if !package.starts_with("atomix.runtime") && !package.starts_with("atomix.proxy") {
            continue;
        }
        for message in &file.message_type {
            add_message(package, "", message, &mut facts);
        }
        for service in &file.service {
            facts.insert(format!("{package}: service {}", service.name()));
            for method in &service.method {
                assert!(!method.client_streaming());
                let kind = if method.server_streaming() { "stream" } else { "unary" };
                facts.insert(format!(
                    "/{package}.{}/{}: {} {} {kind}",
                    service.name(),
                    method.name(),
                    method.input_type().trim_start_matches('.'),
                    method.output_type().trim_start_matches('.'),
                ));
            }
        }
    }
    facts
}

fn add_message(package: &str, outer: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name =
        if outer.is_empty() { message.name().to_owned() } else { format!("{outer}.{}", message.name()) };
    facts.insert(format!("{package}: message {name}"));
    for field in &message.field {
        let label = if field.label() == Label::Repeated { "repeated " } else { "" };
        let arm = field.oneof_index.map_or_else(String::new, |index| {
            let index = usize::try_from(index).unwrap();
            format!(" oneof {}", message.oneof_decl[index].name())
        });
        facts.insert(format!(
            "{package}.{name}: {} {} {label}{}{arm}",
            field.number(),
            field.name(),
            type_name(field),
        ));
    }
    for nested in &message.nested_type {
        add_message(package, &name, nested, facts);
    }
}

fn type_name(field: &FieldDescriptorProto) -> String {
    let scalar = field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase();
    if field.r#type() == Type::Message {
        field.type_name().trim_start_matches('.').to_owned()
    } else {
        scalar
    }
}

#[test]
fn every_fact_of_the_contract_is_on_the_wire() {
    let (expected, actual) = (expected(), actual());
    let differences: Vec<_> = expected
        .difference(&actual)
        .map(|fact| format!("missing {fact}"))
        .chain(actual.difference(&expected).map(|fact| format!("surplus {fact}")))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(expected.len() > 900, "only {} facts were read", expected.len());
}

#[test]
fn every_byte_field_is_shared_and_not_copied() {
    let value = bytes::Bytes::from_static(b"abc");
    let request = atomix_proto::map::PutRequest { value: value.clone(), ..Default::default() };
    let connect = atomix_proto::runtime::ConnectRequest { config: value.clone(), ..Default::default() };
    assert_eq!((request.value, connect.config), (value.clone(), value));
}

#[test]
fn an_entry_of_a_multimap_skips_number_two() {
    let entry = atomix_proto::multimap::Entry { key: "k".into(), values: vec!["v".into()] };
    assert_eq!(entry.encode_to_vec(), b"\x0a\x01k\x1a\x01v");
}

#[test]
fn an_event_of_a_map_has_number_two() {
    let response = atomix_proto::map::EventsResponse { event: Some(atomix_proto::map::Event::default()) };
    assert_eq!(response.encode_to_vec(), b"\x12\x00");
}
