// SPDX-License-Identifier: Apache-2.0
//! Rounds in which a disk store crashes under recorded load, and the check of each record.
#![allow(clippy::disallowed_methods, reason = "processes are killed in real time")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use atomix_client::{Map, Result};
use atomix_conformance::Dice;
use atomix_servers::free_port;

use crate::disks::{Disk, Shim};
use crate::record::{Crash, Options, Recorder, Recording, Summary, Violations};
use crate::{Server, program};

/// When the store answers a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After the sync of the disk.
    Sync,
    /// After the write; it is synced within an interval.
    Interval,
}

/// The ports of a server, which it keeps over restarts.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    listen: u16,
    control: u16,
}

/// The sums of all rounds.
#[derive(Debug, Default)]
pub struct Report {
    /// Crashes.
    pub rounds: u64,
    /// Objects whose histories were judged.
    pub objects: usize,
    /// Calls that were answered.
    pub done: u64,
    /// Calls that were certainly not applied.
    pub refused: u64,
    /// Calls with an unknown outcome.
    pub lost: u64,
    /// Events that streams have shown.
    pub events: usize,
    /// Answered calls that a crash has lost and may have lost.
    pub cut: usize,
    /// Errors by name.
    pub errors: BTreeMap<String, u64>,
    /// Violations.
    pub wrong: Vec<String>,
}

/// Entries that are written before all crashes and only read then: most of the time they are in snapshots.
#[derive(Debug)]
struct Unchanged(BTreeMap<String, String>);

/// The time within which an answered write is on the disk, with [`Durability::Interval`].
const INTERVAL: Duration = Duration::from_millis(50);
/// The delay of a sync that is due, on a machine that does other things as well.
const SYNC_DELAY: Duration = Duration::from_millis(150);
/// Crashes in one record.
const KILLS: u64 = 6;
/// The number of [`Unchanged`] entries.
const ENTRIES: usize = 100;
/// The longest value in bytes.
const PADDING: usize = 5000;

/// Prepares a server on a folder, with logs so short that snapshots are made all the time. A second store, `ram`, gets
/// nothing unless there are routes to it.
pub fn serve(dir: &Path, durability: Durability) -> Command {
    serve_at(Address { listen: 0, control: 0 }, dir, durability)
}

