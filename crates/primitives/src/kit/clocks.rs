// SPDX-License-Identifier: Apache-2.0
//! Compares the wall clocks of the runtimes on a shared store.
//!
//! Each record of [`membership`](crate::kit::membership) carries the wall time of its renewal. A runtime reads the records of the others with every
//! renewal of its own. A clock is kept as a [`Base`]: the wall time minus the monotonic time of this runtime at the same moment.
//! That number does not change while time goes by, only when a wall clock is set, so it can be compared long after it was read.
//!
//! The comparison needs no third clock, and cannot say which of two clocks is wrong. A runtime that is ahead of another one takes
//! entries for overdue before their time; one that is behind, after it. So the one that is ahead stops to trust its wall clock.

use std::time::Duration;

use atomix_env::Instant;

/// A wall clock: its time minus the monotonic time of this runtime, in milliseconds, between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) least: i64,
    pub(crate) most: i64,
}

/// The difference by which the wall clock of another runtime is ahead of that of this one, in milliseconds; negative if it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// The estimate.
    pub millis: i64,
    /// By how much the estimate may be wrong, in both directions.
    pub uncertainty: u64,
}

/// The result of the comparison of the wall clock of this runtime with those of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No difference above the bound is certain.
    Agree,
    /// Another one is ahead by more than the bound.
    Behind,
    /// This one is ahead of another one by more than the bound.
    Ahead,
}

/// The state of the comparison of wall clocks on a store.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// The difference that is allowed, in milliseconds.
    max: i64,
    /// The clock that is furthest behind among the runtimes that have gone while this one was ahead of them.
    departed: Option<Base>,
    logged: Verdict,
    /// When the last difference was logged.
    logged_at: Option<Instant>,
}

/// The log names at most one difference in this time.
const LOG_PAUSE: Duration = Duration::from_mins(1);
/// An own wall clock that moved by more than this against the monotonic clock was set, or the machine was suspended.
const STEP: u64 = 1000;

// === impl Base ===

impl Base {
    /// Makes the base of a clock that showed `wall` after the monotonic time `after` and before `read`.
    pub(crate) fn new(wall: u64, after: i64, read: i64) -> Self {
        let wall = i64::try_from(wall).unwrap_or(i64::MAX);
        let (least, most) = (wall.saturating_sub(read), wall.saturating_sub(after));
        Self { least, most: most.max(least) }
    }

    /// Makes the base of a clock that shows `wall` at the monotonic time `now`.
    pub(crate) fn exact(wall: u64, now: i64) -> Self {
        Self::new(wall, now, now)
    }

    /// Returns whether a clock went on at its rate from an earlier base, which must be exact, like this one.
    pub(crate) fn is_steady(self, earlier: Self) -> bool {
        self.least.abs_diff(earlier.least) <= STEP
    }

    /// Returns how far this clock is ahead of `own`.
    pub(crate) fn offset(self, own: Self) -> ClockOffset {
        let (least, most) = (self.least.saturating_sub(own.least), self.most.saturating_sub(own.least));
        let uncertainty = most.abs_diff(least) / 2;
        ClockOffset { millis: least.saturating_add_unsigned(uncertainty), uncertainty }
    }

    fn verdict(self, own: Self, max: i64) -> Verdict {
        if self.most.saturating_sub(own.least) < -max {
            Verdict::Ahead
        } else if self.least.saturating_sub(own.least) > max {
            Verdict::Behind
        } else {
            Verdict::Agree
        }
    }
}

// === impl Clocks ===

impl Clocks {
    /// Knows no other clock. `max` is the difference that is allowed.
    pub(crate) fn new(max: Duration) -> Self {
        let max = i64::try_from(max.as_millis()).unwrap_or(i64::MAX);
        Self { max, departed: None, logged: Verdict::Agree, logged_at: None }
    }

    /// Returns whether the wall clock of this runtime may decide that something is overdue. `others` are the clocks of all others,
    /// also those that were read only once.
    pub(crate) fn trust(&self, own: Base, mut others: impl Iterator<Item = Base>) -> bool {
        let ahead = |base: Base| base.verdict(own, self.max) == Verdict::Ahead;
        !self.departed.is_some_and(ahead) && !others.any(ahead)
    }

    /// Takes note that a runtime has gone. If this one is ahead of it, no other one may be left to say so.
    pub(crate) fn departed(&mut self, own: Base, clock: Base) {
        let further = self.departed.is_none_or(|departed| clock.most < departed.most);
        if further && clock.verdict(own, self.max) == Verdict::Ahead {
            self.departed = Some(clock);
        }
    }

