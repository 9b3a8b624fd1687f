// SPDX-License-Identifier: Apache-2.0
//! The valid key that a wrong one may have been meant to be.

use crate::schema::ROOT;
use crate::setting::{Setting, Shape};

/// Returns the path of the valid key nearest to `key` in the table `settings` at `path`; else a key of that very name
/// in another table (a limit at the top level), or with its levels run together (`log-level`); else nothing.
pub(crate) fn nearest(settings: &[Setting], path: &str, key: &str) -> Option<String> {
    const CHARS_MAX: usize = 64;
    let wanted = plain(key);
    if wanted.chars().count() > CHARS_MAX {
        // No key of ours is so long, and the distance costs the product of both lengths.
        return None;
    }
    let near = settings
        .iter()
        .map(|setting| (distance(&wanted, &plain(setting.key)), setting.key))
        .min()
        .filter(|(edits, _)| *edits <= (wanted.chars().count() / 3).max(1))
        .map(|(_, key)| join(path, key));
    near.or_else(|| elsewhere(ROOT, "", &|setting, _| plain(setting.key) == wanted))
        .or_else(|| elsewhere(ROOT, "", &|_, path| plain(path).replace('.', "") == wanted))
}

/// Returns the path of a key below a path; the root has the empty path.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn elsewhere(settings: &[Setting], path: &str, fits: &dyn Fn(&Setting, &str) -> bool) -> Option<String> {
    settings.iter().find_map(|setting| {
        let path = join(path, setting.key);
        match setting.shape {
            // Keys within lists are too short and too many to be a good guess.
            Shape::Table(inner) => elsewhere(inner, &path, fits),
            Shape::List(_) | Shape::Object | Shape::Scalar(_) => fits(setting, &path).then_some(path),
        }
    })
}

/// Takes away what differs between the ways to write a key: `valueBytesMax`, `value_bytes_max`, `value-bytes-max`.
fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// Counts the letters to insert, delete, replace or swap with their neighbour to get from one word to the other
/// (optimal string alignment). Swaps count once because they are the commonest slip of the fingers.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    // `rows[i][j]` is the distance of the first `i` letters of one to the first `j` letters of the other.
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted() {
        for (from, to, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("limits", "limts", 1),
            ("level", "levle", 1),
        ] {
            assert_eq!(distance(from, to), edits);
            assert_eq!(distance(to, from), edits);
        }
    }

    #[test]
    fn other_ways_to_write_a_key_are_nearest() {
        let limits = crate::limits::SETTINGS;
        for key in ["valueBytesMax", "value_bytes_max", "value-byte-max"] {
            assert_eq!(nearest(limits, "limits", key).as_deref(), Some("limits.value-bytes-max"));
        }
        assert_eq!(nearest(ROOT, "", "grace").as_deref(), Some("drain.grace"));
        assert_eq!(nearest(ROOT, "", "log-level").as_deref(), Some("log.level"));
        assert_eq!(nearest(ROOT, "", "limits-batch-max").as_deref(), Some("limits.batch-max"));
        assert_eq!(nearest(ROOT, "", "entirely-different"), None);
        assert_eq!(nearest(ROOT, "", &"x".repeat(1000)), None);
    }
}
