// SPDX-License-Identifier: Apache-2.0
//! The printed configuration.

use atomix_config::{Config, JsonObject, Loader, StoreSpec};
use serde_json::json;

use crate::{ConfigFile, load_yaml};

fn all(store: &StoreSpec) -> JsonObject {
    store.config.clone()
}

#[test]
fn every_value_is_printed_with_its_origin() {
    let file = ConfigFile::new("atomix.yaml", "stores: [{name: m, driver: {name: memory, version: v1}}]");
    let loaded = Loader::new()
        .file(&file.path)
        .env([("ATOMIX_LIMITS__VALUE_BYTES_MAX", "2097152")])
        .flag("listen", "listen", ["127.0.0.1:0"])
        .load()
        .unwrap();
    let text = loaded.render_with_origins(all).replace(&file.path.display().to_string(), "atomix.yaml");
    let (head, limits) = text.split_once("limits:\n").unwrap();
    assert_eq!(
        head,
        r#"# routes are not set: everything goes to the first store  # default
listen: ["127.0.0.1:0"]  # flag --listen
control: ["127.0.0.1:5679"]  # default
workers: 0  # default
stores:  # file atomix.yaml
  - namespace: ""  # default
    name: "m"  # file atomix.yaml
    driver:
      name: "memory"  # file atomix.yaml
      version: "v1"  # file atomix.yaml
    config: {}  # default
sessions:
  identity: connection  # default
  timeout: 10s  # default
  clock-skew-max: 10s  # default
sockets:
  mode: "auto"  # default
  group: ""  # default
  control-mode: "0600"  # default
  control-group: ""  # default
"#
    );
    assert!(limits.contains("\n  value-bytes-max: 2MiB  # env ATOMIX_LIMITS__VALUE_BYTES_MAX\n"), "{limits}");
    assert!(limits.ends_with(
        "drain:\n  grace: 10s  # default\nlog:\n  level: info  # default\n  format: text  # default\n"
    ));
}

#[test]
fn what_is_printed_reads_back() {
    let texts = [
        "",
        "routes: []\nstores: []\ncontrol: []",
        "log: {level: off}\nlimits: {idle-timeout: 1m1ms, stream-window: 65537}",
        "routes: [{store: {name: a}, tags: [x, '5'], services: [{name: s, config: {a: {b: [1, null, -2.5]}}}]}]",
        "router: {routes: [{store: {name: a}}]}",
        "routes: [{store: {name: a}}, {store: {name: b}, rules: [{}, {type: {name: Set}, names: ['*', 'no']}]}]",
        "stores: [{name: \"q\\\"\\\\\\n\\t\\u2028 # é 😀 \\0\", driver: {name: 'true', version: '1.0'}, \
         config: {\"a: b\": '~', off: on, s: ' x '}}]",
    ];
    for text in texts {
        let loaded = load_yaml(text).unwrap();
        let printed = loaded.render_with_origins(all);
        let again = load_yaml(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(again.config, loaded.config, "{printed}");
    }
}

#[test]
fn default_is_printed_with_nothing_but_defaults() {
    let printed = Loader::new().load().unwrap().render_with_origins(all);
    for line in printed.lines() {
        assert!(line.ends_with(':') || line.ends_with("  # default"), "{line}");
    }
    assert_eq!(load_yaml(&printed).unwrap().config, Config::default());
}

#[test]
fn of_stores_only_what_may_be_shown_is_printed() {
    let text = "stores: [{name: a, driver: {name: redis, version: v9}, config: {Password: hunter2, DB: 3}}]";
    let loaded = load_yaml(text).unwrap();
    assert_eq!(loaded.config.stores[0].config["Password"], json!("hunter2"));
    let printed = loaded.render_with_origins(|store| {
        assert_eq!(store.driver.name, "redis");
        store.config.keys().map(|key| (key.clone(), json!("(hidden)"))).collect()
    });
    assert!(printed.contains(r#"config: {"DB": "(hidden)", "Password": "(hidden)"}  # file"#), "{printed}");
    let sources = Loader::new().env([("ATOMIX_STORES", text)]).flags([("stores", text)]);
    for shown in [printed, format!("{loaded:?}"), format!("{:#?}", loaded.config), format!("{sources:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_text_in_the_place_of_a_table_is_not_repeated() {
    for key in ["stores", "routes", "limits"] {
        let refused = Loader::new().flags([(key, "hunter2 hunter2")]).load().unwrap_err().to_string();
        assert!(!refused.contains("hunter2") && refused.contains("value=`a text`"), "{refused}");
    }
}
