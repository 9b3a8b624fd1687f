// SPDX-License-Identifier: Apache-2.0
//! Measures the runtime beside what it is compared with, and writes the tables. `bench/compare` builds what it needs.

mod goals;
mod harness;
mod peers;
mod results;
mod sections;
mod servers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use self::harness::Harness;
use self::results::Results;
use self::sections::{ALL, Section};
use self::servers::TestEnv;

/// Measures the runtime beside a bare server, and its stores with and without it.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The sections to measure [default: everything]
    #[arg(value_parser = sections())]
    sections: Vec<String>,
    /// How often everything is measured [default: 5, or 1 with --quick]
    #[arg(long)]
    runs: Option<usize>,
    /// Proves in a few minutes that everything works: short cells, small sizes. Its figures say little
    #[arg(long)]
    quick: bool,
    /// Writes the tables between the marks of this file instead of to standard output
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Writes everything that was measured to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The folder of the programs that are measured
    #[arg(long, value_name = "FOLDER")]
    programs: PathBuf,
}

const BEGIN: &str = "<!-- compare begins -->";
const END: &str = "<!-- compare ends -->";

fn sections() -> Vec<&'static str> {
    ALL.iter().map(|section| section.name).collect()
}

/// Measures, and writes the tables.
pub(crate) fn run(options: &Compare) -> Result<()> {
    let chosen = |section: &&Section| {
        options.sections.is_empty() || options.sections.iter().any(|name| name == section.name)
    };
    let chosen: Vec<&Section> = ALL.iter().filter(chosen).collect();
    let disk = tempfile::tempdir_in(&options.programs)?;
    let millis = |quick, full| Duration::from_millis(if options.quick { quick } else { full });
    let mut harness = Harness {
        environment: TestEnv { programs: options.programs.clone(), disk: disk.path().to_owned() },
        results: Results::default(),
        section: "",
        run: 0,
        warm_up: millis(150, 400),
        time: millis(350, 1500),
        shrink: if options.quick { 10 } else { 1 },
    };
    let runs = options.runs.unwrap_or(if options.quick { 1 } else { 5 });
    for run in 0..runs {
        for section in &chosen {
            eprintln!("run {} of {runs}: {}", run + 1, section.name);
            (harness.run, harness.section) = (run, section.name);
            (section.measure)(&mut harness).with_context(|| format!("section {}", section.name))?;
        }
    }
    let text = report(options, &harness.results, runs)?;
    if let Some(file) = &options.json {
        std::fs::write(file, harness.results.json().to_string())?;
    }
    if let Some(file) = &options.write {
        return replace(file, &text).with_context(|| file.display().to_string());
    }
    print!("{text}");
    Ok(())
}

/// Writes all tables, and on what they were measured.
fn report(options: &Compare, results: &Results, runs: usize) -> Result<String> {
    let output_of = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
    let processor = processor.map_or("unknown", |name| name.trim_matches([' ', '\t', ':']));
    let busy = std::fs::read_to_string("/proc/loadavg")?;
    let busy = busy.split(' ').next().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let shape = if options.quick {
        "short cells and small sizes, which say little"
    } else {
        "1.5 s a cell after 0.4 s"
    };
    let facts = format!(
        "Commit {}, {}; {cores} cores of {processor}, Linux {}; {}; {}; {runs} runs, {shape}. Load average at the end {busy}.\n",
        output_of("git", &["log", "-1", "--format=%h"])?,
        output_of("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])?,
        output_of("uname", &["-r"])?,
        output_of("etcd", &["--version"])?,
        output_of("redis-server", &["--version"])?.split(" sha").next().unwrap_or_default(),
    );
    let titles: Vec<_> = ALL.iter().map(|section| (section.name, section.title)).collect();
    Ok(format!("{facts}{}{}", goals::table(results, runs), results.tables(&titles)))
}

/// Puts `text` between the marks of a file.
fn replace(file: &Path, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(file)?;
    let (before, rest) = old.split_once(BEGIN).context("the mark where the tables begin is not there")?;
    let (_, after) = rest.split_once(END).context("the mark where the tables end is not there")?;
    std::fs::write(file, format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))?;
    Ok(())
}
