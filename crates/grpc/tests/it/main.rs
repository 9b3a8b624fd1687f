// SPDX-License-Identifier: Apache-2.0
//! Every method of the server with its answer, and every reason for which it refuses a call, by generated clients.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::unnecessary_wraps,
    reason = "all of this is test code, which clippy cannot detect outside of test functions; it waits in real time and \
              makes fields of messages"
)]

mod reasons;
mod served;
mod stub_store;

use std::collections::BTreeSet;

use atomix_proto::DESCRIPTOR_SET;
use prost::Message;
use prost_types::FileDescriptorSet;

use served::Served;

/// Makes a test of each package: its function in the module of the same name calls every method of the package.
macro_rules! packages {
    ($($module:ident = $package:literal;)+) => {
        $(mod $module;)+

        /// The packages whose methods are called.
        const PACKAGES: &[&str] = &[$($package),+];

        mod every_method_answers {
            $(
                #[tokio::test]
                async fn $module() {
                    let served = crate::Served::start().await;
                    crate::$module::call(&served).await;
                    let answered = served.answered.lock().clone();
                    let missing: Vec<_> = crate::methods($package).difference(&answered).cloned().collect();
                    assert!(missing.is_empty(), "no answer was seen: {missing:?}");
                    served.stop().await;
                }
            )+
        }
    };
}

packages! {
    counter = "atomix.runtime.counter.v1";
    countermap = "atomix.runtime.countermap.v1";
    election = "atomix.runtime.election.v1";
    health = "grpc.health.v1";
    indexedmap = "atomix.runtime.indexedmap.v1";
    inspect = "atomix.inspect.v1";
    list = "atomix.runtime.list.v1";
    lock = "atomix.runtime.lock.v1";
    map = "atomix.runtime.map.v1";
    multimap = "atomix.runtime.multimap.v1";
    proxy = "atomix.proxy.v1";
    reflection = "grpc.reflection.v1";
    runtime = "atomix.runtime.v1";
    set = "atomix.runtime.set.v1";
    topic = "atomix.runtime.topic.v1";
    value = "atomix.runtime.value.v1";
}

/// Returns the package and the path of every method that the server has.
fn all_methods() -> impl Iterator<Item = (String, String)> {
    let sets = [
        DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file);
    files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let (package, service_name) = (package.clone(), service.name().to_owned());
            service
                .method
                .into_iter()
                .map(move |method| (package.clone(), format!("/{package}.{service_name}/{}", method.name())))
        })
    })
}

/// Returns the paths of the methods of a package.
fn methods(package: &str) -> BTreeSet<String> {
    let of_package: BTreeSet<_> =
        all_methods().filter(|(found, _)| found == package).map(|(_, path)| path).collect();
    assert!(!of_package.is_empty(), "{package} has no methods");
    of_package
}

#[test]
fn every_package_with_a_service_has_a_test() {
    let tested: BTreeSet<String> = PACKAGES.iter().map(|package| (*package).to_owned()).collect();
    let packages: BTreeSet<String> = all_methods().map(|(package, _)| package).collect();
    assert_eq!(packages, tested);
}
