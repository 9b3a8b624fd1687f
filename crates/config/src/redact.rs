// SPDX-License-Identifier: Apache-2.0
//! Hides secrets in the free objects of stores, whose keys belong to drivers.
//!
//! The runtime does not know which key of a driver is secret, so everything that looks like one is hidden: a hidden
//! port is a nuisance, a printed password an incident.

use serde_json::Value;

use crate::Object;

/// Stands for a secret. The loader refuses it, so that a printed configuration does not come back with it.
pub(crate) const HIDDEN: &str = "(hidden)";

const KEYS: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "credential",
    "privatekey",
    "accesskey",
    "apikey",
];

/// Returns `object` with everything that looks like a secret replaced by [`HIDDEN`].
pub(crate) fn object(object: &Object) -> Object {
    let entry = |(key, value): (&String, &Value)| {
        let value = if is_secret(key) && !matches!(value, Value::Null | Value::Bool(_)) {
            Value::from(HIDDEN)
        } else {
            redacted(value)
        };
        (key.clone(), value)
    };
    object.iter().map(entry).collect()
}

fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(inner) => Value::Object(object(inner)),
        Value::Array(items) => items.iter().map(redacted).collect(),
        Value::String(text) => Value::from(in_text(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let plain: String =
        key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    plain == "pass" || KEYS.iter().any(|word| plain.contains(word))
}

/// Hides the user part of each URL (`redis://user:password@host`), or the whole text if it has a secret by name
/// (`password=...`).
fn in_text(text: &str) -> String {
    let by_name = |(before, _): (&str, &str)| {
        let word =
            before.trim_end().rsplit(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')).next();
        word.is_some_and(is_secret)
    };
    let mut rest = text;
    while let Some(parts) = rest.split_once('=') {
        if by_name(parts) {
            return HIDDEN.to_owned();
        }
        rest = parts.1;
    }

    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after
            .find(|c: char| matches!(c, '/' | '?' | '#' | ',') || c.is_whitespace())
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        out.push_str(before);
        out.push_str("://");
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend([HIDDEN, "@", host]),
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_hidden() {
        let config = json!({
            "Addr": "localhost:6379", "Password": "p1", "auth-token": 17, "reject-passwords": true,
            "tls": {"private_key": ["p2"], "ca": "file"},
            "endpoints": ["redis://user:p3@one:1,redis://two:2/0", "https://three/?a=b"],
            "dsn": "host=x password = p4",
        });
        let hidden = Value::Object(object(config.as_object().unwrap()));
        assert_eq!(
            hidden,
            json!({
                "Addr": "localhost:6379", "Password": HIDDEN, "auth-token": HIDDEN, "reject-passwords": true,
                "tls": {"private_key": HIDDEN, "ca": "file"},
                "endpoints": ["redis://(hidden)@one:1,redis://two:2/0", "https://three/?a=b"],
                "dsn": HIDDEN,
            })
        );
    }
}
