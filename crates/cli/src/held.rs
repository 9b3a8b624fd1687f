// SPDX-License-Identifier: Apache-2.0
//! Commands that run while something is held: a lock, keys, the lead of an election.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use atomix_client::{AcquireKeys, Client, Kind};
use clap::Args;
use futures::future::{BoxFuture, FutureExt, Shared};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

use crate::context::{Context, GUARD};
use crate::failure::{CONFLICT, Failure, UNAVAILABLE};
use crate::text::parse_duration;

/// The variables that carry the lock or the candidacy to a command.
pub const JOB_ENV: [&str; 6] = [LOCK_NAME, LOCK_TOKEN, ELECTION, CANDIDATE, TERM, GUARD];

pub(crate) const LOCK_NAME: &str = "ATOMIX_LOCK_NAME";
pub(crate) const LOCK_TOKEN: &str = "ATOMIX_LOCK_TOKEN";
pub(crate) const ELECTION: &str = "ATOMIX_ELECTION";
pub(crate) const CANDIDATE: &str = "ATOMIX_CANDIDATE";
pub(crate) const TERM: &str = "ATOMIX_TERM";

/// The command to run.
#[derive(Debug, Clone, Args)]
pub struct Job {
    /// Time for the command to end after SIGTERM when its lock or lead is lost; then it is killed
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    kill_after: Duration,

    /// The exit code, in place of 4, if the lock or the lead was not acquired within --timeout: to distinguish it from a
    /// code of the command
    #[arg(long, short = 'E', default_value_t = CONFLICT, hide_default_value = true, value_name = "CODE")]
    conflict_exit_code: u8,

    /// The exit code, in place of 5, if the server is not available, or if the lock or lead of the command is lost
    #[arg(long, default_value_t = UNAVAILABLE, hide_default_value = true, value_name = "CODE")]
    unavailable_exit_code: u8,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Keys of a map to lock.
#[derive(Debug, Clone, Args)]
pub struct LockKeys {
    /// The map
    pub(crate) name: String,
    /// The keys
    #[arg(required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    job: Job,
}

/// The exit codes of [`Job`] that are not those of its command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codes {
    pub(crate) conflict: u8,
    pub(crate) unavailable: u8,
}

/// The signals that are passed on to a command.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
    alarm: unix::Signal,
}

/// The loss of the lock or the lead, with its reason.
pub(crate) type Lost = Shared<BoxFuture<'static, String>>;

impl Signals {
    /// Catches the signals from now on. Until then they end this process as usual.
    pub(crate) fn catch() -> Result<Self, Failure> {
        let catch = |kind| unix::signal(kind).map_err(|error| Failure::Io("cannot catch signals", error));
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            quit: catch(SignalKind::quit())?,
            user1: catch(SignalKind::user_defined1())?,
            user2: catch(SignalKind::user_defined2())?,
            alarm: catch(SignalKind::alarm())?,
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.user1.recv() => Signal::USR1,
            _ = self.user2.recv() => Signal::USR2,
            _ = self.alarm.recv() => Signal::ALARM,
        }
    }
}

/// Returns the exit code of a process that a signal has ended, as shells report it.
pub(crate) fn signal_code(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX))
}

impl Codes {
    /// Gives a failure the exit code of the options.
    pub(crate) fn of(self, failure: Failure) -> Failure {
        let code = match failure.code() {
            CONFLICT => self.conflict,
            UNAVAILABLE => self.unavailable,
            code => code,
        };
        Failure::Coded(Box::new(failure), code)
    }
}

impl LockKeys {
    /// Opens a map by `open`, acquires the keys by `lock` and runs the command.
    pub(crate) async fn run<M, O: Future<Output = Result<M, Failure>>>(
        self,
        context: &Context,
        open: impl FnOnce(Client) -> O,
        lock: impl FnOnce(&M, Vec<String>) -> AcquireKeys,
    ) -> Result<ExitCode, Failure> {
        let codes = self.job.codes();
        self.hold(context, open, lock).await.map_err(|failure| codes.of(failure))
    }

