// SPDX-License-Identifier: Apache-2.0
//! Which layer wins, and how each is written.

use std::time::Duration;

use atomix_config::{
    ByteSize, Config, DriverId, Identity, Limits, Listen, Loader, LogFormat, LogLevel, Origin, StoreId,
    StoreSpec, Warning,
};
use serde_json::json;

use crate::{ConfigFile, load_toml, load_yaml};

#[test]
fn default_is_nothing_loaded() {
    let loaded = Loader::new().load().unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
    for text in ["", "# nothing\n", "{}"] {
        assert_eq!(load_yaml(text).unwrap().config, Config::default());
    }
    assert_eq!(load_toml("").unwrap().config, Config::default());
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = Config::default();
    assert_eq!(config.listen, [Listen::tcp("127.0.0.1", 5678)]);
    assert_eq!(config.control, [Listen::tcp("127.0.0.1", 5679)]);
    assert_eq!(config.stores, [StoreSpec::memory()]);
    assert!(config.routes.is_absent());
    assert_eq!(config.sessions.identity, Identity::Connection);
    assert_eq!(config.drain.grace.get(), Duration::from_secs(10));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Text));
    let Limits {
        streams_per_connection_max,
        local_reset_streams_max,
        pending_reset_streams_max,
        header_list_bytes_max,
        message_bytes_max,
        value_bytes_max,
        key_bytes_max,
        name_bytes_max,
        batch_max,
        stream_window,
        connection_window,
        ping_interval,
        ping_timeout,
        preface_timeout,
        connections_max,
        connections_per_peer_max,
        control_connections_max,
        pings_per_second_max,
        idle_timeout,
        stream_send_bytes_max,
        connection_send_bytes_max,
        connection_receive_bytes_max,
        buffers_bytes_max,
        waiters_per_name_max,
        call_deadline_default,
        primitives_max,
        stores_max,
        routes_max,
    } = config.limits;
    assert_eq!(
        [streams_per_connection_max, local_reset_streams_max, pending_reset_streams_max],
        [1500, 1024, 20]
    );
    assert_eq!([connections_max, connections_per_peer_max, pings_per_second_max], [10_000, 1000, 10]);
    assert_eq!([waiters_per_name_max, batch_max], [10_000, 10_000]);
    assert_eq!((primitives_max, control_connections_max), (1_000_000, 256));
    assert_eq!((stores_max, routes_max), (100, 10_000));
    let sizes = [
        (buffers_bytes_max, 1 << 30),
        (header_list_bytes_max, 16 << 10),
        (message_bytes_max, 4 << 20),
        (value_bytes_max, 1 << 20),
        (key_bytes_max, 4096),
        (name_bytes_max, 1024),
        (stream_window, 64 << 10),
        (connection_window, 1 << 20),
        (stream_send_bytes_max, 1 << 20),
        (connection_receive_bytes_max, 8 << 20),
        (connection_send_bytes_max, 4 << 20),
    ];
    for (size, bytes) in sizes {
        assert_eq!(size.bytes(), bytes);
    }
    let spans = [
        (ping_interval, 30),
        (ping_timeout, 10),
        (preface_timeout, 5),
        (idle_timeout, 900),
        (call_deadline_default, 10),
    ];
    for (span, seconds) in spans {
        assert_eq!(span.get(), Duration::from_secs(seconds));
    }
}

#[test]
fn a_later_layer_wins() {
    let file =
        ConfigFile::new("atomix.yaml", "limits: {batch-max: 2, key-bytes-max: 2KiB, name-bytes-max: 512}");
    let with_file = || Loader::new().file(&file.path);
    let env =
        [("ATOMIX_LIMITS__BATCH_MAX", "3"), ("ATOMIX_LIMITS__KEY_BYTES_MAX", "3KiB"), ("HOME", "/root")];
    let flags = [("limits.batch-max", "4")];

    assert_eq!(Loader::new().load().unwrap().config.limits.batch_max, 10_000);
    assert_eq!(with_file().load().unwrap().config.limits.batch_max, 2);
    assert_eq!(with_file().env(env).load().unwrap().config.limits.batch_max, 3);
    // The order of the calls does not matter.
    let loaded = Loader::new().flags(flags).env(env).file(&file.path).load().unwrap();
    let limits = &loaded.config.limits;
    assert_eq!(
        (limits.batch_max, limits.key_bytes_max.bytes(), limits.name_bytes_max.bytes()),
        (4, 3072, 512)
    );
    assert_eq!(limits.value_bytes_max, Limits::default().value_bytes_max);

    assert_eq!(loaded.origin("limits.batch-max"), &Origin::Flag("set limits.batch-max".to_owned()));
    assert_eq!(
        loaded.origin("limits.key-bytes-max"),
        &Origin::Env("ATOMIX_LIMITS__KEY_BYTES_MAX".to_owned())
    );
    assert_eq!(loaded.origin("limits.name-bytes-max"), &Origin::File(file.path.display().to_string()));
    assert_eq!(loaded.origin("limits.value-bytes-max"), &Origin::Default);
}