    /// Judges the clock of this runtime by those of `others` that are certainly alive, and logs when a difference begins and ends.
    pub(crate) fn judge(&mut self, now: Instant, own: Base, others: &[(u64, Base)]) {
        let verdict = |(_, base): &(u64, Base)| base.verdict(own, self.max);
        if others.iter().any(|other| verdict(other) == Verdict::Agree) {
            // The one that has gone was wrong.
            self.departed = None;
        }
        let found = |wanted: Verdict| others.iter().filter(move |other| verdict(other) == wanted);
        let behind_us = found(Verdict::Ahead).min_by_key(|(_, base)| base.most);
        let ahead_of_us = found(Verdict::Behind).max_by_key(|(_, base)| base.least);
        let (verdict, other) = match (behind_us, ahead_of_us) {
            (Some(other), _) => (Verdict::Ahead, Some(other)),
            // The difference lasts while nothing newer is known.
            (None, None)
                if self.departed.is_some_and(|base| base.verdict(own, self.max) == Verdict::Ahead) =>
            {
                (Verdict::Ahead, None)
            }
            (None, Some(other)) => (Verdict::Behind, Some(other)),
            (None, None) => (Verdict::Agree, None),
        };
        if verdict == self.logged {
            return;
        }
        let Some((id, base)) = other else {
            if verdict == Verdict::Agree {
                self.logged = verdict;
                tracing::info!(
                    "the wall clock of this runtime agrees with those of the others on the store again"
                );
            }
            return;
        };
        if self.logged_at.is_some_and(|at| now.since(at) < LOG_PAUSE) {
            return;
        }
        (self.logged, self.logged_at) = (verdict, Some(now));
        let (other, offset) = (format!("{id:016x}"), base.offset(own));
        let difference = format!("{:.1}s", Duration::from_millis(offset.millis.unsigned_abs()).as_secs_f64());
        if verdict == Verdict::Ahead {
            tracing::warn!(
                other,
                difference,
                "the wall clock of this runtime is ahead of that of another one on the store: until they agree, times to \
                 live that this runtime reads count in full from then on. Set the wrong clock, for example by NTP; \
                 `atomix inspect hosts` shows all differences"
            );
        } else {
            tracing::warn!(
                other,
                difference,
                "the wall clock of this runtime is behind that of another one on the store: entries may expire late. Set \
                 the wrong clock, for example by NTP; `atomix inspect hosts` shows all differences"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);
    const OWN: Base = Base { least: 1_000_000, most: 1_000_000 };

    fn at(offset: i64) -> Base {
        Base { least: OWN.least + offset - 800, most: OWN.least + offset + 800 }
    }

    fn trusts(clocks: &Clocks, others: &[Base]) -> bool {
        clocks.trust(OWN, others.iter().copied())
    }

    #[test]
    fn a_record_bounds_the_clock_by_the_moments_around_its_renewal() {
        // Renewed between 3 s and 5 s of the monotonic time, when the other clock showed 100 s.
        let base = Base::new(100_000, 3000, 5000);
        assert_eq!(base, Base { least: 95_000, most: 97_000 });
        let offset = base.offset(Base::exact(90_000, 2000));
        assert_eq!(offset, ClockOffset { millis: 8000, uncertainty: 1000 });
        // For every value of a record, and also if the moments are in the wrong order, there are bounds.
        for wall in [0, u64::MAX] {
            let base = Base::new(wall, i64::MAX, i64::MIN);
            assert!(base.least <= base.most);
            base.offset(OWN);
        }
    }

    #[test]
    fn only_a_certain_difference_above_the_bound_counts_and_only_for_the_clock_that_is_ahead() {
        let clocks = Clocks::new(MAX);
        for (offset, trusted) in
            [(0, true), (-10_700, true), (-10_900, false), (-7_200_000, false), (7_200_000, true)]
        {
            assert_eq!(trusts(&clocks, &[at(0), at(offset)]), trusted, "{offset}");
        }
        assert!(trusts(&clocks, &[]));
    }

    #[test]
    fn a_difference_outlasts_the_other_runtime_until_a_clock_agrees() {
        let now = atomix_env::Env::simulated(atomix_env::ManualClock::new(), 1).now();
        let mut clocks = Clocks::new(MAX);
        clocks.departed(OWN, at(-5000));
        clocks.departed(OWN, at(7_200_000));
        assert!(trusts(&clocks, &[]), "this clock was not ahead of them");
        clocks.departed(OWN, at(-20_000));
        clocks.departed(OWN, at(-7_200_000));
        clocks.departed(OWN, at(-20_000));
        assert!(!trusts(&clocks, &[]));
        clocks.judge(now, OWN, &[(1, at(7_200_000))]);
        assert!(!trusts(&clocks, &[]), "one that differs proves nothing");
        // The own clock was set by two hours.
        let set = Base { least: OWN.least - 7_200_000, most: OWN.most - 7_200_000 };
        assert!(clocks.trust(set, std::iter::empty()));
        clocks.judge(now, OWN, &[(1, at(1000))]);
        assert!(trusts(&clocks, &[]));
    }

    #[test]
    fn a_difference_is_logged_once_a_minute_at_most_and_its_end_each_time() {
        let clock = atomix_env::ManualClock::new();
        let env = atomix_env::Env::simulated(std::sync::Arc::clone(&clock), 1);
        let mut clocks = Clocks::new(MAX);
        let mut judge = |others: &[(u64, Base)]| {
            clocks.judge(env.now(), OWN, others);
            clocks.logged
        };
        assert_eq!(judge(&[(1, at(0))]), Verdict::Agree);
        assert_eq!(judge(&[(1, at(-60_000)), (2, at(60_000))]), Verdict::Ahead);
        assert_eq!(judge(&[(1, at(0))]), Verdict::Agree);
        clock.advance(LOG_PAUSE / 2);
        assert_eq!(judge(&[(2, at(60_000))]), Verdict::Agree, "too soon");
        clock.advance(LOG_PAUSE / 2);
        assert_eq!(judge(&[(2, at(60_000))]), Verdict::Behind);
        assert_eq!(judge(&[]), Verdict::Agree);
    }
}
