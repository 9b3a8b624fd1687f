// SPDX-License-Identifier: Apache-2.0
//! `atomix bench`

use std::process::ExitCode;
use std::time::Duration;

use atomix_env::Env;
use atomix_load::work::{Mix, Op, Subject};
use atomix_load::{Pace, Plan, Report, drive, flood, hand_over, singles};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::context::Context;
use crate::failure::{DONE, Failure};
use crate::text::parse_duration;

/// Loads a running server and measures its answers.
///
/// Callers run a closed loop: each waits for its answer before it calls again. With --rate they send calls at a steady
/// pace instead, and each call counts from its due time, so that a server that stalls does not get less load. The names of
/// all primitives begin with --name; they stay on the server. A server that goes away meanwhile is a failure: exit code 5.
///
/// Server and generator share the processors of one machine: compare figures of the same run only.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    load: Load,
}

/// The kind of load.
#[derive(Debug, Subcommand)]
enum Load {
    /// Increment counters; --keys 1 is a hot one
    Counter(Calls),
    /// Get entries of a map, which is filled first
    Get(Calls),
    /// Put entries into a map
    Put(Calls),
    /// Several kinds of calls
    Mix {
        /// Kinds with their weights, such as get=9,put=1; of increment, get, put, remove, set (a value), publish
        mix: Mix,
        #[command(flatten)]
        calls: Calls,
    },
    /// Hand over a lock: a call is the time from the release to the next grant
    Lock {
        /// The number of contenders, each on its own connection
        #[arg(long, default_value_t = 16, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        contenders: u32,
        #[command(flatten)]
        run: Run,
    },
    /// Watch a map with many watchers: first one event at a time, then as many as writers can make
    Watch(Watch),
}

/// The settings of calls.
#[derive(Debug, Clone, Args)]
struct Calls {
    /// Connections that the callers share
    #[arg(long, default_value_t = 8, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Callers in total: the number of calls in flight
    #[arg(long, default_value_t = 64, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    callers: u32,
    /// Calls per second, at a steady pace, instead of callers that wait for answers
    #[arg(long, conflicts_with = "callers", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Keys of the map, or counters, that calls are spread over by chance [default: 1 counter, 1000 keys]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    #[command(flatten)]
    run: Run,
}

/// The numbers of watchers and writers.
#[derive(Debug, Clone, Args)]
struct Watch {
    /// The number of watchers
    #[arg(long, default_value_t = 1000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    watchers: u32,
    /// The number of further watchers that never read
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    stalled: u32,
    /// The number of writers at once in the second part
    #[arg(long, default_value_t = 16, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    writers: u32,
    /// Connections that the watchers share
    #[arg(long, default_value_t = 10, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    #[command(flatten)]
    run: Run,
}

/// The duration, the names and the threads.
#[derive(Debug, Clone, Args)]
struct Run {
    /// The duration of the measurement
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
    /// The duration of the calls before the measurement, such as 500ms
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_duration)]
    warm_up: Duration,
    /// Bytes of a value or message
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    value_bytes: usize,
    /// Threads of the generator. One leaves most of the machine to the server
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// The beginning of the names of primitives
    #[arg(long, default_value = "bench", value_name = "NAME")]
    name: String,
}

/// The measurements, and the reason if a broken connection cut them short.
struct Measured {
    human: String,
    json: Json,
    broken: Option<String>,
}

// === impl Bench ===

impl Bench {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let (threads, env) = (self.load.threads(), context.env.clone());
        let (server, tags) = (context.options.server.clone(), context.options.tags.clone());
        // A runtime of its own, so that the threads of the generator are as many as were asked for.
        let (done, outcome) = oneshot::channel();
        let load = move || {
            let mut builder =
                if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
            let runtime = builder.worker_threads(threads.into()).enable_all().build();
            let outcome = match runtime {
                Ok(runtime) => runtime.block_on(self.load.measure(&env, &server, tags)),
                Err(error) => Err(Failure::Io("cannot start the threads of the generator", error)),
            };
            drop(done.send(outcome));
        };
        context.env.thread("load", load).map_err(|error| Failure::Io("cannot start a thread", error))?;
        let Measured { human, json, broken } = outcome.await.expect("the thread answers before it ends")?;
        context.printer.line(human, &json)?;
        match broken {
            None => Ok(DONE),
            Some(cause) => Err(Failure::Load(atomix_load::Failure::Broken(cause))),
        }
    }
}

