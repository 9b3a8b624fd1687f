// SPDX-License-Identifier: Apache-2.0
//! The results of a measurement.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::failure::Failure;

/// The results of the measured window. Times are in nanoseconds.
#[derive(Debug, Clone)]
pub struct Report {
    /// The time that counts.
    pub time: Duration,
    /// The latency of calls: in an open loop from the scheduled time.
    pub latency: Histogram<u64>,
    /// In an open loop: how much later than they should have been calls were sent. It is part of `latency`.
    pub lag: Option<Histogram<u64>>,
    /// Calls that failed, by what they said.
    pub failures: BTreeMap<String, u64>,
    /// The reason why a connection became unusable, also during the warm-up: less was measured than planned.
    pub broken: Option<String>,
}

/// A report in numbers, for people and programs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The time that counts.
    pub seconds: f64,
    /// Calls that succeeded.
    pub calls: u64,
    /// Calls that failed, whatever they said.
    pub failed: u64,
    /// Calls that succeeded, by the second.
    pub per_second: f64,
    /// The latency of calls, in microseconds.
    pub mean_us: f64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 90 of 100.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1,000.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// In an open loop: how much too late 99 of 100 were sent at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_p99_us: Option<f64>,
    /// The errors of failed calls, with their counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
}

// === impl Report ===

impl Report {
    /// Makes a report of nothing yet.
    pub fn new(time: Duration) -> Self {
        Self { time, latency: histogram(), lag: None, failures: BTreeMap::new(), broken: None }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        add(&mut self.latency, &other.latency);
        if let Some(lag) = &other.lag {
            add(self.lag.get_or_insert_with(histogram), lag);
        }
        if self.broken.is_none() {
            self.broken.clone_from(&other.broken);
        }
        for (what, count) in &other.failures {
            *self.failures.entry(what.clone()).or_default() += count;
        }
    }

    /// Counts a call that succeeded.
    pub fn took(&mut self, latency: Duration) {
        record(&mut self.latency, latency);
    }

    pub(crate) fn was_late(&mut self, lag: Duration) {
        record(self.lag.get_or_insert_with(histogram), lag);
    }

    pub(crate) fn failed(&mut self, failure: &Failure) {
        if let Failure::Broken(cause) = failure {
            self.broken.get_or_insert_with(|| cause.clone());
        }
        *self.failures.entry(failure.to_string()).or_default() += 1;
    }

    /// Returns the report in numbers.
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^53")]
    pub fn summary(&self) -> Summary {
        let calls = self.latency.len();
        let at = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            seconds: self.time.as_secs_f64(),
            calls,
            failed: self.failures.values().sum(),
            per_second: calls as f64 / self.time.as_secs_f64(),
            mean_us: self.latency.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latency.max() as f64 / 1e3,
            lag_p99_us: self.lag.as_ref().map(|lag| lag.value_at_quantile(0.99) as f64 / 1e3),
            failures: self.failures.clone(),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:.0}/s, {} calls in {:.1} s, {} failed",
            self.per_second, self.calls, self.seconds, self.failed
        )?;
        let [p50, p90, p99, p999, max] =
            [self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us].map(time);
        write!(f, "p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}")?;
        if let Some(lag) = self.lag_p99_us {
            write!(f, "; sent too late by up to {} (p99)", time(lag))?;
        }
        for (what, count) in &self.failures {
            write!(f, "\n{count} x {what}")?;
        }
        Ok(())
    }
}

/// Writes microseconds with three digits that count.
fn time(us: f64) -> String {
    match us {
        _ if us < 100.0 => format!("{us:.1} µs"),
        _ if us < 1_000.0 => format!("{us:.0} µs"),
        _ if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        _ if us < 1_000_000.0 => format!("{:.1} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

fn histogram() -> Histogram<u64> {
    // Three digits cost little memory, because the histogram grows only as far as it is used.
    Histogram::new(3).expect("three digits are allowed")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    histogram.record(nanos).expect("a histogram that grows takes every number");
}

fn add(histogram: &mut Histogram<u64>, other: &Histogram<u64>) {
    histogram.add(other).expect("a histogram that grows takes every other");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_what_succeeded_and_what_did_not() {
        let mut report = Report::new(Duration::from_secs(2));
        for millis in 1..=100 {
            report.took(Duration::from_millis(millis));
        }
        report.failed(&Failure::Status(14, "no".to_owned()));
        let mut both = Report::new(Duration::from_secs(2));
        both.merge(&report);
        both.merge(&report);
        let summary = both.summary();
        assert_eq!((summary.calls, summary.failed), (200, 2));
        assert!((summary.per_second - 100.0).abs() < f64::EPSILON);
        assert!((summary.p50_us - 50_000.0).abs() < 100.0, "{summary}");
        assert!((summary.p99_us - 99_000.0).abs() < 100.0, "{summary}");
        assert_eq!(summary.failures["status 14: no"], 2);
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!(
            [12.34, 123.4, 1_234.0, 98_765.0, 2e6].map(time),
            ["12.3 µs", "123 µs", "1.23 ms", "98.8 ms", "2.00 s"]
        );
    }
}
