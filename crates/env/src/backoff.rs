// SPDX-License-Identifier: Apache-2.0
//! Exponential backoff.

use std::time::Duration;

use crate::env::Env;

/// The pauses between attempts: each twice as long as the one before, up to a maximum, and varied by chance by up to a
/// fifth, so that many clients do not act in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with `min`, and grows up to `max`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// Returns the next pause. It may be a fifth longer than the maximum.
    pub fn next(&mut self, env: &Env) -> Duration {
        self.next_at_least(Duration::ZERO, env)
    }

    /// As [`Backoff::next`], but not shorter than `least` by more than a fifth.
    pub fn next_at_least(&mut self, least: Duration, env: &Env) -> Duration {
        let pause = env.jitter(self.next.max(least));
        self.next = self.next.saturating_mul(2).min(self.max);
        pause
    }

    /// Waits for the next pause. Cancel safe: the pause counts when the wait begins.
    pub async fn pause(&mut self, env: &Env) {
        let pause = self.next(env);
        env.sleep(pause).await;
    }

    /// Begins with the shortest pause again.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_millis(300);

    fn near(pause: Duration, expected: Duration) -> bool {
        pause >= expected.mul_f64(0.8) && pause <= expected.mul_f64(1.2)
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_begin_again() {
        let env = Env::simulated(ManualClock::new(), 1);
        let mut backoff = Backoff::new(MIN, MAX);
        for _ in 0..2 {
            for expected in [50, 100, 200, 300, 300] {
                let pause = backoff.next(&env);
                assert!(near(pause, Duration::from_millis(expected)), "{pause:?}, not {expected} ms");
            }
            backoff.reset();
        }
    }

    #[test]
    fn a_longer_pause_may_be_asked_for() {
        let env = Env::simulated(ManualClock::new(), 1);
        let mut backoff = Backoff::new(MIN, MAX);
        assert!(near(backoff.next_at_least(Duration::from_secs(7), &env), Duration::from_secs(7)));
        assert!(near(backoff.next_at_least(Duration::ZERO, &env), 2 * MIN));
    }

    #[test]
    fn pauses_follow_the_chance_of_the_environment() {
        let pauses = |seed| {
            let env = Env::simulated(ManualClock::new(), seed);
            let mut backoff = Backoff::new(MIN, MAX);
            [(); 5].map(|()| backoff.next(&env))
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
