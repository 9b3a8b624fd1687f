// SPDX-License-Identifier: Apache-2.0
//! Holds the values of one layer against the schema.

use serde_json::{Map, Value};

use crate::config::SocketMode;
use crate::duration::Duration;
use crate::error::Problem;
use crate::listen::Listen;
use crate::nearest::{join, nearest};
use crate::origin::{Origin, printable};
use crate::parse;
use crate::render::HIDDEN;
use crate::setting::{Presence, Scalar, Setting, Shape};
use crate::size::ByteSize;

/// Collects the problems of one layer.
pub(crate) struct Check<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) problems: &'a mut Vec<Problem>,
}

// === impl Check ===

impl Check<'_> {
    /// Returns `value` as the types read it, or reports what is wrong and returns nothing.
    pub(crate) fn value(&mut self, shape: &Shape, path: &str, value: &Value) -> Option<Value> {
        match (shape, value) {
            (Shape::Table(settings), Value::Object(table)) => {
                self.table(settings, path, table).map(Value::Object)
            }
            (Shape::List(item), Value::Array(items)) => {
                let checked: Vec<_> = items
                    .iter()
                    .enumerate()
                    .map(|(index, value)| self.value(item, &format!("{path}[{index}]"), value))
                    .collect();
                checked.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            (Shape::Object, Value::Object(_)) => self.object(path, value).then(|| value.clone()),
            (Shape::Scalar(scalar), value) => match scalar.read(value) {
                Some(read) => Some(read),
                None => self.refuse(shape, path, value),
            },
            (Shape::Table(_) | Shape::List(_) | Shape::Object, _) => self.refuse(shape, path, value),
        }
    }

    /// Returns the value that `text` (of the environment or a flag) stands for, or reports what is wrong.
    pub(crate) fn text(&mut self, shape: &Shape, path: &str, text: &str) -> Option<Value> {
        let text = text.trim();
        match shape {
            Shape::Scalar(Scalar::Count { .. }) => {
                // A number that does not parse is refused as the text that it is.
                let value = text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from);
                self.value(shape, path, &value)
            }
            Shape::Scalar(_) => self.value(shape, path, &Value::from(text)),
            // An IPv6 address begins with a bracket as well, but ends with a port.
            Shape::List(Shape::Scalar(_)) if !(text.starts_with('[') && text.ends_with(']')) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                self.value(shape, path, &items.map(Value::from).collect())
            }
            Shape::List(_) | Shape::Table(_) | Shape::Object => match parse::yaml(text) {
                Ok(value) => self.value(shape, path, &value),
                Err(reason) => {
                    self.problems.push(Problem::Syntax {
                        key: Some(path.to_owned()),
                        reason,
                        origin: self.origin.clone(),
                    });
                    None
                }
            },
        }
    }

    /// Returns the list that several texts (of a flag that was given several times) stand for together, or reports what
    /// is wrong.
    pub(crate) fn texts(&mut self, shape: &Shape, path: &str, texts: &[&str]) -> Option<Value> {
        let lists: Vec<_> = texts.iter().map(|text| self.text(shape, path, text)).collect();
        let lists: Vec<Value> = lists.into_iter().collect::<Option<_>>()?;
        let items = lists.into_iter().filter_map(|list| match list {
            Value::Array(items) => Some(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => None,
        });
        Some(items.flatten().collect())
    }

    /// Reports that the table at `path` has no such key.
    pub(crate) fn unknown(&mut self, settings: &[Setting], path: &str, key: &str) {
        self.problems.push(Problem::UnknownKey {
            key: join(path, &printable(key)),
            nearest: nearest(settings, path, key),
            origin: self.origin.clone(),
        });
    }

    fn table(
        &mut self,
        settings: &[Setting],
        path: &str,
        table: &Map<String, Value>,
    ) -> Option<Map<String, Value>> {
        let problems = self.problems.len();
        let mut checked = Map::new();
        let spelt = spell_type(settings, table);
        let table = spelt.as_ref().unwrap_or(table);
        for (key, value) in table {
            let Some(setting) = settings.iter().find(|setting| setting.key == key) else {
                self.unknown(settings, path, key);
                continue;
            };
            if let Some(value) = self.value(&setting.shape, &join(path, key), value) {
                checked.insert(key.clone(), value);
            }
        }
        for setting in settings {
            if matches!(setting.presence, Presence::Required) && !table.contains_key(setting.key) {
                self.problems
                    .push(Problem::KeyMissing { key: join(path, setting.key), origin: self.origin.clone() });
            }
        }
        (self.problems.len() == problems).then_some(checked)
    }

    /// Returns whether a free object may be passed on.
    fn object(&mut self, path: &str, value: &Value) -> bool {
        let hidden = match value {
            Value::Object(inner) => {
                // No short cut: every hidden secret is reported.
                let kept = inner
                    .iter()
                    .filter(|(key, value)| self.object(&join(path, &printable(key)), value))
                    .count();
                return kept == inner.len();
            }
            Value::Array(items) => {
                let kept = items
                    .iter()
                    .enumerate()
                    .filter(|(index, value)| self.object(&format!("{path}[{index}]"), value));
                return kept.count() == items.len();
            }
            Value::String(text) => text.contains(HIDDEN),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        };
        if hidden {
            self.problems.push(Problem::SecretHidden { key: path.to_owned(), origin: self.origin.clone() });
        }
        !hidden
    }

    fn refuse(&mut self, shape: &Shape, path: &str, value: &Value) -> Option<Value> {
        self.problems.push(Problem::Value {
            key: path.to_owned(),
            value: match (shape, value) {
                // Perhaps a table with a mistake in its syntax, and a secret in it.
                (Shape::Table(_) | Shape::List(Shape::Table(_)) | Shape::Object, Value::String(_)) => {
                    "a text".to_owned()
                }
                _ => show(value),
            },
            allowed: shape.allowed(),
            origin: self.origin.clone(),
        });
        None
    }
}

