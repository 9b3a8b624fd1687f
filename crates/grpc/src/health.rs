// SPDX-License-Identifier: Apache-2.0
//! `grpc.health.v1.Health`: of the process, of each service, and of each store as `store:NAMESPACE/NAME`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atomix_config::StoreId;
use atomix_primitives::{Error, Reason};
use atomix_runtime::{Runtime, StoreState};
use futures::stream::{self, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::pb;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::call::Answers;
use crate::status::status;

#[derive(Debug, Clone)]
pub(crate) struct Health {
    runtime: Arc<Runtime>,
    services: Arc<BTreeSet<String>>,
}

/// The interval in which a watch checks the state. Probes of orchestrators run every few seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

// === impl Health ===

impl Health {
    /// Makes the health of a port that offers `services`.
    pub(crate) fn new(runtime: Arc<Runtime>, services: impl IntoIterator<Item = &'static str>) -> Self {
        Self { runtime, services: Arc::new(services.into_iter().map(str::to_owned).collect()) }
    }

    /// Returns `None` for a service that is not known.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let healthy = if let Some(id) = service.strip_prefix("store:") {
            let (namespace, name) = id.rsplit_once('/').unwrap_or(("", id));
            let id = StoreId { namespace: namespace.to_owned(), name: name.to_owned() };
            self.runtime.store(&id)?.status().0 == StoreState::Ready
        } else if service.is_empty() || self.services.contains(service) {
            true
        } else {
            return None;
        };
        let serving = healthy && !self.runtime.is_draining();
        Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

#[tonic::async_trait]
impl pb::health_server::Health for Health {
    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let unknown = || status(Error::new(Reason::NotKnown, "no such service or store"));
        let serving = self.status(&service).ok_or_else(unknown)?;
        Ok(Response::new(pb::HealthCheckResponse { status: serving.into() }))
    }

    type WatchStream = Answers<pb::HealthCheckResponse>;

    /// The current state first, then every change. Ends with the runtime.
    async fn watch(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let states = stream::unfold((self.clone(), service, None), |(health, service, shown)| async move {
            loop {
                let serving = health.status(&service).unwrap_or(ServingStatus::ServiceUnknown);
                if shown != Some(serving) {
                    let answer = pb::HealthCheckResponse { status: serving.into() };
                    return Some((Ok(answer), (health, service, Some(serving))));
                }
                if health.runtime.is_draining() {
                    return None;
                }
                health.runtime.env().sleep(LOOK_INTERVAL).await;
            }
        });
        Ok(Response::new(states.boxed()))
    }
}
