// SPDX-License-Identifier: Apache-2.0
//! Puts the layers together.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::mem::discriminant;
use std::path::PathBuf;

use atomix_env::Machine;
use serde_json::{Map, Value};

use crate::check::Check;
use crate::config::{Config, StoreSpec};
use crate::error::{Error, Problem, Warning};
use crate::id::StoreId;
use crate::listen::Listen;
use crate::nearest::join;
use crate::origin::Origin;
use crate::routes::{Mixed, is_seed};
use crate::schema::{ROOT, ROUTES, SEED_ROUTER, SEED_ROUTES, SEED_SERVER};
use crate::setting::Shape;
use crate::{origin, parse, render};
use atomix_env::JsonObject;

/// Loads a configuration from its layers. Nothing is read before [`Loader::load`], and nothing but the named file.
///
/// Its `Debug` form has no values: those of stores may be secrets.
#[derive(Clone, Default)]
pub struct Loader {
    file: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    reserved: HashSet<String>,
    flags: Vec<Flag>,
    machine: Option<Machine>,
    strict: bool,
}

/// A key path and its value on the command line.
#[derive(Clone)]
struct Flag {
    /// The flag as it is typed, for messages.
    typed: String,
    key: String,
    value: String,
}

/// A valid configuration, and the warnings for the operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// Settings that are allowed but probably a mistake.
    pub warnings: Vec<Warning>,
    origins: BTreeMap<String, Origin>,
}

/// The values set so far and where each came from. The key of `origins` is the path of a value that is merged as a
/// whole, and of each value within it.
#[derive(Default)]
struct Layers {
    root: Map<String, Value>,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

const PREFIX: &str = "ATOMIX_";

/// Fewer open files are worth a warning: a common soft limit, which most programs raise.
const FILES_FEW: u64 = 1_024;

/// Variables that the original's controller, injector and SDKs put into the environment of the containers of a pod, and
/// that packages set, and the setting that does what they did here.
const FOREIGN: [(&str, Option<&str>); 7] = [
    ("ATOMIX_DEBUG", Some("log.level")),
    ("ATOMIX_NAMESPACE", None),
    ("ATOMIX_PROFILE", None),
    ("ATOMIX_VERSION", None),
    ("ATOMIX_RUNTIME", None),
    ("ATOMIX_RUNTIME_HOST", None),
    ("ATOMIX_RUNTIME_PORT", None),
];

// === impl Loader ===

impl Loader {
    /// Makes a loader of the defaults alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this file, YAML or TOML by its extension. A file that is not there is an error.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Uses the variables whose names begin with `ATOMIX_`, for example of `std::env::vars_os()`. An empty one is as one
    /// that is not there.
    ///
    /// An unknown one is a warning, except those of the original and those that Kubernetes and Docker set for each
    /// service (`ATOMIX_PORT_5678_TCP`, `ATOMIX_NAME`): other programs may use the prefix as well.
    #[must_use]
    pub fn env<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.env.extend(variables.filter(|(name, _)| ours(name)));
        self
    }

    /// Makes unknown variables an error.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Leaves variables alone that the program reads itself, such as the one that names the file.
    #[must_use]
    pub fn reserve_env<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.reserved.extend(names.into_iter().map(Into::into));
        self
    }

    /// Uses these pairs of key path and value, given as `--set KEY=VALUE`. The later of two equal keys wins; for lists of
    /// texts they add up.
    #[must_use]
    pub fn flags<K: Into<String>, V: Into<String>>(
        mut self,
        flags: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.flags.extend(flags.into_iter().map(|(key, value)| {
            let key = key.into();
            Flag { typed: format!("set {key}"), key, value: value.into() }
        }));
        self
    }

    /// Uses these values for a key that has a flag of its own, `--name`; else as [`Loader::flags`].
    #[must_use]
    pub fn flag<V: Into<String>>(
        mut self,
        name: &str,
        key: &str,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        self.flags.extend(values.into_iter().map(|value| Flag {
            typed: name.to_owned(),
            key: key.to_owned(),
            value: value.into(),
        }));
        self
    }

    /// Lowers the defaults of limits to what this machine can afford. What a layer sets stays.
    #[must_use]
    pub fn machine(mut self, machine: &Machine) -> Self {
        self.machine = Some(machine.clone());
        self
    }

    /// Reads all layers and checks the result. Fails with everything that is wrong, not only with the first of it.
    pub fn load(self) -> Result<Loaded, Error> {
        let mut layers = Layers::default();
        if let Some(path) = &self.file {
            let origin = Origin::File(path.display().to_string());
            match parse::file(path) {
                Ok(table) => layers.file(table, &origin),
                Err(problem) => layers.problems.push(problem),
            }
        }
        layers.env(self.env, &self.reserved, self.strict);
        layers.flags(self.flags);
        layers.finish(self.machine.as_ref())
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("file", &self.file).finish_non_exhaustive()
    }
}

