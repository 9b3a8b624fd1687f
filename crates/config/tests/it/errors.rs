// SPDX-License-Identifier: Apache-2.0
//! Every message: what is wrong, what to do, where.

use std::ffi::OsString;

use atomix_config::{FILE_BYTES_MAX, Loader, Problem};

use proptest::prelude::*;

use crate::{ConfigFile, load_toml, load_yaml, only, refused};

fn env(name: &str, value: &str) -> String {
    Loader::new().env([(name, value)]).strict(true).load().expect_err(name).to_string()
}

fn flag(key: &str, value: &str) -> String {
    Loader::new().flags([(key, value)]).load().expect_err(key).to_string()
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    for (text, message) in [
        ("limts: {}", "unknown key, correct or remove it: key=`limts` nearest=`limits` file=`atomix.yaml`"),
        (
            "limits: {valueBytesMax: 1}",
            "unknown key, correct or remove it: key=`limits.valueBytesMax` nearest=`limits.value-bytes-max` \
             file=`atomix.yaml`",
        ),
        (
            "batch-max: 1",
            "unknown key, correct or remove it: key=`batch-max` nearest=`limits.batch-max` file=`atomix.yaml`",
        ),
        ("bogus: 1", "unknown key, correct or remove it: key=`bogus` file=`atomix.yaml`"),
        (
            "stores: [{name: a, driver: {name: m, version: v1}, cfg: {}}]",
            "unknown key, correct or remove it: key=`stores[0].cfg` file=`atomix.yaml`",
        ),
        (
            "routes: [{store: {name: a}, rules: [{type: {name: Map, versoin: v1}}]}]",
            "unknown key, correct or remove it: key=`routes[0].rules[0].type.versoin` \
             nearest=`routes[0].rules[0].type.version` file=`atomix.yaml`",
        ),
        (
            "router: {routes: [{store: {name: a}, rules: []}]}",
            "unknown key, correct or remove it: key=`router.routes[0].rules` file=`atomix.yaml`",
        ),
        (
            "router: {rootes: []}",
            "unknown key, correct or remove it: key=`router.rootes` nearest=`router.routes` file=`atomix.yaml`",
        ),
    ] {
        assert_eq!(refused(text), [message]);
    }
    assert_eq!(
        env("ATOMIX_LIMITS__VALUE_BYTE_MAX", "1"),
        "unknown key, correct or remove it: key=`limits.value-byte-max` nearest=`limits.value-bytes-max` \
         env=`ATOMIX_LIMITS__VALUE_BYTE_MAX`"
    );
    assert_eq!(
        env("ATOMIX_LISTEM", "x"),
        "unknown key, correct or remove it: key=`listem` nearest=`listen` env=`ATOMIX_LISTEM`"
    );
    assert_eq!(
        env("ATOMIX_STORES__0__NAME", "x"),
        "unknown key, correct or remove it: key=`stores.0.name` env=`ATOMIX_STORES__0__NAME`"
    );
    assert_eq!(
        flag("log.levle", "info"),
        "unknown key, correct or remove it: key=`log.levle` nearest=`log.level` flag=`--set log.levle`"
    );
    assert_eq!(
        flag("log.level.x", "info"),
        "unknown key, correct or remove it: key=`log.level.x` flag=`--set log.level.x`"
    );
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    for (text, message) in [
        (
            "limits: {batch-max: 0}",
            "key=`limits.batch-max` value=`0` allowed=`a whole number from 1 to 1000000`",
        ),
        (
            "limits: {batch-max: '5'}",
            "key=`limits.batch-max` value=`5` allowed=`a whole number from 1 to 1000000`",
        ),
        (
            "limits: {value-bytes-max: 65MiB}",
            "key=`limits.value-bytes-max` value=`65MiB` allowed=`a size from 1KiB to 64MiB, such as 65536 or 64KiB`",
        ),
        (
            "limits: {value-bytes-max: -1}",
            "key=`limits.value-bytes-max` value=`-1` allowed=`a size from 1KiB to 64MiB, such as 65536 or 64KiB`",
        ),
        (
            "limits: {ping-interval: 5}",
            "key=`limits.ping-interval` value=`5` allowed=`a duration from 1s to 1h, such as 250ms or 5s`",
        ),
        (
            "drain: {grace: 11m}",
            "key=`drain.grace` value=`11m` allowed=`a duration from 0s to 10m, such as 250ms or 5s`",
        ),
        (
            "sessions: {timeout: 100ms}",
            "key=`sessions.timeout` value=`100ms` allowed=`a duration from 1s to 1h, such as 250ms or 5s`",
        ),
        (
            "sessions: {identity: pod}",
            "key=`sessions.identity` value=`pod` allowed=`one of connection, runtime`",
        ),
        (
            "log: {level: [info]}",
            "key=`log.level` value=`a list` allowed=`one of off, error, warn, info, debug, trace`",
        ),
        ("log:", "key=`log` value=`nothing` allowed=`a table with the keys level, format`"),
        (
            "listen: ':5678'",
            "key=`listen` value=`:5678` allowed=`a list, each item host:port, [v6]:port or unix:PATH`",
        ),
        ("listen: [':5678']", "key=`listen[0]` value=`:5678` allowed=`host:port, [v6]:port or unix:PATH`"),
        ("stores: {}", "key=`stores` value=`a table` allowed=`a list of tables`"),
        (
            "stores: [memory]",
            "key=`stores[0]` value=`a text` allowed=`a table with the keys namespace, name, driver, config`",
        ),
        (
            "stores: [{name: 1, driver: {name: m, version: v1}}]",
            "key=`stores[0].name` value=`1` allowed=`a text`",
        ),
        (
            "stores: [{name: a, driver: {name: m, version: v1}, config: true}]",
            "key=`stores[0].config` value=`true` allowed=`a table`",
        ),
    ] {
        assert_eq!(refused(text), [format!("value not allowed, change it: {message} file=`atomix.yaml`")]);
    }
    assert_eq!(
        env("ATOMIX_LIMITS__BATCH_MAX", "many\n"),
        "value not allowed, change it: key=`limits.batch-max` value=`many` \
         allowed=`a whole number from 1 to 1000000` env=`ATOMIX_LIMITS__BATCH_MAX`"
    );
    assert_eq!(
        flag("drain.grace", ""),
        "value not allowed, change it: key=`drain.grace` value=`` \
         allowed=`a duration from 0s to 10m, such as 250ms or 5s` flag=`--set drain.grace`"
    );
}

