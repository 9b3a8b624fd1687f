// SPDX-License-Identifier: Apache-2.0
//! The signals of `serve`.

use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

/// All signals that would end the process without a drain, if they were not caught.
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
    alarm: unix::Signal,
}

/// The meaning of a signal, with its name.
pub(crate) enum Signal {
    /// Drain and end.
    Stop(&'static str),
    /// Read the configuration again.
    Reload(&'static str),
    /// Nothing.
    Ignored(&'static str),
}

// === impl Signals ===

impl Signals {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            alarm: signal(SignalKind::alarm())?,
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Signal::Stop("SIGINT"),
            _ = self.quit.recv() => Signal::Stop("SIGQUIT"),
            _ = self.hangup.recv() => Signal::Reload("SIGHUP"),
            _ = self.user1.recv() => Signal::Ignored("SIGUSR1"),
            _ = self.user2.recv() => Signal::Ignored("SIGUSR2"),
            _ = self.alarm.recv() => Signal::Ignored("SIGALRM"),
        }
    }

    /// Waits for a signal to stop, and returns its name. Others have no effect meanwhile. Cancel safe.
    pub(crate) async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Signal::Stop(name) => return name,
                Signal::Reload(name) | Signal::Ignored(name) => {
                    tracing::info!(signal = name, "a signal is ignored at this moment");
                }
            }
        }
    }
}