/// As [`serve`] at an address.
pub fn serve_at(address: Address, dir: &Path, durability: Durability) -> Command {
    let durability = match durability {
        Durability::Sync => r#""durability":"sync""#.to_owned(),
        Durability::Interval => {
            format!(r#""durability":"interval","sync-interval":"{}ms""#, INTERVAL.as_millis())
        }
    };
    let disk = format!(
        r#"{{"name":"disk","driver":{{"name":"disk","version":"v1"}},"config":{{"dir":{:?},{durability},"log-bytes-max":1048576}}}}"#,
        dir.display().to_string()
    );
    let ram = r#"{"name":"ram","driver":{"name":"memory","version":"v1"}}"#;
    let stores = format!("stores=[{disk},{ram}]");
    let mut command = Command::new(program());
    let loopback = |port| format!("127.0.0.1:{port}");
    command.args(["serve", "--listen", &loopback(address.listen), "--control", &loopback(address.control)]);
    command.args(["--set", "log.level=off", "--set", &stores]);
    command
}

/// Returns the options of a record around crashes of the only server.
pub fn options(prefix: &str) -> Options {
    Options {
        prefix: prefix.to_owned(),
        late: Some(Duration::from_secs(10)),
        stalls: false,
        padding: PADDING,
        free_at_end: true,
        ..Options::with_faults()
    }
}

/// Kills the server at random moments: under load, and while it starts.
pub async fn kills(dir: &Path, rounds: u64, seed: u64, durability: Durability) -> Result<Report> {
    let (mut dice, mut report, address) = (Dice::new(seed), Report::default(), Address::free());
    let start = || Server::start_command(serve_at(address, dir, durability));
    let mut server = start();
    let unchanged = Unchanged::write(&server, &mut dice).await?;
    while report.rounds < rounds {
        let options = options(&format!("r{}", report.rounds));
        let recorder = Recorder::start(&[address.endpoint()], dice.bits(), &options);
        for _ in 0..KILLS.min(rounds - report.rounds) {
            recorder.answered(50 + dice.roll(500)).await;
            server.kill();
            if dice.roll(4) == 0 {
                kill_at_start(dir, durability, Duration::from_micros(dice.roll(40_000)));
            }
            server = start();
            unchanged.check(&server, &mut report).await?;
            report.rounds += 1;
        }
        recorder.answered(200).await;
        report.judge(recorder.finish().await, None).await;
    }
    Ok(report)
}

/// Cuts the power at random moments. In most rounds syncs have failed before, or are slow.
pub async fn power_cuts(rounds: u64, seed: u64, durability: Durability, shim: &Shim) -> Result<Report> {
    let (mut dice, mut report, address) = (Dice::new(seed), Report::default(), Address::free());
    let mut disk = Disk::mount(96).expect("the caller has checked that disks can be mounted");
    let dir = disk.path().join("store");
    let start = || {
        let mut command = serve_at(address, &dir, durability);
        shim.preload(&mut command);
        Server::start_command(command)
    };
    let mut server = start();
    let unchanged = Unchanged::write(&server, &mut dice).await?;
    if durability == Durability::Interval {
        // The first round must not lose them.
        tokio::time::sleep(INTERVAL + SYNC_DELAY).await;
    }
    for round in 0..rounds {
        let recorder = Recorder::start(&[address.endpoint()], dice.bits(), &options(&format!("r{round}")));
        let unsynced = u64::try_from((INTERVAL + SYNC_DELAY).as_nanos()).expect("short");
        recorder.answered(50 + dice.roll(400)).await;
        let mut synced = None;
        match dice.roll(4) {
            0 => {}
            1 => shim.fail_once(),
            2 => shim.delay(1 + dice.roll(40)),
            _ => {
                // While syncs fail nothing gets on the disk.
                synced = Some(recorder.now().saturating_sub(unsynced));
                shim.fail();
                tokio::time::sleep(Duration::from_millis(dice.roll(100))).await;
                shim.work();
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.roll(150))).await;
        let synced = synced.unwrap_or_else(|| recorder.now().saturating_sub(unsynced));
        server.kill();
        let crash = Crash { synced, dead: recorder.now() };
        disk.cut_power().expect("the disk can be mounted again");
        shim.work();
        if dice.roll(4) == 0 {
            kill_at_start(&dir, durability, Duration::from_micros(dice.roll(40_000)));
            disk.cut_power().expect("the disk can be mounted again");
        }
        server = start();
        unchanged.check(&server, &mut report).await?;
        report.rounds += 1;
        recorder.answered(200).await;
        let crash = (durability == Durability::Interval).then_some(crash);
        report.judge(recorder.finish().await, crash).await;
    }
    server.kill();
    Ok(report)
}

fn kill_at_start(dir: &Path, durability: Durability, after: Duration) {
    let mut child = serve(dir, durability).stdout(Stdio::null()).spawn().expect("the program was built");
    std::thread::sleep(after);
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
}

// === impl Address ===

impl Address {
    /// Returns an address that is free.
    pub fn free() -> Self {
        Self { listen: free_port(), control: free_port() }
    }

    /// Returns the endpoint of the primitives.
    pub fn endpoint(self) -> String {
        format!("http://127.0.0.1:{}", self.listen)
    }
}

// === impl Unchanged ===

impl Unchanged {
    async fn write(server: &Server, dice: &mut Dice) -> Result<Self> {
        let (map, mut entries) = (Self::map(server).await?, BTreeMap::new());
        for at in 0..ENTRIES {
            let (key, value) = (format!("key-{at}"), format!("{at} {}", ".".repeat(dice.index(PADDING))));
            map.put(key.as_str(), &value).await?;
            entries.insert(key, value);
        }
        Ok(Self(entries))
    }

    async fn check(&self, server: &Server, report: &mut Report) -> Result<()> {
        let found = Self::map(server).await?.entries().await?.collect().await?;
        let found: BTreeMap<String, String> =
            found.into_iter().map(|entry| (entry.key, entry.value.value)).collect();
        if found != self.0 {
            let right = found.iter().filter(|(key, value)| self.0.get(*key) == Some(value)).count();
            report.wrong.push(format!(
                "round {}: {right} of {ENTRIES} entries are as they were, and {} others are there",
                report.rounds,
                found.len() - right
            ));
        }
        Ok(())
    }

    async fn map(server: &Server) -> Result<Map<String>> {
        server.client().await.map("unchanged").text().open().await
    }
}

// === impl Report ===

impl Report {
    /// Judges a record, around a crash if one is given, and adds the result.
    pub async fn judge(&mut self, recording: Recording, crash: Option<Crash>) {
        let judged = tokio::task::spawn_blocking(move || match crash {
            Some(crash) => recording.judge_crash(crash),
            None => recording.judge(),
        });
        let judged = judged.await.expect("the check does not panic");
        let Summary { objects, done, refused, lost, events, cut, ref errors, .. } = *match &judged {
            Ok(summary) | Err(Violations { summary, .. }) => summary,
        };
        self.objects += objects;
        self.done += done;
        self.refused += refused;
        self.lost += lost;
        self.events += events;
        self.cut += cut;
        for (error, count) in errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        if let Err(violations) = judged {
            self.wrong.push(format!("round {}: {violations}", self.rounds));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, objects, done, refused, lost, events, cut, errors: _, wrong } = self;
        write!(
            f,
            "{rounds} rounds, {objects} histories judged, {done} calls done, {refused} refused, {lost} lost, {events} \
             events, {cut} answered calls cut off, wrong {}",
            wrong.len()
        )
    }
}