    async fn hold<M, O: Future<Output = Result<M, Failure>>>(
        self,
        context: &Context,
        open: impl FnOnce(Client) -> O,
        lock: impl FnOnce(&M, Vec<String>) -> AcquireKeys,
    ) -> Result<ExitCode, Failure> {
        let mut signals = Signals::catch()?;
        let keys = self.keys;
        let acquire = async {
            let begun = context.env.now();
            let map = context.opened(open).await?;
            let mut acquire = lock(&map, keys);
            if let Some(left) = context.left(begun) {
                acquire = acquire.timeout(left);
            }
            Ok::<_, Failure>(std::sync::Arc::new(acquire.await?))
        };
        let guard = tokio::select! {
            guard = acquire => guard?,
            signal = signals.next() => return Ok(signal_code(signal)),
        };
        let lost = {
            let guard = std::sync::Arc::clone(&guard);
            async move {
                guard.lost().await;
                format!("locks of {} were lost with the connection", guard.keys().join(", "))
            }
        };
        let environment = [(LOCK_NAME, self.name)];
        let code = self.job.under(context, &mut signals, environment, lost.boxed().shared()).await?;
        if let Some(guard) = std::sync::Arc::into_inner(guard) {
            release(context, guard.release().await);
        }
        Ok(code)
    }
}

/// Reports a release that did not work. The command has run, so that is no failure of it.
pub(crate) fn release(context: &Context, result: atomix_client::Result<()>) {
    if let Err(error) = result
        && error.kind() != Kind::Conflict
    {
        context.printer.note(&format!("released with the connection only: {error}"));
    }
}

/// Becomes a command that ends with the process that holds its lock or candidacy.
#[derive(Debug, Args)]
pub struct Tied {
    /// The process that it is tied to
    holder: u32,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The command of [`Tied`].
pub(crate) const TIED: &str = "run-tied";

impl Tied {
    pub(crate) fn run(self, context: &Context) -> ExitCode {
        // It stays through `exec`. If it cannot be had, the command runs as it does elsewhere.
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).ok();
        if std::os::unix::process::parent_id() != self.holder {
            // The holder has ended already, so its death would send no signal.
            return signal_code(Signal::TERM);
        }
        let mut command = std::process::Command::new(&self.command[0]);
        let error = command.args(&self.command[1..]).exec();
        cannot_run(context, &self.command[0], &error)
    }
}

