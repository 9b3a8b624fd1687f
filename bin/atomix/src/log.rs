// SPDX-License-Identifier: Apache-2.0
//! The log of `serve`: lines on standard error, through a [`Sink`] that never blocks a call.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;

use atomix_config::{LogFormat, LogLevel};
use atomix_env::Env;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::output::Sink;

/// Standard output and standard error of a process that must not wait for either.
pub(crate) struct Output {
    pub(crate) out: Sink,
    pub(crate) err: Sink,
}

/// The log.
pub(crate) struct Log {
    filter: reload::Handle<LevelFilter, Registry>,
}

// === impl Output ===

impl Output {
    /// Takes both streams over. `format` is that of the lines about dropped lines.
    pub(crate) fn start(env: &Env, format: LogFormat) -> Self {
        // A descriptor of its own has no buffer that would be flushed, and perhaps block, at the end of the process.
        let out = io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from);
        let err = io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
        let notice =
            move |lines| line(format, "WARN", &format!("{lines} log lines were dropped"), &[]).into_bytes();
        Self {
            out: Sink::start(env, "atomix-stdout", out, Box::new(|_| Vec::new())),
            err: Sink::start(env, "atomix-stderr", err, Box::new(notice)),
        }
    }

    /// Writes a message of the program itself to standard error.
    pub(crate) fn complain(&self, message: &str) {
        self.err.write(format!("{message}\n").as_bytes());
    }

    /// Waits until both streams are written, but not for ever.
    pub(crate) fn flush(&self) {
        self.out.flush();
        self.err.flush();
    }
}

// === impl Log ===

impl Log {
    /// Makes this the log of the process, panics included.
    pub(crate) fn start(level: LogLevel, format: LogFormat, sink: &Sink) -> Self {
        let writer = sink.clone();
        let (filter, handle) = reload::Layer::new(filter(level));
        let lines = tracing_subscriber::fmt::layer()
            // Its own complaints would go to standard error directly.
            .log_internal_errors(false)
            .with_writer(move || writer.clone());
        let log = tracing_subscriber::registry().with(filter);
        let started = match format {
            LogFormat::Json => log.with(lines.json()).try_init(),
            LogFormat::Text => log.with(lines.with_ansi(colours())).try_init(),
        };
        // An embedding program may have a log of its own.
        drop(started);
        if level == LogLevel::Off {
            std::panic::set_hook(Box::new(|_| {}));
        } else {
            let sink = sink.clone();
            std::panic::set_hook(Box::new(move |panic| write_panic(panic, format, &sink)));
        }
        Self { filter: handle }
    }

    /// Changes the level from the next line on.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // It fails only if there is no such log any more.
        drop(self.filter.reload(filter(level)));
    }
}

/// Writes a panic as a line. Not through the log: that may be where it happened.
fn write_panic(panic: &PanicHookInfo<'_>, format: LogFormat, sink: &Sink) {
    let thread = std::thread::current();
    let mut fields = vec![
        ("error", panic.payload_as_str().unwrap_or("no message").to_owned()),
        ("thread", thread.name().unwrap_or("unnamed").to_owned()),
    ];
    if let Some(location) = panic.location() {
        fields.push(("location", location.to_string()));
    }
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        fields.push(("backtrace", backtrace.to_string()));
    }
    sink.write(line(format, "ERROR", "a defect of the program: a thread has panicked", &fields).as_bytes());
}

/// Makes a line as the log makes them.
fn line(format: LogFormat, level: &str, message: &str, fields: &[(&str, String)]) -> String {
    let mut time = String::new();
    // A time that cannot be had is left out.
    SystemTime.format_time(&mut Writer::new(&mut time)).ok();
    match format {
        LogFormat::Json => {
            let mut all = serde_json::json!({ "message": message });
            for (name, value) in fields {
                all[*name] = value.as_str().into();
            }
            let line =
                serde_json::json!({"timestamp": time, "level": level, "fields": all, "target": "atomix"});
            format!("{line}\n")
        }
        LogFormat::Text => {
            let mut line = format!("{time} {level:>5} atomix: {message}");
            for (name, value) in fields {
                // To a text it cannot fail.
                write!(line, " {name}={value:?}").ok();
            }
            line.push('\n');
            line
        }
    }
}

/// Colours are for a terminal, unless its owner has none: <https://no-color.org>.
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ours_look_like_those_of_the_log() {
        let fields = [("error", "a \"b\"\nc".to_owned())];
        let text = line(LogFormat::Text, "WARN", "m", &fields);
        assert!(text.ends_with("Z  WARN atomix: m error=\"a \\\"b\\\"\\nc\"\n"), "{text}");
        let json = line(LogFormat::Json, "WARN", "m", &fields);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["level"], &json["fields"]["error"]), (&"WARN".into(), &"a \"b\"\nc".into()));
    }
}
