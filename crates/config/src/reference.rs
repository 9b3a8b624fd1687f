// SPDX-License-Identifier: Apache-2.0
//! The reference of all settings, made from the schema and the defaults.

use serde_json::Value;

use crate::config::Config;
use crate::nearest::join;
use crate::parse;
use crate::schema::{ROOT, SEED_SERVER, SINCE};
use crate::setting::{Presence, Scalar, Setting, Shape};

const HEAD: &str = "\
<!-- Made by `cargo run -p atomix-config --example print_reference`. Do not edit. -->
# Configuration

Four layers, a later one wins: the defaults below, one file (`--config FILE`; YAML if it ends in `.yaml` or `.yml`,
TOML if it ends in `.toml`), the environment, flags. Tables are merged key by key, lists are replaced as a whole. An
unknown key is an error in the file and in flags.

- Keys are in kebab-case. Only the content of a `config` object is free: it belongs to the driver or the primitive.
- A variable is `ATOMIX_`, then the key in capitals with `_` for `-` and `__` between levels:
  `ATOMIX_LIMITS__VALUE_BYTES_MAX=2MiB`. Lists of texts are written with commas, `stores` and `routes` as one YAML or
  JSON text, an empty list as `[]`. An empty variable counts as not set. A variable that begins with `ATOMIX_` and is no
  setting is a warning, with `--strict` an error; those of the original, of Kubernetes and of Docker are ignored.
- Sizes are whole numbers of bytes or carry `B`, `KiB`, `MiB` or `GiB`. Durations always carry a unit: `250ms`, `5s`,
  `1m30s`, `15m`, `1h`.
- `--print-config` prints the effective values and their sources. In the `config` of a store it shows the
  fields that the driver knows and that are no secrets; the others, and credentials in addresses, are `(hidden)`.
";

/// Returns the reference of all settings as Markdown: value, unit, default, bounds, since, meaning.
pub fn reference() -> String {
    let defaults = serde_json::to_value(Config::default()).expect("a configuration has a JSON form");
    let mut out = HEAD.to_owned();
    let file_max = crate::size::ByteSize::new(parse::FILE_BYTES_MAX).to_string();
    out.extend(["\nA file may have up to ", &file_max, ".\n"]);
    out.push_str(
        "\n| Key | Value | Unit | Default | Bounds | Since | Meaning |\n|---|---|---|---|---|---|---|\n",
    );
    rows(&mut out, ROOT, "", Some(&defaults));
    out.push_str(
        "\n## Files of the original proxy\n\n`router.routes` is read as `routes`. The keys of `server` are errors that \
         name their replacement:\n\n| Key | Set instead |\n|---|---|\n",
    );
    for (key, instead) in SEED_SERVER {
        let instead = instead.map_or_else(|| "nothing".to_owned(), |key| format!("`{key}`"));
        out.extend(["| `server.", key, "` | ", &instead, " |\n"]);
    }
    out
}

fn rows(out: &mut String, settings: &[Setting], path: &str, defaults: Option<&Value>) {
    for setting in settings {
        let path = join(path, setting.key);
        let default = defaults.and_then(|defaults| defaults.get(setting.key));
        if let Shape::Table(inner) = setting.shape {
            // A table with defaults is there anyway; one that may be left out, or may not, is worth a row.
            if !matches!(setting.presence, Presence::Defaulted) {
                row(out, &path, setting, default);
            }
            rows(out, inner, &path, default);
            continue;
        }
        row(out, &path, setting, default);
        if let Shape::List(Shape::Table(inner)) = setting.shape {
            rows(out, inner, &format!("{path}[]"), None);
        }
    }
}

fn row(out: &mut String, path: &str, setting: &Setting, default: Option<&Value>) {
    let (value, bounds) = match setting.shape {
        Shape::Table(_) => ("table".to_owned(), String::new()),
        Shape::Object => ("free table".to_owned(), String::new()),
        Shape::List(Shape::Table(_)) => ("list of tables".to_owned(), String::new()),
        Shape::List(Shape::Scalar(Scalar::Listen)) => {
            ("list of `host:port`, `[v6]:port` or `unix:PATH`".to_owned(), String::new())
        }
        Shape::List(_) => ("list of texts".to_owned(), String::new()),
        Shape::Scalar(scalar) => (kind(scalar), scalar.bounds()),
    };
    let default = match (setting.presence, default) {
        (Presence::Required, _) => "required".to_owned(),
        (Presence::Optional(absent), _) => absent.to_owned(),
        (Presence::Defaulted, Some(Value::String(text))) => format!("`{text}`"),
        (Presence::Defaulted, Some(default)) => format!("`{default}`"),
        (Presence::Defaulted, None) => String::new(),
    };
    let cells = [&format!("`{path}`"), &value, setting.unit, &default, &bounds, SINCE, setting.doc.trim()];
    out.extend(["| ", &cells.join(" | "), " |\n"]);
}

fn kind(scalar: Scalar) -> String {
    match scalar {
        Scalar::Text => "text".to_owned(),
        Scalar::Mode => "`auto` or octal text".to_owned(),
        Scalar::Listen => "`host:port`, `[v6]:port` or `unix:PATH`".to_owned(),
        Scalar::Choice(choices) => {
            choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ")
        }
        Scalar::Count { .. } => "number".to_owned(),
        Scalar::Bytes { .. } => "size".to_owned(),
        Scalar::Span { .. } => "duration".to_owned(),
    }
}