// === impl Loaded ===

impl Loaded {
    /// Returns the configuration as YAML, each value with its origin in a comment. Of the `config` of a store it has
    /// what `show` returns, since only the driver knows what is secret in it; all else reads back as the same
    /// configuration.
    pub fn render_with_origins(&self, show: impl Fn(&StoreSpec) -> JsonObject) -> String {
        render::yaml(&self.config, &self.origins, show)
    }

    /// Returns where the value at a key path came from or, if it is not set, the innermost table or list around it.
    pub fn origin_around(&self, key: &str) -> &Origin {
        let mut key = key;
        loop {
            match (self.origins.get(key), key.rfind(['.', '['])) {
                (Some(origin), _) => return origin,
                (None, Some(end)) => key = &key[..end],
                (None, None) => return &Origin::Default,
            }
        }
    }

    /// Returns where the value at a key path (such as `limits.batch-max` or `stores[0].name`) came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

// === impl Layers ===

impl Layers {
    fn file(&mut self, mut table: Map<String, Value>, origin: &Origin) {
        if let Some(server) = table.remove("server") {
            self.seed_server(&server, origin);
        }
        if let Some(router) = table.remove("router") {
            self.seed_router(&router, table.contains_key("routes"), origin);
        }
        if let Some(checked) = self.check(origin).value(&Shape::Table(ROOT), "", &Value::Object(table)) {
            self.lay(&Shape::Table(ROOT), "", &checked, origin);
        }
    }

    fn env(&mut self, mut variables: Vec<(OsString, OsString)>, reserved: &HashSet<String>, strict: bool) {
        // The order of an environment means nothing; sorted, a table comes before its keys.
        variables.sort();
        variables.retain(|(_, value)| !value.is_empty());
        for (name, value) in variables {
            let before = self.problems.len();
            let (Some(name), value) = (name.to_str(), value.to_str()) else {
                let key = origin::printable(&name.to_string_lossy());
                let origin = Origin::Env(key.clone());
                self.problems.push(Problem::UnknownKey { key, nearest: None, origin });
                self.warn_of_unknown(before, strict);
                continue;
            };
            if let Some((name, instead)) = FOREIGN.into_iter().find(|(foreign, _)| *foreign == name) {
                self.warnings.extend(instead.map(|instead| Warning::VariableWithoutEffect { name, instead }));
                continue;
            }
            if reserved.contains(name) || is_service_link(name) {
                continue;
            }
            let origin = Origin::Env(name.to_owned());
            let key = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase().replace('_', "-");
            let segments: Vec<&str> = key.split("--").collect();
            match value {
                Some(value) => {
                    self.assign(&segments, &[value], &origin);
                    self.warn_of_unknown(before, strict);
                }
                None => self.problems.push(Problem::Syntax {
                    key: Some(origin::printable(&segments.join("."))),
                    reason: "the value is not UTF-8".to_owned(),
                    origin,
                }),
            }
        }
    }

    /// Makes a warning of what was found `before` or later if it is an unknown variable, and not `strict`.
    fn warn_of_unknown(&mut self, before: usize, strict: bool) {
        if strict {
            return;
        }
        // The value of a known variable may have unknown keys in it, which are errors.
        let is_variable = |path: &str, name: &str| path.split('.').count() == name.split("__").count();
        for problem in self.problems.split_off(before) {
            if let Problem::UnknownKey { key, nearest, origin: Origin::Env(name) } = &problem
                && is_variable(key, name)
            {
                self.warnings.push(Warning::VariableUnknown { name: name.clone(), nearest: nearest.clone() });
            } else {
                self.problems.push(problem);
            }
        }
    }

