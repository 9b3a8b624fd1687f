// SPDX-License-Identifier: Apache-2.0
//! Times, values and tables as text.

use std::time::{Duration, SystemTime};

use atomix_env::HumanDuration;
use serde_json::{Value as Json, json};

/// Reads a time such as `500ms`, `10s`, `1m30s`, `2h` or `1d`. `0` needs no unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let read = text.parse().map(HumanDuration::get);
    read.map_err(|_| format!("`{text}` is no time, write for example 500ms, 10s, 1m30s, 2h"))
}

/// Writes a time in its two largest units.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Writes how long ago a time was, as seen from `now`; `?` for what cannot be: a time to come, or one before there was this program. A
/// wall clock has jumped then, or is not set.
pub(crate) fn ago(time: SystemTime, now: SystemTime) -> String {
    /// The tolerated difference of two clocks.
    const APART: Duration = Duration::from_mins(1);
    /// 2017, in which Atomix began.
    const FIRST: Duration = Duration::from_hours(412_008);
    let possible = time <= now + APART && time >= SystemTime::UNIX_EPOCH + FIRST;
    if !possible {
        return "?".to_owned();
    }
    format!("{} ago", duration(now.duration_since(time).unwrap_or_default()))
}

/// Writes a value for people on one line, and no two values alike: control characters, line separators, backslashes and
/// bytes that are no text are escaped.
pub(crate) fn show(value: &[u8]) -> String {
    let mut shown = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || matches!(c, '\\' | '\u{2028}' | '\u{2029}') {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
        shown.extend(chunk.invalid().iter().flat_map(|byte| byte.escape_ascii()).map(char::from));
    }
    shown
}

/// Names a session, which is unknown to the server if it belongs to another process.
pub(crate) fn session(id: &str, ended: bool) -> String {
    match (id, ended) {
        ("", _) => "elsewhere".to_owned(),
        (_, false) => id.to_owned(),
        // A lock that keeps this state is freed by `session end`.
        (_, true) => format!("{id} (ended)"),
    }
}

/// Adds a value to an object: as text under `name`, or as hexadecimal digits under `name_hex` if it is no text.
pub(crate) fn put_value(object: &mut Json, name: &str, value: &[u8]) {
    if let Ok(text) = std::str::from_utf8(value) {
        object[name] = json!(text);
        return;
    }
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    let digits: String = value.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    object[format!("{name}_hex")] = json!(digits);
}

/// Writes a table whose columns are as wide as they need to be.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_cannot_be_is_not_counted_from() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        assert_eq!(ago(now - Duration::from_secs(90), now), "1m30s ago");
        assert_eq!(ago(now + Duration::from_secs(1), now), "0ms ago");
        assert_eq!(ago(now + Duration::from_hours(1), now), "?");
        assert_eq!(ago(SystemTime::UNIX_EPOCH, now), "?");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(parse_duration("1d"), Ok(Duration::from_hours(24)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in
            ["", "5", "s", "5 s", "-1s", "5y", "99999999999999999999s", "18446744073709551615d", "5sms"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_written_in_two_units() {
        let write = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            [write(0), write(59), write(61), write(3700), write(90_000)],
            ["0ms", "59s", "1m1s", "1h1m", "1d1h"]
        );
    }

    #[test]
    fn a_value_stays_on_its_line() {
        assert_eq!(show(b"a\tb\n"), "a\\tb\\n");
        assert_eq!(show("grün".as_bytes()), "grün");
        assert_eq!(show(b"\xff\x00"), "\\xff\\u{0}");
        assert_eq!(show("a\u{2028}b".as_bytes()), "a\\u{2028}b");
    }

    #[test]
    fn no_two_values_look_alike() {
        let values: [&[u8]; 8] =
            [b"a\nb", b"a\\nb", b"a\\\nb", b"\xff", b"\\xff", b"\x00", b"\\u{0}", b"\\0"];
        let shown: std::collections::HashSet<_> = values.iter().map(|value| show(value)).collect();
        assert_eq!(shown.len(), values.len(), "{shown:?}");
    }

    #[test]
    fn bytes_that_are_no_text_become_digits() {
        let mut object = json!({});
        put_value(&mut object, "value", b"\x00\xff");
        put_value(&mut object, "other", b"text");
        assert_eq!(object, json!({"value_hex": "00ff", "other": "text"}));
    }

    #[test]
    fn columns_are_aligned_without_trailing_space() {
        let rows = [vec!["a".to_owned(), "bcd".to_owned()], vec!["efgh".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X     Y\na     bcd\nefgh");
    }
}
