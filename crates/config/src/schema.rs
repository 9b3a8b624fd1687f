// SPDX-License-Identifier: Apache-2.0
//! The shape of the configuration: which keys there are, what they take, what they mean.
//!
//! The types say what a program reads, the schema what a person may write. Checking a layer against the schema
//! before it meets the types gives errors that name key, layer and what is allowed, and one source for the reference.

use std::time::Duration as Span;

use crate::limits;
use crate::setting::{Presence, Scalar, Setting, Shape};

/// The release in which every setting so far appeared.
pub(crate) const SINCE: &str = "0.1.0";

const TEXT: Shape = Shape::Scalar(Scalar::Text);
const TEXTS: Shape = Shape::List(&TEXT);

const fn setting(key: &'static str, shape: Shape, presence: Presence, doc: &'static str) -> Setting {
    Setting { key, shape, presence, unit: "", doc }
}

/// The root table, in the order in which it is printed.
pub(crate) const ROOT: &[Setting] = &[
    setting(
        "listen",
        Shape::List(&Shape::Scalar(Scalar::Listen)),
        Presence::Defaulted,
        "Addresses of the primitive services.",
    ),
    setting(
        "control",
        Shape::List(&Shape::Scalar(Scalar::Listen)),
        Presence::Defaulted,
        "Addresses of the control services. A peer that reaches them can connect stores.",
    ),
    Setting {
        key: "workers",
        shape: Shape::Scalar(Scalar::Count { min: 0, max: 1024 }),
        presence: Presence::Defaulted,
        unit: "threads",
        doc: "Threads that serve the connections of applications, each connection on one of them. Zero is one for each \
              core that the process may use.",
    },
    setting(
        "stores",
        Shape::List(&Shape::Table(STORE)),
        Presence::Defaulted,
        "Stores that are connected at start. `[]` leaves connecting to the control services.",
    ),
    setting(
        "routes",
        ROUTES,
        Presence::Optional("one route that takes everything to the first store"),
        "Which primitive lives in which store, tried in order. All routes have `tags` and `services` (the first one \
         that fits wins) or all have `rules`. `[]` means no routes until they are programmed. The stores may be \
         connected later. `router.routes`, as the original proxy wrote it, is read as `routes`.",
    ),
    setting(
        "sessions",
        Shape::Table(&[
            setting(
                "identity",
                Shape::Scalar(Scalar::Choice(&["connection", "runtime"])),
                Presence::Defaulted,
                "The owner of locks and candidacies of a caller without a session of its own: its connection, or the \
                 runtime for all callers together, as in the original.",
            ),
            Setting {
                key: "timeout",
                shape: Shape::Scalar(Scalar::Span { min: Span::from_secs(1), max: Span::from_hours(1) }),
                presence: Presence::Defaulted,
                unit: "time",
                doc: "Time that this process may be silent before the other runtimes on a shared store declare it \
                      dead and grant its locks and candidacies to the next waiters. It sends a heartbeat every sixth \
                      of it.",
            },
            Setting {
                key: "clock-skew-max",
                shape: Shape::Scalar(Scalar::Span { min: Span::from_secs(1), max: Span::from_hours(1) }),
                presence: Presence::Defaulted,
                unit: "time",
                doc: "Difference of the wall clocks of two runtimes on a shared store above which both warn, and the one \
                      that is ahead does not decide by its wall clock that an entry has expired.",
            },
        ]),
        Presence::Defaulted,
        "Sessions.",
    ),
    setting(
        "sockets",
        Shape::Table(&[
            setting(
                "mode",
                Shape::Scalar(Scalar::Mode),
                Presence::Defaulted,
                "The mode of sockets of `listen`, in octal, such as `0660`. `auto` gives read and write access to \
                 the users to whom the umask leaves any right: `0666` with 022, `0600` with 077.",
            ),
            setting(
                "group",
                TEXT,
                Presence::Defaulted,
                "The group of sockets of `listen`, a name or a number. Empty is that of the process.",
            ),
            setting(
                "control-mode",
                Shape::Scalar(Scalar::Mode),
                Presence::Defaulted,
                "The mode of sockets of `control`, in octal. Users who may write to them can connect stores.",
            ),
            setting(
                "control-group",
                TEXT,
                Presence::Defaulted,
                "The group of sockets of `control`, a name or a number. Empty is that of the process.",
            ),
        ]),
        Presence::Defaulted,
        "Rights of Unix sockets.",
    ),
    setting(
        "limits",
        Shape::Table(limits::SETTINGS),
        Presence::Defaulted,
        "Bounds on everything that a client can fill.",
    ),
    setting(
        "drain",
        Shape::Table(&[Setting {
            key: "grace",
            shape: Shape::Scalar(Scalar::Span { min: Span::ZERO, max: Span::from_mins(10) }),
            presence: Presence::Defaulted,
            unit: "time",
            doc: "Time that calls in flight have to end after the signal to stop.",
        }]),
        Presence::Defaulted,
        "The stop.",
    ),
    setting(
        "log",
        Shape::Table(&[
            setting(
                "level",
                Shape::Scalar(Scalar::Choice(&["off", "error", "warn", "info", "debug", "trace"])),
                Presence::Defaulted,
                "The least severe level that is written.",
            ),
            setting(
                "format",
                Shape::Scalar(Scalar::Choice(&["text", "json"])),
                Presence::Defaulted,
                "Lines for people, or one JSON object a line.",
            ),
        ]),
        Presence::Defaulted,
        "The log.",
    ),
];

