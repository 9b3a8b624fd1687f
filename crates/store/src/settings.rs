// SPDX-License-Identifier: Apache-2.0
//! Configurations of stores: read into types, and shown without their secrets.
//!
//! Nothing here repeats a value in a message: a value of the wrong type may be a password in the wrong field.

use std::fmt;

use atomix_env::JsonObject;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::Error;

/// Stands for a value that is not shown. A configuration that contains it is a printed one that came back.
pub const HIDDEN: &str = "(hidden)";

/// Bytes of a text of a client in a message.
const SHOWN_BYTES_MAX: usize = 200;

/// Reads a typed configuration. A field that is null is as one that is not there. Unknown fields are errors if `T` denies
/// them; every error names its field, and none repeats a value.
pub fn parse_config<T: DeserializeOwned>(config: &JsonObject) -> Result<T, Error> {
    let value = Value::Object(config.clone());
    let read = T::deserialize(Field { path: String::new(), value: &value });
    read.map_err(|wrong| Error::config(format!("store configuration is wrong: {wrong}")))
}

/// Returns `config` with our names for its fields, as drivers of the original took it: the names of `ours` are understood
/// without regard to case, hyphens and underscores, those of `others` (folded as by [`fold`]) stand for one of ours, and
/// those of `without_effect` (folded) are dropped, as is every field that is null. Unknown names stay.
pub fn rename_fields(
    config: &JsonObject,
    ours: &[&str],
    others: &[(&str, &str)],
    without_effect: &[&str],
) -> Result<JsonObject, Error> {
    let mut renamed = JsonObject::new();
    for (name, value) in config {
        let folded = fold(name);
        if value.is_null() || without_effect.contains(&folded.as_str()) {
            continue;
        }
        let other = others.iter().find(|(other, _)| *other == folded).map(|(_, ours)| *ours);
        let known = other.or_else(|| ours.iter().find(|ours| fold(ours) == folded).copied());
        let ours = known.unwrap_or(name);
        if renamed.insert(ours.to_owned(), value.clone()).is_some() {
            let name = printable(name);
            return Err(Error::config(format!("store configuration is wrong: `{name}` sets `{ours}` again")));
        }
    }
    Ok(renamed)
}

/// Returns `config` as it may be shown. Values of fields for which `shows` is false are [`HIDDEN`], all but truth values
/// and null; from the others credentials are taken as by [`without_credentials`].
///
/// `shows` gets the path of a field in lower case without hyphens and underscores, levels separated by a dot:
/// `tls.servername`. The items of a list have the path of the list.
pub fn redact(config: &JsonObject, shows: &dyn Fn(&str) -> bool) -> JsonObject {
    redact_table(config, "", shows)
}

fn redact_table(table: &JsonObject, path: &str, shows: &dyn Fn(&str) -> bool) -> JsonObject {
    let entry = |(name, value): (&String, &Value)| {
        let path = join(path, &fold(name));
        (name.clone(), redact_value(value, &path, shows))
    };
    table.iter().map(entry).collect()
}