/// Reports a command that does not run, and returns the exit code as shells report it.
fn cannot_run(context: &Context, command: &OsStr, error: &io::Error) -> ExitCode {
    context.printer.note(&format!("cannot run {}: {error}", command.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

impl Job {
    pub(crate) fn codes(&self) -> Codes {
        Codes { conflict: self.conflict_exit_code, unavailable: self.unavailable_exit_code }
    }

    /// Runs the command until it ends, and returns its exit code. If `lost` ends first, the command is ended, and the
    /// code is not 0.
    pub(crate) async fn under<const N: usize>(
        &self,
        context: &Context,
        signals: &mut Signals,
        environment: [(&str, String); N],
        lost: Lost,
    ) -> Result<ExitCode, Failure> {
        let mut child = match self.spawn(context, environment) {
            Ok(child) => child,
            Err(error) => return Ok(cannot_run(context, &self.command[0], &error)),
        };
        let mut gone = false;
        loop {
            let lost = async { if gone { std::future::pending().await } else { lost.clone().await } };
            let status = tokio::select! {
                status = child.wait() => status,
                signal = signals.next() => {
                    // A terminal sends these two to the command as well; twice could end it without clean-up.
                    if !matches!(signal, Signal::INT | Signal::QUIT) || !io::stdin().is_terminal() {
                        send(&child, signal);
                    }
                    continue;
                }
                why = lost => {
                    gone = true;
                    context.printer.note(&format!("{why}: ending the command"));
                    send(&child, Signal::TERM);
                    let Ok(status) = context.env.timeout(self.kill_after, child.wait()).await else {
                        context.printer.note("the command goes on after SIGTERM: killing it");
                        child.start_kill().ok();
                        continue;
                    };
                    status
                }
            };
            let status = status.map_err(|error| Failure::Io("cannot wait for the command", error))?;
            let code = exit_code(status);
            return Ok(ExitCode::from(if gone && code == 0 { self.unavailable_exit_code } else { code }));
        }
    }

    /// Starts the command by way of [`Tied`] where that is possible: only the new process itself can ask for a signal at
    /// the death of this one, and only between its start and the command.
    fn spawn<const N: usize>(
        &self,
        context: &Context,
        environment: [(&str, String); N],
    ) -> io::Result<Child> {
        let own = Path::new("/proc/self/exe");
        let mut command = if context.ties && own.exists() {
            let mut command = Command::new(own);
            let holder = std::process::id().to_string();
            command
                .args(["--output", context.printer.format_name(), TIED, &holder, "--"])
                .arg(&self.command[0]);
            command
        } else {
            Command::new(&self.command[0])
        };
        command.args(&self.command[1..]).envs(environment);
        command.spawn()
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It fails only if the child has just ended, which the next wait reports.
        kill_process(pid, signal).ok();
    }
}

/// Returns the exit code as shells report it: 128 and the signal if one ended the command.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Offline, Options};
    use crate::output::{Format, Printer};
    use atomix_env::Env;

    fn context() -> Context {
        let options = Options {
            server: String::new(),
            control_server: String::new(),
            output: Format::Human,
            tags: Vec::new(),
            timeout: None,
            guard: None,
        };
        Context {
            options,
            offline: Offline::NOTHING,
            printer: Printer::new(Format::Human),
            env: Env::real(),
            ties: false,
        }
    }

    fn job(kill_after: Duration, script: &str) -> Job {
        Job {
            kill_after,
            conflict_exit_code: CONFLICT,
            unavailable_exit_code: UNAVAILABLE,
            command: ["sh", "-c", script].map(OsString::from).to_vec(),
        }
    }

    fn never() -> Lost {
        std::future::pending().boxed().shared()
    }

    /// Signals come to all commands of this process: one test at a time.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    async fn code(job: Job, lost: Lost) -> String {
        let _alone = ALONE.lock().await;
        let mut signals = Signals::catch().unwrap();
        let environment = [("ATOMIX_TEST", "7".to_owned())];
        format!("{:?}", job.under(&context(), &mut signals, environment, lost).await.unwrap())
    }

    #[tokio::test]
    async fn the_signals_of_this_process_reach_the_command() {
        let _alone = ALONE.lock().await;
        let script = "trap 'exit 21' USR1; trap 'exit 22' USR2; trap 'exit 23' ALRM; echo > \"$ATOMIX_READY\"; while :; do sleep 0.01; done";
        for (signal, exit) in [(Signal::USR1, 21), (Signal::USR2, 22), (Signal::ALARM, 23)] {
            let ready = std::env::temp_dir().join(format!("atomix-ready-{}", Env::real().random()));
            let mut signals = Signals::catch().unwrap();
            let (context, job) = (context(), job(Duration::from_secs(10), script));
            let environment = [("ATOMIX_READY", ready.display().to_string())];
            let run = job.under(&context, &mut signals, environment, never());
            let send = async {
                while !ready.exists() {
                    Env::real().sleep(Duration::from_millis(5)).await;
                }
                kill_process(rustix::process::getpid(), signal).unwrap();
            };
            let (code, ()) = futures::join!(run, send);
            assert_eq!(format!("{:?}", code.unwrap()), expected(exit));
            std::fs::remove_file(ready).unwrap();
        }
    }

    fn expected(code: u8) -> String {
        format!("{:?}", ExitCode::from(code))
    }

    #[tokio::test]
    async fn the_exit_code_is_that_of_the_command() {
        let ten = Duration::from_secs(10);
        assert_eq!(code(job(ten, "exit $ATOMIX_TEST"), never()).await, expected(7));
        assert_eq!(code(job(ten, "kill -9 $$"), never()).await, expected(137));
        let missing = Job { command: vec!["/no/such/command".into()], ..job(ten, "") };
        assert_eq!(code(missing, never()).await, expected(127));
    }

    /// Leaves the command the time to set its traps.
    fn soon() -> Lost {
        let lost = async {
            Env::real().sleep(Duration::from_millis(300)).await;
            "gone".to_owned()
        };
        lost.boxed().shared()
    }

    #[tokio::test]
    async fn a_loss_ends_the_command_and_is_never_a_success() {
        let ten = Duration::from_secs(10);
        assert_eq!(code(job(ten, "exec sleep 60"), soon()).await, expected(143));
        let polite = "trap 'exit 0' TERM; while :; do sleep 0.01; done";
        assert_eq!(code(job(ten, polite), soon()).await, expected(5));
        let marked = Job { unavailable_exit_code: 99, ..job(ten, polite) };
        assert_eq!(code(marked, soon()).await, expected(99));
    }

    #[tokio::test]
    async fn a_command_that_ignores_the_loss_is_killed() {
        let stubborn = "trap '' TERM; while :; do sleep 0.01; done";
        assert_eq!(code(job(Duration::from_millis(200), stubborn), soon()).await, expected(137));
    }
}
