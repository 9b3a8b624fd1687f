// SPDX-License-Identifier: Apache-2.0
//! Output of answers, for people or for programs.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::{Value as Json, json};

use crate::failure::{DONE, Failure};
use crate::text;

/// The form of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

/// Writes to standard output, a line at a time, so that a reader of a stream sees each message at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    format: Format,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Writes one answer: a line of text, or an object.
    pub(crate) fn line(self, human: impl AsRef<str>, json: &Json) -> Result<(), Failure> {
        match self.format {
            Format::Human => write_line(human.as_ref().as_bytes()),
            Format::Json => write_line(json.to_string().as_bytes()),
        }
    }

    /// Writes a value: byte for byte if it is `raw` or goes to a file or a program, as a line on a terminal.
    pub(crate) fn value(self, value: &[u8], raw: bool, json: &Json) -> Result<(), Failure> {
        match self.format {
            Format::Human if raw || !io::stdout().is_terminal() => write(value, b""),
            Format::Human => write_line(value),
            Format::Json => write_line(json.to_string().as_bytes()),
        }
    }

    /// Returns the format as the option of that name has it.
    pub(crate) fn format_name(self) -> &'static str {
        match self.format {
            Format::Human => "human",
            Format::Json => "json",
        }
    }

    /// Returns whether people read the answers.
    pub(crate) fn is_human(self) -> bool {
        self.format == Format::Human
    }

    /// Writes a line of text that has no place among JSON objects.
    pub(crate) fn human(self, line: impl AsRef<str>) -> Result<(), Failure> {
        if self.format == Format::Human { write_line(line.as_ref().as_bytes()) } else { Ok(()) }
    }

    /// Writes several objects: a table for people, or the line `empty` if there are none.
    pub(crate) fn table<T: serde::Serialize>(
        self,
        empty: &str,
        header: &[&str],
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), Failure> {
        if self.format == Format::Json {
            return items.iter().try_for_each(|item| self.object(item));
        }
        if items.is_empty() {
            return write_line(empty.as_bytes());
        }
        let rows: Vec<_> = items.iter().map(row).collect();
        write_line(text::table(header, &rows).as_bytes())
    }

    /// Writes an object if objects are wanted.
    pub(crate) fn object<T: serde::Serialize>(self, item: &T) -> Result<(), Failure> {
        if self.format == Format::Human {
            return Ok(());
        }
        let line =
            serde_json::to_vec(item).map_err(|error| Failure::Io("cannot write an answer", error.into()))?;
        write_line(&line)
    }

    /// Writes something that happened beside the answer to standard error.
    pub(crate) fn note(self, message: &str) {
        self.complain(&format!("atomix: {message}"), &json!({"note": message}));
    }

    /// Writes a failure to standard error and returns its exit code.
    pub(crate) fn fail(self, failure: &Failure) -> ExitCode {
        if let Failure::Io(_, error) = failure
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // The reader closed the pipe, as `head` does. The failure has no reader.
            return DONE;
        }
        let mut human = format!("error: {failure}");
        if let Some(hint) = failure.hint() {
            human.push_str("\nhint: ");
            human.push_str(hint);
        }
        let json = json!({
            "error": failure.to_string(),
            "kind": failure.kind(),
            "reason": failure.reason(),
            "hint": failure.hint(),
            "exit_code": failure.code(),
        });
        self.complain(&human, &json);
        ExitCode::from(failure.code())
    }

    fn complain(self, human: &str, json: &Json) {
        let mut stderr = io::stderr().lock();
        let written = match self.format {
            Format::Human => writeln!(stderr, "{human}"),
            Format::Json => writeln!(stderr, "{json}"),
        };
        // A failure to write to standard error has no other channel.
        written.ok();
    }
}

/// Returns the program without the commands that help does not show, which completion would offer.
pub(crate) fn visible(program: &clap::Command) -> clap::Command {
    let shown = program.get_subcommands().filter(|command| !command.is_hide_set());
    clap::Command::new("atomix").args(program.get_arguments()).subcommands(shown)
}

/// Writes a completion script, without the commands that help does not show.
pub(crate) fn completions(program: &clap::Command, shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let name = program.get_name().to_owned();
    let mut program = visible(program);
    // Into memory first: the generator panics if a write fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
    io::stdout().lock().write_all(&script).map_err(|error| Failure::Io("cannot write the script", error))?;
    Ok(DONE)
}

fn write_line(line: &[u8]) -> Result<(), Failure> {
    write(line, b"\n")
}

fn write(bytes: &[u8], end: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.write_all(end))
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::Io("cannot write an answer", error))
}
