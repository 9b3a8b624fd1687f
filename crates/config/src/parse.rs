// SPDX-License-Identifier: Apache-2.0
//! Text to values: YAML, TOML, and the file that holds them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Problem;
use crate::origin::Origin;
use crate::size::ByteSize;

/// The largest configuration file that is read, in bytes. A thousand stores with their routes fill a tenth of it.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Copy)]
enum Format {
    Yaml,
    Toml,
}

/// Reads the file into a table. An empty file is an empty table.
pub(crate) fn file(path: &Path) -> Result<Map<String, Value>, Problem> {
    let name = path.display().to_string();
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    let format = match extension.as_deref() {
        Some("yaml" | "yml") => Format::Yaml,
        Some("toml") => Format::Toml,
        Some(_) | None => return Err(Problem::FileFormat { path: name }),
    };
    let text = match read(path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let max = ByteSize::new(FILE_BYTES_MAX);
            return Err(Problem::FileTooLarge { path: name, max });
        }
        Err(error) => {
            let reason = error.to_string();
            return Err(Problem::FileUnreadable { path: name, reason });
        }
    };
    let read = match format {
        Format::Yaml => yaml(&text),
        Format::Toml => toml(&text),
    };
    let syntax = |reason| Problem::Syntax { key: None, reason, origin: Origin::File(name.clone()) };
    match read.map_err(syntax)? {
        Value::Object(table) => Ok(table),
        Value::Null => Ok(Map::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(syntax("the file is not a table of keys and values".to_owned()))
        }
    }
}

/// Returns nothing if the file is too large: the bound also holds for what is not a regular file.
fn read(path: &Path) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    let length = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    Ok((length as u64 <= FILE_BYTES_MAX).then_some(text))
}

/// Reads one YAML document; JSON is YAML too. Depth and aliases are bounded by the reader.
pub(crate) fn yaml(text: &str) -> Result<Value, String> {
    // Messages must not quote the file: the line in question may hold a secret.
    // YAML 1.2 as to booleans: with those of YAML 1.1 a namespace `n` or the log level `off` would be false.
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = one_line(&error.without_snippet().to_string());
        // The reader advises its programmer, not the author of the file.
        error.replace(", set DuplicateKeyPolicy in Options if acceptable", ", remove one of them:")
    })
}

fn toml(text: &str) -> Result<Value, String> {
    match toml::from_str::<toml::Table>(text) {
        Ok(table) => from_toml(toml::Value::Table(table)),
        Err(error) => {
            // `Display` would quote the line, see above.
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count());
            let at = line.map(|line| format!(" at line {}", line + 1)).unwrap_or_default();
            Err(one_line(&format!("{}{at}", error.message())))
        }
    }
}

/// Converts by hand: through serde, a date would become a table with a private key.
fn from_toml(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => Value::from(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::from(flag),
        toml::Value::Datetime(date) => Value::from(date.to_string()),
        toml::Value::Float(number) => {
            let number = serde_json::Number::from_f64(number).ok_or("a number that is not finite")?;
            Value::Number(number)
        }
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(from_toml).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let entry = |(key, value)| Ok::<_, String>((key, from_toml(value)?));
            Value::Object(table.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}

fn one_line(text: &str) -> String {
    crate::origin::printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_and_toml_give_the_same_values() {
        let text = "a: 1\nb: [x, 1.5, true]\nc: {d: 'e'}\nf: 5s\n";
        let same = "a = 1\nb = ['x', 1.5, true]\nf = '5s'\n[c]\nd = 'e'\n";
        assert_eq!(yaml(text), toml(same));
        assert_eq!(toml("d = 2024-01-02"), Ok(json!({"d": "2024-01-02"})));
        assert_eq!(yaml("off: no"), Ok(json!({"off": "no"})));
    }

    #[test]
    fn doubtful_documents_are_refused_in_one_line_without_quoting_them() {
        let deep = "[".repeat(10_000);
        for text in
            ["a: 1\na: 2", "a: [", "a: .nan", "--- 1\n--- 2", "pw: \"hunter2", "pw: hunter2: x", &deep]
        {
            let reason = yaml(text).expect_err(text);
            assert!(!reason.contains('\n') && !reason.contains("hunter2"), "{reason}");
        }
        for text in
            ["a = 1\na = 2", "a = [", "a = nan", "pw = \"hunter2", "pw = hunter2", &format!("a = {deep}")]
        {
            let reason = toml(text).expect_err(text);
            assert!(!reason.contains('\n') && !reason.contains("hunter2"), "{reason}");
        }
        assert!(toml("a = 1\n\nb = [").expect_err("open list").contains("line 3"));
        let twice = yaml("a: 1\na: 2").expect_err("twice");
        assert_eq!(twice, "duplicate mapping key: a, remove one of them: at line 2, column 1");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let line = |level: usize| {
            let inner = vec![format!("*a{level}"); 9].join(", ");
            format!("a{0}: &a{0} [{inner}]\n", level + 1)
        };
        let text = format!("a0: &a0 [x]\n{}", (0..40).map(line).collect::<Vec<_>>().concat());
        assert!(yaml(&text).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ -~\n]{0,200}") {
            drop(yaml(&text));
            drop(toml(&text));
        }
    }
}
