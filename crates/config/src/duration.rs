// SPDX-License-Identifier: Apache-2.0
//! Durations, written `5s`, `250ms`, `1m30s`.

use std::fmt;
use std::str::FromStr;

use atomix_env::HumanDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time. Written as whole numbers with units, from large to small: `15m`, `1m30s`, `250ms`.
///
/// The units are `h`, `m`, `s`, `ms`, `us`, `ns`. A number without unit is refused, also zero (`0s`): its reader
/// would have to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

// === impl Duration ===

impl Duration {
    /// Makes a duration from one of the standard library.
    pub const fn new(duration: std::time::Duration) -> Self {
        Self(duration)
    }

    /// Returns the duration as one of the standard library.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self(duration)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HumanDuration::new(self.0).fmt(f)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = HumanDuration::parse_strict(text).map(|read| Self(read.get()));
        read.map_err(|wrong| format!("{wrong}: value=`{text}`"))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 5s, 250ms or 1m30s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, millis, printed) in [
            ("5s", 5_000, "5s"),
            ("250ms", 250, "250ms"),
            ("15m", 900_000, "15m"),
            ("1m30s", 90_000, "90s"),
            ("1h1ms", 3_600_001, "3600001ms"),
            ("0s", 0, "0s"),
            ("60m", 3_600_000, "1h"),
        ] {
            let read: Duration = text.parse().expect(text);
            assert_eq!(read.get(), std::time::Duration::from_millis(millis));
            assert_eq!(read.to_string(), printed);
        }
    }

    #[test]
    fn doubtful_durations_are_refused() {
        for text in [
            "",
            "5",
            "0",
            "s",
            "5 s",
            "1.5s",
            "-1s",
            "1m1m",
            "1s1h",
            "5sec",
            "5S",
            "99999999999999999999s",
            "1sé",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(seconds in 0..u64::MAX / 4_000_000_000, nanos in 0..1_000_000_000u32) {
            let duration = Duration::new(std::time::Duration::new(seconds, nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            drop(text.parse::<Duration>());
        }
    }
}
