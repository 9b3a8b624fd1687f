// SPDX-License-Identifier: Apache-2.0
//! Checks of a configuration that drivers and routes make.

use atomix_config::{Config, LaterRoute, Loaded, Routes as RouteConfig, StoreId, StoreSpec};
use atomix_primitives::{Error, Reason};
use atomix_runtime::{Routes, Runtime};

/// Returns what drivers and routes refuse, a line each: the types of the configuration cannot know it.
pub(crate) fn mistakes(loaded: &Loaded, runtime: &Runtime) -> Vec<String> {
    let config = &loaded.config;
    let mut mistakes = Vec::new();
    for (index, store) in config.stores.iter().enumerate() {
        if let Err(error) = runtime.check_store(&store.driver, &store.config) {
            let part = if error.reason() == Reason::DriverUnknown { "driver" } else { "config" };
            mistakes.push((format!("stores[{index}].{part}"), error));
        }
    }
    mistakes.extend(routes(config).iter().flat_map(Routes::mistakes));
    mistakes.extend(strays(config));
    let line =
        |(key, error): (String, Error)| format!("{error} key=`{key}`{}", loaded.origin_around(&key).fact());
    mistakes.into_iter().map(line).collect()
}

/// Returns the routes that lead to stores which are not there. Without any store in the configuration all are connected
/// later, and routes may wait for them.
fn strays(config: &Config) -> Vec<(String, Error)> {
    let leads_to: Vec<&StoreId> = match &config.routes {
        RouteConfig::Absent => Vec::new(),
        RouteConfig::Seed(routes) => routes.iter().map(|route| &route.store).collect(),
        RouteConfig::Later(routes) => routes.iter().map(|route| &route.store).collect(),
    };
    let stores: Vec<StoreId> = config.stores.iter().map(StoreSpec::id).collect();
    if stores.is_empty() {
        return Vec::new();
    }
    let known = || stores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let stray = |(index, store): (usize, &StoreId)| {
        let message = format!(
            "a route leads to a store that is not configured: add the store or remove the route (`--data` takes the place of all stores of the configuration): store=`{store}` stores=`{}`",
            known()
        );
        (format!("routes[{index}].store"), Error::invalid(message))
    };
    leads_to.into_iter().enumerate().filter(|(_, store)| !stores.contains(store)).map(stray).collect()
}

/// Without routes in the configuration everything goes to the first store.
pub(crate) fn routes(config: &Config) -> Option<Routes> {
    match &config.routes {
        RouteConfig::Absent => {
            let store: StoreId = config.stores.first()?.id();
            Some(Routes::Later(vec![LaterRoute { store, rules: Vec::new() }]))
        }
        RouteConfig::Seed(routes) => Some(Routes::Seed(routes.clone())),
        RouteConfig::Later(routes) => Some(Routes::Later(routes.clone())),
    }
}
