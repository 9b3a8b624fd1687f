// SPDX-License-Identifier: Apache-2.0
//! Configurations as they come over the wire: `contract/runtime.md` section 3.2.

use std::fmt;

use atomix_config::JsonObject;
use atomix_primitives::Error;
use prost::Message;
use prost_types::Any;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Decodes the bytes of a `config` field: raw JSON, or an encoded `google.protobuf.Any` around JSON. Nothing at all
/// is the empty configuration.
pub fn decode_config(bytes: &[u8]) -> Result<JsonObject, Error> {
    if let Some(object) = object(bytes)? {
        return Ok(object);
    }
    if bytes.is_empty() {
        return Ok(JsonObject::new());
    }
    let wrong = || Error::invalid("configuration is neither a JSON object nor an Any around one");
    // An incomplete `Any` decodes to another length: unknown fields, a field that is there twice.
    let any = Any::decode(bytes).ok().filter(|any| any.encoded_len() == bytes.len()).ok_or_else(wrong)?;
    if any.value.is_empty() { Ok(JsonObject::new()) } else { object(&any.value)?.ok_or_else(wrong) }
}

/// Reads a JSON object; none if it is something else. A key that is there twice is an error: which of both would be meant
/// is not known.
fn object(bytes: &[u8]) -> Result<Option<JsonObject>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Unique(Value::Object(object))) => Ok(Some(object)),
        Err(error) if error.to_string().starts_with(TWICE) => {
            Err(Error::invalid(format!("configuration is wrong: {error}")))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

const TWICE: &str = "key given twice";

/// A JSON value whose objects have no key twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = JsonObject::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                let shown: String = key.escape_debug().take(200).collect();
                return Err(A::Error::custom(format!("{TWICE}, remove one: key=`{shown}`")));
            }
            let Unique(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<String, String> {
        decode_config(bytes)
            .map(|object| Value::Object(object).to_string())
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn the_table_of_the_contract_is_read_as_it_says() {
        assert_eq!(decoded(br#"{"x":1}"#).unwrap(), r#"{"x":1}"#);
        assert_eq!(decoded(b"\x12\x07{\"x\":1}").unwrap(), r#"{"x":1}"#);
        assert_eq!(decoded(b"").unwrap(), "{}");
    }

    #[test]
    fn json_that_begins_with_a_line_feed_is_json() {
        assert_eq!(decoded(b"\n\n {\"x\":1}\n").unwrap(), r#"{"x":1}"#);
    }

    #[test]
    fn the_type_url_of_an_any_is_ignored() {
        assert_eq!(decoded(b"\x0a\x03a/b\x12\x02{}").unwrap(), "{}");
        assert_eq!(decoded(b"\x0a\x03a/b").unwrap(), "{}");
    }

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        for bytes in
            [&br#"{"x":1,"a":2,"x":3}"#[..], br#"{"l":[{"x":1,"x":1}]}"#, b"\x12\x0d{\"x\":1,\"x\":2}"]
        {
            let error = decoded(bytes).unwrap_err();
            assert!(error.contains("key given twice, remove one: key=`x`"), "{error}");
        }
        assert_eq!(
            decoded(br#"{"l":[{"x":1.5},{"x":null}],"t":"x"}"#).unwrap(),
            r#"{"l":[{"x":1.5},{"x":null}],"t":"x"}"#
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bytes in [
            &b"[]"[..],
            b"\"x\"",
            b"null",
            b"x: 1",
            b"\x12\x02[]",
            b"\x12\xff",
            b"\x1a\x00",
            b"{",
            b"\x0a\x01\xff",
        ] {
            assert!(decoded(bytes).is_err(), "{bytes:?}");
        }
    }
}
