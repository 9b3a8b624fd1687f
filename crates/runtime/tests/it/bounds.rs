// SPDX-License-Identifier: Apache-2.0
//! Stores and routes have bounds.

use std::sync::Arc;

use atomix_config::{Config, DriverId, JsonObject, LaterRoute};
use atomix_driver_memory::MemoryDriver;
use atomix_env::Env;
use atomix_runtime::{Routes, Runtime, Settings};

use crate::ground::store;

fn runtime() -> Arc<Runtime> {
    let mut config = Config::default();
    config.limits.stores_max = 2;
    config.limits.routes_max = 3;
    Runtime::new(Settings::new(&config, Env::real(), vec![Arc::new(MemoryDriver)]))
}

#[tokio::test]
async fn one_store_more_than_allowed_is_refused_until_another_is_disconnected() {
    let runtime = runtime();
    let connect = |name: &'static str| {
        let driver = DriverId { name: "memory".to_owned(), version: "v1".to_owned() };
        runtime.connect(store(name), driver, JsonObject::new())
    };
    connect("a").await.unwrap();
    connect("b").await.unwrap();
    let error = connect("c").await.unwrap_err();
    assert!(error.message().contains("limits.stores-max"), "{error}");
    runtime.disconnect(&store("a")).await.unwrap();
    connect("c").await.unwrap();
}

#[tokio::test]
async fn more_routes_than_allowed_are_refused_and_change_nothing() {
    let runtime = runtime();
    let program = |count: usize| {
        let route = LaterRoute { store: store("a"), rules: Vec::new() };
        runtime.program(Routes::Later(vec![route; count]))
    };
    program(3).unwrap();
    let error = program(4).unwrap_err();
    assert!(error.message().contains("routes=`4`"), "{error}");
    assert!(matches!(runtime.routes().as_deref(), Some(Routes::Later(routes)) if routes.len() == 3));
}
