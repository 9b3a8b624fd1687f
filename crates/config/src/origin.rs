// SPDX-License-Identifier: Apache-2.0
//! The origin of a value.

use std::fmt;

/// The layer that gave a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The value stands in the code.
    Default,
    /// The default of the code is too high for this machine, for the reason given.
    Machine(String),
    /// The file of this name, as the caller named it.
    File(String),
    /// The environment variable of this name.
    Env(String),
    /// The flag as it is typed, without leading dashes: `listen`, `set limits.batch-max`.
    Flag(String),
}

// === impl Origin ===

impl Origin {
    /// Returns the origin as a fact at the end of a message, with a leading blank, or nothing for a default.
    pub fn fact(&self) -> String {
        match self {
            Self::Default | Self::Machine(_) => String::new(),
            Self::File(path) => format!(" file=`{}`", printable(path)),
            Self::Env(name) => format!(" env=`{}`", printable(name)),
            Self::Flag(flag) => format!(" flag=`--{}`", printable(flag)),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Machine(why) => write!(f, "default, {why}"),
            Self::File(path) => write!(f, "file {}", printable(path)),
            Self::Env(name) => write!(f, "env {}", printable(name)),
            Self::Flag(flag) => write!(f, "flag --{}", printable(flag)),
        }
    }
}

/// Returns `text` on one line and of bounded length: names come from outside and end up in comments and logs.
pub(crate) fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut out: String = text.chars().take(CHARS_MAX).flat_map(visible).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn visible(character: char) -> Vec<char> {
    // Line and paragraph separators end a comment in YAML 1.1 readers, as control characters may.
    if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}') {
        character.escape_unicode().collect()
    } else {
        vec![character]
    }
}