fn redact_value(value: &Value, path: &str, shows: &dyn Fn(&str) -> bool) -> Value {
    match value {
        Value::Object(inner) => Value::Object(redact_table(inner, path, shows)),
        Value::Array(items) => items.iter().map(|item| redact_value(item, path, shows)).collect(),
        Value::String(_) | Value::Number(_) if !shows(path) => Value::from(HIDDEN),
        Value::String(text) => Value::from(without_credentials(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Sets a field that is missing or null; the name is compared as [`fold`] folds it.
pub fn set_default(config: &mut JsonObject, field: &str, value: usize) {
    let is_set = |(name, value): (&String, &Value)| !value.is_null() && fold(name) == fold(field);
    if !config.iter().any(is_set) {
        config.insert(field.to_owned(), value.into());
    }
}

/// Returns the name of a field in lower case, without hyphens and underscores.
pub fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// Returns `text` without the user part of each URL (`redis://user:password@host`), also of an address without a scheme
/// that has a password. A text with a private key, or with a setting that is named like a secret (`password=…`), is
/// [`HIDDEN`] as a whole.
pub fn without_credentials(text: &str) -> String {
    if text.contains("PRIVATE KEY") || names_secret(text) {
        return HIDDEN.to_owned();
    }
    let separator = |c: char| matches!(c, ',' | ';') || c.is_whitespace();
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(separator) {
        let start = part.find("://").map(|at| at + 3);
        let rest = &part[start.unwrap_or(0)..];
        // A password may contain a slash although it should be escaped, so the last `@` counts.
        match rest.rsplit_once('@') {
            Some((user, host)) if start.is_some() || user.contains(':') => {
                out.extend([&part[..start.unwrap_or(0)], HIDDEN, "@", host]);
            }
            Some(_) | None => out.push_str(part),
        }
    }
    out
}

/// Returns whether `text` has a setting `name=value` whose name is that of a secret.
fn names_secret(text: &str) -> bool {
    const NAMES: [&str; 9] =
        ["password", "passwd", "passphrase", "pwd", "secret", "token", "credential", "accesskey", "apikey"];
    let mut parts = text.split('=').peekable();
    while let Some(part) = parts.next() {
        let word = part.trim_end().rsplit(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'));
        let name = fold(word.into_iter().next().unwrap_or_default());
        if parts.peek().is_some() && NAMES.iter().any(|secret| name.contains(secret)) {
            return true;
        }
    }
    false
}

/// Returns a text of a client for a message: on one line, without control characters, backquotes as `'`, and cut at
/// 200 bytes with `…`.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(SHOWN_BYTES_MAX));
    for character in text.chars() {
        let before = out.len();
        match character {
            // A backquote ends a value in a message.
            '`' => out.push('\''),
            '\u{2028}' | '\u{2029}' | '\u{feff}' => out.extend(character.escape_unicode()),
            _ if character.is_control() => out.extend(character.escape_default()),
            _ => out.push(character),
        }
        if out.len() > SHOWN_BYTES_MAX {
            out.truncate(before);
            out.push('…');
            break;
        }
    }
    out
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A text of a configuration that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A value of a configuration, and where it is.
struct Field<'a> {
    path: String,
    value: &'a Value,
}

/// The fields of a table, or the items of a list, that are still to be read.
struct Rest<'a> {
    fields: std::vec::IntoIter<(&'a str, Field<'a>)>,
    value: Option<Field<'a>>,
}

/// Why a configuration is not what a type wants.
#[derive(Debug)]
struct Wrong {
    /// The path; empty until it is known, and if the whole value is wrong.
    path: String,
    why: String,
}

// === impl Secret ===

impl Secret {
    /// Returns the text. The name is long so that its uses are easy to find.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { HIDDEN })
    }
}

// === impl Field ===

impl<'a> Field<'a> {
    /// Reads the value; an error names where it is.
    fn read<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, Wrong> {
        let path = self.path.clone();
        seed.deserialize(self).map_err(|wrong| wrong.at(&path))
    }

    fn visit<V: Visitor<'a>>(path: &str, value: &'a Value, visitor: V) -> Result<V::Value, Wrong> {
        match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => {
                let item = |(at, value)| ("", Field { path: format!("{path}[{at}]"), value });
                visitor.visit_seq(Rest::new(items.iter().enumerate().map(item)))
            }
            Value::Object(table) => {
                // A field that is null is not there.
                let fields = table.iter().filter(|(_, value)| !value.is_null());
                let field = |(name, value): (&'a String, &'a Value)| {
                    (name.as_str(), Field { path: join(path, name), value })
                };
                visitor.visit_map(Rest::new(fields.map(field)))
            }
        }
    }
}

impl<'de> Deserializer<'de> for Field<'de> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        Self::visit(&self.path, self.value, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_enum(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

