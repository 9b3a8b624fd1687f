// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.v1.Runtime` of both generations, and `atomix.proxy.v1.Proxy`: one object behind three faces.

use atomix_config::{DriverId, LaterRoute, PrimitiveType, Rule};
use atomix_primitives::Error;
use atomix_proto::{proxy, runtime};
use atomix_runtime::Routes;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::call::{Services, services};
use crate::convert::store_id;
use crate::decode::decode_config;
use crate::status::status;

services!(proxy::proxy_server::ProxyServer, runtime::runtime_server::RuntimeServer);

#[tonic::async_trait]
impl runtime::runtime_server::Runtime for Services {
    async fn program(
        &self,
        request: Request<runtime::ProgramRequest>,
    ) -> Result<Response<runtime::ProgramResponse>, Status> {
        let routes: Result<Vec<_>, _> = request.into_inner().routes.into_iter().map(route).collect();
        let routes = routes.map_err(status)?;
        let count = routes.len();
        self.runtime.program(Routes::Later(routes)).map_err(status)?;
        tracing::info!(routes = count, "routes are programmed; the configuration has others after a restart");
        Ok(Response::new(runtime::ProgramResponse {}))
    }

    async fn connect(
        &self,
        request: Request<runtime::ConnectRequest>,
    ) -> Result<Response<runtime::ConnectResponse>, Status> {
        let request = request.into_inner();
        let driver = request.driver_id.unwrap_or_default();
        let driver = DriverId { name: driver.name, version: driver.version };
        self.connect_store(request.store_id, driver, &request.config).await.map_err(status)?;
        Ok(Response::new(runtime::ConnectResponse {}))
    }

    async fn configure(
        &self,
        request: Request<runtime::ConfigureRequest>,
    ) -> Result<Response<runtime::ConfigureResponse>, Status> {
        let request = request.into_inner();
        self.configure_store(request.store_id, &request.config).await.map_err(status)?;
        Ok(Response::new(runtime::ConfigureResponse {}))
    }

    async fn disconnect(
        &self,
        request: Request<runtime::DisconnectRequest>,
    ) -> Result<Response<runtime::DisconnectResponse>, Status> {
        self.runtime.disconnect(&store_id(request.into_inner().store_id)).await.map_err(status)?;
        Ok(Response::new(runtime::DisconnectResponse {}))
    }
}

#[tonic::async_trait]
impl proxy::proxy_server::Proxy for Services {
    async fn connect(
        &self,
        request: Request<proxy::ConnectRequest>,
    ) -> Result<Response<proxy::ConnectResponse>, Status> {
        let request = request.into_inner();
        let driver = request.driver_id.unwrap_or_default();
        let driver = DriverId { name: driver.name, version: driver.version };
        self.connect_store(request.store_id.map(seed_id), driver, &request.config).await.map_err(status)?;
        Ok(Response::new(proxy::ConnectResponse {}))
    }

    async fn configure(
        &self,
        request: Request<proxy::ConfigureRequest>,
    ) -> Result<Response<proxy::ConfigureResponse>, Status> {
        let request = request.into_inner();
        self.configure_store(request.store_id.map(seed_id), &request.config).await.map_err(status)?;
        Ok(Response::new(proxy::ConfigureResponse {}))
    }

    async fn disconnect(
        &self,
        request: Request<proxy::DisconnectRequest>,
    ) -> Result<Response<proxy::DisconnectResponse>, Status> {
        let id = store_id(request.into_inner().store_id.map(seed_id));
        self.runtime.disconnect(&id).await.map_err(status)?;
        Ok(Response::new(proxy::DisconnectResponse {}))
    }
}

impl Services {
    async fn connect_store(
        &self,
        id: Option<runtime::StoreId>,
        driver: DriverId,
        config: &Bytes,
    ) -> Result<(), Error> {
        let id = store_id(id);
        self.runtime.connect(id.clone(), driver, decode_config(config)?).await?;
        tracing::info!(
            store = %id,
            "store is connected by a call; a restart loses it unless the configuration has it"
        );
        Ok(())
    }

    async fn configure_store(&self, id: Option<runtime::StoreId>, config: &Bytes) -> Result<(), Error> {
        self.runtime.configure(&store_id(id), decode_config(config)?).await
    }
}

fn seed_id(id: proxy::StoreId) -> runtime::StoreId {
    runtime::StoreId { namespace: id.namespace, name: id.name }
}

fn route(route: runtime::ProgramRoute) -> Result<LaterRoute, Error> {
    let rules: Result<Vec<Rule>, Error> = route.rules.into_iter().map(rule).collect();
    Ok(LaterRoute { store: store_id(route.store_id), rules: rules? })
}

fn rule(rule: runtime::RoutingRule) -> Result<Rule, Error> {
    // Go peers always send the type, also when it is empty.
    let primitive_type = rule.r#type.filter(|of| !of.name.is_empty());
    Ok(Rule {
        primitive_type: primitive_type.map(|of| PrimitiveType { name: of.name, version: of.api_version }),
        names: rule.names,
        tags: rule.tags,
        config: decode_config(&rule.config)?,
    })
}
