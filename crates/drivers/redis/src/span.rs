// SPDX-License-Identifier: Apache-2.0
//! Durations as the original takes them: a number of nanoseconds, or a text such as `1m30s`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Span {
    Nanoseconds(u64),
    Text(String),
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let wrong = || D::Error::custom("a duration is a number of nanoseconds or a text such as `1m30s`");
    match Span::deserialize(deserializer).map_err(|_| wrong())? {
        Span::Nanoseconds(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        Span::Text(text) => parse(&text).ok_or_else(wrong),
    }
}

/// Numbers with units, one after the other. `None` if it is something else.
fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, Duration::ZERO);
    loop {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, with_unit) = rest.split_at(number);
        let end = with_unit.find(|c: char| c.is_ascii_digit()).unwrap_or(with_unit.len());
        let (unit, next) = with_unit.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let seconds = value.parse::<f64>().ok()? * seconds;
        sum = sum.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        if next.is_empty() {
            return Some(sum);
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("5s", Some(5_000)),
            ("250ms", Some(250)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("5", None),
            ("s", None),
            ("", None),
            ("5 s", None),
            ("-1s", None),
        ] {
            assert_eq!(parse(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