impl<'de> EnumAccess<'de> for Field<'de> {
    type Error = Wrong;
    type Variant = UnitOnly;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, UnitOnly), Wrong> {
        Ok((seed.deserialize(self)?, UnitOnly))
    }
}

// === impl Rest ===

impl<'a> Rest<'a> {
    fn new(fields: impl Iterator<Item = (&'a str, Field<'a>)>) -> Self {
        Self { fields: fields.collect::<Vec<_>>().into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Rest<'de> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some((name, field)) = self.fields.next() else { return Ok(None) };
        self.value = Some(field);
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let field = self.value.take().ok_or_else(|| de::Error::custom("a value without a name"))?;
        field.read(seed)
    }
}

impl<'de> SeqAccess<'de> for Rest<'de> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        self.fields.next().map(|(_, field)| field.read(seed)).transpose()
    }
}

/// The variant of an enum that is written as a text: it has no content.
struct UnitOnly;

impl<'de> VariantAccess<'de> for UnitOnly {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Wrong> {
        Err(de::Error::custom("expected more than a text"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("expected more than a text"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("expected more than a text"))
    }
}

// === impl Wrong ===

impl Wrong {
    /// Names the field unless an inner one is named.
    fn at(mut self, path: &str) -> Self {
        if self.path.is_empty() {
            path.clone_into(&mut self.path);
        }
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "`{}`: ", printable(&self.path))?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self { path: String::new(), why: why.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}, not {}", kind(&found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}, not this {}", kind(&found)))
    }

    fn unknown_variant(_variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("expected one of {}", names(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("unknown field `{}`, the fields are {}", printable(field), names(expected)))
    }
}