#[test]
fn yaml_and_toml_files_are_equivalent() {
    let yaml = load_yaml(
        "listen: ['[::1]:1', 'unix:/run/atomix.sock']\n\
         control: []\n\
         stores:\n  - {name: main, namespace: prod, driver: {name: etcd, version: v3}, config: {Endpoints: ['a:1'], n: 1}}\n\
         routes:\n  - {store: {namespace: prod, name: main}, rules: [{type: {name: Map}, names: ['*']}]}\n\
         sessions: {identity: runtime}\n\
         limits: {value-bytes-max: 65536, idle-timeout: 1m30s, pings-per-second-max: 5}\n\
         drain: {grace: 0s}\n\
         log: {level: off, format: json}\n",
    );
    let toml = load_toml(
        "listen = ['[::1]:1', 'unix:/run/atomix.sock']\n\
         control = []\n\
         sessions.identity = 'runtime'\n\
         drain.grace = '0s'\n\
         log = {level = 'off', format = 'json'}\n\
         [[stores]]\nname = 'main'\nnamespace = 'prod'\ndriver = {name = 'etcd', version = 'v3'}\n\
         config = {Endpoints = ['a:1'], n = 1}\n\
         [[routes]]\nstore = {namespace = 'prod', name = 'main'}\nrules = [{type = {name = 'Map'}, names = ['*']}]\n\
         [limits]\nvalue-bytes-max = '64KiB'\nidle-timeout = '90s'\npings-per-second-max = 5\n",
    );
    let config = yaml.unwrap().config;
    assert_eq!(config, toml.unwrap().config);
    assert!(config.control.is_empty());
    assert_eq!(config.listen, [Listen::tcp("::1", 1), Listen::Unix("/run/atomix.sock".into())]);
    assert_eq!(config.limits.value_bytes_max, ByteSize::new(65536));
    assert_eq!(config.log.level, LogLevel::Off);
    let store = &config.stores[0];
    assert_eq!(store.id().to_string(), "prod/main");
    assert_eq!(store.driver.to_string(), "etcd/v3");
    assert_eq!(json!(store.config), json!({"Endpoints": ["a:1"], "n": 1}));
}