#[test]
fn a_missing_key_is_named() {
    assert_eq!(
        refused("stores: [{driver: {version: v1}}]"),
        [
            "required key missing, add it: key=`stores[0].driver.name` file=`atomix.yaml`",
            "required key missing, add it: key=`stores[0].name` file=`atomix.yaml`",
        ]
    );
    assert_eq!(
        refused("routes: [{tags: [a]}]"),
        ["required key missing, add it: key=`routes[0].store` file=`atomix.yaml`"]
    );
}

#[test]
fn a_key_of_the_original_server_names_what_replaces_it() {
    assert_eq!(
        refused("server: {maxRecvMsgSize: 1, maxConcurrentStreams: 2, numStreamWorkers: 3, bogus: 4}"),
        [
            "unknown key, correct or remove it: key=`server.bogus` file=`atomix.yaml`",
            "key of the original proxy, set `limits.streams-per-connection-max` instead: \
             key=`server.maxConcurrentStreams` file=`atomix.yaml`",
            "key of the original proxy, set `limits.message-bytes-max` instead: key=`server.maxRecvMsgSize` \
             file=`atomix.yaml`",
            "key of the original proxy, remove it, nothing takes its place: key=`server.numStreamWorkers` \
             file=`atomix.yaml`",
        ]
    );
}