/// Returns a rule of a route with `type: {name: Map, version: v1}` for `kind: Map, version: v1`, as the commands write
/// it. Nothing if there is nothing to do, or if the rule has both, which is a mistake.
fn spell_type(settings: &[Setting], table: &Map<String, Value>) -> Option<Map<String, Value>> {
    if settings.iter().all(|setting| setting.key != "type") || table.contains_key("type") {
        return None;
    }
    let mut spelt = table.clone();
    let mut kind = Map::new();
    kind.insert("name".to_owned(), spelt.remove("kind")?);
    if let Some(version) = spelt.remove("version") {
        kind.insert("version".to_owned(), version);
    }
    spelt.insert("type".to_owned(), Value::Object(kind));
    Some(spelt)
}

// === impl Scalar ===

impl Scalar {
    /// Returns the value as the types read it, or nothing if it is not allowed.
    fn read(&self, value: &Value) -> Option<Value> {
        let allowed = match *self {
            Self::Text => value.is_string(),
            Self::Mode => value.as_str()?.parse::<SocketMode>().is_ok(),
            Self::Listen => value.as_str()?.parse::<Listen>().is_ok(),
            Self::Choice(choices) => choices.contains(&value.as_str()?),
            Self::Count { min, max } => (u64::from(min)..=u64::from(max)).contains(&value.as_u64()?),
            Self::Bytes { min, max } => {
                let size = match value {
                    Value::String(text) => text.parse().ok()?,
                    Value::Number(number) => ByteSize::new(number.as_u64()?),
                    Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
                };
                (min..=max).contains(&size.bytes())
            }
            Self::Span { min, max } => {
                let duration: Duration = value.as_str()?.parse().ok()?;
                (min..=max).contains(&duration.get())
            }
        };
        allowed.then(|| value.clone())
    }
}

/// Returns a value for a message. Lists and tables may hold secrets and are not shown.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => printable(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
    }
}