const NAMESPACE: Setting =
    setting("namespace", TEXT, Presence::Optional("empty"), "The namespace of the store, compared exactly.");

const STORE_NAME: Setting =
    setting("name", TEXT, Presence::Required, "The name of the store, compared exactly.");

const STORE: &[Setting] = &[
    NAMESPACE,
    STORE_NAME,
    setting(
        "driver",
        Shape::Table(&[
            setting("name", TEXT, Presence::Required, "The name of the driver, compared exactly."),
            setting(
                "version",
                TEXT,
                Presence::Optional("the newest"),
                "The version of the driver, compared exactly.",
            ),
        ]),
        Presence::Required,
        "The driver that makes the store.",
    ),
    setting(
        "config",
        Shape::Object,
        Presence::Optional("empty"),
        "The configuration of the driver; its keys are the driver's.",
    ),
];

const ROUTE_STORE: Setting = setting(
    "store",
    Shape::Table(&[NAMESPACE, STORE_NAME]),
    Presence::Required,
    "The store that the route leads to.",
);

const ROUTE_TAGS: Setting = setting(
    "tags",
    TEXTS,
    Presence::Optional("fits every primitive"),
    "Tags that the primitive must have, all of them.",
);

const ROUTE_SERVICES: Setting = setting(
    "services",
    Shape::List(&Shape::Table(&[
        setting(
            "name",
            TEXT,
            Presence::Required,
            "The gRPC service of a primitive, such as `atomix.runtime.map.v1.Map`.",
        ),
        setting(
            "config",
            Shape::Object,
            Presence::Optional("empty"),
            "The configuration of the primitive; its keys are the primitive's.",
        ),
    ])),
    Presence::Optional("empty"),
    "Configurations of primitives. They do not filter.",
);

const ROUTE: &[Setting] = &[
    ROUTE_STORE,
    ROUTE_TAGS,
    ROUTE_SERVICES,
    setting(
        "rules",
        Shape::List(&Shape::Table(&[
            setting(
                "type",
                Shape::Table(&[
                    setting("name", TEXT, Presence::Required, "The type of primitive, such as `Map`."),
                    setting(
                        "version",
                        TEXT,
                        Presence::Optional("any"),
                        "The version of the type, such as `v1`.",
                    ),
                ]),
                Presence::Optional("any"),
                "The type of primitive that the rule is for; `kind: Map` is short for `type: {name: Map}`.",
            ),
            setting(
                "names",
                TEXTS,
                Presence::Optional("any"),
                "Names of primitives, compared exactly, or `*` for any.",
            ),
            setting(
                "tags",
                TEXTS,
                Presence::Optional("any"),
                "Tags that the primitive must have, all of them.",
            ),
            setting(
                "config",
                Shape::Object,
                Presence::Optional("empty"),
                "The configuration of the primitive; its keys are the primitive's.",
            ),
        ])),
        Presence::Optional("fits every primitive"),
        "Rules of the later style, narrowed down by name, then tags, then type.",
    ),
];