#[test]
fn routes_under_two_names_are_refused() {
    assert_eq!(
        refused("routes: []\nrouter: {routes: []}"),
        ["two keys for one setting, keep one: key=`routes` other=`router.routes` file=`atomix.yaml`"]
    );
    let variables = [("ATOMIX_ROUTES", "[]"), ("ATOMIX_ROUTER__ROUTES", "[]")];
    assert_eq!(
        Loader::new().env(variables).load().expect_err("both").to_string(),
        "two keys for one setting, keep one: key=`routes` other=`router.routes` env=`ATOMIX_ROUTES`"
    );
    assert!(Loader::new().env([variables[0]]).flags([("router.routes", "[]")]).load().is_ok());
}

#[test]
fn routes_of_two_styles_are_refused() {
    let message = |seed, later| {
        format!(
            "routes of two styles, give all of them `tags` and `services` or all of them `rules`: \
             seed=`routes[{seed}]` later=`routes[{later}]` file=`atomix.yaml`"
        )
    };
    assert_eq!(
        refused("routes: [{store: {name: a}}, {store: {name: a}, tags: []}, {store: {name: a}, rules: []}]"),
        [message(1, 2)]
    );
    assert_eq!(refused("routes: [{store: {name: a}, services: [], rules: []}]"), [message(0, 0)]);
}

#[test]
fn doubles_are_refused() {
    assert_eq!(
        refused(
            "stores: [{name: a, namespace: n, driver: {name: memory, version: v1}}, \
             {name: a, namespace: n, driver: {name: other, version: v1}}]"
        ),
        ["two stores with one identity, rename or remove one: store=`n/a` file=`atomix.yaml`"]
    );
    assert_eq!(
        refused("control: ['127.0.0.1:1', '127.0.0.1:1']"),
        ["address given twice, remove one: key=`control` address=`127.0.0.1:1` file=`atomix.yaml`"]
    );
    assert!(Loader::new().flags([("listen", "127.0.0.1:0,127.0.0.1:0")]).load().is_ok());
}

#[test]
fn no_address_at_all_is_refused() {
    assert_eq!(refused("listen: []\ncontrol: []"), ["no address to listen on, set `listen` or `control`"]);
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let missing = Loader::new().file("does/not/exist.yaml").load().expect_err("missing");
    let message = missing.to_string();
    assert!(
        message.starts_with(
            "configuration file not readable, check path and rights: file=`does/not/exist.yaml` reason="
        ),
        "{message}"
    );
    let json = ConfigFile::new("atomix.json", "{}").load().expect_err("json");
    assert!(matches!(only(&json), Problem::FileFormat { .. }));
    assert!(
        json.to_string()
            .starts_with("format of the configuration file unknown, name it .yaml, .yml or .toml: file=`")
    );
    let size = usize::try_from(FILE_BYTES_MAX).unwrap() + 1;
    let large = ConfigFile::new("atomix.yaml", &"#".repeat(size)).load().expect_err("large");
    assert!(
        large.to_string().starts_with("configuration file too large, check that it is the right one: file=`")
    );
    assert!(large.to_string().ends_with("max=`4MiB`"));
    // Not UTF-8.
    let file = ConfigFile::new("atomix.yaml", "");
    std::fs::write(&file.path, [b'a', 0xff]).unwrap();
    assert!(matches!(only(&file.load().expect_err("bytes")), Problem::FileUnreadable { .. }));
}

#[test]
fn wrong_syntax_is_named_without_quoting_the_file() {
    let yaml = refused("stores: [{config: {password: \"hunter2}}]");
    assert!(yaml[0].starts_with("syntax not valid, correct it: reason=`"), "{yaml:?}");
    assert!(yaml[0].ends_with(" file=`atomix.yaml`") && !yaml[0].contains("hunter2"), "{yaml:?}");
    let toml = load_toml("a = 1\npassword = hunter2").expect_err("no quotes").to_string();
    assert!(toml.contains("at line 2") && !toml.contains("hunter2"), "{toml}");
    let list = refused("[1]");
    let message = "syntax not valid, correct it: reason=`the file is not a table of keys and values` file=`atomix.yaml`";
    assert_eq!(list, [message]);
    let variable = env("ATOMIX_STORES", "[{password: \"hunter2]");
    assert!(variable.starts_with("syntax not valid, correct it: key=`stores` reason=`"), "{variable}");
    assert!(variable.ends_with(" env=`ATOMIX_STORES`") && !variable.contains("hunter2"), "{variable}");
}

