// SPDX-License-Identifier: Apache-2.0
//! Measures the runtime beside what it is compared with, and writes the tables. `bench/compare` builds what it needs.

mod book;
mod chapters;
mod goals;
mod lab;
mod peers;
mod servers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use self::book::Book;
use self::chapters::{ALL, Chapter};
use self::lab::Lab;
use self::servers::Ground;

/// Measures the runtime beside a bare server, and its stores with and without it.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// What to measure [default: everything]
    #[arg(value_parser = chapters())]
    chapters: Vec<String>,
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

fn chapters() -> Vec<&'static str> {
    ALL.iter().map(|chapter| chapter.name).collect()
}

/// Measures, and writes the tables.
pub(crate) fn run(options: &Compare) -> Result<()> {
    let chosen = |chapter: &&Chapter| {
        options.chapters.is_empty() || options.chapters.iter().any(|name| name == chapter.name)
    };
    let chosen: Vec<&Chapter> = ALL.iter().filter(chosen).collect();
    let disk = tempfile::tempdir_in(&options.programs)?;
    let millis = |quick, full| Duration::from_millis(if options.quick { quick } else { full });
    let mut lab = Lab {
        ground: Ground { programs: options.programs.clone(), disk: disk.path().to_owned() },
        book: Book::default(),
        chapter: "",
        run: 0,
        warm_up: millis(150, 400),
        time: millis(350, 1500),
        shrink: if options.quick { 10 } else { 1 },
    };
    let runs = options.runs.unwrap_or(if options.quick { 1 } else { 5 });
    for run in 0..runs {
        for chapter in &chosen {
            eprintln!("run {} of {runs}: {}", run + 1, chapter.name);
            (lab.run, lab.chapter) = (run, chapter.name);
            (chapter.measure)(&mut lab).with_context(|| format!("chapter {}", chapter.name))?;
        }
    }
    let text = report(options, &lab.book, runs)?;
    if let Some(file) = &options.json {
        std::fs::write(file, lab.book.json().to_string())?;
    }
    if let Some(file) = &options.write {
        return replace(file, &text).with_context(|| file.display().to_string());
    }
    print!("{text}");
    Ok(())
}

/// Writes all tables, and on what they were measured.
fn report(options: &Compare, book: &Book, runs: usize) -> Result<String> {
    let said = |program: &str, arguments: &[&str]| -> Result<String> {
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
        said("git", &["log", "-1", "--format=%h"])?,
        said("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])?,
        said("uname", &["-r"])?,
        said("etcd", &["--version"])?,
        said("redis-server", &["--version"])?.split(" sha").next().unwrap_or_default(),
    );
    let titles: Vec<_> = ALL.iter().map(|chapter| (chapter.name, chapter.title)).collect();
    Ok(format!("{facts}{}{}", goals::table(book, runs), book.tables(&titles)))
}

/// Puts `text` between the marks of a file.
fn replace(file: &Path, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(file)?;
    let (before, rest) = old.split_once(BEGIN).context("the mark where the tables begin is not there")?;
    let (_, after) = rest.split_once(END).context("the mark where the tables end is not there")?;
    std::fs::write(file, format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))?;
    Ok(())
}
