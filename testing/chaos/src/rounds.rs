// SPDX-License-Identifier: Apache-2.0
//! Rounds of load, death and judgement on a disk store.
#![allow(clippy::disallowed_methods, reason = "processes die in real time")]

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atomix_client::Result;

use crate::books::{Books, End};
use crate::disks::{Disk, Shim};
use crate::{Server, program};
use atomix_conformance::Dice;

/// When the store answers, and how its server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the disk.
    Sync,
    /// When it is written.
    Interval,
}

/// How long what was answered may not be on the disk yet, with [`Durability::Interval`].
const INTERVAL: Duration = Duration::from_millis(50);
/// A writer that finds the interval over has still to sync, on a machine that does other things as well.
const LATE: Duration = Duration::from_millis(150);

/// Prepares a server on a folder, with logs so short that snapshots are made all the time. A second store, `ram`, gets
/// nothing unless there are routes to it.
pub fn serve(dir: &Path, durability: Durability) -> Command {
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
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.args(["--set", "log.level=off", "--set", &stores]);
    command
}

/// Kills the server at random moments: under load, and while it starts.
pub async fn kills(dir: &Path, rounds: u64, seed: u64, durability: Durability) -> Result<Books> {
    let mut dice = Dice::new(seed);
    let mut server = Server::start_command(serve(dir, durability));
    let mut books = Books::open(&server).await?;
    for _ in 0..rounds {
        let load = books.load(&server, &mut dice).await;
        tokio::time::sleep(Duration::from_millis(30 + dice.roll(500))).await;
        server.kill();
        let end = End { dead: Instant::now(), synced: None };
        let diary = load.stop().await;
        if dice.roll(4) == 0 {
            kill_at_start(dir, durability, Duration::from_micros(dice.roll(40_000)));
        }
        server = Server::start_command(serve(dir, durability));
        books.judge(&server, end, diary).await?;
    }
    Ok(books)
}

/// Cuts the power at random moments. In most rounds syncs have failed before, or are slow.
pub async fn power_cuts(rounds: u64, seed: u64, durability: Durability, shim: &Shim) -> Result<Books> {
    let mut dice = Dice::new(seed);
    let mut disk = Disk::mount(96).expect("the caller has looked whether this works");
    let dir = disk.path().join("store");
    let start = || {
        let mut command = serve(&dir, durability);
        shim.preload(&mut command);
        Server::start_command(command)
    };
    let mut server = start();
    let mut books = Books::open(&server).await?;
    for _ in 0..rounds {
        let load = books.load(&server, &mut dice).await;
        let most = if durability == Durability::Sync { 250 } else { 450 };
        let pause = Duration::from_millis(10 + dice.roll(most));
        tokio::time::sleep(pause).await;
        let mut synced = None;
        match dice.roll(4) {
            0 => {}
            1 => shim.fail_once(),
            2 => shim.delay(1 + dice.roll(40)),
            _ => {
                // While no sync works nothing gets on the disk, and a moment later the next one is tried.
                synced = before(INTERVAL + LATE);
                shim.fail();
                tokio::time::sleep(pause / 2).await;
                shim.work();
            }
        }
        tokio::time::sleep(pause).await;
        let synced =
            synced.or_else(|| before(INTERVAL + LATE)).filter(|_| durability == Durability::Interval);
        server.kill();
        let dead = Instant::now();
        load.halt();
        disk.cut_power().expect("the disk can be mounted again");
        shim.work();
        let diary = load.stop().await;
        if dice.roll(4) == 0 {
            kill_at_start(&dir, durability, Duration::from_micros(dice.roll(40_000)));
            disk.cut_power().expect("the disk can be mounted again");
        }
        server = start();
        books.judge(&server, End { dead, synced }, diary).await?;
        if durability == Durability::Interval {
            // What the judge has changed must not be lost with the next round.
            tokio::time::sleep(INTERVAL + LATE).await;
        }
    }
    server.kill();
    Ok(books)
}

fn before(time: Duration) -> Option<Instant> {
    Instant::now().checked_sub(time)
}

fn kill_at_start(dir: &Path, durability: Durability, after: Duration) {
    let mut child = serve(dir, durability).stdout(Stdio::null()).spawn().expect("the program was built");
    std::thread::sleep(after);
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        write!(
            f,
            "{} rounds, {} acknowledged writes checked, {} revealed values, {} refused, unknown {} there and {} not, \
             within the interval {} of {} gone, wrong {}",
            tally.rounds,
            tally.acknowledged,
            tally.revealed,
            tally.refused,
            tally.unknown_there,
            tally.unknown_gone,
            tally.late_gone,
            tally.late,
            tally.wrong.len()
        )
    }
}
