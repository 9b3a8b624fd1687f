// SPDX-License-Identifier: Apache-2.0
//! A steady beat, exact to some microseconds: tokio's timers go by whole milliseconds, longer than the calls that are
//! measured.

use std::io;
use std::time::Duration;

use atomix_env::{Env, Instant};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::mpsc;

/// Beats that may wait for a generator that is busy. They keep their time.
const WAITING_MAX: usize = 1024;

/// Beats `rate` times a second from now until `end`, on a thread of its own. Each beat carries its due time.
pub(crate) fn beat(env: &Env, rate: f64, end: Instant) -> io::Result<mpsc::Receiver<Instant>> {
    // Unlike a sleep, this timer is not made late on purpose to save power.
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let (beats, receiver) = mpsc::channel(WAITING_MAX);
    let (clock, start) = (env.clone(), env.now());
    env.thread("pacer", move || {
        for number in 0_u32.. {
            let due = start + Duration::from_secs_f64(f64::from(number) / rate);
            if due >= end {
                return;
            }
            let early = due - clock.now();
            let waited = if early.is_zero() { Ok(()) } else { wait(&timer, early) };
            if waited.is_err() || beats.blocking_send(due).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn wait(timer: &std::os::fd::OwnedFd, duration: Duration) -> io::Result<()> {
    let once = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec {
            tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: duration.subsec_nanos().into(),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    let mut expirations = [0; 8];
    rustix::io::retry_on_intr(|| rustix::io::read(timer, &mut expirations))?;
    Ok(())
}
