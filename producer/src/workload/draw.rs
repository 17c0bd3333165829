//! Randomness that is a function of what it is for.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Mixes two numbers into one; the same two always give the same one.
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    SplitMix64::seed_from_u64(a ^ b.wrapping_mul(0x9e6c_63d0_876a_68de | 1)).next_u64()
}

/// A name as a number, so that it can be mixed (FNV-1a, 64 bits).
#[must_use]
pub fn name_number(name: &str) -> u64 {
    walbench_metrics::stamp::run_number(name)
}

/// A stream of random numbers that its key alone decides: nothing is shared, so any row can be
/// made at any time by anyone.
#[derive(Clone, Debug)]
pub struct Draw(SplitMix64);

impl Draw {
    /// The stream of `key`.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self(SplitMix64::seed_from_u64(key))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; zero for a bound of zero.
    ///
    /// Multiplied into range instead of divided: uneven by less than 2^-32 for the small bounds of
    /// test data.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// One of `choices`.
    pub fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap_or_default()]
    }

    /// Whether something happens that happens in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
