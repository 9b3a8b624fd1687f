// SPDX-License-Identifier: Apache-2.0
//! The trait that makes stores.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, HumanDuration, JsonObject, Machine};
use futures::future::BoxFuture;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::Error;
use crate::settings::printable;
use crate::store::Store;

/// The parts of the outside world that a driver may use.
#[derive(Debug, Clone)]
pub struct Context {
    /// Time, chance and tasks.
    pub env: Env,
    /// The store's name, for messages.
    pub store: String,
}

/// Makes stores of one kind.
pub trait Driver: Send + Sync + fmt::Debug + 'static {
    /// Returns the driver's name, such as `memory`.
    fn name(&self) -> &'static str;

    /// Returns the version of its configuration and behaviour, such as `v1`.
    fn version(&self) -> &'static str;

    /// Returns the other names and versions under which the driver is asked for.
    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// names without a domain, folded as by [`crate::fold`]. Errors name this driver when one of them is
    /// requested.
    fn replaces(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns one sentence for operators: what the stores keep and where.
    fn description(&self) -> &'static str;

    /// Fills in the defaults that follow the machine, so that they are known before the store is connected. The result
    /// is what [`Driver::connect`] and [`Store::reconfigure`] are given. Default: none follows it.
    fn complete(&self, config: &mut JsonObject, machine: &Machine) {
        let _ = (config, machine);
    }

    /// Returns whether the value of a field of a configuration may be shown, in the printed configuration and elsewhere.
    /// `field` is written as [`crate::redact`] describes. Default: of no field, so that a forgotten one is not a leak.
    fn shows(&self, field: &str) -> bool {
        let _ = field;
        false
    }

    /// Checks a configuration without connecting. An error names the field ([`crate::ErrorKind::Config`]).
    fn validate(&self, config: &JsonObject) -> Result<(), Error>;

    /// Returns the files that a configuration names and connecting reads, such as certificates. Default: none.
    fn files(&self, config: &JsonObject) -> Vec<PathBuf> {
        let _ = config;
        Vec::new()
    }

    /// Checks what a valid configuration needs of this machine, without a side effect: mistakes that no later attempt to
    /// connect can find gone ([`crate::ErrorKind::Config`]). May block. By default [`Driver::files`] are looked at.
    fn preflight(&self, config: &JsonObject) -> Result<(), Error> {
        self.files(config).iter().try_for_each(|file| readable(file))
    }

    /// Returns whether a store is a part of this machine alone, so that [`crate::ErrorKind::Config`] from [`Driver::connect`] is a
    /// mistake as one of [`Driver::preflight`] is: no later attempt finds it gone. Default: no.
    fn is_local(&self) -> bool {
        false
    }

    /// Returns how long connecting may take before it is given up and tried again. Default 10 s: a backend that does not
    /// answer by then is away. More for drivers that read a whole store.
    fn connect_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Connects a store.
    ///
    /// # Behaviour
    /// - bad configuration: [`crate::ErrorKind::Config`].
    /// - backend not reachable: [`crate::ErrorKind::Unavailable`]; the caller tries again.
    /// - cancelled: nothing is left behind.
    fn connect(&self, config: JsonObject, context: Context) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>>;
}

/// Makes sure that this is a file which can be read.
fn readable(path: &Path) -> Result<(), Error> {
    let wrong = |problem: &str| {
        Error::config(format!("{problem}: path=`{}`", printable(&path.display().to_string())))
    };
    let found = std::fs::metadata(path).map_err(|error| wrong("file cannot be found").caused_by(error))?;
    if !found.is_file() {
        // Not opened: a pipe would wait for its other end.
        return Err(wrong("this is no regular file"));
    }
    std::fs::File::open(path).map(drop).map_err(|error| wrong("file cannot be read").caused_by(error))
}

/// Reads durations in configurations: text such as `"5s"`, `"250ms"` or `"1m30s"` (units `ns`, `us`, `ms`, `s`, `m`, `h`,
/// `d`), or an integer of nanoseconds as the original's drivers had it. For
/// `#[serde(deserialize_with = "atomix_store::deserialize_duration")]`.
pub fn deserialize_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum DurationField {
        Nanoseconds(u64),
        Text(String),
    }
    const RIGHT: &str = "a duration is a text such as `1m30s` or a number of nanoseconds";
    match DurationField::deserialize(deserializer).map_err(|_| D::Error::custom(RIGHT))? {
        DurationField::Nanoseconds(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        DurationField::Text(text) => text
            .parse()
            .map(HumanDuration::get)
            .map_err(|_| D::Error::custom(format!("{RIGHT}, not `{}`", printable(&text)))),
    }
}
