// SPDX-License-Identifier: Apache-2.0
//! The effective configuration as YAML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::config::{Config, StoreSpec};
use crate::nearest::join;
use crate::origin::Origin;
use crate::schema::ROOT;
use crate::setting::{Scalar, Setting, Shape};
use atomix_env::JsonObject;

/// Stands for a value that is not shown. The loader refuses it, so that a printed configuration does not come back with it.
pub(crate) const HIDDEN: &str = "(hidden)";

/// Writes the configuration in the order of the schema, each value with its origin. Of the stores' own configurations it
/// writes what `show` returns.
pub(crate) fn yaml(
    config: &Config,
    origins: &BTreeMap<String, Origin>,
    show: impl Fn(&StoreSpec) -> JsonObject,
) -> String {
    let mut out = String::new();
    let mut config = config.clone();
    for store in &mut config.stores {
        store.config = show(store);
    }
    // Invariant: the types have text keys and no failing serializer; `what_is_printed_reads_back` tests it.
    let value = serde_json::to_value(&config).expect("a configuration has a JSON form");
    if config.routes.is_absent() {
        // The key cannot be written: an empty list means something else.
        out.push_str("# routes are not set: everything goes to the first store  # default\n");
    }
    Renderer { origins }.table(&mut out, ROOT, "", 0, &value);
    out
}

struct Renderer<'a> {
    origins: &'a BTreeMap<String, Origin>,
}

impl Renderer<'_> {
    fn table(&self, out: &mut String, settings: &[Setting], path: &str, indent: usize, value: &Value) {
        for setting in settings {
            let Some(value) = value.get(setting.key) else { continue };
            let path = join(path, setting.key);
            self.entry(out, setting, &path, indent, value);
        }
    }

    fn entry(&self, out: &mut String, setting: &Setting, path: &str, indent: usize, value: &Value) {
        let origin = self.origins.get(path).unwrap_or(&Origin::Default);
        let key = setting.key;
        match (setting.shape, value) {
            (Shape::Table(settings), _) => {
                line(out, indent, &format!("{key}:"));
                self.table(out, settings, path, indent + 2, value);
            }
            (Shape::List(Shape::Table(settings)), Value::Array(items)) if !items.is_empty() => {
                line(out, indent, &format!("{key}:  # {origin}"));
                for (index, item) in items.iter().enumerate() {
                    let mut block = String::new();
                    self.table(&mut block, settings, &format!("{path}[{index}]"), indent + 4, item);
                    // The dash stands in the indent of the first key, which every item has.
                    block.replace_range(indent + 2..indent + 3, "-");
                    out.push_str(&block);
                }
            }
            (Shape::Scalar(Scalar::Choice(_) | Scalar::Bytes { .. } | Scalar::Span { .. }), Value::String(text))
                // `off` is a truth value to readers of YAML 1.1; the other words are nothing but words to all.
                if text != "off" =>
            {
                line(out, indent, &format!("{key}: {text}  # {origin}"));
            }
            (Shape::List(_) | Shape::Object | Shape::Scalar(_), _) => {
                line(out, indent, &format!("{key}: {}  # {origin}", flow(value)));
            }
        }
    }
}

fn line(out: &mut String, indent: usize, text: &str) {
    out.extend(std::iter::repeat_n(' ', indent));
    out.push_str(text);
    out.push('\n');
}

/// Writes a value on one line. All texts are quoted, so that none is read as a number or a truth value.
fn flow(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(object) => {
            let entries = object.iter().map(|(key, value)| format!("{}: {}", quoted(key), flow(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            // YAML allows most of Unicode as it stands, but not all of it, and readers differ in the rest.
            _ if character.is_alphanumeric() => out.push(character),
            _ => {
                let code = u32::from(character);
                let written = write!(out, "\\U{code:08x}");
                written.expect("a string takes everything");
            }
        }
    }
    out.push('"');
    out
}
