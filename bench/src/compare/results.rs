// SPDX-License-Identifier: Apache-2.0
//! The measured figures, run by run.

use std::collections::BTreeMap;
use std::fmt::Write;

use atomix_load::Summary;

/// The figures of one cell in one run, by name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// All cells in the order in which they were first measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    cells: Vec<Cell>,
}

#[derive(Debug)]
struct Cell {
    section: &'static str,
    name: String,
    runs: Vec<(usize, Figures)>,
}

/// The figures of one run, for goals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    results: &'a Results,
    run: usize,
}

/// How a figure is shown: its name, the title of its column, its unit.
const COLUMNS: [(&str, &str, Unit); 8] = [
    ("per_second", "per s", Unit::Count),
    ("p50", "p50", Unit::Time),
    ("p90", "p90", Unit::Time),
    ("p99", "p99", Unit::Time),
    ("cpu", "server CPU/call", Unit::Time),
    ("value", "value", Unit::Count),
    ("instructions", "instructions", Unit::Count),
    ("allocations", "allocations", Unit::Count),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Count,
    /// Microseconds.
    Time,
    Ratio,
}

/// Returns the figures of calls. Where none succeeded they took for ever: to be quick to fail meets no goal.
pub(crate) fn figures(summary: &Summary) -> Figures {
    let took = |time| if summary.calls == 0 { f64::INFINITY } else { time };
    Figures::from([
        ("per_second", summary.per_second),
        ("p50", took(summary.p50_us)),
        ("p90", took(summary.p90_us)),
        ("p99", took(summary.p99_us)),
    ])
}

/// Returns the smallest, the middle and the largest of some numbers.
pub(crate) fn spread(numbers: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        *sorted.get(middle)?
    } else {
        f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *sorted.get(middle)?)
    };
    Some((*sorted.first()?, median, *sorted.last()?))
}

// === impl Results ===

impl Results {
    /// Writes down the figures of a cell.
    pub(crate) fn add(&mut self, section: &'static str, name: &str, run: usize, figures: Figures) {
        let at = self.cells.iter().position(|cell| cell.name == name).unwrap_or_else(|| {
            self.cells.push(Cell { section, name: name.to_owned(), runs: Vec::new() });
            self.cells.len() - 1
        });
        self.cells[at].runs.push((run, figures));
    }

    /// Returns one run.
    pub(crate) fn run(&self, run: usize) -> Run<'_> {
        Run { results: self, run }
    }

    /// Writes a table of each section.
    pub(crate) fn tables(&self, titles: &[(&str, &str)]) -> String {
        let mut text = String::new();
        for (section, title) in titles {
            let cells: Vec<&Cell> = self.cells.iter().filter(|cell| cell.section == *section).collect();
            let has = |figure: &str| {
                cells.iter().any(|cell| cell.runs.iter().any(|(_, figures)| figures.contains_key(figure)))
            };
            let columns: Vec<_> = COLUMNS.into_iter().filter(|(figure, ..)| has(figure)).collect();
            if columns.is_empty() {
                continue;
            }
            let heads: Vec<&str> = columns.iter().map(|(_, head, _)| *head).collect();
            let _ = write!(
                text,
                "\n### {title}\n\n| | {} |\n|---|{}\n",
                heads.join(" | "),
                "--:|".repeat(heads.len())
            );
            for cell in cells {
                let shown: Vec<String> =
                    columns.iter().map(|(figure, _, unit)| cell.shown(figure, *unit)).collect();
                let _ = writeln!(text, "| {} | {} |", cell.name, shown.join(" | "));
            }
        }
        text
    }

    /// Returns everything, for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let cells = self.cells.iter().map(|cell| {
            let runs: Vec<_> = cell
                .runs
                .iter()
                .map(|(run, figures)| serde_json::json!({"run": run, "figures": figures}))
                .collect();
            serde_json::json!({"section": cell.section, "cell": cell.name, "runs": runs})
        });
        cells.collect()
    }
}

// === impl Cell ===

impl Cell {
    /// The median of a figure; of counts also the smallest and the largest.
    fn shown(&self, figure: &str, unit: Unit) -> String {
        let numbers: Vec<f64> =
            self.runs.iter().filter_map(|(_, figures)| figures.get(figure).copied()).collect();
        match spread(&numbers) {
            None => "–".to_owned(),
            Some((least, median, most)) if unit == Unit::Count && numbers.len() > 1 => {
                format!("{} ({}–{})", unit.show(median), unit.show(least), unit.show(most))
            }
            Some((_, median, _)) => unit.show(median),
        }
    }
}

// === impl Run ===

impl Run<'_> {
    /// Returns a figure of a cell.
    pub(crate) fn get(&self, cell: &str, figure: &str) -> Option<f64> {
        let cell = self.results.cells.iter().find(|found| found.name == cell)?;
        cell.runs.iter().find(|(run, _)| *run == self.run)?.1.get(figure).copied()
    }
}

// === impl Unit ===

impl Unit {
    /// Writes a number of this unit.
    pub(crate) fn show(self, number: f64) -> String {
        match self {
            Self::Time if number.is_infinite() => "never".to_owned(),
            Self::Ratio => format!("{number:.2}"),
            Self::Count if number < 100.0 => format!("{number:.1}"),
            Self::Count => thousands(number),
            Self::Time if number < 100.0 => format!("{number:.1} µs"),
            Self::Time if number < 1_000.0 => format!("{number:.0} µs"),
            Self::Time => format!("{:.2} ms", number / 1e3),
        }
    }
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_between_the_extremes() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[1.0, 2.0]), Some((1.0, 1.5, 2.0)));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn calls_that_all_failed_took_for_ever() {
        let failed = figures(&Summary { failed: 9, ..Summary::default() });
        assert_eq!(Unit::Time.show(failed["p99"]), "never");
    }

    #[test]
    fn numbers_have_their_units() {
        assert_eq!(Unit::Count.show(1_234_567.0), "1,234,567");
        assert_eq!(Unit::Count.show(123.0), "123");
        assert_eq!(Unit::Time.show(1_500.0), "1.50 ms");
        assert_eq!(Unit::Ratio.show(0.954), "0.95");
    }
}
