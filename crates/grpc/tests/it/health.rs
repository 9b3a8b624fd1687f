// SPDX-License-Identifier: Apache-2.0

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::served::{Served, next};

pub(crate) async fn call(served: &Served) {
    let ports = [
        (served.primitives().await, "atomix.runtime.map.v1.Map"),
        (served.control().await, "atomix.inspect.v1.Inspector"),
    ];
    for (port, own) in ports {
        let mut health = HealthClient::new(port);
        for service in ["", "store:store", own] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = health.check(request.clone()).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
            let mut states = health.watch(request).await.unwrap().into_inner();
            assert_eq!(next(&mut states).await.status(), ServingStatus::Serving, "{service}");
        }
    }
}
