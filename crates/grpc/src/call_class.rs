// SPDX-License-Identifier: Apache-2.0
//! The class of each method, from the descriptors.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use atomix_proto::DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;

/// The class of a method, which decides about its deadline and about its behaviour when the runtime drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallClass {
    /// Answers at once. Has a deadline.
    Unary,
    /// Waits for other clients before it answers: its request has a `timeout`, the time that it may wait. Ends with its own deadline, if it has one, or with the drain.
    Waiting,
    /// Answers with a stream. Ends with the drain.
    Streaming,
}

/// The field of a request that makes a unary method one that waits.
const TIMEOUT: &str = "timeout";

/// The methods of all services that have descriptors, by service: path and class of each.
static METHODS: LazyLock<HashMap<String, Vec<(String, CallClass)>>> = LazyLock::new(|| {
    let files = descriptors().file;
    let messages = files.iter().flat_map(|file| {
        let package = file.package().to_owned();
        file.message_type.iter().map(move |message| (format!(".{package}.{}", message.name()), message))
    });
    let with_timeout: HashSet<String> = messages
        .filter(|(_, message)| message.field.iter().any(|field| field.name() == TIMEOUT))
        .map(|(name, _)| name)
        .collect();
    let services = files.iter().flat_map(|file| {
        file.service.iter().map(|service| {
            let name = format!("{}.{}", file.package(), service.name());
            let methods = service.method.iter().map(|method| {
                let waits = with_timeout.contains(method.input_type());
                (format!("/{name}/{}", method.name()), class(method.server_streaming(), waits))
            });
            (name.clone(), methods.collect())
        })
    });
    services.collect()
});

/// Returns the path and the class of each method of a service.
pub(crate) fn methods(service: &str) -> &'static [(String, CallClass)] {
    METHODS.get(service).map_or(&[], Vec::as_slice)
}

fn class(streams: bool, waits: bool) -> CallClass {
    if streams {
        CallClass::Streaming
    } else if waits {
        CallClass::Waiting
    } else {
        CallClass::Unary
    }
}

/// Returns the descriptors of all services but reflection.
fn descriptors() -> FileDescriptorSet {
    let sets = [DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files = sets.into_iter().flat_map(|set| {
        FileDescriptorSet::decode(set).expect("the descriptor set is built in and complete").file
    });
    FileDescriptorSet { file: files.collect() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use prost_types::{MethodDescriptorProto, ServiceDescriptorProto};

    use super::*;

    /// Returns the path and the descriptor of every method.
    pub(crate) fn rpcs() -> Vec<(String, MethodDescriptorProto)> {
        let rpcs = descriptors().file.into_iter().flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |ServiceDescriptorProto { name, method, .. }| {
                let service = format!("/{package}.{}", name.unwrap_or_default());
                method.into_iter().map(move |method| (format!("{service}/{}", method.name()), method))
            })
        });
        rpcs.collect()
    }

    #[test]
    fn the_class_follows_the_descriptor() {
        let class = |path: &str| {
            let service = path.split('/').nth(1).unwrap();
            methods(service).iter().find(|(method, _)| method == path).map(|(_, class)| *class)
        };
        assert_eq!(class("/atomix.runtime.map.v1.Map/Get"), Some(CallClass::Unary));
        assert_eq!(class("/atomix.runtime.map.v1.Map/Events"), Some(CallClass::Streaming));
        assert_eq!(class("/atomix.runtime.map.v1.Map/Lock"), Some(CallClass::Waiting));
        assert_eq!(class("/grpc.health.v1.Health/Watch"), Some(CallClass::Streaming));
        for (path, method) in rpcs() {
            let class = class(&path).unwrap_or_else(|| panic!("{path} has no class"));
            assert_eq!(class == CallClass::Streaming, method.server_streaming(), "{path}");
        }
    }

    #[test]
    fn the_methods_that_wait_are_those_of_locks() {
        let methods = METHODS.values().flatten();
        let waiting: BTreeSet<&str> = methods
            .filter(|(_, class)| *class == CallClass::Waiting)
            .map(|(path, _)| path.as_str())
            .collect();
        let locks = [
            "/atomix.runtime.countermap.v1.CounterMap/Lock",
            "/atomix.runtime.lock.v1.Lock/Lock",
            "/atomix.runtime.map.v1.Map/Lock",
        ];
        assert_eq!(
            waiting,
            locks.into(),
            "a method that waits has no deadline by default: is that right for it?"
        );
    }
}
