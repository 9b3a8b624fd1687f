// SPDX-License-Identifier: Apache-2.0
//! The goals. A ratio is one between two cells of the same run.

use std::fmt::Write;

use Bar::{AtLeast, AtMost};

use crate::compare::results::{Results, Run, Unit, spread};

/// A figure with a bar.
struct Goal {
    what: String,
    unit: Unit,
    bar: Bar,
    figure: Box<dyn Fn(Run<'_>) -> Option<f64>>,
}

/// All goals, in the order of their table.
struct Goals(Vec<Goal>);

#[derive(Debug, Clone, Copy)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// Writes the table of all goals whose cells were measured.
pub(crate) fn table(results: &Results, runs: usize) -> String {
    let mut text = "\n### Goals\n\n| Goal | Bar | Median (least–most) | Runs that met it | Met |\n|---|--:|--:|--:|---|\n".to_owned();
    let heads = text.len();
    for goal in goals() {
        let figures: Vec<f64> = (0..runs).filter_map(|run| (goal.figure)(results.run(run))).collect();
        let Some((least, median, most)) = spread(&figures) else { continue };
        let met = figures.iter().filter(|figure| goal.bar.holds(**figure)).count();
        let unit = goal.unit;
        let _ = writeln!(
            text,
            "| {} | {} | {} ({}–{}) | {met} of {} | {} |",
            goal.what,
            goal.bar.show(unit),
            unit.show(median),
            unit.show(least),
            unit.show(most),
            figures.len(),
            if goal.bar.holds(median) { "yes" } else { "**no**" },
        );
    }
    // Heads over nothing say nothing.
    if text.len() > heads { text } else { String::new() }
}

fn goals() -> Vec<Goal> {
    let mut goals = Goals(Vec::new());
    framework(&mut goals);
    stores(&mut goals);
    events(&mut goals);
    resources(&mut goals);
    goals.0
}

const ONE: &str = "1 caller";
const SIXTY_FOUR: &str = "64 callers on 8";
const MANY: &str = "256 callers on 8";
const MANY_SHARED: &str = "256 callers on 1";

/// The costs of the runtime beside a bare server.
fn framework(goals: &mut Goals) {
    let cells = |name: &str, load: &str| (format!("memory, {name}, {load}"), format!("bare, {name}, {load}"));
    for name in ["increment, TCP", "get, TCP", "put, TCP"] {
        for load in [SIXTY_FOUR, MANY] {
            let what = format!("P1: memory by bare tonic as shipped, {name}, {load}");
            goals.ratio(&what, AtLeast(1.0), "per_second", cells(name, load));
        }
    }
    for load in [SIXTY_FOUR, MANY] {
        let load = format!("{load}, client with 2 workers");
        let what = format!("P1: the same, increment, {load}");
        goals.ratio(&what, AtLeast(1.0), "per_second", cells("increment, TCP", &load));
    }
    for load in [SIXTY_FOUR, MANY] {
        let what = format!("P2: server CPU by bare, increment, {load}");
        goals.ratio(&what, AtMost(1.25), "cpu", cells("increment, TCP", load));
    }
    for transport in ["TCP", "UDS"] {
        let cells = cells(&format!("increment, {transport}"), ONE);
        goals.over(&format!("P3: one caller, {transport}: p50 over bare"), AtMost(8.0), "p50", cells.clone());
        goals.ratio(&format!("P3: one caller, {transport}: p99 by bare"), AtMost(1.2), "p99", cells);
    }
    let paced = "memory, paced get, TCP, 1000/s on 16";
    goals.plain("P4: paced, memory get: p90", Unit::Time, AtMost(300.0), "p90", paced);
    goals.plain("P4: paced, memory get: p99", Unit::Time, AtMost(500.0), "p99", paced);
}

/// Its costs, or gains, beside its stores.
fn stores(goals: &mut Goals) {
    for store in ["Redis", "etcd"] {
        for name in ["get", "put"] {
            let cell = |who: &str| format!("{who}, paced {name}, 1000/s on 16");
            let cells = (cell(&format!("ours on {store}")), cell(&format!("{store} direct")));
            let what = format!("P4: paced, {store} {name}: p90 over the direct client");
            goals.over(&what, AtMost(200.0), "p90", cells);
        }
    }
    for name in ["increment, TCP", "get, TCP", "put, TCP"] {
        let cells = |load| {
            (format!("ours on Redis, {name}, {load}"), format!("bare through to Redis, {name}, {load}"))
        };
        for load in ["16 callers on 8", SIXTY_FOUR, MANY] {
            let what = format!("P5: Redis by bare pass-through, {name}, {load}");
            goals.ratio(&what, AtLeast(0.95), "per_second", cells(load));
        }
        goals.ratio(&format!("P5: the same, {name}, one caller: p50"), AtMost(1.1), "p50", cells(ONE));
    }
    let put = |load| format!("ours on etcd, put, TCP, {load}");
    for (load, direct, bar) in [(SIXTY_FOUR, "64 callers on 1", 1.0), (MANY, MANY_SHARED, 1.4)] {
        let what = format!("P6: etcd by the direct client, put, {load}");
        goals.ratio(&what, AtLeast(bar), "per_second", (put(load), format!("etcd direct, put, {direct}")));
        let what = format!("P6: etcd by bare pass-through, put, {load}");
        let through = format!("bare through to etcd, put, TCP, {load}");
        goals.ratio(&what, AtLeast(1.0), "per_second", (put(load), through));
    }
    let hot = format!("ours on etcd, one counter, {SIXTY_FOUR}");
    let what = "P7: etcd, one counter, 64 callers: per s";
    goals.plain(what, Unit::Count, AtLeast(20_000.0), "per_second", &hot);
    goals.plain("P7: the same: p99", Unit::Time, AtMost(20_000.0), "p99", &hot);
    let disk = format!("disk, put, {MANY}");
    let what = "P8: disk by memory, put, 256 callers";
    goals.ratio(
        what,
        AtLeast(0.85),
        "per_second",
        (disk.clone(), format!("disk beside memory, put, {MANY}")),
    );
    let what = "P8: disk by etcd on the same disk, put, 256 callers";
    goals.ratio(what, AtLeast(2.5), "per_second", (disk, format!("etcd on the disk, put, {MANY_SHARED}")));
    goals.plain(
        "P8: disk, put, one caller: p50",
        Unit::Time,
        AtMost(300.0),
        "p50",
        &format!("disk, put, {ONE}"),
    );
}

/// Locks, elections and watches.
fn events(goals: &mut Goals) {
    let bars =
        [("memory", 8_000.0, 500.0), ("ours on Redis", 4_000.0, 1_000.0), ("ours on etcd", 2_000.0, 5_000.0)];
    for (what, bar, p99) in bars {
        for contenders in [2, 16, 64] {
            let cell = format!("{what}, lock, {contenders} contenders");
            let per_second = format!("P9: {cell}: hand-overs per s");
            goals.plain(&per_second, Unit::Count, AtLeast(bar), "per_second", &cell);
            goals.plain(&format!("P9: {cell}: p99"), Unit::Time, AtMost(p99), "p99", &cell);
        }
    }
    for (cell, figure, bar) in [
        ("memory, leader resigns", "p50", 300.0),
        ("ours on etcd, leader resigns", "p50", 1_000.0),
        ("memory, leader killed", "p50", 10_000.0),
        // Few enough that this is the longest.
        ("memory, leader silent, time-out 1.1 s", "p99", 1_300_000.0),
        ("ours on Redis, runtime killed, time-out 1 s", "p99", 1_300_000.0),
        ("ours on etcd, runtime killed, time-out 1 s", "p99", 1_300_000.0),
    ] {
        goals.plain(&format!("P10: {cell}: {figure}"), Unit::Time, AtMost(bar), figure, cell);
    }
    let flood = |of: &str, to: &str| (format!("{of}, flood, deliveries"), format!("{to}, flood, deliveries"));
    let what = "P11: memory, flood to 1,000 watchers by bare broadcast";
    goals.ratio(what, AtLeast(0.8), "per_second", flood("memory", "bare broadcast"));
    let what = "P11: the same with one stalled watcher, by without";
    goals.ratio(what, AtLeast(0.9), "per_second", flood("memory, one stalled", "memory"));
    let what = "P11: memory, one event to the last of 1,000: p50";
    goals.plain(what, Unit::Time, AtMost(2_500.0), "p50", "memory, one event to the last watcher");
    let what = "P11: on etcd, flood by etcd's own watches";
    goals.ratio(what, AtLeast(3.0), "per_second", flood("ours on etcd", "etcd direct"));
    let what = "P15: a watcher 100,000 events behind: events per s";
    goals.plain(what, Unit::Count, AtLeast(500_000.0), "per_second", "catching up, events");
    let live = |what: &str| format!("get, {what} catches up, {ONE}");
    let what = "P15: p99 of a live caller meanwhile, by alone";
    goals.ratio(what, AtMost(1.5), "p99", (live("a watcher"), live("no watcher")));
    let quiet = |what: &str| format!("get at 100/s, {what}, 100/s on 1");
    let what = "P16: p99 at 100/s beside a noisy neighbour, by alone";
    let cells = (quiet("a neighbour puts at full speed"), quiet("alone"));
    goals.ratio(what, AtMost(2.0), "p99", cells);
}

/// Memory, start, size, growth.
fn resources(goals: &mut Goals) {
    for (group, cell, bar) in [
        ("P12", "ours, idle, MiB", 12.0),
        ("P12", "ours, a connection, KiB", 25.0),
        ("P12", "ours, a watcher, KiB", 8.0),
        ("P12", "ours, a counter with its value, KiB", 1.0),
        ("P12", "ours, a lock that is held, KiB", 2.0),
        ("P13", "memory, start to first answer, ms", 10.0),
        ("P13", "disk with entries, start to first answer, ms", 250.0),
        ("P13", "ours on Redis, start to first answer, ms", 20.0),
        ("P13", "ours on etcd, start to first answer, ms", 20.0),
        ("P14", "ours, program, MB", 12.0),
    ] {
        goals.plain(&format!("{group}: {cell}"), Unit::Count, AtMost(bar), "value", cell);
    }
    for (small, large) in [
        ("a thousand entries, get", "a million entries, get"),
        ("a thousand entries, put", "a million entries, put"),
        ("ten counters, increment", "a hundred thousand counters, increment"),
        ("ten connections, put", "ten thousand connections, put"),
        ("ten connections, put", "ten thousand watches of another map, put"),
    ] {
        let cells = (format!("{large}, {SIXTY_FOUR}"), format!("{small}, {SIXTY_FOUR}"));
        // A thousand times more may cost log2(1,000,000) / log2(1,000) as many steps, which is twice.
        goals.ratio(&format!("Growth: {large}, by {small}: p50"), AtMost(2.0), "p50", cells);
    }
}

// === impl Goals ===

impl Goals {
    /// A figure of one cell.
    fn plain(&mut self, what: &str, unit: Unit, bar: Bar, figure: &'static str, cell: &str) {
        let cell = cell.to_owned();
        let figure = Box::new(move |run: Run<'_>| run.get(&cell, figure));
        self.0.push(Goal { what: what.to_owned(), unit, bar, figure });
    }

    /// A figure of one cell by that of another one.
    fn ratio(&mut self, what: &str, bar: Bar, figure: &'static str, (of, to): (String, String)) {
        let figure = Box::new(move |run: Run<'_>| Some(run.get(&of, figure)? / run.get(&to, figure)?));
        self.0.push(Goal { what: what.to_owned(), unit: Unit::Ratio, bar, figure });
    }

    /// How much longer one cell takes than another one.
    fn over(&mut self, what: &str, bar: Bar, figure: &'static str, (of, to): (String, String)) {
        let figure = Box::new(move |run: Run<'_>| Some(run.get(&of, figure)? - run.get(&to, figure)?));
        self.0.push(Goal { what: what.to_owned(), unit: Unit::Time, bar, figure });
    }
}

// === impl Bar ===

impl Bar {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bar) => figure >= bar,
            Self::AtMost(bar) => figure <= bar,
        }
    }

    fn show(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(bar) => format!("≥ {}", unit.show(bar)),
            Self::AtMost(bar) => format!("≤ {}", unit.show(bar)),
        }
    }
}
