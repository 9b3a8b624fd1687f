// SPDX-License-Identifier: Apache-2.0
//! The class of each method: from the descriptors, and one table of the unary methods that wait.

use std::collections::HashMap;
use std::sync::LazyLock;

use atomix_proto::DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;

/// The class of a method, which decides about its deadline and about its behaviour when the runtime drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallClass {
    /// Answers at once. Has a deadline.
    Unary,
    /// Waits for other clients before it answers. Ends with its own deadline, if it has one, or with the drain.
    Waiting,
    /// Answers with a stream. Ends with the drain.
    Streaming,
}

/// The paths of the unary methods that wait for other clients. The descriptors do not show this property.
const WAITING: [&str; 3] = [
    "/atomix.runtime.countermap.v1.CounterMap/Lock",
    "/atomix.runtime.lock.v1.Lock/Lock",
    "/atomix.runtime.map.v1.Map/Lock",
];

/// The methods of all services that have descriptors, by service: path and class of each.
static METHODS: LazyLock<HashMap<String, Vec<(String, CallClass)>>> = LazyLock::new(|| {
    let services = descriptors().file.into_iter().flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| {
            let name = format!("{package}.{}", service.name());
            let methods = service.method.iter().map(|method| {
                let path = format!("/{name}/{}", method.name());
                let class = class(&path, method.server_streaming());
                (path, class)
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

fn class(path: &str, streams: bool) -> CallClass {
    if streams {
        CallClass::Streaming
    } else if WAITING.contains(&path) {
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
    fn the_class_follows_the_descriptor_and_the_table() {
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
    fn exactly_the_unary_methods_whose_request_has_a_timeout_wait() {
        let messages: HashMap<String, bool> = descriptors()
            .file
            .iter()
            .flat_map(|file| {
                file.message_type.iter().map(|message| {
                    let has_timeout = message.field.iter().any(|field| field.name() == "timeout");
                    (format!(".{}.{}", file.package(), message.name()), has_timeout)
                })
            })
            .collect();
        let with_timeout: BTreeSet<String> = rpcs()
            .into_iter()
            .filter(|(_, method)| !method.server_streaming() && messages[method.input_type()])
            .map(|(path, _)| path)
            .collect();
        assert_eq!(with_timeout, WAITING.map(str::to_owned).into(), "a method that waits needs an entry");
    }
}
