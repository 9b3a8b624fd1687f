// SPDX-License-Identifier: Apache-2.0
//! Both styles of routes and the original's file.

use atomix_config::{LaterRoute, Loader, PrimitiveType, Routes, Rule, SeedRoute, Service, StoreId, Warning};
use serde_json::{Value, json};

use crate::{load_toml, load_yaml};

fn store(namespace: &str, name: &str) -> StoreId {
    StoreId { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn object(value: &Value) -> atomix_config::JsonObject {
    value.as_object().expect("an object").clone()
}

#[test]
fn routes_of_the_seed_style_are_read() {
    let loaded = load_yaml(
        "routes:\n\
         - store: {namespace: n, name: memory}\n  tags: [a, b]\n  services:\n  \
           - {name: atomix.runtime.map.v1.Map, config: {cache: {enabled: true, size: 3}}}\n\
         - store: {name: memory}\n",
    )
    .unwrap();
    let expected = Routes::Seed(vec![
        SeedRoute {
            store: store("n", "memory"),
            tags: texts(&["a", "b"]),
            services: vec![Service {
                name: "atomix.runtime.map.v1.Map".to_owned(),
                config: object(&json!({"cache": {"enabled": true, "size": 3}})),
            }],
        },
        SeedRoute { store: store("", "memory"), tags: vec![], services: vec![] },
    ]);
    assert_eq!(loaded.config.routes, expected);
    let warning = Warning::RouteStoreAbsent { key: "routes[0]".to_owned(), store: store("n", "memory") };
    assert_eq!(
        warning.to_string(),
        "store of a route not configured, connect it later or add it to `stores`: key=`routes[0]` store=`n/memory`"
    );
    assert_eq!(loaded.warnings, [warning]);
}

#[test]
fn routes_of_the_later_style_are_read() {
    let loaded = load_yaml(
        "routes:\n\
         - store: {name: memory}\n  rules:\n  \
           - {type: {name: Map, version: v1}, names: ['*'], tags: [x], config: {cache: {size: '3'}}}\n  - {}\n\
         - store: {name: memory}\n",
    )
    .unwrap();
    let expected = Routes::Later(vec![
        LaterRoute {
            store: store("", "memory"),
            rules: vec![
                Rule {
                    primitive_type: Some(PrimitiveType { name: "Map".to_owned(), version: "v1".to_owned() }),
                    names: texts(&["*"]),
                    tags: texts(&["x"]),
                    config: object(&json!({"cache": {"size": "3"}})),
                },
                Rule::default(),
            ],
        },
        LaterRoute { store: store("", "memory"), rules: vec![] },
    ]);
    assert_eq!(loaded.config.routes, expected);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn an_empty_list_of_routes_is_not_an_absent_one() {
    assert_eq!(load_yaml("routes: []").unwrap().config.routes, Routes::Later(vec![]));
    assert_eq!(load_yaml("log: {}").unwrap().config.routes, Routes::Absent);
}

#[test]
fn the_file_of_the_original_proxy_is_read() {
    let yaml = "server: {}\n\
                router:\n  routes:\n  \
                - store: {namespace: n, name: s}\n    tags: [a]\n    \
                  services: [{name: atomix.runtime.map.v1.Map, config: {cache: {enabled: true}}}]\n  \
                - store: {namespace: n, name: t}\n";
    let routes = load_yaml(yaml).unwrap().config.routes;
    let toml = "[[router.routes]]\nstore = {namespace = 'n', name = 's'}\ntags = ['a']\n\
                [[router.routes.services]]\nname = 'atomix.runtime.map.v1.Map'\nconfig.cache.enabled = true\n\
                [[router.routes]]\nstore = {namespace = 'n', name = 't'}\n";
    assert_eq!(load_toml(toml).unwrap().config.routes, routes);
    let Routes::Seed(routes) = routes else { panic!("not of the seed style: {routes:?}") };
    assert_eq!(routes[0].tags, ["a"]);
    assert_eq!(routes[1], SeedRoute { store: store("n", "t"), tags: vec![], services: vec![] });

    // Even without tags and services the position decides about the style.
    let bare = Loader::new().env([("ATOMIX_ROUTER__ROUTES", "[{store: {name: s}}]")]).load().unwrap();
    assert!(matches!(bare.config.routes, Routes::Seed(_)));
    assert_eq!(load_yaml("router: {}").unwrap().config.routes, Routes::Absent);
}

#[test]
fn a_rule_names_its_type_in_either_way() {
    let rules = |rule: &str| load_yaml(&format!("routes: [{{store: {{name: memory}}, rules: [{rule}]}}]"));
    let routes = |rule: &str| rules(rule).unwrap().config.routes;
    assert_eq!(routes("{kind: Map}"), routes("{type: {name: Map}}"));
    assert_eq!(
        routes("{kind: Map, version: v1, tags: [x]}"),
        routes("{type: {name: Map, version: v1}, tags: [x]}")
    );
    for both in ["{kind: Map, type: {name: Map}}", "{version: v1}"] {
        assert!(rules(both).unwrap_err().to_string().starts_with("unknown key"), "{both}");
    }
}