    fn flags(&mut self, flags: Vec<Flag>) {
        let mut grouped: Vec<(Flag, Vec<String>)> = Vec::new();
        for flag in flags {
            match grouped.iter_mut().find(|(other, _)| other.key == flag.key) {
                Some((first, values)) => {
                    values.push(flag.value);
                    first.typed = flag.typed;
                }
                None => grouped.push((flag.clone(), vec![flag.value])),
            }
        }
        for (flag, values) in grouped {
            let segments: Vec<&str> = flag.key.split('.').collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            self.assign(&segments, &values, &Origin::Flag(flag.typed));
        }
    }

    /// Sets one key to a text, or a list of texts to all of them.
    fn assign(&mut self, segments: &[&str], texts: &[&str], origin: &Origin) {
        let last = texts.last().copied().unwrap_or_default();
        if let ["router", "routes"] = segments {
            let routes = self.check(origin).text(&SEED_ROUTES, "router.routes", last);
            return self.seed_routes(routes, self.has_routes(origin), origin);
        }
        let (mut settings, mut path) = (ROOT, String::new());
        for (index, segment) in segments.iter().enumerate() {
            let Some(setting) = settings.iter().find(|setting| setting.key == *segment) else {
                return self.check(origin).unknown(settings, &path, &segments[index..].join("."));
            };
            path = join(&path, segment);
            match (setting.shape, &segments[index + 1..]) {
                (shape, []) => {
                    let several = matches!(shape, Shape::List(Shape::Scalar(_)));
                    let texts = if several { texts } else { &[last] };
                    if path == "routes" && self.has_routes(origin) {
                        return self.routes_twice(origin);
                    }
                    let mut check = self.check(origin);
                    let value = match texts {
                        [text] => check.text(&shape, &path, text),
                        texts => check.texts(&shape, &path, texts),
                    };
                    if let Some(value) = value {
                        self.lay(&shape, &path, &value, origin);
                    }
                }
                (Shape::Table(inner), _) => settings = inner,
                (Shape::List(_) | Shape::Object | Shape::Scalar(_), rest) => {
                    return self.check(origin).unknown(&[], &path, &rest.join("."));
                }
            }
        }
    }

    fn check<'a>(&'a mut self, origin: &'a Origin) -> Check<'a> {
        Check { origin, problems: &mut self.problems }
    }

    /// Reports the keys of the original proxy's `server` table. An empty one changes nothing.
    fn seed_server(&mut self, server: &Value, origin: &Origin) {
        let Value::Object(server) = server else {
            return self.check(origin).unknown(&[], "", "server");
        };
        for key in server.keys() {
            match SEED_SERVER.iter().find(|(seed, _)| seed == key) {
                Some((_, replacement)) => self.problems.push(Problem::Replaced {
                    key: format!("server.{key}"),
                    replacement: *replacement,
                    origin: origin.clone(),
                }),
                None => self.check(origin).unknown(&[], "server", key),
            }
        }
    }

    /// Reads the original proxy's `router` table, whose `routes` are routes of the seed style.
    fn seed_router(&mut self, router: &Value, twice: bool, origin: &Origin) {
        let checked = self.check(origin).value(&Shape::Table(SEED_ROUTER), "router", router);
        let inner = checked.and_then(|mut table| table.get_mut("routes").map(Value::take));
        self.seed_routes(inner, twice, origin);
    }

    fn seed_routes(&mut self, routes: Option<Value>, twice: bool, origin: &Origin) {
        let Some(mut routes) = routes else { return };
        if twice {
            return self.routes_twice(origin);
        }
        // The position in the file decides about the style, also of a route without tags and services.
        for route in routes.as_array_mut().into_iter().flatten() {
            if let Value::Object(route) = route {
                route.entry("tags").or_insert_with(|| Value::Array(Vec::new()));
            }
        }
        self.set(&ROUTES, "routes", &routes, origin);
    }

    /// Returns whether the same layer has set the routes already, under whichever name.
    fn has_routes(&self, origin: &Origin) -> bool {
        self.origins.get("routes").is_some_and(|other| discriminant(other) == discriminant(origin))
    }

