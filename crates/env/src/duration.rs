// SPDX-License-Identifier: Apache-2.0
//! Durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration that is read from text and printed as text: numbers with units, one after the other, such as `5s`, `250ms`,
/// `1m30s` or `1.5h`.
///
/// The units are those of Go (`ns`, `us`, `µs`, `ms`, `s`, `m`, `h`) and `d`, a day of 24 hours. A number may have a
/// fraction; what is below a nanosecond is rounded. A number without a unit is refused, also zero: its reader would
/// have to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(Duration);

/// The text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotADuration;

/// The units that are printed, from large to small, in nanoseconds. Days are read and not printed.
const PRINTED: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const DAY: u128 = 24 * 3_600_000_000_000;
/// Digits of a fraction that are read; further ones are far below a nanosecond.
const FRACTION_DIGITS: usize = 18;

// === impl HumanDuration ===

impl HumanDuration {
    /// Makes one from a duration of the standard library.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// Returns the duration of the standard library.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Reads whole numbers only, without days, with units from large to small and each once, so that `1m1m` and `1s1h` are
    /// typing errors and not sums.
    pub fn parse_strict(text: &str) -> Result<Self, NotADuration> {
        let mut before = DAY;
        let strict = parse(text, |number, unit| {
            let ordered = unit < before && number.bytes().all(|digit| digit.is_ascii_digit());
            before = unit;
            ordered
        });
        strict.and_then(|read| if text.is_ascii() { Ok(read) } else { Err(NotADuration) })
    }
}

impl FromStr for HumanDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        parse(text, |_, _| true)
    }
}

impl fmt::Display for HumanDuration {
    /// Prints one whole number of the largest unit that divides the duration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let unit = PRINTED.into_iter().find(|(_, factor)| nanos.is_multiple_of(*factor));
        let (unit, factor) = unit.unwrap_or(("ns", 1));
        write!(f, "{}{unit}", nanos / factor)
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

// === impl NotADuration ===

impl fmt::Display for NotADuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a duration, write 5s, 250ms or 1m30s")
    }
}

impl std::error::Error for NotADuration {}

/// Sums the numbers of a text. `accepts` may refuse a number by its digits and the nanoseconds of its unit.
fn parse(text: &str, mut accepts: impl FnMut(&str, u128) -> bool) -> Result<HumanDuration, NotADuration> {
    let (mut rest, mut nanos) = (text, 0_u128);
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(NotADuration)?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = nanoseconds(unit).ok_or(NotADuration)?;
        let part = scaled(number, unit).filter(|_| accepts(number, unit)).ok_or(NotADuration)?;
        nanos = nanos.checked_add(part).ok_or(NotADuration)?;
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| NotADuration)?;
    let below = u32::try_from(nanos % 1_000_000_000).map_err(|_| NotADuration)?;
    Ok(HumanDuration(Duration::new(seconds, below)))
}

fn nanoseconds(unit: &str) -> Option<u128> {
    match unit {
        "d" => Some(DAY),
        "\u{b5}s" => Some(1_000),
        unit => PRINTED.into_iter().find(|(name, _)| *name == unit).map(|(_, factor)| factor),
    }
}

/// Returns a number with a fraction, times `unit`; `None` if it is no number or too large.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let below = (digits(fraction)? * unit + scale / 2) / scale;
    digits(whole)?.checked_mul(unit)?.checked_add(below)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them_and_with_days() {
        for (text, nanos) in [
            ("5s", Some(5_000_000_000)),
            ("250ms", Some(250_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("30d", Some(2_592_000_000_000_000)),
            ("1\u{b5}s", Some(1_000)),
            ("1.0000000005s", Some(1_000_000_001)),
            ("1s.5s", None),
            ("1s1h", Some(3_601_000_000_000)),
            ("0s", Some(0)),
            ("5", None),
            ("0", None),
            ("s", None),
            ("", None),
            (".s", None),
            ("1..5s", None),
            ("5 s", None),
            ("-1s", None),
            ("1e400s", None),
            ("5S", None),
            ("1s\u{e9}", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            let read = text.parse::<HumanDuration>().ok().map(HumanDuration::get);
            assert_eq!(read, nanos.map(Duration::from_nanos), "{text}");
        }
    }

    #[test]
    fn sums_and_fractions_can_be_refused() {
        for text in ["1h30m", "1m1ns", "0s"] {
            assert_eq!(HumanDuration::parse_strict(text), text.parse());
        }
        for text in ["1m1m", "1s1h", "1.5s", "1.s", "1d", "1\u{b5}s"] {
            assert!(HumanDuration::parse_strict(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(seconds: u64, nanos in 0..1_000_000_000_u32) {
            let duration = HumanDuration::new(Duration::new(seconds, nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            prop_assert_eq!(HumanDuration::parse_strict(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _read = text.parse::<HumanDuration>();
        }

        #[test]
        fn any_number_is_read_without_panic(text in "[0-9.]{0,60}(ns|us|ms|s|m|h|d)") {
            let _read = text.parse::<HumanDuration>();
        }
    }
}
