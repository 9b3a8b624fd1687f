// SPDX-License-Identifier: Apache-2.0
//! Sizes in bytes, written `65536` or `64KiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. Written as a whole number or with one of the units `B`, `KiB`, `MiB`, `GiB`.
///
/// Decimal units (`kB`, `MB`) are refused: readers disagree on what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// From large to small, so that printing finds the largest unit that divides.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

// === impl ByteSize ===

impl ByteSize {
    /// Makes a size of `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes for use in memory; the largest number that the machine can address if it is above.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .into_iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        let factor = match unit.trim_start_matches(' ') {
            "" => Some(1),
            unit => UNITS.into_iter().find(|(name, _)| *name == unit).map(|(_, factor)| factor),
        };
        let number: Option<u64> = digits.parse().ok();
        number
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("not a size, write 65536 or 64KiB: value=`{text}`"))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 65536 or 64KiB")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_print_with_the_largest_exact_unit() {
        for (bytes, text) in
            [(0, "0B"), (1, "1B"), (1024, "1KiB"), (1536, "1536B"), (4 << 20, "4MiB"), (1 << 30, "1GiB")]
        {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn other_units_and_overflow_are_refused() {
        for text in [
            "",
            "KiB",
            "1kb",
            "1KB",
            "1.5MiB",
            "-1",
            "99999999999999999999",
            "18446744073709551615KiB",
            "1 2",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!("64 KiB".parse(), Ok(ByteSize::new(65536)));
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back(bytes: u64) {
            prop_assert_eq!(ByteSize::new(bytes).to_string().parse(), Ok(ByteSize::new(bytes)));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            drop(text.parse::<ByteSize>());
        }
    }
}