    fn routes_twice(&mut self, origin: &Origin) {
        self.problems.push(Problem::KeyTwice {
            key: "routes",
            other: "router.routes",
            origin: origin.clone(),
        });
    }

    /// Lays a checked value over what is there: tables key by key, all else as a whole.
    fn lay(&mut self, shape: &Shape, path: &str, value: &Value, origin: &Origin) {
        match (shape, value) {
            (Shape::Table(settings), Value::Object(table)) => {
                for setting in *settings {
                    if let Some(value) = table.get(setting.key) {
                        self.lay(&setting.shape, &join(path, setting.key), value, origin);
                    }
                }
            }
            (Shape::Table(_) | Shape::List(_) | Shape::Object | Shape::Scalar(_), _) => {
                self.set(shape, path, value, origin);
            }
        }
    }

    /// Sets a value that is replaced as a whole.
    fn set(&mut self, shape: &Shape, path: &str, value: &Value, origin: &Origin) {
        let mut segments: Vec<&str> = path.split('.').collect();
        let Some(last) = segments.pop() else { return };
        let mut table = &mut self.root;
        for segment in segments {
            let inner = table.entry(segment).or_insert_with(|| Value::Object(Map::new()));
            // Invariant: `path` leads through tables of the schema only, and those are merged, never set.
            table = inner.as_object_mut().expect("a table of the schema is a table");
        }
        table.insert(last.to_owned(), value.clone());
        // The items that an earlier layer set were replaced together with the list.
        let items = format!("{path}[");
        self.origins.retain(|key, _| !key.starts_with(&items));
        record(&mut self.origins, shape, path, value, origin);
    }

    fn finish(mut self, machine: Option<&Machine>) -> Result<Loaded, Error> {
        let origin = |key: &str| self.origins.get(key).cloned().unwrap_or(Origin::Default);
        if let Some(Value::Array(routes)) = self.root.get("routes") {
            let has = |route: &Value, key: &str| route.get(key).is_some();
            let keys = |route: &Value| (has(route, "tags") || has(route, "services"), has(route, "rules"));
            if let Err(Mixed { seed, later }) = is_seed(routes.iter().map(keys)) {
                let origin = origin("routes");
                self.problems.push(Problem::RoutesMixed { seed, later, origin });
            }
        }
        Error::check(self.problems)?;
        // The schema lets nothing else through; should it differ from the types, the operator gets an error.
        let mut config: Config = serde_json::from_value(Value::Object(self.root)).map_err(|error| {
            Problem::Syntax { key: None, reason: error.to_string(), origin: Origin::Default }
        })?;
        Error::check(contradictions(&config, &origin))?;
        let mut warnings = self.warnings;
        warnings.extend(routes_to_nowhere(&config));
        warnings.extend(limits_without_effect(&config, &origin));
        if let Some(machine) = machine {
            let limits = &mut config.limits;
            for (key, why) in limits.fit(machine, |key| self.origins.contains_key(key)) {
                self.origins.insert(format!("limits.{key}"), Origin::Machine(why));
            }
            if let Some(missing) = limits.connections_without_files(machine) {
                let (connections, files) = (limits.connections_max, machine.open_files);
                warnings.push(Warning::FilesTooFew { connections, missing, files });
            } else if machine.open_files < FILES_FEW {
                let (connections, files) = (limits.connections_max, machine.open_files);
                warnings.push(Warning::FilesFew { files, connections });
            }
        }
        Ok(Loaded { config, warnings, origins: self.origins })
    }
}

/// Notes where a value and each value within it came from.
fn record(origins: &mut BTreeMap<String, Origin>, shape: &Shape, path: &str, value: &Value, origin: &Origin) {
    origins.insert(path.to_owned(), origin.clone());
    match (shape, value) {
        (Shape::Table(settings), Value::Object(table)) => {
            for setting in *settings {
                if let Some(value) = table.get(setting.key) {
                    record(origins, &setting.shape, &join(path, setting.key), value, origin);
                }
            }
        }
        (Shape::List(item @ Shape::Table(_)), Value::Array(items)) => {
            for (index, value) in items.iter().enumerate() {
                record(origins, item, &format!("{path}[{index}]"), value, origin);
            }
        }
        // Lists of texts and free objects are printed on one line: one origin serves.
        (Shape::Table(_) | Shape::List(_) | Shape::Object | Shape::Scalar(_), _) => {}
    }
}

/// Returns whether Kubernetes or Docker sets such a variable for a service whose name begins with `atomix`.
fn is_service_link(name: &str) -> bool {
    let name = name.strip_prefix("ATOMIX").unwrap_or(name);
    let by_port = |(_, tail): (&str, &str)| {
        let mut words = tail.split('_');
        let number = words
            .next()
            .is_some_and(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()));
        number && words.next().is_some_and(|word| matches!(word, "TCP" | "UDP" | "SCTP"))
    };
    // Links of Docker: the name of the container and its variables.
    name == "_NAME"
        || name.starts_with("_ENV_")
        // A name of ours has two underscores between levels, one of Kubernetes hardly ever.
        || !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.ends_with("_PORT")
            || name.contains("_SERVICE_PORT_")
            || name.split_once("_PORT_").is_some_and(by_port))
}

