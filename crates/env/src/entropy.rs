// SPDX-License-Identifier: Apache-2.0
//! Chance: for identities and jitter, never for secrets.

use std::sync::atomic::{AtomicU64, Ordering};

/// Gives random numbers.
pub trait Entropy: Send + Sync + 'static {
    /// Returns 64 random bits.
    fn next(&self) -> u64;
}

pub(crate) struct RealEntropy;

/// `SplitMix64` (Steele, Lea, Flood 2014): one addition and a mix, so it needs no lock.
pub(crate) struct SeededEntropy {
    state: AtomicU64,
}

impl Entropy for RealEntropy {
    fn next(&self) -> u64 {
        getrandom::u64().expect("the operating system has a random source")
    }
}

impl SeededEntropy {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Entropy for SeededEntropy {
    fn next(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (one, two) = (SeededEntropy::new(7), SeededEntropy::new(7));
        assert_eq!((one.next(), one.next()), (two.next(), two.next()));
        assert_ne!(one.next(), one.next());
    }
}