// === impl Load ===

impl Load {
    fn threads(&self) -> u16 {
        match self {
            Self::Counter(calls) | Self::Get(calls) | Self::Put(calls) | Self::Mix { calls, .. } => {
                calls.run.threads
            }
            Self::Lock { run, .. } | Self::Watch(Watch { run, .. }) => run.threads,
        }
    }

    async fn measure(self, env: &Env, server: &str, tags: Vec<String>) -> Result<Measured, Failure> {
        let (calls, mix, keys) = match self {
            Self::Counter(calls) => (calls, Mix::only(Op::Increment), 1),
            Self::Get(calls) => (calls, Mix::only(Op::Get), KEYS),
            Self::Put(calls) => (calls, Mix::only(Op::Put), KEYS),
            Self::Mix { mix, calls } => (calls, mix, KEYS),
            Self::Lock { contenders, run } => {
                let waiters = run.subject(tags, 1).waiters(env, server, contenders as usize).await?;
                return Ok(answer(&hand_over(env, run.warm_up, run.time(), waiters).await));
            }
            Self::Watch(watch) => return watch.measure(env, server, tags).await,
        };
        let subject = calls.run.subject(tags, calls.keys.unwrap_or(keys));
        let works = subject.work(env, server, calls.connections as usize, mix).await?;
        let pace = calls.rate.map_or(Pace::Closed(calls.callers as usize), |rate| Pace::Open(rate.into()));
        let plan = Plan { pace, warm_up: calls.run.warm_up, time: calls.run.time() };
        Ok(answer(&drive(env, plan, works).await))
    }
}

/// The default number of keys of a map.
const KEYS: u64 = 1000;

// === impl Watch ===

impl Watch {
    async fn measure(self, env: &Env, server: &str, tags: Vec<String>) -> Result<Measured, Failure> {
        let Self { watchers, stalled, writers, connections, run } = self;
        let (subject, put) = (run.subject(tags, KEYS), || Mix::only(Op::Put));
        let works = subject.work(env, server, connections as usize, put()).await?;
        let silent = subject.watchers(&works, stalled as usize).await?;

        let feeds = subject.watchers(&works, watchers as usize).await?;
        let alone = subject.work(env, server, 1, put()).await?.remove(0);
        let singles = singles(env, run.warm_up, run.time(), feeds, alone).await;
        let (each, last) = (singles.each.summary(), singles.last.summary());

        let feeds = subject.watchers(&works, watchers as usize).await?;
        let writers = subject.work(env, server, writers as usize, put()).await?;
        let flood = flood(env, run.warm_up, run.time(), feeds, writers).await;
        let (written, gone) = (flood.writes.summary(), flood.lost.summary().failures);
        drop(silent);

        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let delivered = flood.delivered as f64 / run.time().as_secs_f64();
        let human = format!(
            "one event, to each watcher: {each}\none event, to the last watcher: {last}\n\
             flood: {delivered:.0} events delivered/s, feeds lost: {gone:?}\nflood, writes: {written}",
        );
        let json = json!({
            "each": each, "last": last, "delivered_per_second": delivered, "lost": gone, "writes": written,
        });
        let reports = [&singles.each, &singles.last, &flood.writes, &flood.lost];
        Ok(Measured { human, json, broken: reports.into_iter().find_map(|report| report.broken.clone()) })
    }
}

// === impl Run ===

impl Run {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn subject(&self, tags: Vec<String>, keys: u64) -> Subject {
        Subject { name: self.name.clone(), tags, keys, value_bytes: self.value_bytes }
    }
}

fn answer(report: &Report) -> Measured {
    let summary = report.summary();
    Measured { human: summary.to_string(), json: json!(summary), broken: report.broken.clone() }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| format!("`{text}` is no number of seconds from 0.01 to 86400"))
}