/// Returns what is wrong with values that are each allowed for themselves.
fn contradictions(config: &Config, origin: &impl Fn(&str) -> Origin) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.listen.is_empty() && config.control.is_empty() {
        problems.push(Problem::NothingListens);
    }
    for (key, addresses) in [("listen", &config.listen), ("control", &config.control)] {
        let mut seen = HashSet::new();
        // Port 0 takes another port each time.
        let fixed = addresses.iter().filter(|address| !matches!(address, Listen::Tcp { port: 0, .. }));
        for address in fixed.filter(|address| !seen.insert(*address)) {
            problems.push(Problem::ListenTwice {
                key,
                address: origin::printable(&address.to_string()),
                origin: origin(key),
            });
        }
    }
    let shared = |address: &&Listen| {
        config.listen.contains(address) && !matches!(address, Listen::Tcp { port: 0, .. })
    };
    if let Some(address) = config.control.iter().find(shared) {
        let address = origin::printable(&address.to_string());
        problems.push(Problem::ListenShared { address, origin: origin("control") });
    }
    let mut seen = HashSet::new();
    for store in config.stores.iter().map(StoreSpec::id) {
        if !seen.insert(store.clone()) {
            let origin = origin("stores");
            problems.push(Problem::StoreTwice { store, origin });
        }
    }
    problems
}

fn routes_to_nowhere(config: &Config) -> Vec<Warning> {
    let stores: HashSet<_> = config.stores.iter().map(StoreSpec::id).collect();
    let routes = config.routes.stores().into_iter().enumerate();
    let absent = routes.filter(|(_, store)| !stores.contains(*store));
    let warning = |(index, store): (usize, &StoreId)| Warning::RouteStoreAbsent {
        key: format!("routes[{index}]"),
        store: store.clone(),
    };
    absent.map(warning).collect()
}

/// Warns only of limits that are set explicitly: to lower one limit below the default of another is no mistake.
fn limits_without_effect(config: &Config, origin: &impl Fn(&str) -> Origin) -> Vec<Warning> {
    let limits = &config.limits;
    let pairs = [
        (
            "value-bytes-max",
            limits.value_bytes_max.bytes(),
            "message-bytes-max",
            limits.message_bytes_max.bytes(),
        ),
        (
            "stream-window",
            limits.stream_window.bytes(),
            "connection-window",
            limits.connection_window.bytes(),
        ),
        (
            "connections-per-peer-max",
            limits.connections_per_peer_max.into(),
            "connections-max",
            limits.connections_max.into(),
        ),
        (
            "stream-send-bytes-max",
            limits.stream_send_bytes_max.bytes(),
            "connection-send-bytes-max",
            limits.connection_send_bytes_max.bytes(),
        ),
    ];
    let idle = |(key, limit, _, other): &(&str, u64, &str, u64)| {
        limit > other && origin(&format!("limits.{key}")) != Origin::Default
    };
    let warning = |(key, _, other, _)| Warning::LimitWithoutEffect { key, other };
    pairs.into_iter().filter(idle).map(warning).collect()
}