#[test]
fn the_environment_sets_every_kind_of_value() {
    let loaded = Loader::new()
        .env([
            ("ATOMIX_LISTEN", "127.0.0.1:1, unix:/run/a"),
            ("ATOMIX_CONTROL", "[]"),
            ("ATOMIX_LOG__LEVEL", "debug"),
            ("ATOMIX_LIMITS", "{batch-max: 7, key-bytes-max: 1KiB}"),
            ("ATOMIX_LIMITS__BATCH_MAX", "8"),
            ("ATOMIX_DRAIN__GRACE", " 2s "),
            ("ATOMIX_STORES", r#"[{"name":"m","driver":{"name":"memory","version":"v1"}}]"#),
            ("ATOMIX_ROUTES", "[{store: {name: m}}]"),
        ])
        .load()
        .unwrap();
    let config = loaded.config;
    assert_eq!(config.listen, [Listen::tcp("127.0.0.1", 1), Listen::Unix("/run/a".into())]);
    assert!(config.control.is_empty());
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!((config.limits.batch_max, config.limits.key_bytes_max.bytes()), (8, 1024));
    assert_eq!(config.drain.grace.get(), Duration::from_secs(2));
    let driver = DriverId { name: "memory".to_owned(), version: "v1".to_owned() };
    assert_eq!(config.stores[0].driver, driver);
    let id = StoreId { namespace: String::new(), name: "m".to_owned() };
    assert_eq!(config.routes.stores(), [&id]);
}

#[test]
fn variables_of_the_original_and_of_kubernetes_are_left_alone() {
    let foreign = [
        "ATOMIX_NAMESPACE",
        "ATOMIX_RUNTIME",
        "ATOMIX_RUNTIME_HOST",
        "ATOMIX_RUNTIME_PORT",
        "ATOMIX_SERVICE_HOST",
        "ATOMIX_CONTROL_SERVICE_PORT",
        "ATOMIX_CONTROL_SERVICE_PORT_GRPC",
        "ATOMIX_PORT",
        "ATOMIX_PORT_5678_TCP",
        "ATOMIX_CONTROL_PORT_5678_TCP_ADDR",
        "ATOMIX_CONTROL_PORT_5678_TCP_PROTO",
        "ATOMIX_PROFILE",
        "ATOMIX_VERSION",
        "ATOMIX_NAME",
        "ATOMIX_ENV_PATH",
        "ATOMIX_ENV_A__B",
    ];
    let loaded = Loader::new().env(foreign.map(|name| (name, "tcp://10.0.0.1:5678"))).load().unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());

    let env = [("ATOMIX_DEBUG", "1"), ("ATOMIX_CONFIG", "x")];
    let loaded = Loader::new().env(env).reserve_env(["ATOMIX_CONFIG"]).load().unwrap();
    assert_eq!(
        loaded.warnings[0].to_string(),
        "variable of the original without effect, set `log.level`: env=`ATOMIX_DEBUG`"
    );
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn an_unknown_variable_is_a_warning_and_an_error_only_if_strict() {
    for (name, facts) in [
        ("ATOMIX_LOG_LEVEL", " nearest=`log.level` write=`ATOMIX_LOG__LEVEL`"),
        (
            "ATOMIX_LIMITS__VALUE_BYTE_MAX",
            " nearest=`limits.value-bytes-max` write=`ATOMIX_LIMITS__VALUE_BYTES_MAX`",
        ),
        ("ATOMIX_STORES__0__NAME", ""),
        ("ATOMIX_ENTIRELY_OTHER", ""),
        ("ATOMIX_", ""),
    ] {
        let load = |strict| Loader::new().env([(name, "x")]).strict(strict).load();
        let loaded = load(false).unwrap();
        assert_eq!(loaded.config, Config::default());
        let expected =
            format!("variable that is no setting ignored, correct or remove it: env=`{name}`{facts}");
        assert_eq!(loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
        let refused = load(true).unwrap_err().to_string();
        assert!(refused.contains(&format!("env=`{name}`")), "{refused}");
    }
    // A wrong value of a known variable stays an error, also an unknown key in it.
    for (name, value) in
        [("ATOMIX_LOG__LEVEL", "loud"), ("ATOMIX_LOG", "{levle: info}"), ("ATOMIX_LIMITS", "{log: 1}")]
    {
        assert!(Loader::new().env([(name, value)]).load().is_err(), "{name}");
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let names = ["ATOMIX_LISTEN", "ATOMIX_LOG__LEVEL", "ATOMIX_STORES", "ATOMIX_WRONG", "ATOMIX_DEBUG"];
    let loaded = Loader::new().env(names.map(|name| (name, ""))).strict(true).load().unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn addresses_of_ipv6_are_understood_in_every_layer() {
    let tcp = |host: &str| Listen::tcp(host, 5678);
    for (text, listen) in [
        ("[::1]:5678", vec![tcp("::1")]),
        ("[fe80::1%eth0]:5678", vec![tcp("fe80::1%eth0")]),
        ("[::1]:5678, 127.0.0.1:5678 ,[::]:5678", vec![tcp("::1"), tcp("127.0.0.1"), tcp("::")]),
        (r#"["[::1]:5678", "127.0.0.1:5678"]"#, vec![tcp("::1"), tcp("127.0.0.1")]),
        ("[127.0.0.1:5678]", vec![tcp("127.0.0.1")]),
    ] {
        let loader = Loader::new();
        for loader in [
            loader.clone().env([("ATOMIX_LISTEN", text)]),
            loader.clone().flags([("listen", text)]),
            loader.clone().flag("listen", "listen", [text]),
        ] {
            assert_eq!(loader.load().unwrap().config.listen, listen, "{text}");
        }
        let twice = loader.flag("listen", "listen", ["unix:/run/a", text]).load().unwrap().config.listen;
        assert_eq!(twice[0], Listen::Unix("/run/a".into()));
        assert_eq!(twice[1..], listen, "{text}");
    }
    let file = load_yaml("listen: ['[::1]:5678', '[fe80::1%2]:5678']").unwrap().config.listen;
    assert_eq!(file, [tcp("::1"), tcp("fe80::1%2")]);
    let refused = Loader::new().flags([("listen", "[::1]:99999")]).load().unwrap_err().to_string();
    assert!(refused.contains("value=`[::1]:99999`"), "{refused}");
}

#[test]
fn a_driver_without_a_version_is_the_newest() {
    let loaded = load_yaml("stores: [{name: a, driver: {name: etcd}}]").unwrap();
    assert_eq!(loaded.config.stores[0].driver.version, "");
    // A key that is not set has the origin of the table around it.
    let around = |key| loaded.origin_around(key).clone();
    assert!(matches!(around("stores[0].config"), Origin::File(_)));
    assert_eq!(around("stores[1].config"), around("stores"));
    assert_eq!(around("log.level"), Origin::Default);
}

#[test]
fn repeated_flags_add_up_for_lists_and_win_for_single_values() {
    let flags = [
        ("listen", "127.0.0.1:1"),
        ("log.level", "debug"),
        ("listen", "127.0.0.1:2,127.0.0.1:3"),
        ("log.level", "warn"),
    ];
    let config = Loader::new().env([("ATOMIX_LISTEN", "127.0.0.1:9")]).flags(flags).load().unwrap().config;
    assert_eq!(config.listen, [1, 2, 3].map(|port| Listen::tcp("127.0.0.1", port)));
    assert_eq!(config.log.level, LogLevel::Warn);
}

#[test]
fn a_list_of_a_later_layer_replaces_the_whole_list() {
    let file = ConfigFile::new(
        "atomix.yml",
        "stores:\n  - {name: a, driver: {name: memory, version: v1}, config: {x: 1}}\n  \
         - {name: b, driver: {name: memory, version: v1}}\n",
    );
    let env = [("ATOMIX_STORES", "[{name: c, driver: {name: memory, version: v1}}]")];
    let loaded = Loader::new().file(&file.path).env(env).load().unwrap();
    assert_eq!(loaded.config.stores.len(), 1);
    assert_eq!(loaded.config.stores[0].name, "c");
    assert_eq!(loaded.origin("stores[0].name"), &Origin::Env("ATOMIX_STORES".to_owned()));
    assert_eq!(loaded.origin("stores[0].config"), &Origin::Default);
    assert_eq!(loaded.origin("stores[1].name"), &Origin::Default);
}

#[test]
fn a_limit_above_one_that_is_met_first_is_warned_of() {
    let loaded = load_yaml("limits: {value-bytes-max: 8MiB, connections-max: 10}").unwrap();
    assert_eq!(
        loaded.warnings,
        [Warning::LimitWithoutEffect { key: "value-bytes-max", other: "message-bytes-max" }]
    );
    assert_eq!(
        loaded.warnings[0].to_string(),
        "limit without effect, raise the other or lower it: key=`limits.value-bytes-max` \
         other=`limits.message-bytes-max`"
    );
}

#[test]
fn defaults_that_depend_on_the_machine_are_marked() {
    let machine = atomix_env::Machine::simulated(256 << 20);
    let loaded =
        Loader::new().machine(&machine).flags([("limits.primitives-max", "5000000")]).load().unwrap();
    assert_eq!(loaded.config.limits.buffers_bytes_max.bytes(), 32 << 20);
    let printed = loaded.render_with_origins(|store| store.config.clone());
    let line = "buffers-bytes-max: 32MiB  # default, an eighth of the memory limit 256MiB (machine)";
    assert!(printed.contains(line), "{printed}");
    assert!(printed.contains("primitives-max: 5000000  # flag"), "{printed}");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn more_connections_than_files_are_warned_of() {
    let mut machine = atomix_env::Machine::simulated(4 << 30);
    machine.open_files = 256;
    let loaded = Loader::new().machine(&machine).flags([("limits.connections-max", "5000")]).load().unwrap();
    assert_eq!(loaded.config.limits.connections_max, 5_000, "what is set stays");
    let warning = loaded.warnings[0].to_string();
    assert!(warning.contains("value=`5000` without-file=`4840` open-files=`256`"), "{warning}");
    let loaded = Loader::new().machine(&machine).load().unwrap();
    assert_eq!(loaded.config.limits.connections_max, 160);
    let warning = loaded.warnings[0].to_string();
    assert!(warning.contains("open-files=`256` limits.connections-max=`160`"), "{warning}");
}