#[cfg(unix)]
#[test]
fn variables_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;

    let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
    let load =
        |name: &[u8], value: &[u8]| Loader::new().env([(bytes(name), bytes(value))]).strict(true).load();
    assert_eq!(
        load(b"ATOMIX_LOG__LEVEL", b"\xff").expect_err("value").to_string(),
        "syntax not valid, correct it: key=`log.level` reason=`the value is not UTF-8` env=`ATOMIX_LOG__LEVEL`"
    );
    assert!(matches!(only(&load(b"ATOMIX_\xff", b"x").expect_err("name")), Problem::UnknownKey { .. }));
    // Variables without the prefix are ignored.
    assert!(load(b"OTHER_\xff", b"\xff").is_ok());
}

#[test]
fn both_ports_on_one_address_are_refused() {
    assert_eq!(
        refused("listen: ['127.0.0.1:1', 'unix:/run/a']\ncontrol: ['unix:/run/a']"),
        [
            "one address for `listen` and `control`, give each its own: address=`unix:/run/a` file=`atomix.yaml`"
        ]
    );
    assert!(load_yaml("listen: ['127.0.0.1:0']\ncontrol: ['127.0.0.1:0']").is_ok());
    assert!(load_yaml("listen: ['127.0.0.1:5679']").is_err(), "the default of the other");
}

#[test]
fn a_hidden_secret_does_not_come_back() {
    assert_eq!(
        refused("stores: [{name: a, driver: {name: redis, version: v9}, config: {Password: (hidden)}}]"),
        [
            "secret left hidden by --print-config, put the real value in: key=`stores[0].config.Password` file=`atomix.yaml`"
        ]
    );
}

#[test]
fn all_problems_of_all_layers_are_reported_at_once_up_to_a_bound() {
    let file = ConfigFile::new("atomix.yaml", "bogus: 1\nlimits: {batch-max: 0}");
    let error = Loader::new()
        .file(&file.path)
        .env([("ATOMIX_WRONG", "x")])
        .strict(true)
        .flags([("log.level", "loud")])
        .load()
        .expect_err("four");
    assert_eq!(error.problems().len(), 4);
    assert_eq!(error.to_string().lines().count(), 4);

    let flags = (0..100).map(|number| (format!("x{number}"), ""));
    let error = Loader::new().flags(flags).load().expect_err("many");
    assert_eq!(error.problems().len(), 32);
    assert!(error.to_string().ends_with("\nmore problems left out: count=`68`"));
}

#[test]
fn hostile_names_are_printed_on_one_line_and_short() {
    let deep = format!("ATOMIX_{}", "A__".repeat(20_000));
    let message = env(&deep, "x");
    assert!(message.len() < 1000, "{}", message.len());
    let message = flag("a\nb\u{2028}c", "x");
    assert_eq!(message.lines().count(), 1);
    assert!(!message.contains('\u{2028}'));
}

/// Paths that reach every part of the schema, and texts that look like something.
fn nearly_valid() -> impl Strategy<Value = (String, String)> {
    let key = "(stores|routes|router\\.routes|server\\.x|limits|log|listen|limits\\.(batch-max|ping-interval)|[a-z.-]{0,9})";
    let value = "[\\[{]{0,3}(store|name|tags|rules|driver|a|5|-1|1s|1KiB|::|:|, |: |[ -~é]){0,9}[\\]}]{0,3}";
    (key, value)
}

proptest! {
    #[test]
    fn any_flag_is_taken_or_refused_without_panic(flags in prop::collection::vec(nearly_valid(), 0..4)) {
        match Loader::new().flags(flags).load() {
            Ok(loaded) => prop_assert!(!loaded.render_with_origins(|store| store.config.clone()).is_empty()),
            Err(error) => prop_assert!(!error.problems().is_empty()),
        }
    }
}
