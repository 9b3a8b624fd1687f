// SPDX-License-Identifier: Apache-2.0
//! The configuration of a primitive in a rule or a service of a route.

use atomix_config::JsonObject;
use atomix_primitives::{Error, PrimitiveConfig};
use serde::Deserialize;
use serde_json::Value;

/// Reads the configuration of a primitive, as a rule or a service gives it. Unknown fields are refused.
pub fn parse_primitive_config(config: &JsonObject) -> Result<PrimitiveConfig, Error> {
    #[derive(Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        cache: Cache,
        #[serde(alias = "append_as_inserted", rename = "appendAsInserted")]
        append_as_inserted: bool,
    }
    #[derive(Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Cache {
        enabled: bool,
        size: Size,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Number(u64),
        /// The JSON form of protobuf writes 64-bit numbers as text.
        Text(String),
    }
    impl Default for Size {
        fn default() -> Self {
            Self::Number(0)
        }
    }
    let wrong = |problem: String| Error::invalid(format!("configuration of a primitive is wrong: {problem}"));
    let config: Config =
        serde_json::from_value(Value::Object(config.clone())).map_err(|error| wrong(error.to_string()))?;
    let cache_size = match config.cache.size {
        Size::Number(size) => size,
        Size::Text(size) => {
            size.parse().map_err(|_| wrong(format!("`cache.size` is no number: value=`{size}`")))?
        }
    };
    Ok(PrimitiveConfig {
        cache_enabled: config.cache.enabled,
        cache_size,
        append_as_inserted: config.append_as_inserted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_size_may_be_a_number_or_text() {
        for text in [r#"{"cache":{"enabled":true,"size":3}}"#, r#"{"cache":{"enabled":true,"size":"3"}}"#] {
            let config = parse_primitive_config(&serde_json::from_str(text).unwrap()).unwrap();
            assert!(config.cache_enabled);
            assert_eq!(config.cache_size, 3);
        }
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = parse_primitive_config(&serde_json::from_str(r#"{"cash":{}}"#).unwrap()).unwrap_err();
        assert!(error.message().contains("cash"), "{error}");
    }
}
