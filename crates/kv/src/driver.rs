// SPDX-License-Identifier: Apache-2.0
//! The trait that makes stores.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atomix_env::Env;
use futures::future::BoxFuture;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::{Error, Store};

/// The configuration of a store as the operator wrote it: one JSON object.
pub type StoreConfig = serde_json::Map<String, serde_json::Value>;

/// What a driver may use of the outside world.
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

    /// Returns one sentence for operators: what the stores keep and where.
    fn description(&self) -> &'static str;

    /// Checks a configuration without connecting. An error names the field ([`crate::ErrorKind::Config`]).
    fn validate(&self, config: &StoreConfig) -> Result<(), Error>;

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
    fn connect(&self, config: StoreConfig, context: Context) -> BoxFuture<'_, Result<Arc<dyn Store>, Error>>;
}

/// Reads a typed configuration. Unknown fields are errors if `T` denies them; every error names its field.
pub fn parse_config<T: DeserializeOwned>(config: &StoreConfig) -> Result<T, Error> {
    serde_json::from_value(serde_json::Value::Object(config.clone()))
        .map_err(|error| Error::config(format!("store configuration is wrong: {error}")))
}

/// Reads durations in configurations: text such as `"5s"` or `"250ms"` (units `ms`, `s`, `m`, `h`, `d`), or an integer
/// of nanoseconds as the original's drivers had it. For `#[serde(deserialize_with = "atomix_kv::span")]`.
pub fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Span {
        Nanos(u64),
        Text(String),
    }
    match Span::deserialize(deserializer) {
        Ok(Span::Nanos(nanos)) => Ok(Duration::from_nanos(nanos)),
        Ok(Span::Text(text)) => {
            parse_span(&text).ok_or_else(|| D::Error::custom(format!("not a duration: `{text}`, write `5s`")))
        }
        Err(_) => Err(D::Error::custom("not a duration: write `\"5s\"`")),
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let unit = text.find(|digit: char| !digit.is_ascii_digit())?;
    let (number, unit) = (text[..unit].parse::<u64>().ok()?, &text[unit..]);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_text_with_a_unit() {
        assert_eq!(parse_span("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_span("2h"), Some(Duration::from_hours(2)));
        for wrong in ["", "5", "s", "1.5s", "-1s", "5 s", "18446744073709551615d"] {
            assert_eq!(parse_span(wrong), None, "{wrong}");
        }
    }
}
