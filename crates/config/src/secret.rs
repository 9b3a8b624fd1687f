// SPDX-License-Identifier: Apache-2.0
//! A value that does not show.

use std::fmt;

use serde::Deserialize;

/// Keeps a value out of logs, errors and renderings: it prints nothing of itself and cannot be serialized.
///
/// There is no `Display` and no `PartialEq`: a comparison that ends early would reveal how much of a guess was right.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret<T>(T);

// === impl Secret ===

impl<T> Secret<T> {
    /// Hides `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value. The name is long so that its uses are easy to find.
    pub const fn expose_secret(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let secret: Secret<String> = serde_json::from_str("\"open sesame\"").unwrap();
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(..) Secret(..)");
        assert_eq!(secret.expose_secret(), "open sesame");
    }
}
