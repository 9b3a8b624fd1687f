// SPDX-License-Identifier: Apache-2.0
//! How a cell is measured.

use std::time::Duration;

use anyhow::Context;
use atomix_env::Env;
use atomix_load::work::{Mix, Subject};
use atomix_load::{Pace, Plan, Report, Target, drive};
use tokio::runtime::Builder;

use crate::compare::results::{Figures, Results, figures};
use crate::compare::servers::{Server, TestEnv, pause};

/// The state that all sections share.
#[derive(Debug)]
pub(crate) struct Harness {
    pub(crate) environment: TestEnv,
    pub(crate) results: Results,
    /// The section and the run that are being measured.
    pub(crate) section: &'static str,
    pub(crate) run: usize,
    /// How long calls are made before they count, and how long they count.
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    /// By how much sizes are divided when only a proof is wanted that it all works.
    pub(crate) shrink: u64,
}

/// How a server is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// Threads of the generator.
    pub(crate) threads: usize,
}

/// Between two cells: what the last one left behind is settled then.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs `work` on a runtime of its own.
pub(crate) fn on<T>(threads: usize, work: impl AsyncFnOnce(&Env) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(threads).enable_all().build()?.block_on(async { work(&Env::real()).await })
}

/// Keys of the runtime under the usual name.
pub(crate) fn subject(keys: u64) -> Subject {
    Subject { name: "bench".to_owned(), tags: Vec::new(), keys, value_bytes: 100 }
}

// === impl Load ===

impl Load {
    /// So many callers on so many connections, from one thread.
    pub(crate) fn closed(connections: usize, callers: usize) -> Self {
        Self { connections, pace: Pace::Closed(callers), threads: 1 }
    }

    /// A thousand calls a second on 16 connections.
    pub(crate) fn paced() -> Self {
        Self { connections: 16, pace: Pace::Open(1000.0), threads: 1 }
    }

    /// The same callers on one connection, as all calls of a runtime share one to their store.
    pub(crate) fn shared(self) -> Self {
        Self { connections: 1, ..self }
    }

    pub(crate) fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pace {
            Pace::Closed(1) => write!(f, "1 caller")?,
            Pace::Closed(callers) => write!(f, "{callers} callers on {}", self.connections)?,
            Pace::Open(rate) => write!(f, "{rate:.0}/s on {}", self.connections)?,
        }
        if self.threads > 1 {
            write!(f, ", client with {} workers", self.threads)?;
        }
        Ok(())
    }
}

// === impl Harness ===

impl Harness {
    /// Measures calls of any kind. The processor time is that of the server `of`.
    pub(crate) fn calls<T: Target>(
        &mut self,
        what: &str,
        load: Load,
        of: &Server,
        connect: impl AsyncFnOnce(&Env) -> anyhow::Result<Vec<T>>,
    ) -> anyhow::Result<()> {
        let plan = Plan { pace: load.pace, warm_up: self.warm_up, time: self.time };
        let (report, used) = on(load.threads, async |env| {
            let targets = connect(env).await?;
            let before = of.cpu();
            let report = drive(env, plan, targets).await;
            Ok((report, of.cpu().saturating_sub(before)))
        })
        .with_context(|| what.to_owned())?;
        let mut figures = self.checked(what, &report);
        // Calls of the warm-up are in the time, and as many in proportion.
        let calls = figures["per_second"] * (self.warm_up + self.time).as_secs_f64();
        figures.insert("cpu", used.as_secs_f64() * 1e6 / calls);
        self.add(&format!("{what}, {load}"), figures);
        Ok(())
    }

    /// Measures calls of one kind to a runtime or bare server at `address`.
    pub(crate) fn work(
        &mut self,
        what: &str,
        load: Load,
        of: &Server,
        address: &str,
        mix: Mix,
    ) -> anyhow::Result<()> {
        self.work_on(what, load, of, address, mix, &subject(1000))
    }

    /// As [`Harness::work`] on another subject.
    pub(crate) fn work_on(
        &mut self,
        what: &str,
        load: Load,
        of: &Server,
        address: &str,
        mix: Mix,
        subject: &Subject,
    ) -> anyhow::Result<()> {
        self.calls(what, load, of, async |env| Ok(subject.work(env, address, load.connections, mix).await?))
    }

    /// Returns the figures of a report, and prints failures.
    pub(crate) fn checked(&self, what: &str, report: &Report) -> Figures {
        let summary = report.summary();
        for (failure, count) in &summary.failures {
            eprintln!("{}: {what}: {count} x {failure}", self.section);
        }
        figures(&summary)
    }

    /// Writes one number down.
    pub(crate) fn value(&mut self, what: &str, value: f64) {
        self.add(what, Figures::from([("value", value)]));
    }

    /// Writes the figures of a cell down.
    pub(crate) fn add(&mut self, what: &str, figures: Figures) {
        self.results.add(self.section, what, self.run, figures);
        pause(PAUSE);
    }
}
