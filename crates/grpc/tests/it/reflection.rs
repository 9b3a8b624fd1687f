// SPDX-License-Identifier: Apache-2.0

use futures::stream;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::ServerReflectionRequest;

use crate::served::{Recorder, Served, next};

async fn services(port: Recorder) -> Vec<String> {
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = ServerReflectionClient::new(port);
    let asked = stream::iter([request]);
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    match next(&mut answers).await.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn call(served: &Served) {
    let of_primitives = services(served.primitives().await).await;
    let of_control = services(served.control().await).await;
    let has = |services: &[String], name: &str| services.iter().any(|service| service == name);
    for (package, path) in crate::all_methods() {
        let service = path.split('/').nth(1).unwrap();
        let expected = match package.as_str() {
            "grpc.health.v1" | "grpc.reflection.v1" => (true, true),
            "atomix.inspect.v1" | "atomix.proxy.v1" | "atomix.runtime.v1" => (false, true),
            _ => (true, false),
        };
        assert_eq!((has(&of_primitives, service), has(&of_control, service)), expected, "{service}");
    }
}