/// `routes`: both styles; a list of both is refused once all layers are known.
pub(crate) const ROUTES: Shape = Shape::List(&Shape::Table(ROUTE));

/// `router.routes` of the original proxy: the seed style only.
pub(crate) const SEED_ROUTES: Shape = Shape::List(&Shape::Table(&[ROUTE_STORE, ROUTE_TAGS, ROUTE_SERVICES]));

/// `router` of the original proxy.
pub(crate) const SEED_ROUTER: &[Setting] =
    &[setting("routes", SEED_ROUTES, Presence::Optional("as without `router`"), "Routes of the seed style.")];

/// Keys of the original proxy's `server` table, and their replacements.
pub(crate) const SEED_SERVER: &[(&str, Option<&str>)] = &[
    ("maxConcurrentStreams", Some("limits.streams-per-connection-max")),
    ("maxRecvMsgSize", Some("limits.message-bytes-max")),
    ("maxSendMsgSize", Some("limits.stream-send-bytes-max")),
    ("readBufferSize", Some("limits.connection-window")),
    ("writeBufferSize", Some("limits.connection-send-bytes-max")),
    ("numStreamWorkers", None),
];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;

    /// The keys of every table of a value must be those of the schema, in both directions.
    fn compare(settings: &[Setting], value: &Value, path: &str) {
        let table = value.as_object().expect(path);
        for key in table.keys() {
            assert!(settings.iter().any(|setting| setting.key == key), "{path}.{key} is not in the schema");
        }
        for setting in settings {
            let path = format!("{path}.{}", setting.key);
            let inner = table.get(setting.key).unwrap_or_else(|| panic!("{path} is not in the types"));
            match setting.shape {
                Shape::Table(settings) => compare(settings, inner, &path),
                Shape::List(Shape::Table(settings)) => {
                    for item in inner.as_array().expect(&path) {
                        compare(settings, item, &path);
                    }
                }
                Shape::List(_) => assert!(inner.is_array(), "{path}"),
                Shape::Object => assert!(inner.is_object(), "{path}"),
                Shape::Scalar(_) => assert!(inner.is_string() || inner.is_u64(), "{path}"),
            }
        }
    }

    #[test]
    fn types_and_schema_have_the_same_keys() {
        let store = json!({"namespace": "", "name": "memory"});
        let later =
            json!([{"store": store, "rules": [{"type": {"name": "Map"}, "names": ["*"], "tags": ["x"]}]}]);
        let seed = json!([{"store": store, "tags": ["x"], "services": [{"name": "s"}]}]);
        for (routes, absent) in [(later, ["tags", "services"].as_slice()), (seed, &["rules"])] {
            let mut config = Config { routes: serde_json::from_value(routes).unwrap(), ..Config::default() };
            config.stores[0].config.insert("x".to_owned(), json!(1));
            let mut value = serde_json::to_value(&config).unwrap();
            // A route has the keys of one style only; the others are there for the comparison.
            for key in absent {
                value["routes"][0][*key] = json!([]);
            }
            compare(ROOT, &value, "");
        }
    }

    #[test]
    fn keys_are_kebab_case_and_follow_their_fields() {
        fn visit(settings: &[Setting]) {
            for setting in settings {
                let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
                assert!(setting.key.chars().all(kebab), "{}", setting.key);
                assert!(setting.doc.trim().ends_with('.'), "{}", setting.key);
                match setting.shape {
                    Shape::Table(inner) | Shape::List(&Shape::Table(inner)) => visit(inner),
                    Shape::List(_) | Shape::Object | Shape::Scalar(_) => {}
                }
            }
        }
        visit(ROOT);
        let debug = format!("{:?}", limits::Limits::default());
        for setting in limits::SETTINGS {
            assert!(debug.contains(&format!("{}: ", setting.key.replace('-', "_"))), "{}", setting.key);
        }
    }

    #[test]
    fn replacements_of_the_original_exist() {
        for path in SEED_SERVER.iter().filter_map(|(_, instead)| *instead) {
            let key = path.strip_prefix("limits.").expect(path);
            assert!(limits::SETTINGS.iter().any(|setting| setting.key == key), "{path}");
        }
    }
}
