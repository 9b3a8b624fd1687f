// SPDX-License-Identifier: Apache-2.0
//! The effective configuration. Its tables are described in `schema`; a test holds the two together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::duration::Duration;
use crate::id::{DriverId, StoreId};
use crate::limits::Limits;
use crate::listen::Listen;
use crate::origin::printable;
use crate::routes::Routes;
use atomix_env::JsonObject;

/// Everything that can be configured. [`Config::default`] equals loading nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Addresses of the primitive services. May be empty if `control` is not.
    pub listen: Vec<Listen>,
    /// Addresses of the control services. May be empty if `listen` is not.
    pub control: Vec<Listen>,
    /// Threads that serve the connections of applications; zero is one for each core.
    pub workers: u32,
    /// Stores that are connected at start. An empty list leaves connecting to the control services.
    pub stores: Vec<StoreSpec>,
    /// The routes, which place primitives in stores.
    #[serde(skip_serializing_if = "Routes::is_absent")]
    pub routes: Routes,
    /// Sessions, the owners of locks, candidacies and handles.
    pub sessions: Sessions,
    /// Rights of Unix sockets.
    pub sockets: Sockets,
    /// Bounds on everything that a client can fill.
    pub limits: Limits,
    /// The stop of the process.
    pub drain: Drain,
    /// Level and format of the log.
    pub log: Log,
}

/// A store to connect at start.
///
/// Its `Debug` form has the keys of `config` without the values: which of them are secret is known to the driver only.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreSpec {
    /// The namespace of the store's identity.
    #[serde(default)]
    pub namespace: String,
    /// The name of the store's identity.
    pub name: String,
    /// The driver that makes the store.
    pub driver: DriverId,
    /// The driver's own configuration; the driver checks it.
    #[serde(default)]
    pub config: JsonObject,
}

/// Settings of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Sessions {
    /// The session of a caller that names none.
    pub identity: Identity,
    /// The time without a heartbeat after which other runtimes on a shared store consider this process failed.
    pub timeout: Duration,
    /// The tolerated difference of the wall clocks of runtimes on a shared store.
    pub clock_skew_max: Duration,
}

/// The owner of locks and candidacies of a caller that names no session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// The caller's connection: what it owns is released when the connection ends.
    #[default]
    Connection,
    /// The runtime: all callers are one owner, as in the original.
    Runtime,
}

/// Rights of Unix sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Sockets {
    /// The mode of sockets of the primitives.
    pub mode: SocketMode,
    /// Their group, a name or a number; empty is that of the process.
    pub group: String,
    /// The mode of sockets of the control services.
    pub control_mode: SocketMode,
    /// Their group.
    pub control_group: String,
}

/// The mode of a socket's file, written in octal or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketMode {
    /// Reading and writing for the classes of users that the umask leaves any right.
    Auto,
    /// These bits.
    Bits(u32),
}

/// Settings of the stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Drain {
    /// Time that calls in flight have to end after the signal to stop.
    pub grace: Duration,
}

/// Settings of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

/// A level of the log, each including the ones before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Faults that need an operator.
    Error,
    /// Conditions that may soon need one.
    Warn,
    /// Changes of the state of the process.
    #[default]
    Info,
    /// Details of calls.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            // Loopback: a network gets access only on explicit request.
            listen: vec![Listen::tcp("127.0.0.1", 5678)],
            control: vec![Listen::tcp("127.0.0.1", 5679)],
            workers: 0,
            stores: vec![StoreSpec::memory()],
            routes: Routes::Absent,
            sessions: Sessions::default(),
            sockets: Sockets::default(),
            limits: Limits::default(),
            drain: Drain::default(),
            log: Log::default(),
        }
    }
}

// === impl StoreSpec ===

impl StoreSpec {
    /// Returns the store of a runtime without any configuration: in memory, named `memory`.
    pub fn memory() -> Self {
        Self {
            namespace: String::new(),
            name: "memory".to_owned(),
            driver: DriverId { name: "memory".to_owned(), version: "v1".to_owned() },
            config: JsonObject::new(),
        }
    }

    /// Returns the store's identity.
    pub fn id(&self) -> StoreId {
        StoreId { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl fmt::Debug for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSpec")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("driver", &self.driver)
            .field("config", &self.config.keys().collect::<Vec<_>>())
            .finish()
    }
}

// === impl Sessions ===

impl Default for Sessions {
    fn default() -> Self {
        let seconds = |count| Duration::new(std::time::Duration::from_secs(count));
        Self { identity: Identity::default(), timeout: seconds(10), clock_skew_max: seconds(10) }
    }
}

// === impl Sockets ===

impl Default for Sockets {
    fn default() -> Self {
        Self {
            // As a port of the loopback interface, which every local user reaches, unless the umask forbids it.
            mode: SocketMode::Auto,
            group: String::new(),
            // Operators of other users are named by a mode and a group.
            control_mode: SocketMode::Bits(0o600),
            control_group: String::new(),
        }
    }
}

// === impl SocketMode ===

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bits(bits) => write!(f, "{bits:04o}"),
        }
    }
}

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bits = text
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| u32::from_str_radix(text, 8).ok())
            .flatten();
        bits.filter(|bits| *bits <= 0o777).map(Self::Bits).ok_or_else(|| {
            format!(
                "not a mode, write `auto` or octal digits up to 0777, such as `0660`: value=`{}`",
                printable(text)
            )
        })
    }
}

impl Serialize for SocketMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

// === impl Drain ===

impl Default for Drain {
    fn default() -> Self {
        Self { grace: Duration::new(std::time::Duration::from_secs(10)) }
    }
}

// === impl LogLevel ===

impl LogLevel {
    /// Returns the level as it is written in a file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