fn names(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn kind(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "truth value",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "whole number",
        Unexpected::Float(_) => "number",
        Unexpected::Char(_) | Unexpected::Str(_) => "text",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "list",
        Unexpected::Map => "table",
        Unexpected::Bytes(_)
        | Unexpected::NewtypeStruct
        | Unexpected::Enum
        | Unexpected::UnitVariant
        | Unexpected::NewtypeVariant
        | Unexpected::TupleVariant
        | Unexpected::StructVariant
        | Unexpected::Other(_) => "value",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
    struct Sample {
        places: Vec<String>,
        password: Option<String>,
        size: u8,
        #[serde(deserialize_with = "crate::driver::deserialize_duration")]
        wait: Duration,
        mode: Mode,
        inner: Option<Inner>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        #[default]
        Fast,
        Safe,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        key: String,
        on: bool,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self {
                places: Vec::new(),
                password: None,
                size: 1,
                wait: Duration::from_secs(1),
                mode: Mode::Fast,
                inner: None,
            }
        }
    }

    fn table(value: Value) -> JsonObject {
        let Value::Object(table) = value else { panic!("not a table") };
        table
    }

    #[test]
    fn a_configuration_is_read() {
        let config = json!({"places": ["a", "b"], "password": null, "size": 3, "wait": "5s", "mode": "safe",
            "inner": {"key": "k", "on": true}});
        let sample: Sample = parse_config(&table(config)).unwrap();
        let inner = Inner { key: "k".to_owned(), on: true };
        let expected = Sample {
            places: vec!["a".to_owned(), "b".to_owned()],
            size: 3,
            wait: Duration::from_secs(5),
            mode: Mode::Safe,
            inner: Some(inner),
            ..Sample::default()
        };
        assert_eq!(sample, expected);
        assert_eq!(parse_config::<Sample>(&JsonObject::new()).unwrap(), Sample::default());
    }

    #[test]
    fn every_error_names_its_field_and_repeats_no_value() {
        for (config, message) in [
            (json!({"places": "hunter2"}), "`places`: expected a sequence, not text"),
            (json!({"places": ["a", 77777]}), "`places[1]`: expected a string, not whole number"),
            (json!({"password": 77777}), "`password`: expected a string, not whole number"),
            (json!({"password": ["hunter2"]}), "`password`: expected a string, not list"),
            (json!({"size": 77777}), "`size`: expected u8, not this whole number"),
            (json!({"size": "hunter2"}), "`size`: expected u8, not text"),
            (json!({"wait": -1}), "`wait`: a duration is a text such as `1m30s` or a number of nanoseconds"),
            (json!({"mode": "hunter2"}), "`mode`: expected one of `fast`, `safe`"),
            (json!({"mode": {"hunter2": 1}}), "`mode`: expected variant identifier, not table"),
            (json!({"inner": {"key": {"hunter2": 1}}}), "`inner.key`: expected a string, not table"),
            (json!({"inner": "hunter2"}), "`inner`: expected struct Inner, not text"),
            (
                json!({"inner": {"kee": "hunter2"}}),
                "`inner`: unknown field `kee`, the fields are `key`, `on`",
            ),
        ] {
            let error = parse_config::<Sample>(&table(config)).unwrap_err().to_string();
            assert_eq!(error, format!("store configuration is wrong: {message}"));
        }
        let error = parse_config::<Sample>(&table(json!({"sice": 1}))).unwrap_err().to_string();
        assert!(
            error.starts_with("store configuration is wrong: unknown field `sice`, the fields are"),
            "{error}"
        );
    }

    #[test]
    fn only_fields_that_may_be_shown_are_shown() {
        let config = table(json!({
            "Places": ["http://me:hunter2@a:1", "b:2"], "Pass-Word": "hunter2", "pin": 77777, "on": true, "off": null,
            "inner": {"CA_File": "/ca.pem", "key": "hunter2", "list": [["hunter2"]]},
        }));
        let shows = |path: &str| matches!(path, "places" | "inner.cafile");
        assert_eq!(
            Value::Object(redact(&config, &shows)),
            json!({
                "Places": ["http://(hidden)@a:1", "b:2"], "Pass-Word": HIDDEN, "pin": HIDDEN, "on": true, "off": null,
                "inner": {"CA_File": "/ca.pem", "key": HIDDEN, "list": [[HIDDEN]]},
            })
        );
    }

    #[test]
    fn other_names_are_understood() {
        let renamed = |config: Value| {
            rename_fields(&table(config), &["dial-time", "tls"], &[("addr", "tls")], &["pool"])
        };
        let config = json!({"DialTime": 1, "POOL": 2, "Addr": "a", "Context": null, "else": 3});
        let expected = json!({"dial-time": 1, "tls": "a", "else": 3});
        assert_eq!(Value::Object(renamed(config).unwrap()), expected);
        let twice = renamed(json!({"TLS": 1, "addr": 2})).unwrap_err().to_string();
        assert!(twice.contains("sets `tls` again"), "{twice}");
    }

    #[test]
    fn credentials_are_taken_out_of_texts() {
        for (text, shown) in [
            ("https://me:hunter2@a:1", "https://(hidden)@a:1"),
            ("https://hunter2@a:1/x", "https://(hidden)@a:1/x"),
            ("https://me:hun/ter2@a:1", "https://(hidden)@a:1"),
            ("me:hunter2@a:1,b:2", "(hidden)@a:1,b:2"),
            ("a:1, redis://:hunter2@b:2", "a:1, redis://(hidden)@b:2"),
            ("/srv/data@1", "/srv/data@1"),
            ("me@host", "me@host"),
            ("host=a password = hunter2", HIDDEN),
            ("https://a/?access-key=hunter2", HIDDEN),
            ("https://a/?a=b", "https://a/?a=b"),
            ("-----BEGIN EC PRIVATE KEY-----\nhunter2", HIDDEN),
            ("plain", "plain"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn a_text_of_a_client_is_printed_on_one_short_line() {
        assert_eq!(printable("a\n`b`\u{1b}[0m\u{2028}"), "a\\n'b'\\u{1b}[0m\\u{2028}");
        let long = printable(&"é".repeat(500));
        assert_eq!(long.chars().count(), 101);
        assert!(long.ends_with('…'));
        assert_eq!(printable(&"x".repeat(200)), "x".repeat(200));
    }
}
