// SPDX-License-Identifier: Apache-2.0
//! Time: a monotonic clock for durations, a wall clock for what outlives the process.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;

/// A point in monotonic time, counted from when the clock was made. Only comparable within one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

/// A point in wall time, counted from the Unix epoch. Jumps when the machine's clock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(Duration);

/// Returns the time and waits for it.
pub trait Clock: Send + Sync + 'static {
    /// Returns the monotonic time. It never goes back.
    fn now(&self) -> Instant;

    /// Returns the wall time. It may jump in both directions.
    fn wall(&self) -> WallTime;

    /// Waits until `instant`; ends at once if that has passed. Cancel safe.
    fn sleep_until(&self, instant: Instant) -> BoxFuture<'static, ()>;
}

/// A clock that stands still until [`ManualClock::advance`] moves it.
#[derive(Debug)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
}

#[derive(Debug)]
struct ManualState {
    now: Duration,
    wall: Duration,
    timers: BTreeMap<(Duration, u64), Waker>,
    next_timer: u64,
}

struct ManualSleep {
    state: Arc<Mutex<ManualState>>,
    until: Duration,
    timer: Option<u64>,
}

pub(crate) struct RealClock {
    origin: tokio::time::Instant,
}

// === impl Instant, WallTime ===

impl Instant {
    /// Returns the time from `earlier` to this point, zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(duration))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

impl WallTime {
    /// Makes a wall time from the time since the Unix epoch.
    pub fn from_unix(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// Returns the time since the Unix epoch.
    pub fn since_unix(self) -> Duration {
        self.0
    }
}

// === impl RealClock ===

impl RealClock {
    pub(crate) fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant(self.origin.elapsed())
    }

    fn wall(&self) -> WallTime {
        #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        let wall = std::time::SystemTime::now();
        // A clock before 1970 is a broken clock; zero makes everything that was stored look newer.
        WallTime(wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
    }

    fn sleep_until(&self, instant: Instant) -> BoxFuture<'static, ()> {
        // Far beyond any process life, and still in the range of the timer.
        const FOREVER: Duration = Duration::from_hours(10 * 365 * 24);
        #[allow(clippy::disallowed_methods, reason = "the one place that waits for the real clock")]
        let sleep = tokio::time::sleep_until(self.origin + instant.0.min(self.origin.elapsed() + FOREVER));
        Box::pin(sleep)
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// Makes a clock that shows one million seconds after the Unix epoch.
    pub fn new() -> Arc<Self> {
        let state = ManualState {
            now: Duration::ZERO,
            wall: Duration::from_secs(1_000_000),
            timers: BTreeMap::new(),
            next_timer: 0,
        };
        Arc::new(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// Moves both clocks forward and wakes what waited.
    pub fn advance(&self, duration: Duration) {
        let mut state = lock(&self.state);
        state.now += duration;
        state.wall += duration;
        let beyond = (state.now + Duration::from_nanos(1), 0);
        let later = state.timers.split_off(&beyond);
        let due = std::mem::replace(&mut state.timers, later);
        drop(state);
        due.into_values().for_each(Waker::wake);
    }

    /// Sets the wall clock, as an operator or NTP may. Monotonic time does not move.
    pub fn set_wall(&self, wall: WallTime) {
        lock(&self.state).wall = wall.since_unix();
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant(lock(&self.state).now)
    }

    fn wall(&self) -> WallTime {
        WallTime(lock(&self.state).wall)
    }

    fn sleep_until(&self, instant: Instant) -> BoxFuture<'static, ()> {
        Box::pin(ManualSleep { state: Arc::clone(&self.state), until: instant.0, timer: None })
    }
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.state);
        let mut state = lock(&shared);
        if let Some(timer) = self.timer.take() {
            state.timers.remove(&(self.until, timer));
        }
        if state.now >= self.until {
            return Poll::Ready(());
        }
        let timer = state.next_timer;
        state.next_timer += 1;
        state.timers.insert((self.until, timer), context.waker().clone());
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            lock(&self.state).timers.remove(&(self.until, timer));
        }
    }
}

fn lock(state: &Mutex<ManualState>) -> MutexGuard<'_, ManualState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn manual_clock_wakes_only_what_is_due() {
        let clock = ManualClock::new();
        let mut early = clock.sleep_until(clock.now() + Duration::from_secs(1));
        let mut late = clock.sleep_until(clock.now() + Duration::from_secs(2));
        assert!(early.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_secs(1));
        assert!(early.as_mut().now_or_never().is_some());
        assert!(late.as_mut().now_or_never().is_none());
    }

    #[test]
    fn a_wall_clock_jump_leaves_monotonic_time_alone() {
        let clock = ManualClock::new();
        let before = clock.now();
        clock.set_wall(WallTime::from_unix(Duration::ZERO));
        assert_eq!(clock.now(), before);
        assert_eq!(clock.wall().since_unix(), Duration::ZERO);
    }
}
